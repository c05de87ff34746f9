"""The tracking store: whether it answers, and the experiment that new runs go to."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import mlflow
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from advtrack.errors import InputError, reason, redacted

EXPERIMENT = "advtrack"
_PROBE_SECONDS = 8


def connect() -> None:
    """Check that the tracking store answers, before any work is done.

    Raises
    ------
    InputError
        It does not answer, or cannot be written. The message names it.
    """
    uri = store_uri()
    try:
        if uri.startswith(("http://", "https://")):
            _check_answers(f"{uri.rstrip('/')}/health")
        if uri.startswith("sqlite:///"):
            _check_writable(Path(uri.removeprefix("sqlite:///")))
        if uri.startswith(("postgresql", "mysql")):
            _check_connects(uri)
        with impatient():
            try:
                experiment_id()
            except InputError:
                raise
            except Exception:  # each database driver has its own
                if not uri.startswith("sqlite:///"):
                    raise
                sleep(2)  # another process may be making the tables at this very moment
                experiment_id()
    except InputError:
        raise
    except Exception as error:  # MLflow lets each database driver's own through
        raise InputError(
            f"the MLflow tracking store {shown_uri()} cannot be used ({redacted(reason(error))}); start it, or set "
            "MLFLOW_TRACKING_URI"
        ) from error


def store_uri() -> str:
    """Address of the tracking store in use."""
    return mlflow.get_tracking_uri()


def shown_uri() -> str:
    """The same for messages, without passwords."""
    return redacted(store_uri())


@contextmanager
def answering() -> Iterator[None]:
    """Say in one line that the tracking store failed in the middle of the work.

    Raises
    ------
    InputError
        It failed; what is done so far is kept, and the same command goes on with it.
    """
    try:
        yield
    except MlflowException as error:
        raise InputError(
            f"the MLflow tracking store {shown_uri()} failed ({reason(error)}); once it answers, run the "
            "command again: it goes on where it was"
        ) from error


def _check_answers(address: str) -> None:
    try:
        urllib.request.urlopen(address, timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:  # anything less is an answer all the same
            raise


def _check_connects(uri: str) -> None:
    """MLflow tries a database for minutes."""
    engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": _PROBE_SECONDS})
    engine.connect().close()
    engine.dispose()


@contextmanager
def impatient() -> Iterator[None]:
    """MLflow's client gives up at once; by default it retries for minutes."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_PROBE_SECONDS)}
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _check_writable(database: Path) -> None:
    target = database if database.exists() else database.parent
    if not os.access(target, os.W_OK):
        raise PermissionError(f"{target} is not writable")


def experiment_id() -> str:
    """The experiment new runs go to: the one ``mlflow run`` chose, or ours, created once."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    client = MlflowClient()
    if found := client.get_experiment_by_name(EXPERIMENT):
        if found.lifecycle_stage == "deleted":
            raise InputError(
                f"the experiment {EXPERIMENT} is deleted: restore it with mlflow experiments restore "
                f"--experiment-id {found.experiment_id}, or choose another with MLFLOW_EXPERIMENT_ID"
            )
        return found.experiment_id
    try:
        return client.create_experiment(EXPERIMENT)
    except MlflowException:  # another process was faster
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return found.experiment_id
