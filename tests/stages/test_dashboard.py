"""The two servers begin, answer and end together."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from advtrack.errors import InputError
from advtrack.stages.dashboard import Dashboards, run


@pytest.mark.parametrize(("how", "storage"), [(signal.SIGINT, "sqlite:///optuna.db"), (signal.SIGTERM, "journal:///s")])
def test_both_answer_and_end_with_the_command(tmp_path, free_port, how, storage):
    ports = free_port(), free_port()
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "advtrack", "dashboard", "--storage", storage]
    process = subprocess.Popen(
        [*command, "--mlflow-port", str(ports[0]), "--optuna-port", str(ports[1])],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell runs behind
        env={**os.environ, "PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"},
    )  # fmt: skip
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        addresses = dict(re.findall(r"(MLflow UI|Optuna dashboard): (\S+)", said))
        assert addresses == {
            "MLflow UI": f"http://127.0.0.1:{ports[0]}",
            "Optuna dashboard": f"http://127.0.0.1:{ports[1]}",
        }
        pages = {name: urlopen(address, timeout=20).read().decode() for name, address in addresses.items()}
        assert "MLflow" in pages["MLflow UI"] and "Optuna" in pages["Optuna dashboard"]
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        assert process.wait(timeout=60) == 0
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert gone and not alive
    finally:
        process.kill()
        process.stdout.close()


def test_a_port_that_is_taken_is_named(tmp_path, free_port, monkeypatch, store):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--optuna-port {port}: Address already in use.*another port"):
            run(Dashboards("sqlite:///optuna.db", "127.0.0.1", free_port(), port))


def test_a_port_for_both_is_refused(store, free_port):
    port = free_port()
    with pytest.raises(InputError, match=f"--mlflow-port {port}: that is --optuna-port too; choose another port"):
        run(Dashboards("sqlite:///optuna.db", "127.0.0.1", port, port))
