"""The proof of a budget: an attack on every sample, until the target is reached or the longest run over."""

from __future__ import annotations

import numpy as np

from advtrack.attacks.norms import perturbation_norms
from advtrack.search.criterion import successes_needed
from advtrack.search.pursuit import Pursuit
from advtrack.search.space import Evidence, Samples, Search, evidence_of


def prove(pursuit: Pursuit, samples: Samples, search: Search) -> tuple[Evidence, int]:
    """Whom an attack fools, and the fewest iterations that reach the target, or fool most."""
    together = search.spec.shorter_runs == "iterates"
    return (_prove_together if together else _prove_each)(pursuit, samples, search)


def enough_iterations(fewest: np.ndarray, search: Search) -> int:
    """How many iterations reach the target, if these are the fewest that fool each sample; at most the longest run."""
    if search.criterion.name == "fooling_rate":
        enough = search.criterion.smallest_bound(fewest)
    elif search.spec.shorter_runs == "iterates":
        enough = search.longest()
    else:  # every sample's smallest perturbation counts
        enough = fewest[np.isfinite(fewest)].max(initial=1)
    return int(min(max(enough, 1), search.longest()))


def _prove_each(pursuit: Pursuit, samples: Samples, search: Search) -> tuple[Evidence, int]:
    """Whom an attack fools that keeps each sample's first example, and the fewest iterations that reach the target."""
    needed = len(samples) if search.criterion.name == "auc" else successes_needed(search.criterion.target, len(samples))
    spent, longest = 0, search.longest()
    while spent < longest and pursuit.fooled.sum() < needed:
        further = min(search.stage(), longest - spent)
        pursuit.advance(np.flatnonzero(~pursuit.fooled), further)
        spent += further
    iterations = enough_iterations(np.where(pursuit.fooled, pursuit.first_success, np.inf), search)
    norms = {
        name: values.cpu().numpy().tolist() for name, values in perturbation_norms(pursuit.x_adv, samples.x).items()
    }
    return {"success": (pursuit.fooled & (pursuit.first_success <= iterations)).tolist(), **norms}, iterations


def _prove_together(pursuit: Pursuit, samples: Samples, search: Search) -> tuple[Evidence, int]:
    """Whom an attack fools that runs on, and when: at the first iterate that reaches the target, or fools most."""
    every, spent, longest = np.arange(len(samples)), 0, search.longest()
    if search.criterion.name == "auc":  # that of the longest runs
        return evidence_of(pursuit.advance(every, longest), longest), longest
    needed = successes_needed(search.criterion.target, len(samples))
    most, iterations, shown = -1, 0, Evidence()
    while spent < longest and most < needed:
        further = min(search.stage(), longest - spent)
        outcome = pursuit.advance(every, further)
        assert outcome.success_at is not None
        fooled = outcome.success_at.sum(0).cpu().numpy()
        best = int((fooled >= min(needed, fooled.max())).argmax())
        if fooled[best] > most:
            most, iterations, shown = fooled[best], spent + best + 1, evidence_of(outcome, best + 1)
        spent += further
    return shown, iterations
