"""Attacks that find each sample's smallest perturbation themselves: one run per setting yields its bound.

A setting after the first is given up as soon as the hardest samples show that it betters no other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn
from tqdm import tqdm

from advtrack.attacks.outcome import AttackOutcome
from advtrack.search.claims import PASSES, reap, take, underway, wait, working
from advtrack.search.criterion import successes_needed
from advtrack.search.space import Budget, Evidence, Found, Samples, Search, evidence_of, pareto, passes_of

#: The only step of the search.
_RUN = "run"
_EVIDENCE = "evidence"


@dataclass(frozen=True)
class _Run:
    """What one run of the attack allows.

    ``reached`` are the bounds and iterations that reach the target, ``bound`` and ``iterations`` the first of them;
    ``distances`` the samples' perturbations, infinite where it failed.
    """

    bound: float
    iterations: int
    distances: np.ndarray
    reached: list[tuple[float, int]]


def search_settings(network: nn.Module, samples: Samples, search: Search, study: Study, title: str | None) -> Found:
    """Run the attack with each setting of its grid; the smallest bound that reaches the target is the budget.

    Parameters
    ----------
    network, samples, search
        Victim, what is attacked, and how.
    study : Study
        Its finished trials count; new ones are added to it, also by other processes at the same time.
    title : str or None
        Of the progress bar; None for none.
    """
    grid, in_turn = search.grid(), search.sampler == "bounds"
    with tqdm(total=len(grid), desc=title, unit="setting", leave=False, disable=title is None) as progress:
        while True:
            reap(study)
            finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            running = underway(study, _RUN)
            left = _untold(grid, finished, search)
            progress.update(len(grid) - len(left) - progress.n)
            if not left or len(finished) >= search.trials:
                return _found(finished, search, samples)
            free = _untold(left, running, search)
            if running and (not free or len(finished) + len(running) >= search.trials):
                wait()
                continue
            fixed = free[0] if in_turn else None
            trial = take(study, _RUN, lambda trial: _suggest(trial, search), fixed)
            # A sampler that proposes what is done already is helped out.
            in_turn = search.sampler == "bounds" or isinstance(trial, FrozenTrial)
            if not isinstance(trial, FrozenTrial):
                outcomes: list[AttackOutcome] = []
                with working(study, trial, partial(_passes, outcomes)):
                    _attack(network, samples, search, study, trial, outcomes)


def _attack(
    network: nn.Module,
    samples: Samples,
    search: Search,
    study: Study,
    trial: Trial,
    outcomes: list[AttackOutcome],
) -> None:
    """Run one setting; only on the hardest samples if they show that it comes to no better a budget than another.

    ``outcomes`` takes those of one part of the samples after the other.
    """
    settings = _settings_of(trial, search)
    longest = int(settings.get("max_iter", search.longest()))
    order, limit, size = np.arange(len(samples)), np.inf, len(samples)
    if rival := _rival(study, search):
        # A budget that is smaller by less than the tolerance is a better one only with fewer iterations.
        fewer = search.spec.shorter_runs == "first_success" or longest < rival.values[1]
        limit = rival.values[0] * (1 + search.tolerance if fewer else 1 / (1 + search.tolerance))
        order = np.argsort(-_distances(rival.user_attrs[_EVIDENCE], search, len(samples)), kind="stable")
        size = 2 * (len(samples) - successes_needed(search.criterion.target, len(samples)) + 1)

    attacked, missed_by = 0, 0.0
    while attacked < len(samples) and missed_by <= 0:
        part = order[attacked : attacked + size]
        outcomes.append(search.strike(network, samples.take(part), **{"max_iter": longest, **settings}))
        attacked, size = attacked + len(part), 2 * size
        evidence = _in_order(order[:attacked], AttackOutcome.concatenate(outcomes))
        at_least = _distances(evidence, search, len(samples), others=0.0)
        if rival:
            missed_by = search.criterion.missed_by(at_least, limit)

    run = _run(evidence, search, settings, samples)
    bound, iterations = (run.bound, run.iterations) if attacked == len(samples) else (limit, longest)
    trial.set_user_attr(_EVIDENCE, evidence)
    trial.set_user_attr("longest", longest)
    trial.set_user_attr(PASSES, _passes(outcomes))
    trial.set_user_attr("fooling_rate", float((run.distances <= bound).mean()))
    trial.set_user_attr("fooling_rate_at_most", float((at_least <= bound).mean()))
    trial.set_user_attr("reached", bool(run.reached))
    trial.set_constraint("target_missed_by", search.criterion.missed_by(at_least, bound))
    study.tell(trial, (bound, float(iterations)), skip_if_finished=True)


def _passes(outcomes: list[AttackOutcome]) -> int:
    return sum(passes_of(outcome) for outcome in outcomes)


def _rival(study: Study, search: Search) -> FrozenTrial | None:
    """The finished trial with the smallest bound that reaches the target; none where all samples count."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    reached = [trial for trial in finished if trial.user_attrs["reached"] and search.criterion.name == "fooling_rate"]
    return min(reached, key=lambda trial: (trial.values, trial.number), default=None)


def _in_order(attacked: np.ndarray, outcome: AttackOutcome) -> Evidence:
    """What a run showed of the samples that it attacked, by their indices."""
    ranks = np.argsort(attacked)
    shown = {name: [values[rank] for rank in ranks] for name, values in evidence_of(outcome).items()}
    return {"attacked": attacked[ranks].tolist(), **shown}


