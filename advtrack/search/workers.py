"""More processes for one search on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import torch

from advtrack.errors import InputError
from advtrack.processes import end_with_parent

logger = logging.getLogger("advtrack")

# Seconds that a process has to give up what it holds.
_GRACE = 10.0


@contextmanager
def helped(workers: int, help_: Callable[[int], None]) -> Iterator[None]:
    """Let ``workers`` processes, of which this is one, do the same, and share the processor's cores between them.

    Parameters
    ----------
    workers : int
        At least 1, which is this process alone.
    help_ : callable
        What the others do, told their number from 1 on; it can be pickled. Whatever of it is left when this process is
        done is cut short, as if by an interrupt.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    context = multiprocessing.get_context("spawn")
    others = []
    try:
        for index in range(1, workers):
            other = context.Process(target=_helper, args=(help_, index, share))
            with _without_interrupts():
                other.start()
            others.append(other)
        torch.set_num_threads(share)
        yield
    finally:
        torch.set_num_threads(threads)
        for other in others:
            other.terminate()
        for other in others:
            other.join(_GRACE)
            other.kill()
            other.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Begin processes that SIGINT does not reach, from their first moment on: Ctrl-C is for the one that was called.

    This one still gets it, by another thread if there is one.
    """
    resource_tracker.ensure_running()  # which lets it through again once it runs
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _helper(help_: Callable[[int], None], index: int, threads: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not at once: what it holds in the storage is given up first
    end_with_parent()
    torch.set_num_threads(threads)
    try:
        help_(index)
    except InputError as error:
        logger.warning("a process that helped has ended: %s", error)
        sys.exit(1)
