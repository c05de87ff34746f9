"""The proof of a budget: an attack from scratch, until the target is reached or lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from advtrack.attacks.norms import perturbation_norms
from advtrack.search.pursuit import Pursuit
from advtrack.search.space import NORMS, Evidence, Search


def prove(pursuit: Pursuit, order: np.ndarray, ahead: int, needed: int, search: Search) -> tuple[Evidence, int]:
    """Whom an attack fools, and the fewest iterations that reach the target, or fool most.

    Parameters
    ----------
    pursuit : Pursuit
        Of all N samples, none of them attacked yet.
    order : ndarray of int
        Indices of the samples, in the order in which they join.
    ahead : int
        How many of them set out. If fewer than lose the target are left that nothing has fooled, as many again join,
        and catch up.
    needed : int
        How many have to be fooled.
    search : Search
        How.
    """
    together = search.spec.shorter_runs == "iterates"
    return (_prove_together if together else _prove_each)(pursuit, order, ahead, needed, search)


def enough_iterations(fewest: float, search: Search) -> int:
    """The fewest iterations that reach the target as a number for a budget; the longest run's where none do."""
    return int(min(max(fewest, 1), search.longest()))


def _prove_each(pursuit: Pursuit, order: np.ndarray, ahead: int, needed: int, search: Search) -> tuple[Evidence, int]:
    """Whom an attack fools that keeps each sample's first example, and the fewest iterations that reach the target.

    Of an area one eps does not tell them: whom the longest run fools.
    """

    def reach(rows: np.ndarray, iterations: int) -> None:
        pursuit.reach(rows[~pursuit.fooled[rows]], iterations)

    spent, longest = 0, search.longest()
    while spent < longest and pursuit.fooled.sum() < needed:
        spent = min(spent + search.stage(), longest)
        ahead = _join(pursuit, order, ahead, needed, partial(reach, iterations=spent))
    iterations = longest
    if search.criterion.name == "fooling_rate":
        first = np.where(pursuit.fooled, pursuit.first_success, np.inf)
        iterations = enough_iterations(search.criterion.smallest_bound(first), search)
    norms = {
        name: values.cpu().numpy().tolist()
        for name, values in perturbation_norms(pursuit.x_adv, pursuit.samples.x).items()
    }
    return {"success": (pursuit.fooled & (pursuit.first_success <= iterations)).tolist(), **norms}, iterations


def _prove_together(
    pursuit: Pursuit, order: np.ndarray, ahead: int, needed: int, search: Search
) -> tuple[Evidence, int]:
    """Whom an attack fools that runs on, and when: at the first iterate that reaches the target, or fools most.

    If none fools anyone, that is the last one.
    """
    longest, area = search.longest(), search.criterion.name == "auc"
    at = {name: np.zeros((len(pursuit.samples), longest)) for name in ("success", *NORMS)}

    def reach(rows: np.ndarray, iterations: int) -> None:
        for part, begun, outcome in pursuit.reach(rows, iterations):
            for name, values in at.items():
                values[part, begun:iterations] = getattr(outcome, f"{name}_at").cpu().numpy()

    spent = best = 0
    fooled = np.zeros(longest, int)
    while spent < longest and fooled[best] < needed:
        spent = longest if area else min(spent + search.stage(), longest)
        ahead = _join(pursuit, order, ahead, needed, partial(reach, iterations=spent))
        fooled = at["success"].sum(0)
        best = int((fooled >= min(needed, fooled.max())).argmax()) if fooled.any() else longest - 1
    if area:  # that of the longest runs
        best = longest - 1
    shown = {name: values[:, best].tolist() for name, values in at.items()}
    return {**shown, "success": at["success"][:, best].astype(bool).tolist()}, best + 1


def _join(pursuit: Pursuit, order: np.ndarray, ahead: int, needed: int, advance: Callable[[np.ndarray], object]) -> int:
    """Let the samples that run advance, and others join them if those left cannot lose the target; how many run."""
    advance(order[:ahead])
    while ahead < len(order) and (pursuit.first_success[order[:ahead]] < 0).sum() <= len(order) - needed:
        ahead = min(2 * ahead, len(order))
        advance(order[:ahead])
    return ahead