def _distances(evidence: Evidence, search: Search, samples: int, others: float = np.inf) -> np.ndarray:
    """Each sample's perturbation, infinite where the attack failed; of those not attacked, ``others``."""
    distances = np.full(samples, others)
    success = np.array(evidence["success"], bool)
    distances[evidence["attacked"]] = np.where(success, np.array(evidence[search.spec.norm], float), np.inf)
    return distances


def _run(evidence: Evidence, search: Search, settings: dict[str, float], samples: Samples) -> _Run:
    """The smallest budget that one run allows; the widest, with all its iterations, if it misses the target.

    Nor does one that was given up allow any.
    """
    distances = _distances(evidence, search, len(samples))
    longest = int(settings.get("max_iter", search.longest()))
    reached = []
    # Runs stopped earlier are read off this one where its first successes tell of them.
    first = np.full(len(samples), -1)
    if search.spec.shorter_runs == "first_success":
        first[evidence["attacked"]] = evidence["first_success"]
    fewer = np.unique(np.maximum(first[np.isfinite(distances)], 1))
    told = fewer if search.spec.shorter_runs == "first_success" else [longest]
    for iterations in told if len(evidence["attacked"]) == len(samples) else []:
        within = np.where(first <= iterations, distances, np.inf)
        bound = search.criterion.smallest_bound(within)
        if bound <= search.largest(samples.x) or (np.isfinite(bound) and search.criterion.name == "fooling_rate"):
            reached.append((bound, int(iterations)))
    bound, iterations = min(reached, default=(search.largest(samples.x), longest))
    return _Run(bound, iterations, distances, reached)


def _found(finished: list[FrozenTrial], search: Search, samples: Samples) -> Found:
    """Smallest bound among trials that reached the target, fewest iterations among equals; else the highest rate."""
    runs = {
        trial.number: _run(trial.user_attrs[_EVIDENCE], search, _settings_of(trial, search), samples)
        for trial in finished
    }
    reached = [(point, trial) for trial in finished for point in runs[trial.number].reached]
    if reached:
        # A setting that was given up has its limit for a bound, and perhaps a budget just above.
        given_up = [trial for trial in finished if len(trial.user_attrs[_EVIDENCE]["attacked"]) < len(samples)]
        smallest = min([*(point[0] for point, _ in reached), *(trial.values[0] for trial in given_up)])
        equal = smallest * (1 + search.tolerance) * (1 + 1e-9)
        reached = [found for found in reached if found[0][0] <= equal]
        (bound, iterations), best = min(reached, key=lambda found: (found[0][1], found[0][0], found[1].number))
    else:
        best = max(finished, key=lambda trial: (trial.user_attrs["fooling_rate"], -trial.number))
        bound, iterations = best.values[0], int(best.values[1])
    run, evidence = runs[best.number], best.user_attrs[_EVIDENCE]
    settings = {name: value for name, value in _settings_of(best, search).items() if name != "max_iter"}
    budget = Budget(bound, iterations, settings)
    success = run.distances <= budget.bound
    if search.spec.shorter_runs == "first_success":
        success &= np.array(evidence["first_success"], int) <= budget.iterations
    # The attack's own perturbation is the smallest that it knows.
    nearest = np.min([one.distances for one in runs.values()], axis=0)
    return Found(
        budget,
        bool(reached),
        {**evidence, "success": success.tolist()},
        nearest,
        nearest,
        pareto(point for one in runs.values() for point in one.reached),
        # What the attack does not find in its longest run, with any of its settings, counts as missed.
        settled=not _untold(search.grid(), finished, search),
    )


def transferred(network: nn.Module, samples: Samples, search: Search, budget: Budget, own: Study) -> np.ndarray:
    """Success per sample under a budget found on another victim, read off this victim's own study where it tells."""
    for trial in own.get_trials(states=(TrialState.COMPLETE,)):
        settings = {name: value for name, value in _settings_of(trial, search).items() if name != "max_iter"}
        longest = trial.user_attrs["longest"]
        tells_shorter = search.spec.shorter_runs == "first_success" and longest > budget.iterations
        evidence = trial.user_attrs[_EVIDENCE]
        whole = len(evidence["attacked"]) == len(samples)
        if whole and settings == budget.settings and (tells_shorter or longest == budget.iterations):
            break
    else:
        outcome = search.strike(network, samples, max_iter=budget.iterations, **budget.settings)
        evidence = evidence_of(outcome)
    within = np.array(evidence["success"], bool) & (np.array(evidence[search.spec.norm]) <= budget.bound)
    if search.spec.shorter_runs == "first_success":
        within &= np.array(evidence["first_success"]) <= budget.iterations
    return within


def _untold(grid: list[dict[str, float]], trials: list[FrozenTrial], search: Search) -> list[dict[str, float]]:
    """The settings of which trials do not tell; see `Search.tells`."""
    known = [_settings_of(trial, search) for trial in trials]
    return [settings for settings in grid if not any(search.tells(other, settings) for other in known)]


def _suggest(trial: Trial, search: Search) -> None:
    for name in search.grid()[0]:
        trial.suggest_categorical(name, sorted({settings[name] for settings in search.grid()}))


def _settings_of(trial: Trial | FrozenTrial, search: Search) -> dict[str, Any]:
    """The setting of a trial; None for what it has not chosen yet."""
    return {name: trial.params.get(name) for name in search.grid()[0]}
