"""A run within one bound that is taken further, some iterations at a time, on the samples that still matter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from advtrack.attacks.outcome import AttackOutcome
from advtrack.search.bounds import Bounds
from advtrack.search.criterion import successes_needed
from advtrack.search.space import Evidence, Samples, Search, passes_of

# Ours, seen on ResNet-18 and AlexNet: after k iterations at an eps that is large enough, the distance to the boundary
# has fallen to about (11 / k)^2 of it.
_SETTLING = 11.0


class Pursuit:
    """Where each sample stands. Taken further, it goes on as if it had not stopped.

    Parameters
    ----------
    strike : callable
        ``strike(samples, start=..., max_iter=...)`` runs the attack from the iterates where the samples stand.
    samples : Samples
        All N of them.

    Attributes
    ----------
    samples : Samples
        As given.
    x_adv : Tensor, shape (N, C, H, W)
        The iterates.
    fooled : ndarray of bool, shape (N,)
        Whether they are adversarial.
    first_success : ndarray of int, shape (N,)
        The iteration that made the first adversarial one, -1 for none.
    iterations : ndarray of int, shape (N,)
        Iterations so far.
    passes : int
        Forward plus backward passes, over all samples.
    """

    def __init__(self, strike: Callable[..., AttackOutcome], samples: Samples) -> None:
        self._strike, self.samples = strike, samples
        self.x_adv = samples.x.clone()
        self.fooled = np.zeros(len(samples), bool)
        self.first_success = np.full(len(samples), -1)
        self.iterations = np.zeros(len(samples), int)
        self.passes = 0

    def advance(self, rows: np.ndarray, iterations: int) -> AttackOutcome:
        """Take some samples, by their indices, this many iterations further; what that showed of them."""
        outcome = self._strike(self.samples.take(rows), start=self.x_adv[rows], max_iter=iterations)
        first = outcome.first_success.cpu().numpy()
        found = (first >= 0) & (self.first_success[rows] < 0)
        self.first_success[rows[found]] = self.iterations[rows[found]] + first[found]
        self.x_adv[rows] = outcome.x_adv
        self.fooled[rows] = outcome.success.cpu().numpy()
        self.iterations[rows] += iterations
        self.passes += passes_of(outcome)
        return outcome

    def reach(self, rows: np.ndarray, iterations: int) -> list[tuple[np.ndarray, int, AttackOutcome]]:
        """Take some samples to this many iterations in all: who went together, from which on, and what that showed."""
        stand = self.iterations[rows]
        groups = [(rows[stand == begun], int(begun)) for begun in np.unique(stand[stand < iterations])]
        return [(group, begun, self.advance(group, iterations - begun)) for group, begun in groups]

    def evidence(self, attacked: np.ndarray, fooled: np.ndarray) -> Evidence:
        """What a trial shows of the bounds of the samples ``attacked``, by their indices."""
        shown = {"fooled": fooled, "first_success": self.first_success, "iterations": self.iterations}
        return {"attacked": attacked.tolist(), **{name: values[attacked].tolist() for name, values in shown.items()}}


def pursue(
    pursuit: Pursuit, bounds: Bounds, eps: float, search: Search, distance: Callable[[Samples, Tensor], np.ndarray]
) -> None:
    """Take undecided samples further until too few are left to lose the target, or as many as lose it have resisted.

    So few failures lose it that a hopeless eps, which costs whole runs, shows on the hardest samples. When too few of
    them are left, others join, and catch up. Where no proof is needed, as many that are hopelessly far are enough.
    """
    waiting, longest, stage = bounds.undecided(eps), search.longest(), search.stage()
    if search.criterion.name == "auc":  # an area is one of all samples
        pursuit.advance(waiting, longest)
        return
    samples = len(bounds.fooled_at)
    failures = samples - successes_needed(search.criterion.target, samples) + 1 - int((bounds.resisted_at >= eps).sum())
    # At the largest eps most are expected to be fooled soon.
    left, joining = waiting[:0], failures if eps < bounds.high else len(waiting)
    while (pursuit.iterations[left] == longest).sum() < failures and (len(left) >= failures or len(waiting)):
        if len(left) < failures:
            joined, waiting = np.split(waiting, [joining])
            left, joining = np.append(left, joined), 2 * joining
            continue
        spent = pursuit.iterations[left]
        pursuit.advance(left[spent == spent.min()], min(stage, longest - int(spent.min())))
        left = left[~pursuit.fooled[left]]
        k = pursuit.iterations[left].min(initial=longest)
        look = search.sampler == "bounds" and max(2 * stage, _SETTLING) <= k < longest
        if look and len(left) >= failures and bounds.may_give_up(eps):
            away = distance(pursuit.samples.take(left), pursuit.x_adv[left]) / eps
            pursuit.passes += 2 * len(left)
            if (away > search.tolerance + (_SETTLING / k) ** 2).sum() >= failures:
                return
