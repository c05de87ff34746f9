"""Runs in a real MLflow store: how they end, are reused, continued and attached to."""

import os
import socket
from contextlib import contextmanager

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from advtrack.errors import InputError
from advtrack.tracking import connection, lookup, runs
from advtrack.tracking.liveness import reap
from advtrack.tracking.lookup import find
from advtrack.tracking.runs import resume_key, stage_run, umbrella

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
    return lookup.get(run).info.status


def count(store):
    return len(store.search_runs([e.experiment_id for e in store.search_experiments()]))


# A stage


def test_a_stage_is_a_finished_run_with_all_it_needs_to_be_found(store):
    with stage() as run:
        assert status(run.run_id) == "RUNNING"
    done = lookup.get(run.run_id)
    assert done.info.status == "FINISHED" and not run.reused
    assert done.data.params == {"lr": "0.1"}
    tags = {name: lookup.tag(done, name) for name in ("stage", "dataset", "code_version", "pid", "host", "resume_key")}
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
    assert lookup.read_artifact(run.run_id, "attack/table.csv") == b"a,b\n"
    assert lookup.read_artifact(run.run_id, "attack/figure.png") == b"\x00\x01"
    assert lookup.read_artifact(run.run_id, "figure.png") == b"\x02"
    assert set(lookup.files(run.run_id, "attack")) == {"attack/table.csv", "attack/figure.png"}
    (given,) = lookup.get(run.run_id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("esc10", "d" * 36)
    assert "/data/esc10" in given.dataset.source


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
    assert lookup.tag(lookup.get(run), "failure") == reason


# Reuse


def test_the_same_key_is_reused(store, caplog):
    first = finished()
    with caplog.at_level("INFO", "advtrack"), stage(params={"lr": 9}) as run:
        assert run.reused and run.run_id == first
    assert first in caplog.text and "reusing" in caplog.text
    assert count(store) == 1 and lookup.get(first).data.params == {"lr": "0.1"}


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
    assert lookup.tag(lookup.get(interrupted), "failure") is None  # it has not failed after all


def test_a_run_that_is_continued_is_never_taken_for_that_of_the_dead_process(store, dead_pid, monkeypatch):
    interrupted = failed()
    store.set_tag(interrupted, "advtrack.pid", dead_pid)
    original, reaped = MlflowClient.update_run, []

    def meanwhile(self, run_id, status=None, name=None):
        original(self, run_id, status, name)
        reaped.append(status)
        reap()  # another process's

    monkeypatch.setattr(MlflowClient, "update_run", meanwhile)
    with stage() as run:
        assert run.run_id == interrupted and status(interrupted) == "RUNNING" and "RUNNING" in reaped


def test_a_store_that_fails_amidst_the_work_is_one_line_and_the_run_goes_on_later(store, dead_pid, monkeypatch):
    told = pytest.raises(InputError, match=r"failed \(gone\); once it answers")
    with monkeypatch.context() as patch, told, connection.answering(), stage() as run:
        patch.setattr(MlflowClient, "log_batch", lambda *arguments, **options: _raise(MlflowException("gone")))
        run.metrics({"loss": 1.0})
    assert status(run.run_id) == "RUNNING"
    store.set_tag(run.run_id, "advtrack.pid", dead_pid)
    assert finished() == run.run_id


def test_a_store_that_refuses_one_value_is_told_that_the_run_failed(store, monkeypatch):
    original = MlflowClient.log_batch

    def refusing(self, run_id, metrics=(), params=(), tags=()):
        if metrics:
            raise MlflowException("no such metric")
        return original(self, run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MlflowClient, "log_batch", refusing)
    with pytest.raises(MlflowException), stage() as run:
        run.metrics({"loss": 1.0})
    assert status(run.run_id) == "FAILED" and lookup.tag(lookup.get(run.run_id), "failure") == "no such metric"


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
    found = lookup.get(attached)
    assert found.info.status == "FAILED" and lookup.tag(found, "failure") == "the version is gone"


def test_an_interrupted_run_of_another_key_is_left_alone(store):
    interrupted = failed()
    assert finished(key={"digest": "other"}) != interrupted
    assert status(interrupted) == "FAILED"


def test_force_does_not_continue(store):
    interrupted = failed()
    assert finished(force=True) != interrupted


def test_a_child_is_nested_and_bears_its_tags(store):
    with stage() as run, run.child("fold 3", "k", {"fold": 3}) as child:
        pass
    done = lookup.get(child.run_id)
    assert done.info.status == "FINISHED" and done.info.run_name == "fold 3"
    assert done.data.tags["mlflow.parentRunId"] == run.run_id
    assert done.info.experiment_id == lookup.get(run.run_id).info.experiment_id
    assert (lookup.tag(done, "fold"), lookup.tag(done, "fold_key")) == ("3", "k")
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
    assert (lookup.tag(lookup.get(given), "stage"), lookup.tag(lookup.get(given), "failure")) == ("attack", "no victim")
    runs.explain("attack", "told already")  # a stage that took the run over has told it itself
    assert lookup.tag(lookup.get(given), "failure") == "no victim"


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
    assert lookup.get(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id != run.run_id


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
    run = lookup.get(attached)
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
    assert lookup.tag(lookup.get(given), "reused_from") == first
    assert [found.info.run_id for found in find({"stage": "train"})] == [first]  # a reuse is no result
    with stage() as run:
        assert run.run_id == first


def test_an_attached_run_that_breaks_is_failed(store, attached):
    assert failed() == attached and status(attached) == "FAILED"


def test_an_umbrella_holds_the_given_run_while_others_work(store, attached):
    with umbrella("main"):
        assert status(attached) == "RUNNING"
        assert finished() != attached
    assert status(attached) == "FINISHED" and lookup.tag(lookup.get(attached), "umbrella") == "True"


def test_an_umbrella_without_a_given_run_makes_none(store):
    with umbrella("main"):
        pass
    assert count(store) == 0


def test_an_umbrella_fails_with_what_is_under_it(store, attached):
    with pytest.raises(ValueError, match="it broke"), umbrella("main"):
        failed()
        raise ValueError("it broke")
    assert status(attached) == "FAILED"


# Repeating


def test_runs_that_repeat_another_are_never_found_or_continued_but_closed(store, dead_pid):
    first = finished()
    with runs.rerunning(first), stage(force=True) as again, again.child("fold 0", "k", {}, fresh=True) as child:
        pass
    assert runs.rerun_of() == ""
    for made in (again, child):
        assert lookup.tag(lookup.get(made.run_id), "rerun_of") == first
    assert [found.info.run_id for found in find({"stage": "train"})] == [first] and not find({"fold_key": "k"})
    with stage() as reused:
        assert reused.run_id == first
    store.update_run(again.run_id, status="RUNNING")
    store.set_tag(again.run_id, "advtrack.pid", dead_pid)
    assert finished(key={"digest": "other"}) and status(again.run_id) == "KILLED"


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
    assert lookup.get(run.run_id).data.metrics["value"] == shown


def test_several_names_in_a_parameter_have_commas_between(store):
    assert lookup.get(finished(params={"models": ("alexnet", "vgg16"), "one": ("stft",)})).data.params == {
        "models": "alexnet,vgg16",
        "one": "stft",
    }
