"""Which process something belongs to, whether that process still lives and shows it, and how this one takes its end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType

import psutil

from advtrack.errors import reason

logger = logging.getLogger("advtrack")

# Seconds between two signs of life, and without one after which what a process of another machine or container holds
# counts as abandoned. Of a process that is seen from here it is known whether it lives.
_HEARTBEAT, _ABANDONED = 15.0, 120.0
# Seconds after which what does not even say whose it is counts as abandoned.
_NAMELESS = 20.0


@dataclass(frozen=True)
class Process:
    """A process of some machine; its number alone, in a container, soon belongs to another.

    Attributes
    ----------
    host : str
        Name of the machine.
    pid : int
        Its number there.
    since : float
        When it began, in seconds since 1970.
    boot, namespace : str
        Which start of which machine, and which of its numberings of processes: containers have numberings of their own,
        perhaps under one name. Empty where the system tells neither.
    """

    host: str
    pid: int
    since: float
    boot: str = ""
    namespace: str = ""

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time(), *_numbering())

    def here(self) -> bool:
        """Whether it is one that is seen from here, so that it can be told whether it lives."""
        return (self.host, self.boot, self.namespace) == (socket.gethostname(), *_numbering())

    def lives(self) -> bool:
        """Whether this machine has a process of this number that began then, by a clock that may have been set.

        One that has ended, and that its parent has not asked after yet, does not live.
        """
        try:
            found = psutil.Process(self.pid)
            return abs(found.create_time() - self.since) < 2 and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@cache
def _numbering() -> tuple[str, str]:
    """Identities of this machine's start and of the PID namespace, as Linux gives them."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return boot.read_text().strip() if boot.exists() else "", str(namespace.readlink()) if namespace.exists() else ""


def end_with_parent() -> None:
    """Let this process, begun by `multiprocessing`, end with its parent: alone it would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def beating(beat: Callable[[], object], name: str) -> Iterator[None]:
    """Give a sign of life for what is named, every few seconds; where one does not get through, the next may."""
    over = threading.Event()

    def beat_on() -> None:
        while not over.wait(_HEARTBEAT):
            try:
                beat()
            except Exception as error:  # each storage raises its own
                logger.warning("%s: no sign of life got through (%s)", name, reason(error))

    thread = threading.Thread(target=beat_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Watch:
    """Tells what is abandoned of all that processes hold, here and elsewhere, as long as it is asked."""

    def __init__(self) -> None:
        # The last sign of life of each, and when that one, or that there is none yet, was first seen: by this process's
        # clock, since those of other machines may be wrong.
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def abandoned(self, held: Hashable, process: Process | None, beat: object) -> bool:
        """Whether nobody holds something any more.

        Parameters
        ----------
        held : hashable
            What it is.
        process : Process or None
            Who holds it, as far as that is known. One that is seen from here is asked whether it lives; of any other
            its signs of life tell.
        beat : object
            The last sign of life, None for none yet; each differs from the one before.
        """
        if process and process.here():
            return not process.lives()
        now = time.monotonic()
        if held not in self._seen or self._seen[held][0] != beat:
            self._seen[held] = beat, now
        return now - self._seen[held][1] > (_NAMELESS if beat is None else _ABANDONED)


class Terminated(KeyboardInterrupt):
    """SIGTERM came, as from a scheduler that wants the machine back; whatever ends on Ctrl-C ends on it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into `Terminated`, so that what is open gets closed. In other threads none comes."""

    def leave(_: int, __: FrameType | None) -> None:
        raise Terminated

    if not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Interrupts:
    """Takes signals that wait: whether one that comes just now is let through, and which one came before."""

    def __init__(self, handlers: dict[int, Callable[[int, FrameType | None], object]]) -> None:
        self._handlers = handlers
        self.let_through = False
        self.waiting: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.let_through or (self.waiting is not None and number == signal.SIGINT):
            self._pass_on(number, frame)
        else:
            self.waiting = number

    def pass_on_what_waits(self) -> None:
        if self.waiting is not None:
            self._pass_on(self.waiting, None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        # What the interrupt makes its receiver close is closed in peace.
        self.let_through, self.waiting = False, None
        self._handlers[number](number, frame)


_interrupts: _Interrupts | None = None


@contextmanager
def interrupts_put_off() -> Iterator[Callable[[], bool]]:
    """Put SIGINT and SIGTERM off until the block ends or comes to a part that is `interruptible`.

    One that came while a library holds a lock or has a transaction open would leave it so, and whoever needs it next
    waiting. Ctrl-C after another signal does not wait, lest nothing but SIGKILL ends a process whose database is away.
    Signals that are ignored, or end the process without a word, stay as they are; in other threads than the main one
    none comes. The block gets a function that tells whether one waits.
    """
    global _interrupts
    if not _in_main_thread():
        yield lambda: False
        return
    outer, before = _interrupts, {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {int(number): handler for number, handler in before.items() if callable(handler)}
    own = _interrupts = _Interrupts(handlers)
    for number in handlers:
        signal.signal(number, own)
    try:
        yield lambda: own.waiting is not None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _interrupts = outer
    own.pass_on_what_waits()


@contextmanager
def interruptible() -> Iterator[None]:
    """A part of a block of `interrupts_put_off` that an interrupt may end at any point."""
    interrupts = _interrupts
    if interrupts is None or not _in_main_thread():
        yield
        return
    try:
        interrupts.let_through = True
        interrupts.pass_on_what_waits()
        yield
    finally:
        interrupts.let_through = False
