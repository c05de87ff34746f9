"""A run within one bound that is taken further, some iterations at a time, on the samples that still matter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from advtrack.attacks.outcome import AttackOutcome
from advtrack.search.space import Samples, passes_of


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
