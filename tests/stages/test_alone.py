"""Two processes and one piece of work."""

import subprocess
import sys

from advtrack.stages.alone import alone

WAITS = """
import logging, sys
from pathlib import Path
from advtrack.stages.alone import alone
logging.basicConfig(level=logging.INFO)
with alone(Path(sys.argv[1]), "works"):
    print("mine", flush=True)
"""


def test_the_second_waits_for_the_first_and_says_so(tmp_path):
    lock = tmp_path / "made" / "work.lock"
    with alone(lock, "works"):
        second = subprocess.Popen(
            [sys.executable, "-c", WAITS, str(lock)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert "another process works: waiting" in second.stderr.readline()
        assert second.poll() is None
    assert second.communicate(timeout=60)[0] == "mine\n"
