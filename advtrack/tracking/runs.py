"""Runs: start, attach, reuse, continue, finish; and finding them again by tag."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.utils.time import get_current_time_millis

from advtrack.errors import InputError, redacted
from advtrack.processes import Process, Watch, beating
from advtrack.tracking import UI_PORT
from advtrack.tracking.connection import experiment_id, impatient, store_uri

logger = logging.getLogger("advtrack")

_PREFIX = "advtrack."
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000
# Tags of a run: its process, field by field, and when that last said that it is at work.
_PROCESS = {"pid": "pid", "since": "pid_since", "host": "host", "boot": "boot", "namespace": "pid_namespace"}
_BEAT = "alive"
_watch = Watch()
#: The run that is repeated at the moment, if any.
_RERUN_OF: ContextVar[str] = ContextVar("rerun_of", default="")


@dataclass(frozen=True)
class StageRun:
    """One MLflow run of a stage, or of a fold under it.

    Attributes
    ----------
    run_id : str
        MLflow's.
    reused : bool
        The work was found done in this earlier run; nothing is to be done or logged.
    """

    run_id: str
    reused: bool = False

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, several names with commas between.

        ``mlflow run`` has logged its own, for good: what they resolved to becomes a tag.
        """
        known = MlflowClient().get_run(self.run_id).data.params
        plain = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}
        texts = {name: text[:_MAX_PARAM_LENGTH] for name, text in plain.items()}
        new = [Param(name, text) for name, text in texts.items() if name not in known]
        MlflowClient().log_batch(self.run_id, params=new)
        self.tags({f"resolved.{n}": t for n, t in texts.items() if n in known and known[n].strip("'") != t})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics at a step, rounded: the UI shows every digit."""
        now = get_current_time_millis()
        MlflowClient().log_batch(self.run_id, metrics=[Metric(k, rounded(v), now, step) for k, v in values.items()])

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, in this project's name space."""
        tags = [RunTag(_PREFIX + k, str(v)) for k, v in values.items()]
        MlflowClient().log_batch(self.run_id, tags=tags)

    def dataset(self, name: str, digest: str, source: str, manifest_digest: str = "") -> None:
        """Log the data set the stage read as an input of the run; ``manifest_digest`` is that of its spectrograms."""
        entity = Dataset(name=name, digest=digest[:36], source_type="local", source=json.dumps({"uri": source}))
        tags = [InputTag("manifest_digest", manifest_digest)] if manifest_digest else []
        MlflowClient().log_inputs(self.run_id, [DatasetInput(entity, tags)])

    def text(self, content: str, path: str) -> None:
        """Log an artifact from its text."""
        MlflowClient().log_text(self.run_id, content, path)

    def json(self, content: Any, path: str) -> None:
        """Log an artifact of plain values; numbers that JSON does not know become null."""
        self.text(json.dumps(_finite(content), indent=2, allow_nan=False), path)

    def data(self, content: bytes, path: str) -> None:
        """Log an artifact from its bytes."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            file.write_bytes(content)
            parent = Path(path).parent.as_posix()
            MlflowClient().log_artifact(self.run_id, str(file), None if parent == "." else parent)

    @contextmanager
    def child(self, name: str, key: str, tags: Mapping[str, Any], fresh: bool = False) -> Iterator[StageRun]:
        """A run nested under this one, for a fold: the interrupted one of the same key, unless ``fresh``."""
        client = MlflowClient()
        experiment = client.get_run(self.run_id).info.experiment_id
        interrupted = None if fresh else _interrupted({"fold_key": key})
        run_id = interrupted or client.create_run(experiment, run_name=name).info.run_id
        client.set_tag(run_id, "mlflow.parentRunId", self.run_id)
        with _closing(StageRun(run_id)) as run, _alive(run_id), _measured(run_id):
            run.tags({**tags, "fold_key": key, **_provenance()})
            yield run


@contextmanager
def stage_run(
    stage: str,
    version: int,
    key: Mapping[str, Any],
    *,
    title: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    force: bool = False,
) -> Iterator[StageRun]:
    """Run a stage under its resume key.

    A finished run with the same key is reused. Otherwise the stage attaches to the run that ``mlflow run`` made,
    or continues the interrupted run of this key, or starts a new one; at the end it is FINISHED, KILLED or FAILED.

    Parameters
    ----------
    stage : str
        Name of the entry point.
    version : int
        Code version of the stage, raised when its results change.
    key : mapping
        Everything else that determines the result.
    title : str
        What the stage works on; with the stage's name it is the run's name.
    params, tags : mapping
        Logged on a run that does the work.
    force : bool
        Redo the work.
    """
    digest = resume_key(stage, version, key)
    _reap()
    attached = os.environ.pop("MLFLOW_RUN_ID", None)
    done = [] if force else find({"resume_key": digest}, status="FINISHED")
    if done:
        earlier = done[0].info.run_id
        logger.info("%s: already done, reusing run %s", stage, earlier)
        with _closing(StageRun(attached)) if attached else nullcontext() as run:
            if run:
                run.tags({"stage": stage, "reused_from": earlier})
            yield StageRun(earlier, reused=True)
        return
    run_id = attached or (None if force else _interrupted({"resume_key": digest})) or _create(stage)
    MlflowClient().update_run(run_id, name=f"{stage} {title}")
    with _closing(StageRun(run_id)) as run, _alive(run_id), _measured(run_id):
        run.tags({**tags, "stage": stage, "resume_key": digest, "code_version": version, **_provenance()})
        run.params(params)
        yield run


@contextmanager
def rerunning(run_id: str) -> Iterator[None]:
    """Repeat a run: runs made meanwhile stand beside all others, are never found, and move nothing in the registry."""
    before = _RERUN_OF.set(run_id)
    try:
        yield
    finally:
        _RERUN_OF.reset(before)


def rerun_of() -> str:
    """The run that is repeated at the moment, or nothing."""
    return _RERUN_OF.get()


def repeating() -> dict[str, str]:
    """The tag of all that is made while a run is repeated; none otherwise."""
    return {"rerun_of": rerun_of()} if rerun_of() else {}


@contextmanager
def umbrella(stage: str) -> Iterator[None]:
    """Hold the run that ``mlflow run`` made while several runs of ``stage`` do the work, each on its own."""
    attached = os.environ.pop("MLFLOW_RUN_ID", None)
    if attached is None:
        yield
        return
    with _closing(StageRun(attached)) as run:
        run.tags({"stage": stage, "umbrella": True})
        yield


def explain(stage: str, message: str) -> None:
    """Tell the run that ``mlflow run`` made, if a command failed before its stage took that run over."""
    if attached := os.environ.pop("MLFLOW_RUN_ID", None):
        with impatient(), suppress(MlflowException):  # the store itself may be what failed, and that has been said
            StageRun(attached).tags({"stage": stage, "failure": message[:_MAX_TAG_LENGTH]})


def rounded(value: float) -> float:
    """A number to six significant digits, a whole one as it is."""
    return float(value) if float(value).is_integer() else float(f"{value:.6g}")


def resume_key(stage: str, version: int, key: Mapping[str, Any]) -> str:
    """A short hash of all that determines a stage's result."""
    canonical = json.dumps([stage, version, dict(key)], sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:24]


