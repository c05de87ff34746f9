"""Which processes live."""

import os
import subprocess
import sys
from dataclasses import replace

import psutil

from advtrack.processes import Process


def test_this_process_lives_and_is_here():
    this = Process.this()
    assert this.lives() and this.here() and this.pid == os.getpid()
    assert not replace(this, since=this.since - 60).lives()  # an earlier one of the same number
    assert not replace(this, host="elsewhere").here()


def test_one_that_has_ended_does_not_live_even_unburied():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = replace(Process.this(), pid=child.pid, since=psutil.Process(child.pid).create_time())
    assert process.lives()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still there as a zombie
    assert not process.lives()
    child.communicate()
    assert not process.lives()
