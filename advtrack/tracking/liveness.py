"""Whether the process of a run lives: it is named in the run's tags and gives signs of life; dead runs are closed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from mlflow.tracking import MlflowClient

from advtrack.processes import Process, Watch, beating
from advtrack.tracking.lookup import PREFIX, Run, tag, tagged

# Tags of a run: its process, field by field, and when that last said that it is at work.
_PROCESS = {"pid": "pid", "since": "pid_since", "host": "host", "boot": "boot", "namespace": "pid_namespace"}
_BEAT = "alive"
_watch = Watch()


def signs_of_life() -> dict[str, Any]:
    """Tags that tell whether a run of this process lives."""
    return {**{_PROCESS[name]: value for name, value in asdict(Process.this()).items()}, _BEAT: time.time()}


def reap() -> None:
    """Close runs of machines of this name whose process is gone: SIGKILL leaves them RUNNING."""
    for run in tagged({_PROCESS["host"]: socket.gethostname()}, status="RUNNING"):
        if _watch.abandoned(run.info.run_id, _process_of(run), tag(run, _BEAT)):
            MlflowClient().set_terminated(run.info.run_id, status="KILLED")


def _process_of(run: Run) -> Process:
    told = {name: tag(run, kept) or "" for name, kept in _PROCESS.items()}
    return Process(told["host"], int(told["pid"]), float(told["since"]), told["boot"], told["namespace"])


@contextmanager
def alive(run_id: str) -> Iterator[None]:
    """Show that the run goes on, and close others that do not."""

    def beat() -> None:
        MlflowClient().set_tag(run_id, PREFIX + _BEAT, str(time.time()))
        reap()

    with beating(beat, f"run {run_id}"):
        yield
