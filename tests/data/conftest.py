"""Where tests find real audio, and a small data set of their own."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

COLUMNS = ("filename", "fold", "target", "category", "src_file")


@pytest.fixture
def esc_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder in the ESC-50 layout from rows (filename, fold, target, category, src_file)."""

    def write(rows: list[tuple[object, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
        folder = tmp_path / "esc"
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        (folder / "meta").mkdir(exist_ok=True)
        for row in rows:
            noise = np.random.default_rng(len(str(row[0]))).normal(size=800) / 10
            soundfile.write(folder / "audio" / str(row[0]), noise, 8000)
        with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        return folder

    return write
