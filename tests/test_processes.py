"""Which processes live, and how one takes its end."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest

from advtrack.processes import Process, Terminated, terminable, termination_put_off


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
