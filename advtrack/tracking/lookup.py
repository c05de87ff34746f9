"""Finding runs again by tag, and reading what they hold; where the MLflow UI shows them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient

from advtrack.errors import InputError, redacted
from advtrack.tracking import UI_PORT
from advtrack.tracking.connection import store_uri

#: Of the names of all tags that this project sets.
PREFIX = "advtrack."


def tagged(tags: Mapping[str, Any], status: str | None = None) -> list[Run]:
    """Runs of all experiments with these tags, newest first."""
    clauses = [f"tags.`{PREFIX}{name}` = '{value}'" for name, value in tags.items()]
    if status:
        clauses.append(f"attributes.status = '{status}'")
    client, query, newest = MlflowClient(), " and ".join(clauses), ["attributes.start_time DESC"]
    experiments = [one.experiment_id for one in whole(lambda page: client.search_experiments(page_token=page))]
    return whole(lambda page: client.search_runs(experiments, query, order_by=newest, page_token=page))


def find(tags: Mapping[str, Any], status: str | None = None) -> list[Run]:
    """Runs with these tags, newest first, but those that only reused or repeated another."""
    found = tagged(tags, status)
    return [run for run in found if not {PREFIX + "reused_from", PREFIX + "rerun_of"} & run.data.tags.keys()]


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


def tag(run: Run, name: str) -> str | None:
    """A tag of this project's name space."""
    return run.data.tags.get(PREFIX + name)


def params(run: Run) -> dict[str, str]:
    """The parameters of a run as its stage resolved them."""
    given = {name: text.strip("'") for name, text in run.data.params.items()}
    return given | prefixed_tags(run, "resolved.")


def parent(run: Run) -> str:
    """The run that a fold is nested under."""
    return run.data.tags["mlflow.parentRunId"]


def prefixed_tags(run: Run, prefix: str) -> dict[str, str]:
    """The tags whose names begin so, by the rest of their names."""
    whole_prefix = PREFIX + prefix
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


def read_csv(run_id: str, path: str) -> list[dict[str, str]]:
    """The rows of an artifact that is a table, by column.

    Raises
    ------
    InputError
        The run does not have it.
    """
    return list(csv.DictReader(io.StringIO(read_artifact(run_id, path).decode())))


def ui_address() -> str:
    """Where the MLflow UI is: a tracking server's own, or where ``advtrack dashboard`` serves it by default."""
    uri = store_uri()
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else f"http://127.0.0.1:{UI_PORT}"


def address(run_id: str) -> str:
    """The page of a run in the MLflow UI."""
    return f"{ui_address()}/#/runs/{run_id}"


@lru_cache(maxsize=1024)
def _artifact_uri(store: str, run_id: str) -> str:
    """Where the artifacts of a run lie, which never changes: a comparison reads hundreds of them."""
    return get(run_id).info.artifact_uri
