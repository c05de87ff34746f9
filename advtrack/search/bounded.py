"""Attacks whose perturbation ``eps`` bounds beforehand: bisection over per-sample bounds, then a confirmation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn
from tqdm import tqdm

from advtrack.attacks.base import Range
from advtrack.attacks.outcome import AttackOutcome
from advtrack.search.bounds import Bounds
from advtrack.search.claims import STEP, reap, take, underway, wait, working
from advtrack.search.criterion import successes_needed
from advtrack.search.sampler import BoundsSampler
from advtrack.search.space import Budget, Evidence, Found, Samples, Search, evidence_of, pareto, passes_of

#: Steps of the search: a look at the undecided samples, and the proof on all of them.
_PROBE, _CONFIRM = "probe", "confirm"
_EVIDENCE = "evidence"
# Iterations of the first confirmation, in units of those that the trials needed.
_MARGIN = 1.25


@dataclass
class _Known:
    """What the study's finished trials tell."""

    bounds: Bounds
    probes: int
    confirmations: list[FrozenTrial]
    #: Of trials that reached the target: eps and iterations.
    reached: list[tuple[float, int]]


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
            known = _known(study, samples, search)
            progress.update(known.probes - progress.n)
            bounds = known.bounds
            settled = exhausted or bounds.settled(search.tolerance) or known.probes >= search.trials
            if settled and (confirmed := _confirmed(known, search)):
                return _found(known, confirmed)
            # A sampler that proposes what is known already is helped out.
            study.sampler = BoundsSampler(bounds, search.seed) if repeated else sampler
            if settled:
                _confirm(network, samples, search, study, known)
            elif known.probes + len(underway(study, _PROBE)) >= search.trials:
                wait()
            else:
                known_already = not _probe(network, samples, search, study, bounds)
                # What the bounds propose again, on a victim that contradicts itself, teaches nothing more.
                exhausted = repeated and known_already
                repeated = known_already or search.sampler == "bounds"


def _eps(search: Search) -> Range:
    searched = search.spec.space["eps"]
    assert isinstance(searched, Range)
    return searched


def _known(study: Study, samples: Samples, search: Search) -> _Known:
    """Read the finished trials, in their order."""
    eps = _eps(search)
    known = _Known(Bounds(len(samples), eps.low, eps.high, search.criterion), 0, [], [])
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        known.probes += trial.user_attrs[STEP] == _PROBE
        if trial.user_attrs["reached"]:
            known.reached.append((trial.values[0], int(trial.values[1])))
        evidence = trial.user_attrs[_EVIDENCE]
        if trial.user_attrs[STEP] == _CONFIRM:
            known.confirmations.append(trial)
        # What a shorter run failed to fool, the longest may.
        attacked, fooled = np.array(evidence["attacked"], int), np.array(evidence["fooled"], bool)
        shown = fooled | (trial.user_attrs[STEP] == _PROBE or trial.user_attrs["longest"])
        first = np.array(evidence["first_success"], float)
        known.bounds.record(attacked[shown], trial.params["eps"], fooled[shown], first[shown])
    return known


def _suggest_eps(trial: Trial, search: Search) -> None:
    eps = _eps(search)
    trial.suggest_float("eps", eps.low, eps.high, log=eps.log)


def _suggest_both(trial: Trial, search: Search) -> None:
    _suggest_eps(trial, search)
    trial.suggest_int("max_iter", 1, search.longest())


def _probe(network: nn.Module, samples: Samples, search: Search, study: Study, bounds: Bounds) -> bool:
    """Attack the samples that an eps leaves undecided, until the target is reached or lost.

    False if what was tried before is proposed again.
    """
    trial = take(study, _PROBE, partial(_suggest_eps, search=search))
    if isinstance(trial, FrozenTrial):  # another process is at it, or has just finished it, unless it is known already
        return trial.params["eps"] not in bounds.tried()
    eps, longest = trial.params["eps"], search.longest()
    attacked, success, first = np.empty(0, int), np.empty(0, bool), np.empty(0, int)
    passes = 0
    with working(study, trial):
        undecided = bounds.undecided(eps)
        # So few failures lose the target that a hopeless eps, which costs whole runs, shows on the hardest samples.
        failures = len(samples) - successes_needed(search.criterion.target, len(samples)) + 1
        size = max(failures - int((bounds.resisted_at >= eps).sum()), 1)
        # An area is one of all samples.
        while len(undecided) and (search.criterion.name == "auc" or bounds.decision(eps) is None):
            batch, undecided = np.split(undecided, [size])
            size *= 2
            outcome = search.scout(network, samples.take(batch), eps=eps, max_iter=longest)
            fooled, firsts = outcome.success.cpu().numpy(), outcome.first_success.cpu().numpy()
            bounds.record(batch, eps, fooled, firsts)
            attacked, success = np.append(attacked, batch), np.append(success, fooled)
            first = np.append(first, firsts)
            passes += passes_of(outcome)
        evidence = {"attacked": attacked.tolist(), "fooled": success.tolist(), "first_success": first.tolist()}
        reached = bounds.decision(eps) is True
        iterations = _iterations(bounds.iterations(eps), search) if reached else longest
        _tell(study, trial, search, evidence, bounds.fooled_at, bounds.resisting(), iterations, passes)
    return True


def _iterations(fewest: np.ndarray, search: Search) -> int:
    """How many iterations reach the target, if these are the fewest that fool each sample; at most the longest run."""
    if search.criterion.name == "auc":  # every sample's smallest perturbation counts
        fewest = fewest[np.isfinite(fewest)]
        enough = fewest.max(initial=1)
    else:
        enough = search.criterion.smallest_bound(fewest)
    return int(min(max(enough, 1), search.longest()))


