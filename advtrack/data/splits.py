"""The paper's split: 30% of the recordings are test, the other 70% are five development parts (section V)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advtrack.errors import InputError


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the clips on each side.

    Attributes
    ----------
    test
        int64 [n], sorted: the clips on which accuracy is reported, the same for every fold.
    development
        One sorted int64 array per fold: fold k stops early on part k and trains on the others.
    """

    test: np.ndarray
    development: tuple[np.ndarray, ...]

    def train(self, fold: int) -> np.ndarray:
        """Sorted indices that fold `fold` (from 0) trains on."""
        return np.sort(np.concatenate([part for k, part in enumerate(self.development) if k != fold]))

    def early_stopping(self, fold: int) -> np.ndarray:
        """Sorted indices that decide when fold `fold` (from 0) stops."""
        return self.development[fold]


def split(
    labels: Sequence[int] | np.ndarray,
    sources: Sequence[str] | np.ndarray,
    *,
    seed: int,
    folds: int = 5,
    test_fraction: float = 0.3,
) -> Split:
    """Divide clips into a test set and development parts, by recording and approximately stratified.

    Parameters
    ----------
    labels
        Integer class [N] per clip.
    sources
        The recording [N] each clip was cut from; a recording lies in one part as a whole.
    seed
        Decides which recordings go where.
    folds
        Number of development parts, at least 2.
    test_fraction
        Fraction of the clips that is test, between 0 and 1.

    Raises
    ------
    InputError
        If there are fewer than two folds, the fraction is no fraction, a class has fewer than two recordings (one
        for each side), or there are too few recordings to fill every part.
    """
    labels, sources = np.asarray(labels), np.asarray(sources)
    if len(labels) != len(sources):
        raise ValueError(f"{len(labels)} labels but {len(sources)} sources")
    if folds < 2:
        raise InputError(f"folds is {folds}: at least 2 are needed, one to train on and one to stop early on")
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction}: it must lie between 0 and 1")
    for label in np.unique(labels):
        if len(np.unique(sources[labels == label])) < 2:
            raise InputError(f"class {label} has clips of one recording only: at least two are needed, one for test")

    rng = np.random.default_rng(seed)
    everything = np.arange(len(labels))
    # Test and development first, then the parts: shared out all at once, few recordings per class would fill
    # every small part before the test set got its second one.
    development, test = _share_out(everything, labels, sources, [1 - test_fraction, test_fraction], rng)
    parts = _share_out(development, labels, sources, [1 / folds] * folds, rng)
    if not len(test) or any(not len(part) for part in parts):
        raise InputError(
            f"{len(np.unique(sources))} recordings are too few for a test set and {folds} folds: add recordings"
        )
    return Split(test, tuple(parts))


def _share_out(
    indices: np.ndarray, labels: np.ndarray, sources: np.ndarray, fractions: list[float], rng: np.random.Generator
) -> list[np.ndarray]:
    """Give each recording, the largest first, to the part that most lacks its labels relative to its quota."""
    kinds, label = np.unique(labels[indices], return_inverse=True)
    recordings, recording = np.unique(sources[indices], return_inverse=True)
    counts = np.zeros((len(recordings), len(kinds)))
    np.add.at(counts, (recording, label), 1)
    quota = np.outer(fractions, counts.sum(axis=0))
    given = np.zeros_like(quota)
    part_of = np.zeros(len(recordings), int)
    shuffled = rng.permutation(len(recordings))
    for group in shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]:
        lack = ((quota - given) / np.maximum(quota, 1e-9)) @ counts[group]
        # Ties go to the part that lacks most clips of any label, then by chance.
        room = quota.sum(axis=1) - given.sum(axis=1)
        part = np.lexsort((rng.random(len(fractions)), -room.round(9), -lack.round(9)))[0]
        given[part] += counts[group]
        part_of[group] = part
    return [np.sort(indices[part_of[recording] == part]) for part in range(len(fractions))]