def find(tags: Mapping[str, Any], status: str | None = None) -> list[Run]:
    """Runs of all experiments with these tags, newest first, but those that only reused or repeated another."""
    found = _all(tags, status)
    return [run for run in found if not {_PREFIX + "reused_from", _PREFIX + "rerun_of"} & run.data.tags.keys()]


def _all(tags: Mapping[str, Any], status: str | None = None) -> list[Run]:
    clauses = [f"tags.`{_PREFIX}{name}` = '{value}'" for name, value in tags.items()]
    if status:
        clauses.append(f"attributes.status = '{status}'")
    client, query, newest = MlflowClient(), " and ".join(clauses), ["attributes.start_time DESC"]
    experiments = [one.experiment_id for one in whole(lambda page: client.search_experiments(page_token=page))]
    return whole(lambda page: client.search_runs(experiments, query, order_by=newest, page_token=page))


def whole(search: Callable[[str | None], PagedList[Any]]) -> list[Any]:
    """All that a search of MLflow finds, page by page."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found


def get(run_id: str) -> Run:
    """A run by its identifier."""
    return MlflowClient().get_run(run_id)


def exists(run_id: str) -> bool:
    """Whether there is a run of this identifier."""
    try:
        get(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
    return True


def finished(run_id: str) -> Run | None:
    """A run that has ended well and is not deleted, or None."""
    if not exists(run_id):
        return None
    run = get(run_id)
    return run if run.info.status == "FINISHED" and run.info.lifecycle_stage == "active" else None


def inputs(run_id: str) -> list[tuple[str, str, str]]:
    """Name, digest and source of the data sets that a run read."""
    read = get(run_id).inputs
    found = [given.dataset for given in (read.dataset_inputs if read else [])]
    return [(dataset.name, dataset.digest, json.loads(dataset.source)["uri"]) for dataset in found]


def seconds(run: Run) -> float:
    """How long a finished run took."""
    return (run.info.end_time - run.info.start_time) / 1000


def history(run_id: str, name: str) -> list[float]:
    """The values of a metric, one for each step: of a step that was logged again the last."""
    logged = MlflowClient().get_metric_history(run_id, name)
    by_step = {one.step: one.value for one in sorted(logged, key=lambda one: (one.step, one.timestamp))}
    return [by_step[step] for step in sorted(by_step)]


def ui_address() -> str:
    """Where the MLflow UI is: a tracking server's own, or where ``advtrack dashboard`` serves it by default."""
    uri = store_uri()
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else f"http://127.0.0.1:{UI_PORT}"


