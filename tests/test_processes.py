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
from advtrack.processes import (
    Process,
    Terminated,
    Watch,
    interruptible,
    interrupts_put_off,
    terminable,
)


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
        with pytest.raises(Terminated), interrupts_put_off() as came:
            assert not came()
            os.kill(os.getpid(), signal.SIGTERM)
            reached = came()
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("SIGTERM did not raise")
    assert reached


def test_no_termination_comes_to_other_threads():
    def work():
        with interrupts_put_off() as came:
            return came()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is False


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.fixture
def hearing_interrupts():
    """Interrupts are ignored in what a shell has sent to the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hearing_interrupts")
def test_an_interrupt_waits_for_a_part_that_may_be_interrupted():
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts_put_off():
        interrupt()
        reached.append("after it")
        with interruptible():
            pytest.fail("what waited was not passed on")
    assert reached
    with pytest.raises(KeyboardInterrupt), interrupts_put_off():
        with interruptible():
            reached.append("not interrupted")
        with interruptible():
            interrupt()
            pytest.fail("it was put off")
    with pytest.raises(KeyboardInterrupt):
        with interrupts_put_off():
            interrupt()
            reached.append("the block's end")
        pytest.fail("the block swallowed it")
    assert reached == ["after it", "not interrupted", "the block's end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("hearing_interrupts")
def test_what_an_interrupt_makes_close_closes_in_peace_unless_it_is_repeated():
    closed = []
    with pytest.raises(KeyboardInterrupt), interrupts_put_off():
        try:
            with interruptible():
                interrupt()
        finally:
            interrupt()
            closed.append("once more")
            with pytest.raises(KeyboardInterrupt):
                interrupt()
                pytest.fail("a second one waited too")
            closed.append("twice more")
    assert closed == ["once more", "twice more"]


@pytest.mark.usefixtures("hearing_interrupts")
def test_a_termination_waits_as_an_interrupt_does_where_it_is_heard():
    with terminable(), pytest.raises(Terminated), interrupts_put_off():
        interrupt(signal.SIGTERM)
        with interruptible():
            pytest.fail("what waited was not passed on")
    with interrupts_put_off():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_outside_of_such_a_block_and_in_other_threads_nothing_is_put_off():
    def work():
        with interrupts_put_off(), interruptible():
            return signal.getsignal(signal.SIGTERM)

    with interruptible():
        before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is before


@pytest.mark.usefixtures("hearing_interrupts")
def test_a_termination_that_is_repeated_waits_and_ctrl_c_after_it_does_not():
    """Schedulers may send more than one before they kill."""
    with terminable(), pytest.raises(Terminated), interrupts_put_off() as waits:
        interrupt(signal.SIGTERM)
        interrupt(signal.SIGTERM)
        assert waits()
        with interruptible():
            pytest.fail("what waited was not passed on")
    closed = []
    with terminable(), pytest.raises(KeyboardInterrupt), interrupts_put_off():
        interrupt(signal.SIGTERM)
        closed.append("until then")
        interrupt()
        pytest.fail("it waited too")
    assert closed
