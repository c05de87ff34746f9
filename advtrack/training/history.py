"""The epochs of a training so far: which is the best, and whether it is to go on."""

from __future__ import annotations

import math
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


#: Catastrophic overfitting (ours): of what withstands FGSM, at most half withstands BIM, and
#: either the two accuracies are _FAR apart,
#: or BIM's, once at least _ROBUST, is halved, while that under FGSM is no lower than it was then, and _GAP above BIM's.
_FAR, _ROBUST, _GAP = 0.5, 0.2, 0.3


def collapsed(history: Sequence[Epoch]) -> list[int]:
    """Numbers of the epochs after which a network withstands one step and no longer several (Wong et al. 2020).

    Between an epoch that was attacked and the next that was, nothing is known: these go with the next.
    """
    found: list[int] = []
    unknown: list[int] = []
    best_bim = best_fgsm = 0.0  # of the epoch that BIM had the least success after, and under FGSM then
    for epoch in history:
        unknown.append(epoch.number)
        if epoch.bim_accuracy is None or epoch.fgsm_accuracy is None:
            continue
        if epoch.bim_accuracy > best_bim:
            best_bim, best_fgsm = epoch.bim_accuracy, epoch.fgsm_accuracy
        gap = epoch.fgsm_accuracy - epoch.bim_accuracy
        halved = best_bim >= _ROBUST and epoch.bim_accuracy <= best_bim / 2 and epoch.fgsm_accuracy >= best_fgsm
        if epoch.bim_accuracy <= epoch.fgsm_accuracy / 2 and (gap >= _FAR or (halved and gap >= _GAP)):
            found += unknown
        unknown = []
    return found


def overfitted_since(history: Sequence[Epoch]) -> int | None:
    """The epoch from which on all that were attacked have collapsed, two of them at least: one alone may be chance."""
    marked = set(collapsed(history))
    since: list[int] = []
    for epoch in reversed(history):
        if epoch.bim_accuracy is None:
            continue
        if epoch.number not in marked:
            break
        since.append(epoch.number)
    return since[-1] if len(since) >= 2 else None


def best(history: Sequence[Epoch]) -> Epoch:
    """The epoch of the highest accuracy on the early-stopping part, then the lowest loss, then the first.

    Epochs that have collapsed come after all others, and before them one whose loss is not finite.
    """
    marked = set(collapsed(history))
    return max(
        history,
        key=lambda epoch: (
            epoch.number not in marked, math.isfinite(epoch.stop_loss), epoch.stop_accuracy, -epoch.stop_loss,
        ),
    )  # fmt: skip


def goes_on(history: Sequence[Epoch], epochs: int, patience: int) -> bool:
    """Whether another epoch follows: neither are all done, nor was there no improvement in ``patience`` of them, nor
    has training overfitted to one step."""
    if not history:
        return True
    patient = not patience or len(history) - best(history).number < patience
    return len(history) < epochs and patient and overfitted_since(history) is None
