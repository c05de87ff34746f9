"""Attacks that find each sample's smallest perturbation themselves: one run per setting yields its bound."""

from __future__ import annotations

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn
from tqdm import tqdm

from advtrack.search.bounds import successes_needed
from advtrack.search.space import EVIDENCE, TOLERANCE, Budget, Evidence, Found, Samples, Search, evidence_of, passes_of


def search_settings(network: nn.Module, samples: Samples, search: Search, study: Study, title: str) -> Found:
    """Run the attack with each setting of its grid; the smallest bound that reaches the target is the budget.

    Parameters
    ----------
    network, samples, search
        Victim, what is attacked, and how.
    study : Study
        Its finished trials count; new ones are added to it.
    title : str
        Of the progress bar.
    """
    needed, longest = successes_needed(search.target_fooling_rate, len(samples)), search.longest()
    grid = search.grid()[: search.trials]

    def objective(trial: Trial) -> tuple[float, float]:
        settings = _suggest(trial, search)
        outcome = search.strike(network, samples, **{"max_iter": longest, **settings})
        evidence = evidence_of(outcome)
        budget, success = _smallest(evidence, needed, search, settings, samples)
        trial.set_user_attr(EVIDENCE, evidence)
        trial.set_user_attr("longest", int(settings.get("max_iter", longest)))
        trial.set_user_attr("passes", passes_of(outcome))
        trial.set_user_attr("fooling_rate", float(success.mean()))
        trial.set_user_attr("fooling_rate_at_most", float(success.mean()))
        trial.set_user_attr("reached", bool(success.sum() >= needed))
        trial.set_constraint("target_missed_by", float(needed - success.sum()))
        return budget.bound, float(budget.iterations)

    for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):  # enqueued by a search that was killed
        study.optimize(objective, n_trials=1)
    with tqdm(total=len(grid), desc=title, unit="trial", leave=False) as progress:
        for settings in grid:
            finished = [_settings_of(t, search) for t in study.get_trials(states=(TrialState.COMPLETE,))]
            if settings not in finished:
                study.enqueue_trial(settings)
                study.optimize(objective, n_trials=1)
            progress.update()
    best = _headline(study.get_trials(states=(TrialState.COMPLETE,)))
    evidence = best.user_attrs[EVIDENCE]
    budget, success = _smallest(evidence, needed, search, _settings_of(best, search), samples)
    return Found(budget, {**evidence, "success": success.tolist()})


def transferred(network: nn.Module, samples: Samples, search: Search, budget: Budget, own: Study) -> np.ndarray:
    """Success per sample under a budget found on another victim, read off this victim's own study where it tells."""
    for trial in own.get_trials(states=(TrialState.COMPLETE,)):
        settings = {name: value for name, value in _settings_of(trial, search).items() if name != "max_iter"}
        longest = trial.user_attrs["longest"]
        tells_shorter = search.spec.shorter_runs == "first_success" and longest > budget.iterations
        if settings == budget.settings and (tells_shorter or longest == budget.iterations):
            evidence = trial.user_attrs[EVIDENCE]
            break
    else:
        outcome = search.strike(network, samples, max_iter=budget.iterations, **budget.settings)
        evidence = evidence_of(outcome)
    within = np.array(evidence["success"], bool) & (np.array(evidence[search.spec.norm]) <= budget.bound)
    if search.spec.shorter_runs == "first_success":
        within &= np.array(evidence["first_success"]) <= budget.iterations
    return within


def _smallest(
    evidence: Evidence, needed: int, search: Search, settings: dict[str, float], samples: Samples
) -> tuple[Budget, np.ndarray]:
    """The budget one norm-minimising run allows, and the success of each sample within it."""
    success, norm = np.array(evidence["success"], bool), np.array(evidence[search.spec.norm])
    reached = success.sum() >= needed
    bound = float(np.sort(norm[success])[needed - 1]) if reached else search.widest(samples.x)
    within = success & (norm <= bound)
    others = {name: value for name, value in settings.items() if name != "max_iter"}
    iterations = int(settings.get("max_iter", search.longest()))
    if search.spec.shorter_runs == "first_success" and reached:
        # Every sample within the bound is fooled by its own first success; the last of them sets the iterations.
        iterations = max(1, int(np.array(evidence["first_success"])[within].max()))
    return Budget(bound, iterations, others), within


def _headline(trials: list[FrozenTrial]) -> FrozenTrial:
    """Smallest bound among trials that reached the target, fewest iterations among equals; else the highest rate."""
    reached = [trial for trial in trials if trial.user_attrs["reached"]]
    if not reached:
        return max(trials, key=lambda trial: trial.user_attrs["fooling_rate"])
    smallest = min(trial.values[0] for trial in reached)
    equal = [trial for trial in reached if trial.values[0] <= smallest * (1 + TOLERANCE)]
    return min(equal, key=lambda trial: (trial.values[1], trial.values[0]))


def _suggest(trial: Trial, search: Search) -> dict[str, float]:
    names = search.grid()[0]
    return {name: trial.suggest_categorical(name, sorted({s[name] for s in search.grid()})) for name in names}


def _settings_of(trial: FrozenTrial, search: Search) -> dict[str, float]:
    return {name: trial.params[name] for name in search.grid()[0]}