def _confirm(network: nn.Module, samples: Samples, search: Search, study: Study, known: _Known) -> None:
    """Attack every sample from scratch at the smallest eps known to reach the target."""
    bounds, longest = known.bounds, search.longest()
    eps = _to_confirm(known, search)
    max_iter = min(int(np.ceil(_MARGIN * _iterations(bounds.iterations(eps), search))), longest)
    # An area is that of the longest runs.
    if search.criterion.name == "auc" or any(trial.params["eps"] == eps for trial in known.confirmations):
        max_iter = longest
    trial = take(study, _CONFIRM, partial(_suggest_both, search=search), {"eps": eps, "max_iter": max_iter})
    if isinstance(trial, FrozenTrial):
        return
    with working(study, trial):
        outcome = search.strike(network, samples, eps=eps, max_iter=max_iter)
        passes = passes_of(outcome)
        iterations, success = _fewest_iterations(outcome, search, max_iter)
        fooled, first = outcome.success.cpu().numpy(), outcome.first_success.cpu().numpy()
        if outcome.success_at is not None:
            # Each was fooled at an iterate of its own; that does not count if not enough of them are at one together.
            together = success.sum() >= successes_needed(search.criterion.target, len(samples))
            fooled = first >= 0 if together else success
            if search.precision == "bf16":  # which alone has shown the earlier iterates
                outcome = search.strike(network, samples, eps=eps, max_iter=iterations)
                success = outcome.success.cpu().numpy()
                passes += passes_of(outcome)
        evidence = {**evidence_of(outcome, iterations), "success": success.tolist(), "fooled": fooled.tolist()}
        evidence |= {"first_success": first.tolist(), "attacked": list(range(len(samples)))}
        fooled_at = np.where(success, eps, np.inf)
        if search.criterion.name == "auc":
            bounds.record(np.arange(len(samples)), eps, fooled, first)
            fooled_at = bounds.fooled_at
        trial.set_user_attr("longest", max_iter == longest)
        _tell(study, trial, search, evidence, fooled_at, fooled_at, iterations, passes)


def _to_confirm(known: _Known, search: Search) -> float:
    """The smallest eps that is known to reach the target and has not failed to; the largest of all if there is none."""
    bounds = known.bounds
    if len(known.confirmations) >= search.trials:  # a victim that goes on to contradict itself
        return bounds.high
    lost = [t.params["eps"] for t in known.confirmations if t.user_attrs["longest"] and not t.user_attrs["reached"]]
    reached = bounds.bracket()[1]
    if not lost or reached > max(lost):
        return float(np.clip(reached, bounds.low, bounds.high))
    above = [eps for eps in bounds.tried() if eps > max(lost)]
    return min(above, default=bounds.high)


def _fewest_iterations(outcome: AttackOutcome, search: Search, max_iter: int) -> tuple[int, np.ndarray]:
    """Fewest iterations that reach the target in a run, or all of them, and whom they fool."""
    if outcome.success_at is not None:
        per_iterate = outcome.success_at.cpu().numpy()
        fooled = per_iterate.sum(0)
        enough = (
            len(per_iterate)
            if search.criterion.name == "auc"
            else successes_needed(search.criterion.target, len(per_iterate))
        )
        best = int((fooled >= min(enough, fooled.max())).argmax())
        return best + 1, per_iterate[:, best]
    success, first = outcome.success.cpu().numpy(), outcome.first_success.cpu().numpy()
    iterations = min(_iterations(np.where(success, first, np.inf), search), max_iter)
    return iterations, success & (first <= iterations)


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
    trial.set_user_attr(_EVIDENCE, evidence)
    trial.set_user_attr("passes", passes)
    trial.set_user_attr("fooling_rate", float((fooled_at <= eps).mean()))
    trial.set_user_attr("fooling_rate_at_most", float((resisted_at <= eps).mean()))
    trial.set_user_attr("reached", bool(missed_by <= 0))
    trial.set_constraint("target_missed_by", missed_by)
    study.tell(trial, (eps, float(iterations)), skip_if_finished=True)


def _confirmed(known: _Known, search: Search) -> FrozenTrial | None:
    """The confirmation that ends the search, if there is one."""
    bounds = known.bounds
    missed, _ = bounds.bracket()
    eps = _to_confirm(known, search)
    reached = [trial for trial in known.confirmations if trial.user_attrs["reached"]]
    if reached:
        smallest = min(reached, key=lambda trial: (trial.params["eps"], trial.number))
        near = max(missed, bounds.low) * (1 + search.tolerance) if bounds.settled(search.tolerance) else 0.0
        if smallest.params["eps"] <= max(eps, near):
            return smallest
    hopeless = [t for t in known.confirmations if t.user_attrs["longest"] and t.params["eps"] == bounds.high]
    return hopeless[0] if hopeless and eps == bounds.high else None


def _found(known: _Known, confirmed: FrozenTrial) -> Found:
    bounds, reached = known.bounds, confirmed.user_attrs["reached"]
    budget = Budget(confirmed.params["eps"], int(confirmed.values[1]), {})
    larger = [point for point in known.reached if point[0] > budget.bound]
    return Found(
        budget,
        reached,
        confirmed.user_attrs[_EVIDENCE],
        bounds.fooled_at,
        bounds.resisted_at,
        pareto([(budget.bound, budget.iterations), *larger]) if reached else [],
        bounds.bracket()[0] or None,
        bounds.contradictions,
    )
