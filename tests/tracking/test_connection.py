"""Tracking stores that answer, and those that do not, are slow, or are something else."""

import os
import socket
import stat
import threading
from pathlib import Path
from time import monotonic

import pytest

from advtrack.errors import InputError
from advtrack.tracking import connection
from advtrack.tracking.connection import connect


def test_a_store_that_works_is_connected_to_without_leaving_runs(store):
    connect()
    connect()
    experiments = [e.experiment_id for e in store.search_experiments()]
    assert not store.search_runs(experiments)
    assert [e.name for e in store.search_experiments()].count(connection.EXPERIMENT) == 1


@pytest.fixture
def answering(monkeypatch):
    """Servers on the loopback address that give one answer to everything, or none; their address."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    listeners, held = [], []

    def start(answers):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def loop():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                asked = connection.recv(4096)
                answer = answers.get(asked.split(b" ")[1] if b" " in asked else b"", answers.get(b""))
                if answer is None:
                    held.append(connection)
                else:
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=loop, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for opened in (*listeners, *held):
        opened.close()


def http(code, body=b""):
    return b"HTTP/1.1 %d x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (code, len(body), body)


def refused(uri):
    start = monotonic()
    with pytest.raises(InputError) as caught:
        connect()
    assert monotonic() - start < 10
    assert f"the MLflow tracking store {uri} cannot be used" in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_server_that_is_down_is_named(point_to, answering):
    point_to("http://127.0.0.1:9")
    assert "refused" in refused("http://127.0.0.1:9")


@pytest.mark.parametrize(
    "answers",
    [
        {b"": http(503)},
        {b"": http(404)},
        {b"": http(200, b"<html>")},
        {b"": b"SSH-2.0-OpenSSH\r\n"},
        {b"/health": http(200, b"OK"), b"": http(500, b"the database is gone")},  # MLflow's client would try again
    ],
)
def test_a_server_that_answers_amiss_is_named(point_to, answering, answers):
    uri = answering(answers)
    point_to(uri)
    refused(uri)


def test_a_server_that_answers_amiss_is_named_when_the_experiment_is_given_too(point_to, answering, monkeypatch):
    uri = answering({b"": http(503)})
    point_to(uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "1")
    assert "503" in refused(uri)


def test_a_server_that_does_not_answer_is_named_in_time(point_to, answering, monkeypatch):
    assert connection._PROBE_SECONDS < 10
    monkeypatch.setattr(connection, "_PROBE_SECONDS", 1)
    for answers in ({}, {b"/health": http(200, b"OK")}):
        uri = answering(answers)
        point_to(uri)
        assert "timed out" in refused(uri)
    assert not {"MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"} & os.environ.keys()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:port", "foo://bar", "sqlite:////nowhere/at/all/mlflow.db"])
def test_an_address_of_nothing_is_named(point_to, uri):
    point_to(uri)
    refused(uri)


def test_a_file_that_is_no_database_is_named(point_to, tmp_path):
    (tmp_path / "mlflow.db").write_text("no database at all " * 99)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    point_to(uri)
    assert "not a database" in refused(uri)


@pytest.fixture
def read_only(tmp_path):
    """A folder that nothing can be written to."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):
        pytest.skip("permission bits do not bind this user (root): nothing is read-only to it")
    yield folder
    folder.chmod(stat.S_IRWXU)


def test_a_read_only_folder_is_named(point_to, read_only):
    uri = f"sqlite:///{read_only / 'mlflow.db'}"
    point_to(uri)
    assert "not writable" in refused(uri)
    assert not list(Path(read_only).iterdir())


@pytest.mark.parametrize("answers", [None, {}])
def test_a_database_server_that_is_down_or_silent_is_named_without_its_password(
    point_to, answering, monkeypatch, answers
):
    """MLflow would try it for minutes."""
    pytest.importorskip("psycopg", reason="psycopg, the extra postgresql, is not installed")
    monkeypatch.setattr(connection, "_PROBE_SECONDS", 2)  # the least that psycopg knows
    address = "127.0.0.1:9" if answers is None else answering(answers).removeprefix("http://")
    point_to(f"postgresql+psycopg://someone:secret@{address}/mlflow")
    assert "secret" not in refused(f"postgresql+psycopg://someone:***@{address}/mlflow")
