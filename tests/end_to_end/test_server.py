"""A tracking server over HTTP, with SQLite and with PostgreSQL behind it: from clips to a champion that answers."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from advtrack.tracking import lookup, registry

pytestmark = pytest.mark.slow
NAME = "esc50-stft-resnet18"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory, empty_store, serving):
    """A tracking server of this test's own; its address."""
    folder = tmp_path_factory.mktemp("server")
    if request.param == "sqlite":
        shutil.copy(empty_store, folder / "mlflow.db")
        store = f"sqlite:///{folder / 'mlflow.db'}"
    else:
        psycopg = pytest.importorskip("psycopg", reason="psycopg, the extra postgresql, is not installed")
        address = request.getfixturevalue("postgresql")
        with psycopg.connect(address, autocommit=True) as database:
            database.execute("CREATE DATABASE mlflow")
        store = address.replace("postgresql://", "postgresql+psycopg://").removesuffix("postgres") + "mlflow"
    command = ["server", "--backend-store-uri", store, "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with serving(*command, folder=folder, answers_at="/health") as url:
        yield url


@pytest.fixture
def place(server, untouched, point_to):
    """A working folder that tracks there."""
    point_to(server)
    return untouched


def test_from_clips_to_a_champion_that_answers(place, few_clips):
    def done(*arguments):
        result = place.advtrack(*arguments)
        assert result.exit_code == 0, result.output
        return result.output

    cell = ["--dataset", "esc50", "--model", "resnet18"]
    done("features", *cell[:2], "--data-dir", str(few_clips), "--height", "32", "--width", "32")
    done("train", *cell, "--folds", "2", "--epochs", "1")
    refused = place.advtrack("promote", *cell, "--victim", "1", "--min-accuracy", "1", "--max-fooling-rate", "0.5")
    assert refused.exit_code == 2 and "--max-fooling-rate: no finished search" in refused.output
    assert registry.by_alias(NAME, "champion") is None
    done("promote", *cell, "--victim", "1")
    done("promote", *cell, "--victim", "2")
    assert registry.by_alias(NAME, "champion").version == "2"
    done("promote", *cell, "--rollback")
    champion = registry.by_alias(NAME, "champion")
    assert champion.version == "1"
    fold = lookup.get(champion.run_id)
    assert fold.data.metrics["test_accuracy"] == pytest.approx(float(champion.tags["accuracy"]), abs=1e-4)
    assert fold.data.metrics["system/cpu_utilization_percentage"] >= 0
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    (answer,) = model.predict({"waveform": np.zeros((1, 8000), np.float32)}, params={"sampling_rate": 8000})
    assert answer["probabilities"].keys() == {"tone", "noise"}


def test_many_may_register_at_once(place):
    def register(number):
        run = MlflowClient().create_run("0").info.run_id
        return registry.register("crowded", f"runs:/{run}/victim", run, {"fold": number}, "a fold")

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(register, range(24)))
    assert sorted(int(one.version) for one in made) == list(range(1, 25))
    assert {one.version: one.tags["fold"] for one in registry.versions("crowded")} == {
        one.version: one.tags["fold"] for one in made
    }
