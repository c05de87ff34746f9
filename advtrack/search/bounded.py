"""Attacks whose perturbation ``eps`` bounds beforehand: bisection over per-sample bounds, then a confirmation."""

from __future__ import annotations

import numpy as np
from optuna.study import Study
from optuna.trial import Trial, TrialState
from torch import nn
from tqdm import tqdm

from advtrack.attacks.base import Range
from advtrack.attacks.outcome import AttackOutcome
from advtrack.search.bounds import Bounds, successes_needed
from advtrack.search.sampler import BoundsSampler
from advtrack.search.space import EVIDENCE, TOLERANCE, Budget, Found, Samples, Search, evidence_of, passes_of


def search_bound(network: nn.Module, samples: Samples, search: Search, study: Study, title: str) -> Found:
    """Bisect eps over per-sample bounds, then confirm on every sample from scratch.

    Parameters
    ----------
    network, samples, search
        Victim, what is attacked, and how.
    study : Study
        Its finished trials count; new ones are added to it.
    title : str
        Of the progress bar.
    """
    eps_range = search.spec.space["eps"]
    assert isinstance(eps_range, Range)
    needed, longest = successes_needed(search.target_fooling_rate, len(samples)), search.longest()
    bounds = Bounds(len(samples), eps_range.low, eps_range.high, needed)
    study.sampler = BoundsSampler(bounds, search.seed)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    for trial in done:
        evidence = trial.user_attrs[EVIDENCE]
        bounds.record(np.array(evidence["attacked"], int), trial.params["eps"], np.array(evidence["success"], bool))

    def objective(trial: Trial) -> tuple[float, float]:
        eps = trial.suggest_float("eps", eps_range.low, eps_range.high, log=eps_range.log)
        attacked, success, passes = _probe(network, samples, search, bounds, eps, longest)
        reached = bounds.decision(eps)
        trial.set_user_attr(EVIDENCE, {"attacked": attacked.tolist(), "success": success.tolist()})
        trial.set_user_attr("passes", passes)
        trial.set_user_attr("fooling_rate", bounds.successes(eps) / len(samples))
        trial.set_user_attr("fooling_rate_at_most", bounds.at_most(eps) / len(samples))
        trial.set_user_attr("reached", bool(reached))
        trial.set_constraint("target_missed_by", float(needed - bounds.successes(eps)))
        return eps, float(longest)

    tried, spent = len(done), 0
    with tqdm(total=search.trials, initial=tried, desc=title, unit="trial", leave=False) as progress:
        while True:
            while not bounds.settled(TOLERANCE) and tried < search.trials:
                study.optimize(objective, n_trials=1)
                tried += 1
                progress.update()
            _, reached = bounds.bracket()
            bound = reached if np.isfinite(reached) else eps_range.high
            outcome = search.strike(network, samples, eps=bound, max_iter=longest)
            success = outcome.success.cpu().numpy()
            bounds.record(np.arange(len(samples)), bound, success)
            spent += passes_of(outcome)
            # A bound that fails the confirmation was inferred wrongly: the next larger one that is known is held to it.
            if success.sum() >= needed or bound >= eps_range.high:
                break
    iterations = _fewest_iterations(outcome, needed, search)
    if search.spec.shorter_runs == "iterates" and iterations < longest:
        outcome = search.strike(network, samples, eps=bound, max_iter=iterations)
        spent += passes_of(outcome)
    missed = bounds.bracket()[0] or None
    return Found(Budget(bound, iterations, {}), evidence_of(outcome), missed, spent, bounds.contradictions)


def _probe(
    network: nn.Module, samples: Samples, search: Search, bounds: Bounds, eps: float, longest: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Attack the samples that ``eps`` leaves undecided, batch by batch, until the target is reached or lost."""
    attacked, success, passes = [], [], 0
    undecided = bounds.undecided(eps)
    # So few failures lose the target that a hopeless eps, which costs whole runs, shows on a small batch.
    size = min(search.batch_size, 2 * (len(samples) - bounds.needed + 1))
    for i in range(0, len(undecided), size):
        if bounds.decision(eps) is not None:
            break
        batch = undecided[i : i + size]
        outcome = search.strike(network, samples.take(batch), eps=eps, max_iter=longest)
        fooled = outcome.success.cpu().numpy()
        bounds.record(batch, eps, fooled)
        attacked.append(batch)
        success.append(fooled)
        passes += passes_of(outcome)
    if not attacked:
        return np.empty(0, int), np.empty(0, bool), 0
    return np.concatenate(attacked), np.concatenate(success), passes


def _fewest_iterations(outcome: AttackOutcome, needed: int, search: Search) -> int:
    """Fewest iterations that reach the target at the outcome's eps; the longest run if it does not."""
    if int(outcome.success.sum()) < needed:
        return search.longest()
    if outcome.success_at is not None:
        per_iterate = outcome.success_at.sum(0).cpu().numpy()
        return int(np.flatnonzero(per_iterate >= needed)[0]) + 1
    first = outcome.first_success[outcome.success].cpu().numpy()
    return max(1, int(np.sort(first)[needed - 1]))
