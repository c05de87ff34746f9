"""What each sample has already shown about the perturbation bound it takes to fool the victim on it."""

from __future__ import annotations

import math

import numpy as np

#: Ratio of successive eps while none is known to miss the target; ours.
_STRIDE = 4.0


def successes_needed(target_fooling_rate: float, samples: int) -> int:
    """Successes that reach a target fooling rate: ceil(target x samples), at least one."""
    # A product such as 0.9 * 10 may lie a rounding error above the whole number it means.
    return max(1, math.ceil(round(target_fooling_rate * samples, 9)))


class Bounds:
    """For every sample, the smallest eps at which it was fooled and the largest at which it resisted.

    At the longest run fooling is (nearly) monotone in eps: a sample fooled at eps is taken to be fooled above it, one
    that resisted to resist below it. What a confirmation from scratch contradicts is withdrawn.

    Parameters
    ----------
    samples : int
        Number of samples.
    low, high : float
        Interval of eps that is searched.
    needed : int
        Successes that reach the target.
    """

    def __init__(self, samples: int, low: float, high: float, needed: int) -> None:
        self.fooled_at = np.full(samples, np.inf)
        self.resisted_at = np.zeros(samples)
        self.low, self.high, self.needed = low, high, needed
        self.contradictions = 0

    def undecided(self, eps: float) -> np.ndarray:
        """Indices of samples whose fate at ``eps`` is not known."""
        return np.flatnonzero((self.fooled_at > eps) & (self.resisted_at < eps))

    def record(self, indices: np.ndarray, eps: float, success: np.ndarray) -> None:
        """Take in what a run at ``eps`` showed of the samples ``indices``; what it contradicts is withdrawn."""
        fooled, resisted = indices[success], indices[~success]
        self.contradictions += int((self.resisted_at[fooled] >= eps).sum() + (self.fooled_at[resisted] <= eps).sum())
        self.resisted_at[fooled[self.resisted_at[fooled] >= eps]] = 0.0
        self.fooled_at[resisted[self.fooled_at[resisted] <= eps]] = np.inf
        self.fooled_at[fooled] = np.minimum(self.fooled_at[fooled], eps)
        self.resisted_at[resisted] = np.maximum(self.resisted_at[resisted], eps)

    def successes(self, eps: float) -> int:
        """Samples known to be fooled at ``eps``."""
        return int((self.fooled_at <= eps).sum())

    def at_most(self, eps: float) -> int:
        """Samples not known to resist at ``eps``."""
        return int((self.resisted_at < eps).sum())

    def decision(self, eps: float) -> bool | None:
        """Whether ``eps`` reaches the target; None while it is open."""
        if self.successes(eps) >= self.needed:
            return True
        if self.at_most(eps) < self.needed:
            return False
        return None

    def bracket(self) -> tuple[float, float]:
        """(largest eps known to miss the target, smallest known to reach it); (0, inf) while nothing is known."""
        return float(np.sort(self.resisted_at)[self.needed - 1]), float(np.sort(self.fooled_at)[self.needed - 1])

    def proposal(self) -> float:
        """The eps to try next: the largest first, down in strides until one misses, then the bracket's middle.

        Runs at a large eps end early, those at a hopeless one are as long as can be. Strides from above meet one or
        two of the latter; halving the whole interval would begin with them.
        """
        missed, reached = self.bracket()
        if reached == np.inf:
            return self.high
        middle = float(np.sqrt(max(missed, self.low) * reached))
        return middle if missed > 0 else max(reached / _STRIDE, self.low)

    def settled(self, tolerance: float) -> bool:
        """Whether the bracket is narrower than ``tolerance`` (relative), or an end of the interval decides."""
        missed, reached = self.bracket()
        return missed >= self.high or reached <= max(missed, self.low) * (1 + tolerance)
