"""What a budget search found, and the statistics of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from advtrack.intervals import wilson
from advtrack.search.criterion import Criterion, fooling_auc
from advtrack.search.space import Budget

#: Of the norms of the successes.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class BudgetResult:
    """What a search found.

    Attributes
    ----------
    attack, norm : str
        The attack and its own norm.
    criterion : Criterion
        What was asked for.
    budget : Budget
        The budget.
    fooling_rate : float
        Confirmed at the budget.
    reached : bool
        Whether the criterion was.
    success : ndarray of bool, shape (N,)
        Per sample, at the budget.
    first_success : ndarray of int, shape (N,)
        Per sample, -1 for none.
    norms : dict of str to ndarray, shape (N,)
        l0, l2 and linf per sample; of failures, of the last iterate.
    fooled_at, resisted_at : ndarray, shape (N,)
        Between which bounds each sample's minimal perturbation lies, as far as the search went: it was fooled at the
        one (infinite: never), and not below the other.
    largest : float
        The largest bound that was searched, own norm.
    failures_count_as : float
        The largest perturbation, own norm, that a failure was allowed; NaN where nothing bounds it.
    missed_at : float or None
        The largest bound known to miss the target, of a search that bisects.
    front : list of (float, int)
        Bounds and iterations that reach the target, none of which is better than another in both. But for the budget
        itself, and for a fooling rate of BIM-b, they are what the trials showed, not confirmed.
    passes : int
        Forward plus backward passes of all trials.
    cut_short : int
        Trials that began and have not ended, or failed, or were killed: of what those spent only that counts which they
        told, every few seconds.
    contradictions : int
        Samples that showed other than what had been inferred.
    trials : list of dict
        Per trial: number, what it was for, bound, iterations, settings, and the fooling rate as far as it shows: a
        trial that is decided early leaves samples out, so that the rate lies between ``fooling_rate`` and
        ``fooling_rate_at_most``.
    study_name : str
        In the storage.
    settled : bool
        Whether every bound of the space that is smaller by more than the tolerance is known to miss the target; of a
        target that was not reached, whether the largest bound is known to miss it.
    """

    attack: str
    norm: str
    criterion: Criterion
    budget: Budget
    fooling_rate: float
    reached: bool
    success: np.ndarray
    first_success: np.ndarray
    norms: dict[str, np.ndarray]
    fooled_at: np.ndarray
    resisted_at: np.ndarray
    largest: float
    failures_count_as: float
    missed_at: float | None
    front: list[tuple[float, int]]
    passes: int
    cut_short: int
    contradictions: int
    trials: list[dict[str, Any]]
    study_name: str
    settled: bool = True

    def perturbation(self) -> float:
        """Mean perturbation in the own norm (Eq. 14), of successes; unreached, a lower bound: failures count too."""
        own = self.norms[self.norm]
        if not self.reached:
            return float(np.where(self.success, own, self.failures_count_as).mean())
        return float(own[self.success].mean())

    def mean_norms(self) -> dict[str, float]:
        """Mean l0, l2 and linf of the successes; NaN if there are none."""
        return {n: float(v[self.success].mean()) if self.success.any() else math.nan for n, v in self.norms.items()}

    def norm_quantiles(self) -> dict[str, float]:
        """Quantiles of l0, l2 and linf of the successes, as ``l2_q50``; none if there are none."""
        if not self.success.any():
            return {}
        return {
            f"{name}_q{round(100 * share):02d}": float(np.quantile(values[self.success], share))
            for name, values in self.norms.items()
            for share in QUANTILES
        }

    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the fooling rate."""
        low, high = wilson(self.success.sum(), len(self.success))
        return float(low), float(high)

    def score(self) -> float:
        """What the criterion asks for, at the budget: the confirmed fooling rate, or the area known to lie below it."""
        if self.criterion.name == "fooling_rate":
            return self.fooling_rate
        return self.criterion.score(self.fooled_at, self.budget.bound)

    def auc(self) -> tuple[float, float]:
        """Area under the fooling rate up to the largest bound searched: at least, and at most."""
        return fooling_auc(self.fooled_at, self.largest), fooling_auc(self.resisted_at, self.largest)

    def curve(self) -> list[tuple[float, float, float]]:
        """Bounds at which the fooling rate is known to change, and what it is from there to the next one.

        At least and at most: a sample that resists at a bound may be fooled just beyond it.
        """
        steps = np.concatenate([self.fooled_at, self.resisted_at])
        bounds = np.unique(steps[(steps > 0) & (steps <= self.largest)])
        curve = []
        for bound, following in zip(bounds, np.append(bounds[1:], bounds[-1:]), strict=True):
            fooled = self.fooled_at <= bound
            curve.append((float(bound), float(fooled.mean()), float((fooled | (self.resisted_at < following)).mean())))
        return curve
