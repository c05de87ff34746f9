"""Whom an attack strikes: clips that a victim classifies correctly, and the wrong labels it is led to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from advtrack.attacks.base import Attack
from advtrack.data.splits import Split
from advtrack.errors import InputError
from advtrack.models.checkpoint import Victim
from advtrack.representations.store import SpectrogramSet
from advtrack.search.space import Samples
from advtrack.stages.fold import split_store
from advtrack.training.fit import probabilities

Protocol = Literal["test", "paper"]
# Section VI: up to 50 batches of 100 samples.
PAPER_BATCH = 100
_PAPER_SAMPLES = 50 * PAPER_BATCH
# Clips that every victim of a data set is shown with.
_SHOWN = 3


@dataclass(frozen=True)
class Struck:
    """The clips a victim classifies correctly, as far as they are attacked, with their indices in the store."""

    samples: Samples
    indices: np.ndarray


def strike_list(
    victim: Victim,
    store: SpectrogramSet,
    attack: type[Attack],
    limit: int,
    seed: int,
    device: torch.device,
    protocol: Protocol = "test",
) -> Struck:
    """Choose whom to attack, and towards what.

    Parameters
    ----------
    victim : Victim
        Its protocol, seed and fold tell test clips from training clips.
    store : SpectrogramSet
        The spectrograms it was trained on.
    attack : type of Attack
        Whether it starts from images of the target class counts.
    limit : int
        At most so many; 0 for all.
    seed : int
        Of the order and the targets.
    device : torch.device
        Where the samples go.
    protocol : {'test', 'paper'}
        Test clips, or (the paper, section VI) all clips, shuffled, at most 50 batches of 100.

    Raises
    ------
    InputError
        No clip is classified correctly, there is one class only, a target class has no training clip, or the victim
        was trained on another division of the clips.
    """
    parts = victim_split(victim, store)
    # No attack strikes augmented copies.
    pool = parts.test if protocol == "test" else np.flatnonzero(store.scale == 1.0)
    order = np.random.default_rng(seed).permutation(pool)
    correct = order[probabilities(victim.network, store, order).argmax(1) == store.y[order]]
    chosen = correct[: limit or (_PAPER_SAMPLES if protocol == "paper" else None)]
    if not len(chosen):
        raise InputError("the victim classifies no clip correctly: train it longer before attacking it")
    return _struck(victim, store, attack, chosen, seed, device)


def shown_list(victim: Victim, store: SpectrogramSet, attack: type[Attack], seed: int, device: torch.device) -> Struck:
    """The test clips whose adversarial examples a run keeps, of other classes each.

    Their names and the seed choose them, not what the victim makes of them: so they are the same for all victims of a
    data set, and some may be classified wrongly to begin with, or resist.

    Raises
    ------
    InputError
        There is one class only, or a target class has no training clip.
    """
    drawn = sorted(victim_split(victim, store).test, key=lambda i: _draw(seed, f"shown/{store.name[i]}"))
    first: dict[int, int] = {}
    for index in drawn:
        first.setdefault(int(store.y[index]), int(index))
    return _struck(victim, store, attack, np.array(list(first.values())[:_SHOWN]), seed, device)


def victim_split(victim: Victim, store: SpectrogramSet) -> Split:
    """What the victim was trained, stopped and tested on.

    Raises
    ------
    InputError
        The victim was trained on another division of the clips than this code makes.
    """
    training = victim.description.training
    parts = split_store(store, training["protocol"], training["seed"], training["fold"])
    if parts.digest != training["split_digest"]:
        raise InputError(
            f"the {victim.description.model} was trained by another version of advtrack, which divided the clips "
            "otherwise: it has seen some that it would be tested on; train it again"
        )
    return parts


def _struck(
    victim: Victim, store: SpectrogramSet, attack: type[Attack], chosen: np.ndarray, seed: int, device: torch.device
) -> Struck:
    """What these clips are led to, and from where."""
    classes = len(store.classes)
    targets = [wrong_label(str(store.name[i]), int(store.y[i]), classes, seed) for i in chosen]

    def tensor(indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(store.images(indices)).to(device)

    y, target = torch.from_numpy(store.y[chosen]).to(device), torch.tensor(targets, device=device)
    start = None
    if attack.starts:
        start = tensor(_starts(victim, store, victim_split(victim, store).train, targets))
    return Struck(Samples(tensor(chosen), y, target, start), chosen)


def _starts(victim: Victim, store: SpectrogramSet, train: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Per target class, the training clip that the victim is surest of."""
    scores = probabilities(victim.network, store, train)
    best = {}
    for target in set(targets):
        own = np.flatnonzero(store.y[train] == target)
        if not len(own):
            raise InputError(
                f"no training clip of class {store.classes[target]} to start from: the data set has too few recordings"
            )
        best[target] = train[own[scores[own, target].argmax()]]
    return np.array([best[target] for target in targets])


def wrong_label(clip: str, label: int, classes: int, seed: int) -> int:
    """A random label other than ``label``, derived from the clip's name and the seed: the same for every victim.

    Raises
    ------
    InputError
        There is no other class.
    """
    if classes < 2:
        raise InputError("the victim knows one class only: there is nothing to be fooled into; use more classes")
    drawn = _draw(seed, clip) % (classes - 1)
    return drawn if drawn < label else drawn + 1


def _draw(seed: int, name: str) -> int:
    """A number that only the seed and a name decide."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
