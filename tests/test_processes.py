"""Which processes live, and how one takes its end."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest

from advtrack import processes
from advtrack.processes import Process, Terminated, Watch, terminable, termination_put_off


def test_this_process_lives_and_is_here():
    this = Process.this()
    assert this.lives() and this.here() and this.pid == os.getpid()
    assert not replace(this, since=this.since - 60).lives()  # an earlier one of the same number
    for other in ({"host": "elsewhere"}, {"boot": "another"}, {"namespace": "pid:[1]"}):
        assert not replace(this, **other).here()


def test_one_that_has_ended_does_not_live_even_unburied():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = replace(Process.this(), pid=child.pid, since=psutil.Process(child.pid).create_time())
    assert process.lives()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still there as a zombie
    assert not process.lives()
    child.communicate()
    assert not process.lives()


def test_of_processes_seen_from_here_their_life_tells_and_of_others_their_heart_by_this_ones_clock(monkeypatch):
    now, watch, this = [1000.0], Watch(), Process.this()
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    namesake = replace(this, namespace="pid:[1]")  # in another container of the same name

    def abandoned(process, beat):
        return watch.abandoned(("run", process and process.pid), process, beat)

    assert not abandoned(this, None) and abandoned(replace(this, since=this.since - 60), None)
    for beat in (5.0, 3.0):  # by a clock that is set back
        for seconds in (0, 119):
            now[0] += seconds
            assert not abandoned(namesake, beat) and not abandoned(this, None)
    now[0] += 2
    assert abandoned(namesake, beat) and not abandoned(namesake, 7.0) and not abandoned(this, None)
    assert not abandoned(None, None)
    now[0] += 21
    assert abandoned(None, None) and not abandoned(namesake, 7.0)


def test_a_sign_of_life_that_does_not_get_through_is_followed_by_the_next(monkeypatch, caplog):
    monkeypatch.setattr(processes, "_HEARTBEAT", 0.01)
    told, again = [], threading.Event()

    def unsteady():
        told.append(1)
        if len(told) == 1:
            raise OSError("the database is away")
        again.set()

    with processes.beating(unsteady, "trial 7"):
        assert again.wait(10)
    seen = len(told)
    assert "trial 7: no sign of life got through" in caplog.text and "the database is away" in caplog.text
    assert not any(thread.name.endswith("(beat_on)") for thread in threading.enumerate()) and len(told) == seen


def test_a_termination_is_put_off_to_the_end_of_the_block():
    reached = False
    with terminable():
        with pytest.raises(Terminated), termination_put_off() as came:
            assert not came()
            os.kill(os.getpid(), signal.SIGTERM)
            reached = came()
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("SIGTERM did not raise")
    assert reached


def test_no_termination_comes_to_other_threads():
    def work():
        with termination_put_off() as came:
            return came()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is False
