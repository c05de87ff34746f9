"""Runs in a real MLflow store: how they end, are found again, continued, attached to and closed."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from advtrack import processes
from advtrack.errors import InputError
from advtrack.tracking import connection, runs
from advtrack.tracking.runs import find, resume_key, stage_run, umbrella

KEY = {"digest": "abc", "lr": 0.1}


@contextmanager
def stage(name="train", version=1, key=KEY, **options):
    options = {"title": "synthetic-stft", "params": {"lr": 0.1}, "tags": {"dataset": "synthetic"}, **options}
    with stage_run(name, version, key, **options) as run:
        yield run


def finished(**options):
    with stage(**options) as run:
        return run.run_id


def failed(error=None, **options):
    error = error or ValueError("it broke")
    with pytest.raises(type(error)), stage(**options) as run:
        raise error
    return run.run_id


def status(run):
    return runs.get(run).info.status


def count(store):
    return len(store.search_runs([e.experiment_id for e in store.search_experiments()]))


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# A stage


def test_a_stage_is_a_finished_run_with_all_it_needs_to_be_found(store):
    with stage() as run:
        assert status(run.run_id) == "RUNNING"
    done = runs.get(run.run_id)
    assert done.info.status == "FINISHED" and not run.reused
    assert done.data.params == {"lr": "0.1"}
    tags = {name: runs.tag(done, name) for name in ("stage", "dataset", "code_version", "pid", "host", "resume_key")}
    assert tags == {
        "stage": "train",
        "dataset": "synthetic",
        "code_version": "1",
        "pid": str(os.getpid()),
        "host": socket.gethostname(),
        "resume_key": resume_key("train", 1, KEY),
    }
    assert done.info.run_name == "train synthetic-stft"
    assert store.get_experiment(done.info.experiment_id).name == connection.EXPERIMENT


def test_what_a_stage_logs_can_be_read_back(store):
    with stage() as run:
        run.metrics({"loss": 0.5}, step=1)
        run.metrics({"loss": 0.25}, step=2)
        run.text("a,b\n", "attack/table.csv")
        run.data(b"\x00\x01", "attack/figure.png")
        run.data(b"\x02", "figure.png")
        run.dataset("esc10", "d" * 64, "/data/esc10")
    history = store.get_metric_history(run.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.25)]
    assert runs.read_artifact(run.run_id, "attack/table.csv") == b"a,b\n"
    assert runs.read_artifact(run.run_id, "attack/figure.png") == b"\x00\x01"
    assert runs.read_artifact(run.run_id, "figure.png") == b"\x02"
    assert set(runs.files(run.run_id, "attack")) == {"attack/table.csv", "attack/figure.png"}
    (given,) = runs.get(run.run_id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("esc10", "d" * 36)
    assert "/data/esc10" in given.dataset.source


def test_an_artifact_that_is_gone_is_named_with_its_run_and_fails_the_run_that_needs_it(store, tmp_path):
    with stage() as run:
        run.text("a,b\n", "attack/table.csv")
    (file,) = tmp_path.rglob("table.csv")
    file.unlink()
    for path in ("attack/table.csv", "table.csv"):
        with pytest.raises(InputError) as caught, stage(key={**KEY, "path": path}) as needing:
            runs.read_artifact(run.run_id, path)
        assert str(caught.value).startswith(f"the artifact {path} of run {run.run_id} is not in ")
        assert status(needing.run_id) == "FAILED"


def test_an_artifact_that_cannot_be_read_is_no_artifact_that_is_gone(store, monkeypatch):
    with stage() as run:
        run.text("a,b\n", "table.csv")

    def fail(artifact_uri):
        raise MlflowException("it does not answer")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    with pytest.raises(MlflowException, match="it does not answer"):
        runs.read_artifact(run.run_id, "table.csv")


@pytest.mark.parametrize(
    ("error", "ending", "reason"),
    [
        (ValueError("it broke"), "FAILED", "it broke"),
        (InputError("no such file"), "FAILED", "no such file"),
        (RuntimeError(), "FAILED", "RuntimeError"),
        (SystemExit(3), "FAILED", "3"),
        (ValueError("long " * 1999), "FAILED", ("long " * 1600)),
        (KeyboardInterrupt(), "KILLED", None),
    ],
)
def test_a_stage_that_breaks_says_so_and_why(store, error, ending, reason):
    run = failed(error)
    assert status(run) == ending
    assert runs.tag(runs.get(run), "failure") == reason


# Reuse


def test_the_same_key_is_reused(store, caplog):
    first = finished()
    with caplog.at_level("INFO", "advtrack"), stage(params={"lr": 9}) as run:
        assert run.reused and run.run_id == first
    assert first in caplog.text and "reusing" in caplog.text
    assert count(store) == 1 and runs.get(first).data.params == {"lr": "0.1"}


@pytest.mark.parametrize("change", [{"key": {**KEY, "lr": 0.2}}, {"version": 2}, {"name": "attack"}, {"force": True}])
def test_another_key_version_or_stage_is_done_anew_and_so_is_force(store, change):
    first = finished()
    with stage(**change) as run:
        assert not run.reused and run.run_id != first
    assert count(store) == 2


def test_after_force_the_new_run_is_the_one_reused(store):
    finished()
    second = finished(force=True)
    with stage() as run:
        assert run.reused and run.run_id == second


def test_a_key_does_not_depend_on_order_and_tells_types_apart():
    assert resume_key("a", 1, {"x": 1, "y": [1, 2]}) == resume_key("a", 1, {"y": [1, 2], "x": 1})
    keys = [resume_key("a", 1, {"x": value}) for value in (1, "1", 1.5, None, True, [1])]
    assert len(set(keys)) == len(keys)


# Interruptions


@pytest.mark.parametrize("error", [ValueError("it broke"), KeyboardInterrupt()])
def test_an_interrupted_run_is_continued_under_its_id(store, caplog, error):
    interrupted = failed(error)
    with caplog.at_level("INFO", "advtrack"), stage() as run:
        assert run.run_id == interrupted and not run.reused
        assert status(interrupted) == "RUNNING"
    assert interrupted in caplog.text
    assert status(interrupted) == "FINISHED" and count(store) == 1
    assert runs.tag(runs.get(interrupted), "failure") is None  # it has not failed after all


def test_a_store_that_fails_amidst_the_work_is_one_line_and_the_run_goes_on_later(store, monkeypatch):
    told = pytest.raises(InputError, match=r"failed \(gone\); once it answers")
    with monkeypatch.context() as patch, told, connection.answering(), stage() as run:
        patch.setattr(MlflowClient, "log_batch", lambda *arguments, **options: _raise(MlflowException("gone")))
        run.metrics({"loss": 1.0})
    assert status(run.run_id) == "RUNNING"
    store.set_tag(run.run_id, "advtrack.pid", dead_pid())
    assert finished() == run.run_id


def _raise(error):
    raise error


def test_a_reused_stage_that_then_fails_is_a_failed_run(store, monkeypatch):
    with stage():
        pass
    attached = store.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", attached)
    with pytest.raises(InputError), stage() as run:
        assert run.reused
        raise InputError("the version is gone")
    found = runs.get(attached)
    assert found.info.status == "FAILED" and runs.tag(found, "failure") == "the version is gone"


def test_an_interrupted_run_of_another_key_is_left_alone(store):
    interrupted = failed()
    assert finished(key={"digest": "other"}) != interrupted
    assert status(interrupted) == "FAILED"


def test_force_does_not_continue(store):
    interrupted = failed()
    assert finished(force=True) != interrupted


def test_a_running_run_of_a_process_that_is_gone_is_closed_and_continued(store):
    with stage() as run:
        pass
    store.update_run(run.run_id, status="RUNNING")  # as SIGKILL leaves it
    store.set_tag(run.run_id, "advtrack.pid", str(dead_pid()))
    other = finished(key={"digest": "other"})  # whatever stage comes next
    assert status(run.run_id) == "KILLED" and other != run.run_id
    assert finished() == run.run_id
    assert runs.tag(runs.get(run.run_id), "pid") == str(os.getpid())


@pytest.mark.parametrize("tags", [{"host": "elsewhere"}, {"pid": str(os.getpid())}])
def test_running_runs_of_the_living_and_of_other_machines_stay(store, tags):
    with stage() as run:
        pass
    store.update_run(run.run_id, status="RUNNING")
    for name, value in {"pid": str(dead_pid()), **tags}.items():
        store.set_tag(run.run_id, f"advtrack.{name}", value)
    finished(key={"digest": "other"})
    assert status(run.run_id) == "RUNNING"


def test_a_child_is_nested_and_bears_its_tags(store):
    with stage() as run, run.child("fold 3", "k", {"fold": 3}) as child:
        pass
    done = runs.get(child.run_id)
    assert done.info.status == "FINISHED" and done.info.run_name == "fold 3"
    assert done.data.tags["mlflow.parentRunId"] == run.run_id
    assert done.info.experiment_id == runs.get(run.run_id).info.experiment_id
    assert (runs.tag(done, "fold"), runs.tag(done, "fold_key")) == ("3", "k")
    assert [found.info.run_id for found in find({"fold_key": "k"}, status="FINISHED")] == [child.run_id]


def test_a_failure_in_a_child_fails_both_and_both_are_continued(store):
    with pytest.raises(ValueError, match="deep"), stage() as run, run.child("fold 0", "k", {}) as child:
        raise ValueError("deep")
    assert status(run.run_id) == status(child.run_id) == "FAILED"
    with stage() as again, again.child("fold 1", "other", {}) as other, again.child("fold 0", "k", {}) as continued:
        assert other.run_id != child.run_id
    assert (again.run_id, continued.run_id) == (run.run_id, child.run_id)
    assert status(run.run_id) == status(child.run_id) == "FINISHED"


def test_a_failure_before_the_stage_began_is_told_on_the_run_that_mlflow_made(store, monkeypatch):
    given = store.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    runs.explain("attack", "no victim")
    assert (runs.tag(runs.get(given), "stage"), runs.tag(runs.get(given), "failure")) == ("attack", "no victim")
    runs.explain("attack", "told already")  # a stage that took the run over has told it itself
    assert runs.tag(runs.get(given), "failure") == "no victim"


def test_a_fresh_child_leaves_the_interrupted_one_alone(store):
    with pytest.raises(RuntimeError), stage() as run, run.child("fold 0", "k", {}) as child:
        raise RuntimeError
    with stage() as again, again.child("fold 0", "k", {}, fresh=True) as fresh:
        pass
    assert fresh.run_id != child.run_id
    assert status(child.run_id) == "FAILED" and status(fresh.run_id) == "FINISHED"


def test_an_interrupted_child_is_continued_under_another_parent(store):
    with pytest.raises(ValueError, match="deep"), stage() as run, run.child("fold 0", "k", {}) as child:
        raise ValueError("deep")
    with stage(key={"folds": 5}) as parent, parent.child("fold 0", "k", {}) as continued:
        pass
    assert continued.run_id == child.run_id
    assert runs.get(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id != run.run_id


# The run of mlflow run


@pytest.fixture
def attached(store, monkeypatch):
    """A run as ``mlflow run`` makes it, with parameters of its own."""
    run = store.create_run("0").info.run_id
    store.log_param(run, "device", "auto")
    store.log_param(run, "samples", "'12,pia=4'")
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    return run


def test_the_given_run_is_attached_to_once(store, attached):
    assert finished() == attached
    assert "MLFLOW_RUN_ID" not in os.environ
    assert finished(key={"digest": "other"}) != attached


def test_parameters_already_on_the_run_stay_and_what_they_resolved_to_is_a_tag(store, attached):
    finished(params={"device": "cpu", "samples": "12,pia=4", "lr": 0.1})
    run = runs.get(attached)
    assert run.data.params == {"device": "auto", "samples": "'12,pia=4'", "lr": "0.1"}
    resolved = {name: value for name, value in run.data.tags.items() if name.startswith("advtrack.resolved.")}
    assert resolved == {"advtrack.resolved.device": "cpu"}


def test_a_reuse_ends_the_given_run_and_names_the_earlier_one(store, monkeypatch):
    first = finished()
    given = store.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with stage() as run:
        assert run.reused and run.run_id == first
    assert status(given) == "FINISHED"
    assert runs.tag(runs.get(given), "reused_from") == first
    assert [found.info.run_id for found in find({"stage": "train"})] == [first]  # a reuse is no result
    with stage() as run:
        assert run.run_id == first


def test_an_attached_run_that_breaks_is_failed(store, attached):
    assert failed() == attached and status(attached) == "FAILED"


def test_an_umbrella_holds_the_given_run_while_others_work(store, attached):
    with umbrella("main"):
        assert status(attached) == "RUNNING"
        assert finished() != attached
    assert status(attached) == "FINISHED" and runs.tag(runs.get(attached), "umbrella") == "True"


def test_an_umbrella_without_a_given_run_makes_none(store):
    with umbrella("main"):
        pass
    assert count(store) == 0


def test_an_umbrella_fails_with_what_is_under_it(store, attached):
    with pytest.raises(ValueError, match="it broke"), umbrella("main"):
        failed()
        raise ValueError("it broke")
    assert status(attached) == "FAILED"


# Finding


def test_find_goes_through_all_experiments_newest_first(store, monkeypatch):
    first = finished()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", store.create_experiment("elsewhere"))
    second = finished(key={"digest": "other"})
    assert runs.get(first).info.experiment_id != runs.get(second).info.experiment_id
    assert [run.info.run_id for run in find({"stage": "train"})] == [second, first]
    assert find({"stage": "train", "dataset": "esc10"}) == [] == find({"stage": "train"}, status="FAILED")


def test_of_a_container_of_the_same_name_the_signs_of_life_tell(store, monkeypatch):
    """Its processes are not seen from here: the number of one that works there may be nobody's here."""
    now = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    with stage() as run:
        pass
    store.update_run(run.run_id, status="RUNNING")
    for name, value in {"pid": str(dead_pid()), "pid_namespace": "pid:[1]"}.items():
        store.set_tag(run.run_id, f"advtrack.{name}", value)
    for beat in ("5.0", "20.0"):
        store.set_tag(run.run_id, "advtrack.alive", beat)
        finished(force=True)
        now[0] += 119
        finished(force=True)
        assert status(run.run_id) == "RUNNING"
    now[0] += 2
    finished(force=True)
    assert status(run.run_id) == "KILLED"


