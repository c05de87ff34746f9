"""More processes for one search: what reaches them, and what becomes of them if one does not start."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch

from advtrack.errors import InputError
from advtrack.processes import interrupts_put_off
from advtrack.search import workers
from advtrack.search.workers import helped


def test_an_interrupt_reaches_no_worker_and_comes_here_later():
    """A new process would otherwise die of it, in a traceback, as long as it loads its modules."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    asks = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    begun = []
    try:
        with pytest.raises(KeyboardInterrupt), interrupts_put_off(), workers._without_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            begun.append(subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True))
    finally:
        signal.signal(signal.SIGINT, before)
    assert [process.stdout for process in begun] == ["True\n"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_that_have_begun_end_if_another_one_cannot(monkeypatch):
    begun = []

    class Begun:
        def __init__(self, target, args):
            self.done = []

        def start(self):
            if begun:
                raise OSError("Too many open files")
            begun.append(self)

        def __getattr__(self, name):
            return lambda *_: self.done.append(name)

    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(context, "Process", Begun, raising=False)
    with pytest.raises(OSError, match="Too many open files"), helped(4, print):
        pytest.fail("it went on without them")
    assert [one.done for one in begun] == [["terminate", "join", "kill", "join"]]


def test_a_worker_that_lost_the_storage_says_so_in_a_line(monkeypatch, caplog):
    def lost(index):
        raise InputError(f"--storage {index}: was lost")

    monkeypatch.setattr(workers, "end_with_parent", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            workers._helper(lost, 1, torch.get_num_threads())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 1
    assert "helped has ended: --storage 1: was lost" in caplog.text
