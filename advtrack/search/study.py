"""One Optuna study per victim and attack: the smallest budget whose fooling rate reaches the target."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage as Storage
from optuna.study import Study
from optuna.trial import TrialState
from torch import nn

from advtrack.attacks.outcome import AttackOutcome
from advtrack.errors import InputError
from advtrack.processes import interrupts_put_off
from advtrack.search.bounded import search_bound
from advtrack.search.claims import PASSES, STEP, holder, reap
from advtrack.search.known import PROBE
from advtrack.search.minimising import search_settings, transferred
from advtrack.search.result import BudgetResult
from advtrack.search.sampler import optuna_sampler
from advtrack.search.space import NORMS, Budget, Found, Samples, Search
from advtrack.search.storage import open_storage, studies_kept
from advtrack.search.workers import helped

logger = logging.getLogger("advtrack")


def search_budget(
    network: nn.Module,
    samples: Samples,
    search: Search,
    storage: Storage,
    study_name: str,
    title: str,
    fresh: bool = False,
    workers: int = 1,
    url: str = "",
) -> BudgetResult:
    """Find the smallest budget with which an attack fools a victim at the target rate.

    A study of this name is continued, or joined if other processes are at it. Its two objectives are the perturbation
    bound and the iterations; a trial whose fooling rate misses the target violates the study's constraint.

    Parameters
    ----------
    network : nn.Module
        The victim.
    samples : Samples
        Correctly classified clips.
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
    workers : int
        Processes that search, this one among them.
    url : str
        The storage, for the other processes.

    Raises
    ------
    InputError
        The study is to be forgotten, and another process is at it; it was deleted meanwhile; the storage was lost.
    """
    with quiet(), interrupts_put_off(), studies_kept(url, storage, study_name):
        if fresh and study_name in optuna.get_all_study_names(storage):
            _forget(storage, study_name, title)
        study = _open_study(storage, study_name, search)
        join = partial(_join, network, samples, search, url, study_name)
        try:
            with helped(workers, join):
                found = _procedure(search)(network, samples, search, study, title)
        except KeyboardInterrupt:
            reap(study)  # of the workers, which have ended with this process's search
            _say_best_so_far(study, title)
            raise
        reap(study)
        return _result(study, search, samples, found)


def _forget(storage: Storage, study_name: str, title: str) -> None:
    """Delete a study, unless a process is at it: the study's next trials would be lost, or land in its successor."""
    study = optuna.load_study(study_name=study_name, storage=storage)
    if process := holder(study):
        raise InputError(
            f"{title}: --force would take the study from process {process.pid} on {process.host}, which is at it; end "
            "that process first, or leave --force out to join it"
        )
    optuna.delete_study(study_name=study_name, storage=storage)


def _join(network: nn.Module, samples: Samples, search: Search, url: str, study_name: str, index: int) -> None:
    """Help with a search that another process has begun."""
    storage = open_storage(url)
    with quiet(), interrupts_put_off(), studies_kept(url, storage, study_name):
        # Seeded like the others, a sampler would propose what they do.
        sampler = optuna_sampler(search.sampler, search.seed + index)
        study = optuna.load_study(study_name=study_name, storage=storage, sampler=sampler)
        _procedure(search)(network, samples, search, study, None)


def _procedure(search: Search) -> Any:
    return search_settings if search.spec.minimises else search_bound


def transferred_success(
    network: nn.Module, samples: Samples, search: Search, budget: Budget, own: BudgetResult, storage: Storage
) -> np.ndarray:
    """Success per sample on this victim under a budget found on another (table II), bool (N,).

    A norm-minimising attack that was already run here with the same settings is read off its trial.
    """
    if not search.spec.minimises:
        return strike_within(network, samples, search, budget)[1]
    with quiet():
        study = finished_study(storage, own.study_name)
    return transferred(network, samples, search, budget, study)


def finished_study(storage: Storage, name: str) -> Study:
    """The study of a search that has ended.

    Raises
    ------
    InputError
        It is there no more.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise InputError(
            f"the study {name} was deleted before its result was logged, as --force does; give the same command again"
        ) from None


def strike_within(
    network: nn.Module, samples: Samples, search: Search, budget: Budget
) -> tuple[AttackOutcome, np.ndarray]:
    """Run an attack from scratch under a budget; also per sample whether it succeeds within the bound, bool (N,)."""
    eps = {} if search.spec.minimises else {"eps": budget.bound}
    outcome = search.strike(network, samples, max_iter=budget.iterations, **eps, **budget.settings)
    within = getattr(outcome, search.spec.norm) <= budget.bound if search.spec.minimises else True
    return outcome, (outcome.success & within).cpu().numpy()


def _open_study(storage: Storage, name: str, search: Search) -> Study:
    """Create or join the study."""
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=["minimize", "minimize"],
        load_if_exists=True,
    )
    # Seeded as at the start, a sampler that goes on would propose what it did then.
    study.sampler = optuna_sampler(search.sampler, search.seed + len(study.get_trials(deepcopy=False)))
    study.set_metric_names(["perturbation_bound", "iterations"])
    return study


def _result(study: Study, search: Search, samples: Samples, found: Found) -> BudgetResult:
    """Put together what was found and what the trials show."""
    evidence = found.evidence
    success = np.array(evidence["success"], bool)
    begun = [trial for trial in study.get_trials(deepcopy=False) if PASSES in trial.user_attrs]
    trials = [trial for trial in begun if trial.state == TrialState.COMPLETE]
    return BudgetResult(
        attack=search.attack,
        norm=search.spec.norm,
        criterion=search.criterion,
        budget=found.budget,
        fooling_rate=float(success.mean()),
        reached=found.reached,
        success=success,
        first_success=np.array(evidence["first_success"], int),
        norms={name: np.array(evidence[name], float) for name in NORMS},
        fooled_at=found.fooled_at,
        resisted_at=found.resisted_at,
        largest=search.largest(samples.x),
        failures_count_as=search.failures_count_as(),
        missed_at=found.missed_at,
        front=found.front,
        passes=sum(trial.user_attrs[PASSES] for trial in begun),
        cut_short=sum(trial.state != TrialState.COMPLETE for trial in begun),
        contradictions=found.contradictions,
        trials=[
            {
                "trial": trial.number,
                "step": trial.user_attrs[STEP],
                "bound": trial.values[0],
                "iterations": int(trial.values[1]),
                "fooling_rate": trial.user_attrs["fooling_rate"],
                "fooling_rate_at_most": trial.user_attrs["fooling_rate_at_most"],
                "reached": trial.user_attrs["reached"],
                "passes": trial.user_attrs[PASSES],
                **trial.params,
            }
            for trial in trials
        ],
        study_name=study.study_name,
        settled=found.settled,
    )


def _say_best_so_far(study: Study, title: str) -> None:
    reached = [t for t in study.get_trials(states=(TrialState.COMPLETE,)) if t.user_attrs["reached"]]
    best = min(reached, key=lambda trial: trial.values, default=None)
    told = "none reaches the target"
    if best:
        doubt = ", not confirmed yet" if best.user_attrs[STEP] == PROBE else ""
        told = f"a bound of {best.values[0]:.4g} reaches the target (trial {best.number}{doubt})"
    logger.info("%s: interrupted; so far %s. The same command goes on from here", title, told)


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's own lines would break the progress bar; some of what is used here is experimental in Optuna 5."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
