"""ESC-50 (Piczak, 2015) and any subset of its classes: `meta/esc50.csv` beside `audio/`, WAV or Ogg."""

from __future__ import annotations

from pathlib import Path

from advtrack.data.clip import Dataset, read_table, tabulate
from advtrack.errors import InputError

COLUMNS = ("filename", "fold", "target", "category", "src_file")


def load(folder: Path | str, *, name: str = "esc50") -> Dataset:
    """Read the clips of a folder in the ESC-50 layout.

    Parameters
    ----------
    folder
        Holds `meta/esc50.csv` with the columns of `COLUMNS`, and `audio/`.
    name
        The name the data set bears in runs.

    Raises
    ------
    InputError
        If the folder, the table or one of its columns is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: point data_dir at one with meta/esc50.csv and audio/")
    table = folder / "meta" / "esc50.csv"
    classes, clips = tabulate(
        table,
        read_table(table, COLUMNS),
        fold="fold",
        label="target",
        category="category",
        source="src_file",
        name="filename",
        path=lambda row: folder / "audio" / row["filename"],
    )
    return Dataset(name, classes, clips, duration=5.0, wavelet_rate=16_000)
