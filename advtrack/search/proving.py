"""The proof of a budget: an attack from scratch, until the target is reached or lost."""

from __future__ import annotations

import numpy as np

from advtrack.attacks.norms import perturbation_norms
from advtrack.search.pursuit import Pursuit
from advtrack.search.space import NORMS, Evidence, Search


def prove(pursuit: Pursuit, lead: np.ndarray, others: np.ndarray, needed: int, search: Search) -> tuple[Evidence, int]:
    """Whom an attack fools, and the fewest iterations that reach the target, or fool most.

    Parameters
    ----------
    pursuit : Pursuit
        Of all N samples, none of them attacked yet.
    lead, others : ndarray of int
        Indices of the samples that run ahead, and of those that follow as soon as one of them is fooled.
    needed : int
        How many have to be fooled.
    search : Search
        How.
    """
    together = search.spec.shorter_runs == "iterates"
    return (_prove_together if together else _prove_each)(pursuit, lead, others, needed, search)


def enough_iterations(fewest: float, search: Search) -> int:
    """The fewest iterations that reach the target as a number for a budget; the longest run's where none do."""
    return int(min(max(fewest, 1), search.longest()))


def _prove_each(
    pursuit: Pursuit, lead: np.ndarray, others: np.ndarray, needed: int, search: Search
) -> tuple[Evidence, int]:
    """Whom an attack fools that keeps each sample's first example, and the fewest iterations that reach the target.

    Of an area one eps does not tell them: whom the longest run fools.
    """
    spent, longest = 0, search.longest()
    while spent < longest and pursuit.fooled.sum() < needed:
        spent = min(spent + search.stage(), longest)
        pursuit.reach(lead[~pursuit.fooled[lead]], spent)
        if pursuit.fooled[lead].any():
            pursuit.reach(others[~pursuit.fooled[others]], spent)
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
    pursuit: Pursuit, lead: np.ndarray, others: np.ndarray, needed: int, search: Search
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
        reach(lead, spent)
        if at["success"][lead].any():
            reach(others, spent)
        fooled = at["success"].sum(0)
        best = int((fooled >= min(needed, fooled.max())).argmax()) if fooled.any() else longest - 1
    if area:  # that of the longest runs
        best = longest - 1
    shown = {name: values[:, best].tolist() for name, values in at.items()}
    return {**shown, "success": at["success"][:, best].astype(bool).tolist()}, best + 1
