"""Command ``dashboard``: the MLflow UI and the Optuna dashboard, side by side until Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from urllib.error import HTTPError
from urllib.request import urlopen

from advtrack.errors import InputError
from advtrack.processes import interruptible, interrupts_put_off, terminable
from advtrack.search.storage import artifact_directory, dashboard_storage, open_storage
from advtrack.tracking.connection import store_uri

logger = logging.getLogger("advtrack")

_START_SECONDS = 120


@dataclass(frozen=True)
class Dashboards:
    """Options of the command; those of the command line of the same name."""

    storage: str
    host: str
    mlflow_port: int
    optuna_port: int


def run(options: Dashboards) -> None:
    """Serve both until Ctrl-C or SIGTERM, or until one of them ends.

    Raises
    ------
    InputError
        A port is taken or asked for twice, the storage cannot be used, or a server does not start or ends by itself.
    """
    open_storage(options.storage)  # a wrong one is named now, and a new one made
    artifacts = artifact_directory(options.storage)
    artifacts.mkdir(parents=True, exist_ok=True)
    tool = Path(sys.executable).with_name("optuna-dashboard")
    optuna = [str(tool), dashboard_storage(options.storage), "--artifact-dir", str(artifacts), "--quiet"]
    mlflow = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store_uri()]
    wanted = [("Optuna dashboard", "--optuna-port", options.optuna_port, optuna)]
    addresses, commands = {}, {}
    if store_uri().startswith("http"):
        addresses["MLflow UI"] = store_uri()  # a tracking server has its own
    else:
        wanted.append(("MLflow UI", "--mlflow-port", options.mlflow_port, mlflow))
    if len(wanted) > 1 and options.mlflow_port == options.optuna_port:
        raise InputError(f"--mlflow-port {options.mlflow_port}: that is --optuna-port too; choose another port")
    for name, option, port, command in wanted:
        _check_free(options.host, option, port)
        addresses[name] = f"http://{options.host}:{port}"
        commands[addresses[name]] = [*command, "--host", options.host, "--port", str(port)]
    _serve(commands, addresses)


def _check_free(host: str, option: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{option} {port}: {error.strerror} on {host}; choose another port") from None


def _serve(commands: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> None:
    """Run servers, by the address where each answers, and say the addresses once all do."""

    servers: dict[str, _Server] = {}
    with terminable(), interrupts_put_off():
        try:
            for address, command in commands.items():
                servers[address] = _Server.start(command)
            with interruptible():
                for address in commands:
                    _await(address, servers)
                for name, address in addresses.items():
                    logger.info("%s: %s", name, address)
                logger.info("Ctrl-C ends both")
                while True:
                    _check_alive(servers)
                    time.sleep(0.5)
        except KeyboardInterrupt:
            pass
        finally:
            for server in servers.values():
                server.send(signal.SIGTERM)  # all of them, before any is waited for
            for server in servers.values():
                server.end()


@dataclass(frozen=True)
class _Server:
    """A server in a session of its own: MLflow's has further processes, which must end with it."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(cls, command: Sequence[str]) -> _Server:
        log = TemporaryFile()  # noqa: SIM115  # a pipe that nobody reads would fill up
        return cls(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True), log)

    def last_line(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")

    def send(self, how: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)

    def end(self) -> None:
        """Wait until it has followed SIGTERM; it is killed if it does not."""
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.process.wait()
        self.log.close()


def _await(address: str, servers: Mapping[str, _Server]) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        _check_alive(servers)
        try:
            urlopen(address, timeout=5).close()
            return
        except HTTPError:
            return  # an answer all the same
        except OSError:
            time.sleep(0.3)
    raise InputError(f"{address} does not answer after {_START_SECONDS} s: {servers[address].last_line()}")


def _check_alive(servers: Mapping[str, _Server]) -> None:
    for address, server in servers.items():
        if server.process.poll() is not None:
            raise InputError(f"the server of {address} has ended: {server.last_line()}")
