"""When a perturbation bound is large enough: the target, as a fooling rate or as an area under its curve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

import numpy as np

CriterionName = Literal["fooling_rate", "auc"]


def successes_needed(target_fooling_rate: float, samples: int) -> int:
    """Successes that reach a target fooling rate: ceil(target x samples), at least one."""
    # A product such as 0.9 * 10 may lie a rounding error above the whole number it means.
    return max(1, math.ceil(round(target_fooling_rate * samples, 9)))


def fooling_auc(smallest: np.ndarray, bound: float) -> float:
    """Area under the fooling rate from 0 to ``bound``, as a share of it: 1 - mean(min(d, bound)) / bound.

    ``smallest`` are the samples' minimal perturbations d, infinite where there is none.
    """
    return float(1 - np.minimum(smallest, bound).mean() / bound) if bound > 0 else 0.0


class Verdict(Enum):
    """What is known of a bound: that it reaches the target, that it misses it, or neither."""

    REACHED = auto()
    MISSED = auto()
    OPEN = auto()


@dataclass(frozen=True)
class Criterion:
    """What a budget has to reach.

    Attributes
    ----------
    name : {'fooling_rate', 'auc'}
        The share of samples fooled within the bound, or the mean of that share over all bounds up to it (the paper's
        AUC).
    target : float
        In (0, 1].
    """

    name: CriterionName
    target: float

    def score(self, smallest: np.ndarray, bound: float) -> float:
        """What is reached within a bound if ``smallest`` are the samples' minimal perturbations."""
        return fooling_auc(smallest, bound) if self.name == "auc" else float((smallest <= bound).mean())

    def missed_by(self, smallest: np.ndarray, bound: float) -> float:
        """By how much the target is missed, at most 0 if it is reached: in samples, or in area."""
        if self.name == "auc":
            missed = self.target - self.score(smallest, bound)
            return 0.0 if abs(missed) < 1e-9 else missed  # the smallest bound reaches it but for rounding
        return float(successes_needed(self.target, len(smallest)) - (smallest <= bound).sum())

    def smallest_bound(self, smallest: np.ndarray) -> float:
        """The smallest bound that reaches the target if ``smallest`` are the minimal perturbations; inf for none."""
        ordered, samples = np.sort(smallest), len(smallest)
        if self.name == "fooling_rate":
            return float(ordered[successes_needed(self.target, samples) - 1])
        # With k samples fooled, the area of the others is lost, and that of the k up to their perturbations:
        # 1 - (sum of the k + (samples - k) bound) / (samples bound) = target.
        fooled = np.arange(1, samples + 1)
        spare = fooled - self.target * samples
        with np.errstate(divide="ignore", invalid="ignore"):
            bounds = np.where(spare > 1e-9, np.maximum(np.cumsum(ordered) / spare, ordered), np.inf)
        return float(bounds[bounds <= np.append(ordered[1:], np.inf)].min(initial=np.inf))
