"""One small pipeline, run once for all tests here: generated clips, 32 x 32, ResNet-18, one fold, six short attacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from advtrack.cli import cli

OVERRIDES = (
    "epochs=6 folds=1 representations=stft models=resnet18 height=32 width=32 batch_size=16 trials=6 "
    "samples=6,pia=2,jsma=3 max_iter=10,jsma=20,pia=10"
)


@dataclass(frozen=True)
class Place:
    """A working folder with its own tracking store."""

    folder: Path

    def advtrack(self, *arguments: str) -> Result:
        """Call the command line here, in this process."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            return CliRunner().invoke(cli, list(arguments))
        finally:
            os.chdir(before)


def place(folder: Path) -> Iterator[Place]:
    """A place with a tracking store of its own, as long as it is needed."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield Place(folder)
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def overrides() -> str:
    """What makes the demo preset this small."""
    return OVERRIDES


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Place]:
    """A new working folder."""
    yield from place(tmp_path)


@pytest.fixture
def empty(tmp_path: Path, empty_store: Path) -> Iterator[Place]:
    """A new working folder with a tracking store that has no runs yet."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    yield from place(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Result]]:
    """A working folder in which the pipeline has run, and what it printed."""
    for here in place(tmp_path_factory.mktemp("pipeline")):
        yield here, here.advtrack("main", "--overrides", OVERRIDES)


@pytest.fixture(scope="session")
def few_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the layout of ESC-50: two classes, tones and noise, twenty recordings each."""
    folder, random = tmp_path_factory.mktemp("few"), np.random.default_rng(0)
    (folder / "audio").mkdir()
    (folder / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for i in range(40):
        time = np.arange(8000) / 8000
        sound = np.sin(2 * np.pi * (200 + 50 * i) * time) if i % 2 else random.normal(size=8000)
        soundfile.write(folder / "audio" / f"{i}.wav", sound / 4, 8000)
        rows.append(f"{i}.wav,{1 + i % 5},{i % 2},{'tone' if i % 2 else 'noise'},True,{i},A")
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Place]:
    """As `empty`, for all tests of a module."""
    folder = tmp_path_factory.mktemp("lasting")
    shutil.copy(empty_store, folder / "mlflow.db")
    yield from place(folder)