def address(run_id: str) -> str:
    """The page of a run in the MLflow UI."""
    return f"{ui_address()}/#/runs/{run_id}"


def tag(run: Run, name: str) -> str | None:
    """A tag of this project's name space."""
    return run.data.tags.get(_PREFIX + name)


def params(run: Run) -> dict[str, str]:
    """The parameters of a run as its stage resolved them."""
    given = {name: text.strip("'") for name, text in run.data.params.items()}
    return given | prefixed_tags(run, "resolved.")


def parent(run: Run) -> str:
    """The run that a fold is nested under."""
    return run.data.tags["mlflow.parentRunId"]


def prefixed_tags(run: Run, prefix: str) -> dict[str, str]:
    """The tags whose names begin so, by the rest of their names."""
    whole_prefix = _PREFIX + prefix
    return {k.removeprefix(whole_prefix): v for k, v in run.data.tags.items() if k.startswith(whole_prefix)}


def files(run_id: str, folder: str = "") -> Iterator[str]:
    """Paths of all artifacts of a run that are no folders."""
    for found in MlflowClient().list_artifacts(run_id, folder):
        if found.is_dir:
            yield from files(run_id, found.path)
        else:
            yield found.path


def read_artifact(run_id: str, path: str) -> bytes:
    """The bytes of an artifact.

    Raises
    ------
    InputError
        The run does not have it.
    """
    place = _artifact_uri(store_uri(), run_id)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{place}/{path}")).read_bytes()
    except (MlflowException, OSError) as error:  # a server that lacks it says no more than one that fails
        if path in files(run_id, str(Path(path).parent) if "/" in path else ""):
            raise
        raise InputError(
            f"the artifact {path} of run {run_id} is not in {redacted(place)}; put it back, or make the run again with "
            "--force"
        ) from error


@lru_cache(maxsize=1024)
def _artifact_uri(store: str, run_id: str) -> str:
    """Where the artifacts of a run lie, which never changes: a comparison reads hundreds of them."""
    return get(run_id).info.artifact_uri


def _create(stage: str) -> str:
    return MlflowClient().create_run(experiment_id(), run_name=stage).info.run_id


def _interrupted(tags: Mapping[str, str]) -> str | None:
    """The newest run with these tags that was stopped before its end, set RUNNING again."""
    for run in find(tags):
        if run.info.status in ("FAILED", "KILLED"):
            MlflowClient().update_run(run.info.run_id, status="RUNNING")
            if tag(run, "failure"):
                MlflowClient().delete_tag(run.info.run_id, _PREFIX + "failure")
            logger.info("continuing the interrupted run %s", run.info.run_id)
            return run.info.run_id
    return None


def _finite(content: Any) -> Any:
    """Plain values with None for NaN and infinity."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _provenance() -> dict[str, Any]:
    """Tags that tell whether a run's process lives, and which run it repeats."""
    process = {_PROCESS[name]: value for name, value in asdict(Process.this()).items()}
    return {**process, _BEAT: time.time(), **repeating()}


def _reap() -> None:
    """Close runs of machines of this name whose process is gone: SIGKILL leaves them RUNNING."""
    for run in _all({_PROCESS["host"]: socket.gethostname()}, status="RUNNING"):
        if _watch.abandoned(run.info.run_id, _process_of(run), tag(run, _BEAT)):
            MlflowClient().set_terminated(run.info.run_id, status="KILLED")


def _process_of(run: Run) -> Process:
    told = {name: tag(run, kept) or "" for name, kept in _PROCESS.items()}
    return Process(told["host"], int(told["pid"]), float(told["since"]), told["boot"], told["namespace"])


@contextmanager
def _alive(run_id: str) -> Iterator[None]:
    """Show that the run goes on, and close others that do not."""

    def beat() -> None:
        StageRun(run_id).tags({_BEAT: time.time()})
        _reap()

    with beating(beat, f"run {run_id}"):
        yield


@contextmanager
def _closing(run: StageRun) -> Iterator[StageRun]:
    """End the run: FINISHED, KILLED if interrupted, FAILED with the reason otherwise."""
    client = MlflowClient()
    try:
        yield run
    except KeyboardInterrupt:
        client.set_terminated(run.run_id, status="KILLED")
        raise
    except MlflowException:
        raise  # the store that failed cannot be told; the run is closed by the next command
    except BaseException as error:
        run.tags({"failure": str(error)[:_MAX_TAG_LENGTH] or type(error).__name__})
        client.set_terminated(run.run_id, status="FAILED")
        raise
    client.set_terminated(run.run_id, status="FINISHED")


@contextmanager
def _measured(run_id: str) -> Iterator[None]:
    """Log what the machine does meanwhile, as metrics ``system/...``, every ten seconds and at the end."""
    monitor = SystemMetricsMonitor(run_id, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
    monitor.publish_metrics(monitor.aggregate_metrics())  # of a short run the only ones
    monitor.mlflow_logger.flush()
