"""Runs in a real MLflow store whose process lives, or is gone."""

import os
import time

import pytest

from advtrack import processes
from advtrack.tracking import lookup
from advtrack.tracking.runs import stage_run


def stage(**key):
    """A stage under a key of its own."""
    return stage_run("train", 1, key, title="synthetic-stft", params={"lr": 0.1}, tags={"dataset": "synthetic"})


def finished(**key):
    with stage(**key) as run:
        return run.run_id


def status(run):
    return lookup.get(run).info.status


def test_a_running_run_of_a_process_that_is_gone_is_closed_and_continued(store, dead_pid):
    with stage() as run:
        pass
    store.update_run(run.run_id, status="RUNNING")  # as SIGKILL leaves it
    store.set_tag(run.run_id, "advtrack.pid", dead_pid)
    other = finished(digest="other")  # whatever stage comes next
    assert status(run.run_id) == "KILLED" and other != run.run_id
    assert finished() == run.run_id
    assert lookup.tag(lookup.get(run.run_id), "pid") == str(os.getpid())


@pytest.mark.parametrize("tags", [{"host": "elsewhere"}, {"pid": str(os.getpid())}])
def test_running_runs_of_the_living_and_of_other_machines_stay(store, dead_pid, tags):
    with stage() as run:
        pass
    store.update_run(run.run_id, status="RUNNING")
    for name, value in {"pid": dead_pid, **tags}.items():
        store.set_tag(run.run_id, f"advtrack.{name}", value)
    finished(digest="other")
    assert status(run.run_id) == "RUNNING"


def test_of_a_container_of_the_same_name_the_signs_of_life_tell(store, dead_pid, monkeypatch):
    """Its processes are not seen from here: the number of one that works there may be nobody's here."""
    now = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    with stage() as run:
        pass
    store.update_run(run.run_id, status="RUNNING")
    for name, value in {"pid": dead_pid, "pid_namespace": "pid:[1]"}.items():
        store.set_tag(run.run_id, f"advtrack.{name}", value)
    for beat in ("5.0", "20.0"):
        store.set_tag(run.run_id, "advtrack.alive", beat)
        finished(digest="other")
        now[0] += 119
        finished(digest="other")
        assert status(run.run_id) == "RUNNING"
    now[0] += 2
    finished(digest="other")
    assert status(run.run_id) == "KILLED"


def test_a_run_and_its_children_give_signs_of_life_and_close_abandoned_ones(store, dead_pid, monkeypatch):
    monkeypatch.setattr(processes, "_HEARTBEAT", 0.05)
    with stage(digest="other") as dead:
        pass
    with stage() as run, run.child("fold 0", "k", {}) as child:
        store.update_run(dead.run_id, status="RUNNING")
        store.set_tag(dead.run_id, "advtrack.pid", dead_pid)
        begun = [lookup.tag(lookup.get(one.run_id), "alive") for one in (run, child)]
        deadline = time.monotonic() + 60
        while status(dead.run_id) == "RUNNING" or any(
            lookup.tag(lookup.get(one.run_id), "alive") == beat for one, beat in zip((run, child), begun, strict=True)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
