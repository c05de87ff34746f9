"""Where studies are kept, and what a process that was killed there leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from advtrack.errors import InputError
from advtrack.search.storage import open_storage


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite://", "sqlite:///file::memory:?uri=true",
        "sqlite:///file:studies?mode=memory&cache=shared&uri=true",
    ],
)  # fmt: skip
def test_a_storage_in_memory_is_refused(url, tmp_path, monkeypatch):
    """No other process of a search could see it, nor a later command."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        open_storage(url)
    told = str(refused.value)
    assert told.startswith(f"--storage {url}: a database in memory") and "\n" not in told and not [*tmp_path.iterdir()]


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """A study of one trial in a journal in a folder of the current one; its address and its file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    url = "journal:///sub/studies"
    study = optuna.create_study(study_name="study", storage=open_storage(url))
    study.tell(study.ask(), 1.0)
    return url, tmp_path / "sub" / "studies"


def test_a_line_that_was_torn_by_a_kill_is_cut_off(journal):
    url, file = journal
    open_before = optuna.load_study(study_name="study", storage=open_storage(url))
    with file.open("ab") as end:
        end.write(b'{"op_code": 8, "worker_id": "some')
    open_before.tell(open_before.ask(), 2.0)
    with file.open("ab") as end:
        end.write(b"{")
    after = optuna.load_study(study_name="study", storage=open_storage(url))
    after.tell(after.ask(), 3.0)
    for study in (open_before, after, optuna.load_study(study_name="study", storage=open_storage(url))):
        assert [trial.value for trial in study.trials] == [1.0, 2.0, 3.0]


def test_a_journal_of_one_torn_line_is_empty(tmp_path):
    (tmp_path / "studies").write_bytes(b'{"op_code"')
    storage = open_storage(f"journal:///{tmp_path / 'studies'}")
    optuna.create_study(study_name="study", storage=storage)
    assert optuna.get_all_study_names(storage) == ["study"]


def test_a_lock_that_a_killed_process_has_left_in_a_subfolder_can_be_seen_to_age(journal):
    """Optuna waits for ever for a lock that it cannot look at."""
    url, file = journal
    holds = (
        "import os, signal; from advtrack.search.storage import open_storage; "
        f"open_storage({url!r})._backend._lock.acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = str(Path(__file__).parents[2])
    killed = subprocess.run([sys.executable, "-c", holds], env={**os.environ, "PYTHONPATH": root}, check=False)
    assert killed.returncode == -signal.SIGKILL
    lock = file.with_name("studies.lock")
    assert lock.is_symlink() and lock.exists() and lock.samefile(file)
