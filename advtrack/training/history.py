"""The epochs of a training so far: which is the best, and whether it is to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: mean training loss; loss and accuracy on the early-stopping part.

    Of adversarial training also the accuracies on some of that part under FGSM and under BIM, at the eps of training.
    """

    number: int
    train_loss: float
    stop_loss: float
    stop_accuracy: float
    fgsm_accuracy: float | None = None
    bim_accuracy: float | None = None


def best(history: Sequence[Epoch]) -> Epoch:
    """The epoch of the highest accuracy on the early-stopping part, then the lowest loss, then the first."""
    return max(history, key=lambda epoch: (epoch.stop_accuracy, -epoch.stop_loss))


def goes_on(history: Sequence[Epoch], epochs: int, patience: int) -> bool:
    """Whether another epoch follows: there are ``epochs`` at most, and ``patience`` of them without improvement."""
    if not history:
        return True
    return len(history) < epochs and not (patience and len(history) - best(history).number >= patience)
