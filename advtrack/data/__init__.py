"""Audio in, clips out: the data sets, their decoding and their splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from advtrack.errors import InputError

if TYPE_CHECKING:
    from advtrack.data.clip import Dataset

DATASETS = ("synthetic", "esc50", "urbansound8k")
#: Whose folds: the paper's (30% test, five folds in the rest), or the publisher's own.
PROTOCOLS = ("paper", "official")


def load(name: str, folder: Path | str) -> Dataset:
    """Read the clips of a data set from its folder.

    Parameters
    ----------
    name
        One of `DATASETS`.
    folder
        The data set's top folder, laid out as its publisher's release is.

    Raises
    ------
    InputError
        If the name is unknown or the folder is not as the data set's layout asks.
    """
    # Imported here, not above: the names must be at hand for `--help` without numpy and libsndfile.
    if name == "synthetic":
        from advtrack.data import synthetic

        return synthetic.load(folder)
    if name == "esc50":
        from advtrack.data import esc50

        return esc50.load(folder)
    if name == "urbansound8k":
        from advtrack.data import urbansound8k

        return urbansound8k.load(folder)
    raise InputError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
