"""What each sample has already shown about the perturbation bound it takes to fool the victim on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from advtrack.search.criterion import Criterion, Verdict

#: Ours: the longest way down at once, as a ratio; and by how many in n, seen on ResNet-18 and AlexNet, the smallest eps
#: lies at most below one that takes n iterations.
_STRIDE, _AHEAD = 4.0, 5.0


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
    criterion : Criterion
        What the samples have to show together.
    tolerance : float
        Bounds closer than this (relative) count as equal.
    """

    def __init__(self, samples: int, low: float, high: float, criterion: Criterion, tolerance: float) -> None:
        self.fooled_at = np.full(samples, np.inf)
        self.resisted_at = np.zeros(samples)
        self.low, self.high, self.criterion, self.tolerance = low, high, criterion, tolerance
        self.contradictions = 0
        self._given_up: list[float] = []
        self._fooled: list[tuple[float, np.ndarray, np.ndarray]] = []  # eps, whom, at which iteration
        self._resisted: list[tuple[float, np.ndarray]] = []

    def tried(self) -> list[float]:
        """Every eps of which something is recorded, in order."""
        return sorted({eps for eps, *_ in self._fooled})

    def hardest_first(self) -> np.ndarray:
        """Indices of all samples; first those that took the largest eps, or the longest: if any resist, these do."""
        iterations = np.full(len(self.fooled_at), np.inf)
        for tried, fooled, first in self._fooled:
            nearest = self.fooled_at[fooled] == tried
            iterations[fooled[nearest]] = first[nearest]
        return np.lexsort((-iterations, -self.fooled_at))

    def undecided(self, eps: float) -> np.ndarray:
        """Indices of samples whose fate at ``eps`` is not known, the hardest first."""
        hardest_first = self.hardest_first()
        return hardest_first[((self.fooled_at > eps) & (self.resisted_at < eps))[hardest_first]]

    def record(self, indices: np.ndarray, eps: float, success: np.ndarray, first_success: np.ndarray) -> None:
        """Take in what a run at ``eps`` showed of the samples ``indices``; what it contradicts is withdrawn."""
        fooled, resisted = indices[success], indices[~success]
        fell, stood = fooled[self.resisted_at[fooled] >= eps], resisted[self.fooled_at[resisted] <= eps]
        self.contradictions += len(fell) + len(stood)
        self.resisted_at[fell] = self._largest_resisted(fell, eps)
        self.fooled_at[stood] = self._smallest_fooled(stood, eps)
        self.fooled_at[fooled] = np.minimum(self.fooled_at[fooled], eps)
        self.resisted_at[resisted] = np.maximum(self.resisted_at[resisted], eps)
        self._fooled.append((eps, fooled, first_success[success]))
        self._resisted.append((eps, resisted))

    def give_up(self, eps: float) -> None:
        """Look above an eps at which a run was not taken to its end; it decides nothing."""
        self._given_up.append(eps)

    def may_give_up(self, eps: float) -> bool:
        """Whether an eps that seems hopeless needs no proof.

        It does just below one that reaches the target, below the largest as long as none does, and on a victim on which
        what seemed hopeless was not.
        """
        reached = min(self.bracket()[1], self.high)
        return eps * (1 + self.tolerance) ** 2 < reached and self._seems_right(reached)

    def _seems_right(self, reached: float) -> bool:
        """Whether nothing that was given up lies above an eps that reaches the target."""
        return not any(eps >= reached for eps in self._given_up)

    def _largest_resisted(self, indices: np.ndarray, below: float) -> np.ndarray:
        """The largest eps below one that each of these samples has resisted; 0 for none."""
        largest = np.zeros_like(self.resisted_at)
        for eps, resisted in self._resisted:
            if eps < below:
                largest[resisted] = np.maximum(largest[resisted], eps)
        return largest[indices]

    def _smallest_fooled(self, indices: np.ndarray, above: float) -> np.ndarray:
        """The smallest eps above one at which each of these samples was fooled; infinite for none."""
        smallest = np.full_like(self.fooled_at, np.inf)
        for eps, fooled, _ in self._fooled:
            if eps > above:
                smallest[fooled] = np.minimum(smallest[fooled], eps)
        return smallest[indices]

    def iterations(self, eps: float) -> np.ndarray:
        """The fewest iterations that are known to fool each sample at ``eps`` or below; infinite where none are."""
        fewest = np.full(len(self.fooled_at), np.inf)
        for tried, fooled, first in self._holding():
            if tried <= eps:
                fewest[fooled] = np.minimum(fewest[fooled], first)
        return fewest

    def iterations_of_area(self, eps: float) -> float:
        """The fewest iterations with which the area up to ``eps`` is known to reach the target; infinite for none.

        Those that fool the samples at ``eps`` are not enough: below it, where their perturbations lie, it takes more.
        """
        shown = self._holding()
        for iterations in np.unique(np.concatenate([first for *_, first in shown])):
            smallest = np.full(len(self.fooled_at), np.inf)
            for tried, fooled, first in shown:
                within = fooled[first <= iterations]
                smallest[within] = np.minimum(smallest[within], tried)
            if self.criterion.missed_by(smallest, eps) <= 0:
                return float(iterations)
        return np.inf

    def _holding(self) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """By eps tried, the samples that were fooled and their first successes; without what was contradicted."""
        holding = []
        for tried, fooled, first in self._fooled:
            holds = self.fooled_at[fooled] <= tried
            holding.append((tried, fooled[holds], first[holds]))
        return holding

    def verdict(self, eps: float) -> Verdict:
        """What is known of ``eps``."""
        if self.criterion.missed_by(self.fooled_at, eps) <= 0:
            return Verdict.REACHED
        return Verdict.MISSED if self.criterion.missed_by(self.resisting(), eps) > 0 else Verdict.OPEN

    def resisting(self) -> np.ndarray:
        """The smallest perturbations that the samples may have: just above what they are known to resist."""
        return np.nextafter(self.resisted_at, np.inf)

    def bracket(self) -> tuple[float, float]:
        """(largest eps known to miss the target, smallest known to reach it); (0, inf) while nothing is known."""
        return self.criterion.smallest_bound(self._lower()), self.criterion.smallest_bound(self.fooled_at)

    def _lower(self) -> np.ndarray:
        """The smallest perturbations that count as possible; an area takes those below the interval for its end."""
        if self.criterion.name == "fooling_rate":
            return self.resisted_at
        return np.minimum(np.maximum(self.resisted_at, self.low), self.fooled_at)

    def proposal(self, running: Sequence[float] = ()) -> float:
        """The eps to try next, beside those that other processes are trying.

        The largest first, since runs at a large eps end early and those at a hopeless one are as long as can be. Then
        as far down as the iterations suggest that it took, or just above one that missed. Where that has been looked
        at, half way, or, for an area, where most is learned.
        """
        missed, reached = self.bracket()
        tried = {*self.tried(), *running}
        given_up = max(self._given_up, default=0.0) if self._seems_right(reached) else 0.0
        if self.criterion.smallest_bound(self.resisted_at) == given_up == 0:
            eps = max(self._below(min(tried)), self.low) if tried else self.high
            if eps not in tried:
                return eps
        low, high, step = max(missed, given_up, self.low), min(reached, self.high), 1 + self.tolerance
        if self.criterion.name == "auc":
            return self._most_telling(high, running)
        if self.worth_proving():
            eps = self.conclusive()
        elif high <= low * step**2:  # what seemed hopeless is not proven
            eps = high / step
        else:
            eps = self._below(high)
            if not low * step < eps < high / step:
                eps = _middle_of_the_widest_gap(low, high, running)
        return eps if eps not in tried else _middle_of_the_widest_gap(low, high, running)

    def _below(self, eps: float) -> float:
        """Where to look below an eps that reaches the target, by the iterations that took, if that is known.

        Four looks within a stride, here or further up, show that the iterations tell nothing of this victim.
        """
        step, iterations = 1 + self.tolerance, max(self.criterion.smallest_bound(self.iterations(eps)), 1)
        telling = self.criterion.name == "fooling_rate" and np.isfinite(iterations)
        above = [other for other in self.tried() if other >= eps]
        if not telling or any(fourth < first * _STRIDE for first, fourth in zip(above, above[3:], strict=False)):
            return eps / _STRIDE
        return eps * max(min(1 - _AHEAD / iterations, 1 / step**2), 1 / _STRIDE)

    def _most_telling(self, high: float, running: Sequence[float]) -> float:
        """The eps that is sure to shorten the samples' intervals up to ``high`` the most, all together."""
        known = np.array([*running, np.inf])
        lower, upper = np.maximum(self.resisted_at, self.low), np.minimum(self.fooled_at, high)
        # What another process is trying will be known on one side or the other.
        lower = np.maximum(lower, np.where(known < upper[:, None], known, 0).max(1))
        middles = np.unique((lower + upper)[lower < upper] / 2)
        if not len(middles):
            return _middle_of_the_widest_gap(self.low, high, running)
        gained = np.minimum(middles[:, None] - lower, upper - middles[:, None]).clip(min=0).sum(1)
        return float(middles[gained.argmax()])

    def settled(self) -> bool:
        """Whether the bracket is as narrow as the tolerance (but for rounding), or an end of the interval decides."""
        missed, reached = self.bracket()
        return missed >= self.high or reached <= self.conclusive() * (1 + 1e-9)

    def worth_proving(self) -> bool:
        """Whether the `conclusive` eps is to be proven now.

        It settles the bracket, or if it misses the target the next conclusive one does. Or it lies just above the first
        eps that missed, a stride at most below one that reaches the target: were that far too small, it would have
        seemed hopeless.
        """
        missed, reached = self.bracket()
        step = 1 + self.tolerance
        in_vain = sorted({eps for eps, resisted in self._resisted if len(resisted) and eps <= missed})
        first = not any(above < below * step**2 for below, above in pairwise(in_vain))
        narrow = reached <= max(self.conclusive() * step**2, missed * _STRIDE if first else 0.0) * (1 + 1e-9)
        return missed > 0 and narrow and not any(missed < eps < reached for eps in self._given_up)

    def conclusive(self) -> float:
        """The largest eps that ends the search if it reaches the target: by the tolerance above what misses it."""
        return min(max(self.bracket()[0], self.low) * (1 + self.tolerance), self.high)


def _middle_of_the_widest_gap(low: float, high: float, between: Sequence[float]) -> float:
    """The geometric middle of the widest of the intervals into which others cut ``low`` to ``high``."""
    ends = np.array([low, *sorted(eps for eps in between if low < eps < high), high])
    widest = int((ends[1:] / ends[:-1]).argmax())
    return float(np.sqrt(ends[widest] * ends[widest + 1]))
