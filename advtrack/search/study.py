"""One Optuna study per victim and attack: the smallest budget whose fooling rate reaches the target."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage as Storage
from optuna.study import Study
from optuna.trial import TrialState
from optuna_dashboard import save_note
from torch import nn

from advtrack.errors import InputError, reason
from advtrack.search.bounded import search_bound
from advtrack.search.bounds import successes_needed
from advtrack.search.minimising import search_settings, transferred
from advtrack.search.space import NORMS, Budget, BudgetResult, Found, Samples, Search


def open_storage(url: str) -> Storage:
    """Open, or create, the storage of studies.

    Raises
    ------
    InputError
        The URL names no storage, or it cannot be used.
    """
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # each database driver raises its own
        raise InputError(
            f"--storage {redacted(url)}: cannot be used ({redacted(reason(error))}); give an Optuna storage URL"
        ) from error


def redacted(text: str) -> str:
    """A text in which URLs show no passwords."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", text)


def search_budget(
    network: nn.Module,
    samples: Samples,
    search: Search,
    storage: Storage,
    study_name: str,
    title: str,
    fresh: bool = False,
) -> BudgetResult:
    """Find the smallest budget with which an attack fools a victim at the target rate.

    A study of this name is continued. Its two objectives are the perturbation bound and the iterations; a trial
    whose fooling rate misses the target violates the study's constraint.

    Parameters
    ----------
    network : nn.Module
        The victim.
    samples : Samples
        Correctly classified test clips.
    search : Search
        Attack, target and limits.
    storage : BaseStorage
        Of the study.
    study_name : str
        Name of the study.
    title : str
        Of the progress bar and the dashboard's note.
    fresh : bool
        Forget an earlier study of this name.
    """
    with _quiet():
        if fresh and study_name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=study_name, storage=storage)
        study = _open_study(storage, study_name, search.seed)
        procedure = search_settings if search.spec.minimises else search_bound
        found = procedure(network, samples, search, study, title)
        result = _result(study, search, samples, found)
        _publish(study, result, title)
    return result


def transferred_fooling_rate(
    network: nn.Module, samples: Samples, search: Search, budget: Budget, own: BudgetResult, storage: Storage
) -> float:
    """Fooling rate of this victim under a budget found on another (table II).

    A norm-minimising attack that was already run here with the same settings is read off its trial.
    """
    if not search.spec.minimises:
        outcome = search.strike(network, samples, eps=budget.bound, max_iter=budget.iterations, **budget.settings)
        return float(outcome.success.double().mean())
    with _quiet():
        study = optuna.load_study(study_name=own.study_name, storage=storage)
    return float(transferred(network, samples, search, budget, study).mean())


def example(
    network: nn.Module, samples: Samples, search: Search, result: BudgetResult
) -> tuple[int, np.ndarray] | None:
    """One adversarial example at the budget: the first fooled sample's index and image; None if none was fooled."""
    if not result.success.any():
        return None
    index = int(np.flatnonzero(result.success)[0])
    eps = {} if search.spec.minimises else {"eps": result.budget.bound}
    params = {**eps, **result.budget.settings, "max_iter": result.budget.iterations}
    outcome = search.strike(network, samples.take(slice(index, index + 1)), **params)
    return index, outcome.x_adv[0, 0].cpu().numpy()


def _open_study(storage: Storage, name: str, seed: int) -> Study:
    """Create or join the study. One process searches it at a time: a trial still running is one left by a kill."""
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=RandomSampler(seed),
        directions=["minimize", "minimize"],
        load_if_exists=True,
    )
    study.set_metric_names(["perturbation_bound", "iterations"])
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _result(study: Study, search: Search, samples: Samples, found: Found) -> BudgetResult:
    """Put together what was found and what the trials show."""
    evidence, budget = found.evidence, found.budget
    first = np.array(evidence["first_success"], int)
    success = np.array(evidence["success"], bool)
    if search.spec.shorter_runs == "first_success":
        success &= first <= budget.iterations
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    return BudgetResult(
        attack=search.attack,
        norm=search.spec.norm,
        budget=budget,
        target_fooling_rate=search.target_fooling_rate,
        fooling_rate=float(success.mean()),
        reached=bool(success.sum() >= successes_needed(search.target_fooling_rate, len(samples))),
        success=success,
        first_success=first,
        norms={name: np.array(evidence[name]) for name in NORMS},
        failures_count_as=search.failures_count_as(),
        missed_at=found.missed_at,
        passes=found.passes + sum(trial.user_attrs["passes"] for trial in trials),
        contradictions=found.contradictions,
        trials=[
            {
                "trial": trial.number,
                "bound": trial.values[0],
                "iterations": int(trial.values[1]),
                "fooling_rate": trial.user_attrs["fooling_rate"],
                "fooling_rate_at_most": trial.user_attrs["fooling_rate_at_most"],
                "reached": trial.user_attrs["reached"],
                "passes": trial.user_attrs["passes"],
                **trial.params,
            }
            for trial in trials
        ],
        study_name=study.study_name,
    )


def _publish(study: Study, result: BudgetResult, title: str) -> None:
    """Say the result in the study's note: the dashboard knows no constraints and would show others as best."""
    verdict = "reaches" if result.reached else "misses"
    settings = "".join(f", {name} {value:g}" for name, value in result.budget.settings.items())
    save_note(
        study,
        f"# {title}\n\nFooling rate **{result.fooling_rate:.3f}** {verdict} the target "
        f"{result.target_fooling_rate:g} on {len(result.success)} clips, at {result.norm} <= "
        f"**{result.budget.bound:.4g}** and **{result.budget.iterations}** iterations{settings}.\n\n"
        "Trials with a positive constraint `target_missed_by` missed the target; they are not candidates.",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own lines would break the progress bar; names of objectives are experimental in Optuna 5."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