def test_a_run_and_its_children_give_signs_of_life_and_close_abandoned_ones(store, monkeypatch):
    monkeypatch.setattr(processes, "_HEARTBEAT", 0.05)
    with stage(key={"digest": "other"}) as dead:
        pass
    with stage() as run, run.child("fold 0", "k", {}) as child:
        store.update_run(dead.run_id, status="RUNNING")
        store.set_tag(dead.run_id, "advtrack.pid", str(dead_pid()))
        begun = [runs.tag(runs.get(one.run_id), "alive") for one in (run, child)]
        deadline = time.monotonic() + 60
        while status(dead.run_id) == "RUNNING" or any(
            runs.tag(runs.get(one.run_id), "alive") == beat for one, beat in zip((run, child), begun, strict=True)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)


# Repeating


def test_runs_that_repeat_another_are_never_found_or_continued_but_closed(store):
    first = finished()
    with runs.rerunning(first), stage(force=True) as again, again.child("fold 0", "k", {}, fresh=True) as child:
        pass
    assert runs.rerun_of() == ""
    for made in (again, child):
        assert runs.tag(runs.get(made.run_id), "rerun_of") == first
    assert [found.info.run_id for found in find({"stage": "train"})] == [first] and not find({"fold_key": "k"})
    with stage() as reused:
        assert reused.run_id == first
    store.update_run(again.run_id, status="RUNNING")
    store.set_tag(again.run_id, "advtrack.pid", str(dead_pid()))
    assert finished(key={"digest": "other"}) and status(again.run_id) == "KILLED"


