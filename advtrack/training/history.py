"""The epochs of a training so far: which is the best, and whether it is to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

#: Catastrophic overfitting (ours): of what withstands FGSM at most half withstands BIM, and so many of all less.
_GAP = 0.3


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: mean training loss; loss and accuracy on the early-stopping part.

    Of adversarial training also the accuracies on some of that part under FGSM and under BIM, at the eps of training,
    where the epoch was attacked.
    """

    number: int
    train_loss: float
    stop_loss: float
    stop_accuracy: float
    fgsm_accuracy: float | None = None
    bim_accuracy: float | None = None

    @property
    def attacked(self) -> bool:
        """Whether it is known what it withstands."""
        return self.bim_accuracy is not None

    @property
    def collapsed(self) -> bool:
        """Whether the network withstands one step and not several (Wong et al. 2020), as far as that is known."""
        if self.bim_accuracy is None or self.fgsm_accuracy is None:
            return False
        return self.bim_accuracy <= self.fgsm_accuracy / 2 and self.fgsm_accuracy - self.bim_accuracy >= _GAP


def overfitted_since(history: Sequence[Epoch]) -> int | None:
    """The epoch from which on all that were attacked have collapsed, two of them at least: one alone may be chance."""
    attacked = reversed([epoch for epoch in history if epoch.attacked])
    since = list(takewhile(lambda epoch: epoch.collapsed, attacked))
    return since[-1].number if len(since) >= 2 else None


def best(history: Sequence[Epoch]) -> Epoch:
    """The epoch of the highest accuracy on the early-stopping part, then the lowest loss, then the first.

    Once one was attacked, it is one that was: nobody is to use a network of which it is not known whether it has
    collapsed. Those that have come after all others.
    """
    return max(history, key=lambda epoch: (epoch.attacked, *_merit(epoch)))


def goes_on(history: Sequence[Epoch], epochs: int, patience: int) -> bool:
    """Whether another epoch follows: neither are all done, nor was there no improvement in ``patience`` of them, nor
    has training overfitted to one step."""
    if not history:
        return True
    patient = not patience or len(history) - max(history, key=_merit).number < patience
    return len(history) < epochs and patient and overfitted_since(history) is None


def _merit(epoch: Epoch) -> tuple[bool, float, float]:
    return not epoch.collapsed, epoch.stop_accuracy, -epoch.stop_loss
