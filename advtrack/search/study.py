"""One Optuna study per victim and attack: the smallest budget whose fooling rate reaches the target."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.storages import BaseStorage as Storage
from optuna.storages import JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState
from optuna_dashboard import save_note
from optuna_dashboard.artifact import get_artifact_path
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from torch import nn

from advtrack.attacks.outcome import AttackOutcome
from advtrack.errors import InputError, reason, redacted
from advtrack.processes import interrupts_put_off
from advtrack.search.bounded import search_bound
from advtrack.search.claims import PASSES, STEP, holder, reap, wait
from advtrack.search.known import PROBE
from advtrack.search.minimising import search_settings, transferred
from advtrack.search.result import BudgetResult
from advtrack.search.sampler import optuna_sampler
from advtrack.search.space import NORMS, Budget, Found, Samples, Search
from advtrack.search.workers import helped

logger = logging.getLogger("advtrack")

_JOURNAL = "journal:///"
# Seconds to wait for another process's write, of which SQLite allows one at a time.
_PATIENCE = 60
# How often a storage is opened while others make its tables.
_OPENINGS = 10
# How often it is looked whether a process is at a study: between two trials it has none for a moment.
_LOOKS = 10


def open_storage(url: str) -> Storage:
    """Open, or create, the storage of studies: a database (``sqlite:///...``) or a file (``journal:///path``).

    Raises
    ------
    InputError
        The URL names no storage, or it cannot be used.
    """
    if _in_memory(url):
        raise InputError(
            f"--storage {url}: a database in memory ends with its process, and no other one can share it; "
            "give a file, as sqlite:///optuna.db"
        )
    try:
        for _ in range(_OPENINGS - 1):
            try:
                return _opened(url)
            except Exception as error:
                if not re.search("already exists|alembic_version", str(error)):
                    raise
            time.sleep(random.uniform(0.5, 3))  # other processes are making the tables at this very moment
        return _opened(url)
    except Exception as error:  # each database driver raises its own
        raise InputError(
            f"--storage {redacted(url)}: cannot be used ({redacted(reason(error))}); give an Optuna storage URL"
        ) from error


def _in_memory(url: str) -> bool:
    """Whether a URL is that of an SQLite database without a file."""
    if not url.startswith("sqlite"):
        return False
    with suppress(ArgumentError):  # what cannot be read is told by its opening
        parsed = make_url(url)
        return parsed.database in (None, "", ":memory:", "file::memory:") or parsed.query.get("mode") == "memory"
    return False


def _opened(url: str) -> Storage:
    if url.startswith(_JOURNAL):
        return get_storage(JournalStorage(JournalFileBackend(url.removeprefix(_JOURNAL))))
    engine = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else {}
    return get_storage(RDBStorage(url, engine_kwargs=engine))


def dashboard_storage(url: str) -> str:
    """A storage as the command optuna-dashboard wants it: of a journal, the path."""
    return url.removeprefix(_JOURNAL)


def artifact_directory(url: str) -> Path:
    """Where the pictures of the studies in a storage lie: beside its file, or in the current folder."""
    for prefix in (_JOURNAL, "sqlite:///"):
        if url.startswith(prefix):
            return Path(url.removeprefix(prefix)).parent / "optuna-artifacts"
    return Path("optuna-artifacts")


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
        The study is to be forgotten, and another process is at it.
    """
    with quiet(), interrupts_put_off():
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
    for _ in range(_LOOKS):
        reap(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            raise InputError(
                f"{title}: --force would take the study from {holder(trial)}, which is at it; end that process first, "
                "or leave --force out to join it"
            )
        wait()
    optuna.delete_study(study_name=study_name, storage=storage)


def _join(network: nn.Module, samples: Samples, search: Search, url: str, study_name: str, index: int) -> None:
    """Help with a search that another process has begun."""
    with quiet(), interrupts_put_off():
        # Seeded like the others, a sampler would propose what they do.
        sampler = optuna_sampler(search.sampler, search.seed + index)
        study = optuna.load_study(study_name=study_name, storage=open_storage(url), sampler=sampler)
        _procedure(search)(network, samples, search, study, None)


def _procedure(search: Search) -> Any:
    return search_settings if search.spec.minimises else search_bound


def publish(
    result: BudgetResult,
    storage: Storage,
    url: str,
    title: str,
    facts: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> None:
    """Tell the dashboard what a study found: a note, since it knows no constraints and would show others as best.

    Parameters
    ----------
    result : BudgetResult
        It names the study.
    storage, url
        Of the study; pictures lie in `artifact_directory`.
    title : str
        Of the note.
    facts : mapping
        Attributes of the study; also listed in the note.
    pictures : mapping of str to bytes
        Image files by name.
    """
    verdict = "reaches" if result.reached else "misses"
    settings = "".join(f", {name} {value:g}" for name, value in result.budget.settings.items())
    low, high = result.interval()
    directory = artifact_directory(url)
    with quiet():
        study = optuna.load_study(study_name=result.study_name, storage=storage)
        for name, value in facts.items():
            study.set_user_attr(name, value)
        shown = "".join(f"\n![{name}]({path})\n" for name, path in _uploaded(study, directory, pictures).items())
        save_note(
            study,
            f"# {title}\n\nFooling rate **{result.fooling_rate:.3f}** ({low:.3f} to {high:.3f}, "
            f"{len(result.success)} clips) at {result.norm} <= **{result.budget.bound:.4g}** and "
            f"**{result.budget.iterations}** iterations{settings}. That {verdict} the target, a "
            f"{result.criterion.name} of {result.criterion.target:g}."
            f"{'' if result.settled else _open(result)}"
            "\n\nTrials with a positive constraint `target_missed_by` missed the target or were given up; they are no "
            "candidates.\n\n" + "".join(f"- {name}: `{value}`\n" for name, value in facts.items()) + shown,
        )


def _open(result: BudgetResult) -> str:
    above = f"and {result.budget.bound:.4g}" if result.reached else "and anything"
    return f" The trials left open where the smallest bound lies: between {result.missed_at or 0:.4g} {above}."


def _uploaded(study: Study, directory: Path, pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Keep pictures as the study's artifacts, once each; where the dashboard serves them."""
    files = {name: f"{hashlib.sha256(content).hexdigest()[:12]}-{name}" for name, content in pictures.items()}
    known = {one.filename: one.artifact_id for one in get_all_artifact_meta(study)}
    directory.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(directory)
    with TemporaryDirectory() as folder:
        for name, content in pictures.items():
            if files[name] not in known:
                file = Path(folder) / files[name]
                file.write_bytes(content)
                known[files[name]] = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=study)
    return {name: get_artifact_path(study, known[files[name]]) for name in pictures}


def transferred_success(
    network: nn.Module, samples: Samples, search: Search, budget: Budget, own: BudgetResult, storage: Storage
) -> np.ndarray:
    """Success per sample on this victim under a budget found on another (table II), bool (N,).

    A norm-minimising attack that was already run here with the same settings is read off its trial.
    """
    if not search.spec.minimises:
        return strike_within(network, samples, search, budget)[1]
    with quiet():
        study = optuna.load_study(study_name=own.study_name, storage=storage)
    return transferred(network, samples, search, budget, study)


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
