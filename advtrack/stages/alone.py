"""Work that only one process at a time may do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger("advtrack")


@contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Wait until no other process holds ``lock``, a file that is made; say ``what`` the other does meanwhile."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        logger.info("another process %s: waiting for it", what)
        held.acquire()
    try:
        yield
    finally:
        held.release()
