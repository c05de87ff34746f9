"""Who is trained on, who stops training early, who is tested: the paper's protocol, and the publishers' own folds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advtrack.data.clip import listed
from advtrack.errors import InputError

#: The paper's protocol (section V): this share of the clips, in whole recordings, is test, the others are five parts.
_TEST_SHARE, PAPER_FOLDS = 0.3, 5
#: Of the other folds' clips, in whole recordings, the share that decides when training stops (ours).
_STOP_SHARE = 0.15


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the clips of one fold, int64 [n] each, sorted.

    Attributes
    ----------
    train
        Trained on.
    stop
        Decide which epoch is the best, and when training ends.
    test
        Accuracy is reported on these.
    """

    train: np.ndarray
    stop: np.ndarray
    test: np.ndarray

    @property
    def digest(self) -> str:
        """Of who is where: by it, whoever tests a trained network knows that it has not seen the clips."""
        sides = (np.ascontiguousarray(side, "<i8").tobytes() for side in (self.train, self.stop, self.test))
        return hashlib.sha256(b"".join(hashlib.sha256(side).digest() for side in sides)).hexdigest()[:16]


def folds_of(protocol: str, published: np.ndarray) -> tuple[int, ...]:
    """The numbers of a protocol's folds: 0 to 4 in the paper's, the publisher's own numbers in the official one."""
    return tuple(range(PAPER_FOLDS)) if protocol == "paper" else tuple(int(fold) for fold in np.unique(published))


def paper_split(
    labels: Sequence[int] | np.ndarray, sources: Sequence[str] | np.ndarray, *, seed: int, fold: int
) -> Split:
    """One of five folds: 30% of the clips are test in all of them; fold k stops early on part k of the others.

    Parameters
    ----------
    labels
        Integer class [N] per clip.
    sources
        The recording [N] each clip was cut from; a recording lies in one part as a whole.
    seed
        Decides which recordings go where, approximately stratified.
    fold
        From 0 to 4.

    Raises
    ------
    InputError
        If a class has too few recordings for test and for the training of every fold, or there are too few to fill
        every part.
    """
    labels, sources = np.asarray(labels), np.asarray(sources)
    for label in np.unique(labels):
        if len(np.unique(sources[labels == label])) < 2:
            raise InputError(f"class {label} has clips of one recording only: at least two are needed, one for test")
    rng = np.random.default_rng(seed)
    # Test and development first, then the parts: shared out all at once, few recordings per class would fill
    # every small part before the test set got its second one.
    everything = np.arange(len(labels))
    development, test = _share_out(everything, labels, sources, [1 - _TEST_SHARE, _TEST_SHARE], rng)
    parts = _share_out(development, labels, sources, [1 / PAPER_FOLDS] * PAPER_FOLDS, rng)
    if not len(test) or any(not len(part) for part in parts):
        raise InputError(
            f"{len(np.unique(sources))} recordings are too few for a test set and {PAPER_FOLDS} folds: add recordings"
        )
    trained = [
        np.sort(np.concatenate([part for k, part in enumerate(parts) if k != fold])) for fold in range(PAPER_FOLDS)
    ]
    for number, train in enumerate(trained):
        if absent := set(labels.tolist()) - set(labels[train].tolist()):
            raise InputError(
                f"class {min(absent)} has too few recordings: fold {number} would train on none; at least three are "
                "needed, one for test and two in different parts of the rest"
            )
    return Split(trained[fold], parts[fold], test)


def official_split(
    labels: Sequence[int] | np.ndarray,
    sources: Sequence[str] | np.ndarray,
    published: Sequence[int] | np.ndarray,
    *,
    seed: int,
    fold: int,
) -> Split:
    """The publisher's fold `fold` is test; 15% of the clips of the other folds decide when training stops.

    Parameters
    ----------
    labels, sources
        As for `paper_split`.
    published
        The fold [N] that the publisher filed each clip under.
    seed
        Decides which training recordings stop training early, approximately stratified.
    fold
        One of `published`.

    Raises
    ------
    InputError
        If the data set has no folds, or a class is in this one alone, or too few recordings are left to train on. The
        publisher's folds are taken as they are: `refuse_leaks` tells whether a recording straddles them.
    """
    labels, sources, published = np.asarray(labels), np.asarray(sources), np.asarray(published)
    numbers = np.unique(published)
    if len(numbers) < 2:
        raise InputError(
            f"--protocol official: all clips are filed under fold {numbers[0]}, so that there is none to train on; "
            "use --protocol paper"
        )
    test, rest = np.flatnonzero(published == fold), np.flatnonzero(published != fold)
    if absent := set(labels[test].tolist()) - set(labels[rest].tolist()):
        raise InputError(
            f"--protocol official: class {min(absent)} has clips in fold {fold} alone, and none to train on; use "
            "--protocol paper"
        )
    rng = np.random.default_rng([seed, fold])
    stop, train = _share_out(rest, labels, sources, [_STOP_SHARE, 1 - _STOP_SHARE], rng)
    if not len(stop) or not len(train):
        raise InputError(f"{len(np.unique(sources[rest]))} recordings are too few to train on: add recordings")
    return Split(train, stop, test)


def refuse_leaks(sources: np.ndarray, split: Split) -> None:
    """Refuse a split that a recording straddles: what is heard in training would be known in the test.

    Parameters
    ----------
    sources
        The recording [N] of each clip, and of each copy of one.
    split
        Of these, copies among them.

    Raises
    ------
    InputError
        A recording lies on two sides; those that do are named.
    """
    train, stop, test = (np.unique(sources[part]) for part in (split.train, split.stop, split.test))
    leaks = [
        f"recording {source} in {one} and {other}"
        for one, first, other, second in (
            ("training", train, "test", test),
            ("training", train, "early stopping", stop),
            ("early stopping", stop, "test", test),
        )
        for source in np.intersect1d(first, second)
    ]
    if leaks:
        raise InputError(
            f"the folds leak: {listed(leaks)}; file each recording under one fold, or use --protocol paper"
        )


def _share_out(
    indices: np.ndarray, labels: np.ndarray, sources: np.ndarray, fractions: list[float], rng: np.random.Generator
) -> list[np.ndarray]:
    """Give each recording, the largest first, to the part where it brings the clips nearest to their quotas.

    Nearest: the sum over labels, and over all of them together, of (given - quota)^2 / quota. A large recording would
    put a small part far beyond its quota, and goes to a larger one.
    """
    kinds, label = np.unique(labels[indices], return_inverse=True)
    recordings, recording = np.unique(sources[indices], return_inverse=True)
    counts = np.zeros((len(recordings), len(kinds) + 1))
    np.add.at(counts, (recording, label), 1)
    counts[:, -1] = np.bincount(recording)
    quota = np.outer(fractions, counts.sum(axis=0))
    given = np.zeros_like(quota)
    part_of = np.zeros(len(recordings), int)
    shuffled = rng.permutation(len(recordings))
    for group in shuffled[np.argsort(-counts[shuffled, -1], kind="stable")]:
        gain = ((quota - given - counts[group] / 2) / quota) @ counts[group]
        part = np.lexsort((rng.random(len(fractions)), -gain.round(9)))[0]  # ties by chance
        given[part] += counts[group]
        part_of[group] = part
    return [np.sort(indices[part_of[recording] == part]) for part in range(len(fractions))]
