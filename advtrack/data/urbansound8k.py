"""UrbanSound8K (Salamon, Jacoby and Bello, 2014): `metadata/UrbanSound8K.csv` beside `audio/fold1` to `fold10`."""

from __future__ import annotations

from pathlib import Path

from advtrack.data.clip import Dataset, read_table, tabulate
from advtrack.errors import InputError

COLUMNS = ("slice_file_name", "fsID", "fold", "classID", "class")


def load(folder: Path | str) -> Dataset:
    """Read the clips of a folder in the UrbanSound8K layout.

    Parameters
    ----------
    folder
        Holds `metadata/UrbanSound8K.csv` with the columns of `COLUMNS`, and `audio/foldN/`.

    Raises
    ------
    InputError
        If the folder, the table or one of its columns is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: point data_dir at one with metadata/UrbanSound8K.csv and audio/")
    table = folder / "metadata" / "UrbanSound8K.csv"
    classes, clips = tabulate(
        table,
        read_table(table, COLUMNS),
        fold="fold",
        label="classID",
        category="class",
        source="fsID",
        name="slice_file_name",
        path=lambda row: folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"],
    )
    return Dataset("urbansound8k", classes, clips, duration=4.0, wavelet_rate=8_000)
