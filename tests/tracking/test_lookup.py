"""Runs of a real MLflow store, found again by tag, and what is read of them."""

import time

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from advtrack.errors import InputError
from advtrack.tracking import lookup
from advtrack.tracking.runs import stage_run


def stage(**key):
    """A stage under a key of its own."""
    return stage_run("train", 1, key, title="synthetic-stft", params={"lr": 0.1}, tags={"dataset": "synthetic"})


def finished(**key):
    with stage(**key) as run:
        return run.run_id


def test_find_goes_through_all_experiments_newest_first(store, monkeypatch):
    first = finished()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", store.create_experiment("elsewhere"))
    second = finished(digest="other")
    assert lookup.get(first).info.experiment_id != lookup.get(second).info.experiment_id
    assert [run.info.run_id for run in lookup.find({"stage": "train"})] == [second, first]
    assert lookup.find({"stage": "train", "dataset": "esc10"}) == [] == lookup.find({"stage": "train"}, status="FAILED")


def test_what_a_run_holds_can_be_listed(store):
    with stage() as run:
        run.text("a\n", "deep/er/table.csv")
        run.text("b\n", "table.csv")
    assert sorted(lookup.files(run.run_id)) == ["deep/er/table.csv", "table.csv"]
    assert lookup.params(lookup.get(run.run_id)) == {"lr": "0.1"}


def test_only_a_run_that_has_ended_well_is_finished(store):
    with pytest.raises(ValueError, match="it broke"), stage() as broken:
        raise ValueError("it broke")
    assert lookup.finished(broken.run_id) is None and lookup.finished("nonsense") is None
    assert lookup.finished(finished()).info.run_id == broken.run_id  # continued


def test_a_table_has_all_columns_of_all_rows(store):
    with stage() as run:
        run.csv([{"a": 1, "b": 'say "x", y'}, {"a": 2, "c": 3}], "table.csv")
    assert lookup.read_csv(run.run_id, "table.csv") == [
        {"a": "1", "b": 'say "x", y', "c": ""},
        {"a": "2", "b": "", "c": "3"},
    ]
    assert b"\r" not in lookup.read_artifact(run.run_id, "table.csv")


def test_an_artifact_that_is_gone_is_named_with_its_run_and_fails_the_run_that_needs_it(store, tmp_path):
    with stage() as run:
        run.text("a,b\n", "attack/table.csv")
    (file,) = tmp_path.rglob("table.csv")
    file.unlink()
    for path in ("attack/table.csv", "table.csv"):
        with pytest.raises(InputError) as caught, stage(path=path) as needing:
            lookup.read_artifact(run.run_id, path)
        assert str(caught.value).startswith(f"the artifact {path} of run {run.run_id} is not in ")
        assert lookup.get(needing.run_id).info.status == "FAILED"


def test_an_artifact_that_cannot_be_read_is_no_artifact_that_is_gone(store, monkeypatch):
    with stage() as run:
        run.text("a,b\n", "table.csv")

    def fail(artifact_uri):
        raise MlflowException("it does not answer")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    with pytest.raises(MlflowException, match="it does not answer"):
        lookup.read_artifact(run.run_id, "table.csv")


def test_the_history_of_a_metric_is_in_order_of_its_steps_and_what_was_logged_again_counts_last(store):
    with stage() as run:
        for step, value in ((2, 0.3), (1, 0.5), (10, 0.1)):
            run.metrics({"loss": value}, step)
        time.sleep(0.002)  # MLflow's clock ticks in milliseconds
        run.metrics({"loss": 0.25}, 2)
    assert lookup.history(run.run_id, "loss") == [0.5, 0.25, 0.1]
    assert lookup.history(run.run_id, "nothing") == []
