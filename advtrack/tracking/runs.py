"""Runs: start, attach, reuse, continue, finish."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.utils.time import get_current_time_millis

from advtrack.tracking.connection import experiment_id, impatient
from advtrack.tracking.liveness import alive, reap, signs_of_life
from advtrack.tracking.lookup import PREFIX, find, tag

logger = logging.getLogger("advtrack")

_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000
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

    def last_step(self, name: str) -> int:
        """The last step at which a metric was logged, 0 for none."""
        return max((metric.step for metric in MlflowClient().get_metric_history(self.run_id, name)), default=0)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, in this project's name space."""
        tags = [RunTag(PREFIX + k, str(v)) for k, v in values.items()]
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

    def csv(self, rows: Sequence[Mapping[str, Any]], path: str) -> None:
        """Log an artifact from the rows of a table; it has all columns of all rows."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.text(buffer.getvalue(), path)

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
        with _closing(StageRun(run_id)) as run, alive(run_id), _measured(run_id):
            run.tags({**tags, "fold_key": key, **signs_of_life(), **repeating()})
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
    reap()
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
    with _closing(StageRun(run_id)) as run, alive(run_id), _measured(run_id):
        run.tags(
            {**tags, "stage": stage, "resume_key": digest, "code_version": version, **signs_of_life(), **repeating()}
        )
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


def _create(stage: str) -> str:
    return MlflowClient().create_run(experiment_id(), run_name=stage).info.run_id


def _interrupted(tags: Mapping[str, str]) -> str | None:
    """The newest run with these tags that was stopped before its end, set RUNNING again."""
    for run in find(tags):
        if run.info.status in ("FAILED", "KILLED"):
            # First whose it is: while it runs it is not to be taken for that of the process which is gone.
            StageRun(run.info.run_id).tags(signs_of_life())
            MlflowClient().update_run(run.info.run_id, status="RUNNING")
            if tag(run, "failure"):
                MlflowClient().delete_tag(run.info.run_id, PREFIX + "failure")
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


@contextmanager
def _closing(run: StageRun) -> Iterator[StageRun]:
    """End the run: FINISHED, KILLED if interrupted, FAILED with the reason otherwise."""
    client = MlflowClient()
    try:
        yield run
    except KeyboardInterrupt:
        client.set_terminated(run.run_id, status="KILLED")
        raise
    except MlflowException as error:
        with impatient(), suppress(MlflowException):  # if the store cannot be told, the next command closes the run
            _fail(run, error)
        raise
    except BaseException as error:
        _fail(run, error)
        raise
    client.set_terminated(run.run_id, status="FINISHED")


def _fail(run: StageRun, error: BaseException) -> None:
    run.tags({"failure": str(error)[:_MAX_TAG_LENGTH] or type(error).__name__})
    MlflowClient().set_terminated(run.run_id, status="FAILED")


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
