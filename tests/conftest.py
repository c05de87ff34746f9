"""What holds for every test; a real MLflow store in SQLite, copied from one made once; servers; real audio."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import mlflow
import pytest
import requests
import torch
from mlflow.tracking import MlflowClient

from advtrack.tracking import registry

#: What ``mlflow run`` and a user's shell may have set.
_SETTINGS = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_REGISTRY_URI")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """The file of a store without runs: MLflow takes seconds to make one."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def point_to(monkeypatch):
    """Choose a tracking store for this test."""
    before = mlflow.get_tracking_uri()
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)

    def choose(uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)

    yield choose
    mlflow.set_tracking_uri(before)


@pytest.fixture
def store(empty_store, point_to, tmp_path, monkeypatch):
    """An MLflow client of this test's own store; artifacts go to this test's folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    point_to(f"sqlite:///{tmp_path / 'mlflow.db'}")
    return MlflowClient()


@pytest.fixture
def registered(store):
    """Register a version as training does; the version."""

    def make(dataset="synthetic", representation="stft", model="alexnet", alias=None, **tags):
        run = store.create_run("0").info.run_id
        name = registry.model_name(dataset, representation, model)
        version = registry.register(
            name, f"runs:/{run}/victim", run, {"fold": 0, "protocol": "paper", **tags}, "a fold"
        )
        if alias:
            registry.set_alias(version, alias)
        return version

    return make


@pytest.fixture(scope="session")
def free_port():
    """A port of this machine where nobody listens; another with each call."""

    def probed():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return probed


@pytest.fixture(scope="session")
def serving(free_port):
    """A context in which an ``mlflow`` command serves from a folder, and answers at a path; its address."""

    @contextmanager
    def served(*command, folder, answers_at, env=None):
        port = free_port()
        whole = [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port)]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(whole, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        address, until = f"http://127.0.0.1:{port}", monotonic() + 120
        try:
            while True:
                try:
                    requests.get(f"{address}{answers_at}", timeout=5).raise_for_status()
                    break
                except requests.RequestException:
                    assert process.poll() is None and monotonic() < until, (folder / "log").read_text()
                    sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()

    return served


@pytest.fixture(scope="session")
def postgresql(free_port):
    """A PostgreSQL server of its own; the address of its database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL server is installed here (Debian's package is called postgresql)")
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="advtrack-pg-"))
    port = free_port()
    if as_postgres:
        shutil.chown(folder, "postgres")

    def pg(*command):
        subprocess.run([*as_postgres, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    pg(str(found[-1] / "initdb"), "-D", data, "-A", "trust", "-U", "advtrack")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    pg(str(found[-1] / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield f"postgresql://advtrack@127.0.0.1:{port}/postgres"
    pg(str(found[-1] / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def full_disk():
    """A context in which no file may grow beyond so many bytes."""

    @contextmanager
    def full(room):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return full


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """On networks this small, and on busy cores, several threads wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    sibling = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("ADVTRACK_TEST_DATA", sibling))
    if not folder.is_dir():
        pytest.skip("no real audio: set ADVTRACK_TEST_DATA to a folder with ESC-10/ and UrbanSound8K-sample/")
    return folder
