"""Attacks whose perturbation ``eps`` bounds beforehand: bisection over per-sample bounds, then a confirmation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from torch import nn
from tqdm import tqdm

from advtrack.search.bounds import Bounds
from advtrack.search.claims import PASSES, reap, take, underway, wait, working
from advtrack.search.criterion import Verdict, successes_needed
from advtrack.search.known import CONFIRM, EVIDENCE, PROBE, Known, eps_range
from advtrack.search.proving import enough_iterations, prove
from advtrack.search.pursuit import Pursuit, pursue
from advtrack.search.sampler import BoundsSampler
from advtrack.search.space import Evidence, Found, Samples, Search


def search_bound(network: nn.Module, samples: Samples, search: Search, study: Study, title: str | None) -> Found:
    """Bisect eps over per-sample bounds, then confirm on every sample from scratch.

    Parameters
    ----------
    network, samples, search
        Victim, what is attacked, and how.
    study : Study
        Its finished trials count; new ones are added to it, also by other processes at the same time.
    title : str or None
        Of the progress bar; None for none.
    """
    sampler, exhausted, repeated = study.sampler, False, search.sampler == "bounds"
    with tqdm(total=search.trials, desc=title, unit="trial", leave=False, disable=title is None) as progress:
        while True:
            reap(study)
            known = Known.of(study, len(samples), search)
            progress.update(int(known.trials) - progress.n)
            eps = known.to_confirm(enough=exhausted or (known.over() and not known.open()))
            if eps is not None:
                if confirmed := known.confirmed(eps):
                    return known.found(confirmed)
                _confirm(network, samples, search, study, known, eps)
                exhausted = False
            elif not known.over() and known.trials + len(underway(study, PROBE)) >= search.trials:
                wait()
            else:
                # A sampler that proposes what is known already, or nothing that tells in time, is helped out.
                helped = repeated or known.over()
                study.sampler = BoundsSampler(known.bounds, search.seed) if helped else sampler
                known_already = not _probe(network, samples, search, study, known)
                # What the bounds propose again, on a victim that contradicts itself, teaches nothing more.
                exhausted = helped and known_already
                repeated = known_already or search.sampler == "bounds"


def _suggest_eps(trial: Trial, search: Search) -> None:
    eps = eps_range(search)
    trial.suggest_float("eps", eps.low, eps.high, log=eps.log)


def _probe(network: nn.Module, samples: Samples, search: Search, study: Study, known: Known) -> bool:
    """Attack samples that an eps leaves undecided, until the target is reached or lost.

    False if what was tried before is proposed again.
    """
    trial = take(study, PROBE, partial(_suggest_eps, search=search))
    if isinstance(trial, FrozenTrial):  # another process is at it, or has just finished it, unless it is known already
        return trial.params["eps"] not in known.bounds.tried()
    eps, bounds = trial.params["eps"], known.bounds
    pursuit = Pursuit(partial(search.scout, network, eps=eps), samples)
    with working(study, trial, lambda: pursuit.passes):
        pursue(pursuit, bounds, eps, search, partial(search.distance, network))
        evidence = pursuit.evidence(np.flatnonzero(pursuit.iterations), pursuit.fooled)
        known.learn(eps, evidence)
        iterations = _iterations(bounds, eps, search)
        _tell(study, trial, search, evidence, bounds.fooled_at, bounds.resisting(), iterations, pursuit.passes)
    return True


def _confirm(network: nn.Module, samples: Samples, search: Search, study: Study, known: Known, eps: float) -> None:
    """Attack the samples from scratch, in full precision, until the target is reached or lost."""
    trial = take(study, CONFIRM, partial(_suggest_eps, search=search), {"eps": eps})
    if isinstance(trial, FrozenTrial):
        return
    bounds, area, search = known.bounds, search.criterion.name == "auc", replace(search, precision="fp32")
    needed = len(samples) if area else successes_needed(search.criterion.target, len(samples))
    # Where the bounds do not expect it to be reached, the hardest go first, as many as lose it if all of them resist.
    # If they do, and a larger eps is left to be proven, the others are not attacked.
    sure = area or eps >= bounds.high or bounds.verdict(eps) is Verdict.REACHED
    ahead = len(samples) if sure else len(samples) - needed + 1
    pursuit = Pursuit(partial(search.strike, network, eps=eps), samples)
    with working(study, trial, lambda: pursuit.passes):
        shown, iterations = prove(pursuit, bounds.hardest_first(), ahead, needed, search)
        success, attacked = np.array(shown["success"], bool), np.flatnonzero(pursuit.iterations)
        # Who was fooled at an iterate of its own does not count if not enough of them are at one together.
        reached = not area and success.sum() >= needed
        evidence = shown | pursuit.evidence(attacked, pursuit.first_success >= 0 if reached else success)
        fooled_at = np.where(success, eps, np.inf)
        if area:
            bounds.record(attacked, eps, success, pursuit.first_success)
            fooled_at, iterations = bounds.fooled_at, _iterations(bounds, eps, search)
            evidence["success"] = (success & (pursuit.first_success <= iterations)).tolist()
        possible = np.where(pursuit.iterations > 0, fooled_at, eps)
        _tell(study, trial, search, evidence, fooled_at, possible, iterations, pursuit.passes)


def _iterations(bounds: Bounds, eps: float, search: Search) -> int:
    """The fewest iterations that are known to reach the target at an eps; the longest run's where none are."""
    if bounds.verdict(eps) is not Verdict.REACHED:
        return search.longest()
    if search.criterion.name == "fooling_rate":
        return enough_iterations(bounds.criterion.smallest_bound(bounds.iterations(eps)), search)
    # What is fooled at an iterate may be lost again.
    together = search.spec.shorter_runs == "iterates"
    return search.longest() if together else enough_iterations(bounds.iterations_of_area(eps), search)


def _tell(
    study: Study,
    trial: Trial,
    search: Search,
    evidence: Evidence,
    fooled_at: np.ndarray,
    resisted_at: np.ndarray,
    iterations: int,
    passes: int,
) -> None:
    """Finish a trial."""
    eps = trial.params["eps"]
    missed_by = search.criterion.missed_by(fooled_at, eps)
    trial.set_user_attr(EVIDENCE, evidence)
    trial.set_user_attr(PASSES, passes)
    trial.set_user_attr("fooling_rate", float((fooled_at <= eps).mean()))
    trial.set_user_attr("fooling_rate_at_most", float((resisted_at <= eps).mean()))
    trial.set_user_attr("reached", bool(missed_by <= 0))
    trial.set_constraint("target_missed_by", missed_by)
    study.tell(trial, (eps, float(iterations)), skip_if_finished=True)
