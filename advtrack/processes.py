"""Which process something belongs to, and whether that process still lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil


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
    """

    host: str
    pid: int
    since: float

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def here(self) -> bool:
        """Whether it is one of this machine, where it can be told whether it lives."""
        return self.host == socket.gethostname()

    def lives(self) -> bool:
        """Whether this machine has a process of this number that began then, by a clock that may have been set.

        One that has ended, and that its parent has not asked after yet, does not live.
        """
        try:
            found = psutil.Process(self.pid)
            return abs(found.create_time() - self.since) < 2 and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