def test_what_a_run_holds_can_be_listed(store):
    with stage() as run:
        run.text("a\n", "deep/er/table.csv")
        run.text("b\n", "table.csv")
    assert sorted(runs.files(run.run_id)) == ["deep/er/table.csv", "table.csv"]
    assert runs.params(runs.get(run.run_id)) == {"lr": "0.1"}
    assert runs.finished(run.run_id) and not runs.finished(failed(key={"other": 1})) and not runs.finished("nonsense")


# What the UI shows


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0.8375000357627869, 0.8375),
        (1 / 3, 0.333333),
        (1234567, 1234567.0),
        (0.0098123456, 0.00981235),
        (-2.5e-9, -2.5e-9),
    ],
)
def test_metrics_are_rounded_but_counts_are_whole(store, given, shown):
    with stage() as run:
        run.metrics({"value": given})
    assert runs.get(run.run_id).data.metrics["value"] == shown


def test_several_names_in_a_parameter_have_commas_between(store):
    assert runs.get(finished(params={"models": ("alexnet", "vgg16"), "one": ("stft",)})).data.params == {
        "models": "alexnet,vgg16",
        "one": "stft",
    }


def test_the_history_of_a_metric_is_in_order_of_its_steps_and_what_was_logged_again_counts_last(store):
    with stage() as run:
        for step, value in ((2, 0.3), (1, 0.5), (10, 0.1)):
            run.metrics({"loss": value}, step)
        time.sleep(0.002)  # MLflow's clock ticks in milliseconds
        run.metrics({"loss": 0.25}, 2)
    assert runs.history(run.run_id, "loss") == [0.5, 0.25, 0.1]
    assert runs.history(run.run_id, "nothing") == []
