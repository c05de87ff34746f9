"""Where Optuna keeps studies: a database or a journal file, and the folder of pictures beside it."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna import get_all_study_names
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage as Storage
from optuna.storages import JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from advtrack.errors import InputError, reason, redacted

_JOURNAL = "journal:///"
# Seconds to wait for another process's write, of which SQLite allows one at a time.
_PATIENCE = 60
# How often a storage is opened while others make its tables.
_OPENINGS = 10


def open_storage(url: str) -> Storage:
    """Open, or create, the storage of studies: a database (``sqlite:///...``) or a file (``journal:///path``).

    Raises
    ------
    InputError
        The URL names no storage, or it cannot be used.
    """
    if _in_memory(url):
        raise InputError(
            f"--storage {url}: a database in memory ends with its process, and no other one can share it; "
            "give a file, as sqlite:///optuna.db"
        )
    try:
        for _ in range(_OPENINGS - 1):
            try:
                return _opened(url)
            except Exception as error:
                if not re.search("already exists|alembic_version", str(error)):
                    raise
            time.sleep(random.uniform(0.5, 3))  # other processes are making the tables at this very moment
        return _opened(url)
    except Exception as error:  # each database driver raises its own
        raise InputError(
            f"--storage {redacted(url)}: cannot be used ({redacted(reason(error))}); give an Optuna storage URL"
        ) from error


@contextmanager
def studies_kept(url: str, storage: Storage, study_name: str) -> Iterator[None]:
    """Say in one line that a storage was lost, or a study deleted from it, while it was searched.

    Raises
    ------
    InputError
        So it is.
    """
    try:
        yield
    except (StorageInternalError, DBAPIError) as error:
        raise InputError(
            f"--storage {redacted(url)}: was lost ({redacted(reason(error.__cause__ or error))}); finished trials are "
            "kept there: once it is back, the same command goes on"
        ) from error
    except KeyError as error:
        if study_name in get_all_study_names(storage):
            raise
        raise InputError(
            f"the study {study_name} was deleted while it was searched; the same command begins anew"
        ) from error


def _in_memory(url: str) -> bool:
    """Whether a URL is that of an SQLite database without a file."""
    if not url.startswith("sqlite"):
        return False
    with suppress(ArgumentError):  # what cannot be read is told by its opening
        parsed = make_url(url)
        return parsed.database in (None, "", ":memory:", "file::memory:") or parsed.query.get("mode") == "memory"
    return False


def _opened(url: str) -> Storage:
    if url.startswith(_JOURNAL):
        # The lock is a link to the file, which is looked up from the file's folder.
        file = str(Path(url.removeprefix(_JOURNAL)).absolute())
        return get_storage(JournalStorage(JournalFileBackend(file, _MendingLock(file))))
    # A server may have closed a connection that was idle while a trial ran.
    engine = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    return get_storage(RDBStorage(url, engine_kwargs=engine))


class _MendingLock(JournalFileSymlinkLock):
    """A lock of a journal whose holder finds whole lines: what a killed process has left of one is cut off.

    What is written next would be glued to it, and nobody could read the file any more.
    """

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self._journal = Path(file)

    def acquire(self) -> bool:
        super().acquire()
        try:
            with self._journal.open("r+b") as journal:
                if journal.seek(0, os.SEEK_END):
                    journal.seek(-1, os.SEEK_END)
                    if journal.read() != b"\n":
                        journal.truncate(self._journal.read_bytes().rfind(b"\n") + 1)
        except BaseException:
            self.release()
            raise
        return True


def dashboard_storage(url: str) -> str:
    """A storage as the command optuna-dashboard wants it: of a journal, the path."""
    return url.removeprefix(_JOURNAL)


def artifact_directory(url: str) -> Path:
    """Where the pictures of the studies in a storage lie: beside its file, or in the current folder."""
    for prefix in (_JOURNAL, "sqlite:///"):
        if url.startswith(prefix):
            return Path(url.removeprefix(prefix)).parent / "optuna-artifacts"
    return Path("optuna-artifacts")
