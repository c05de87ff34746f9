"""Whose sounds they are: where a clip's file lies, who recorded it, and under which licence it may be passed on."""

from __future__ import annotations

import csv
import re
from pathlib import Path

_ESC50 = "ESC-50 (K. J. Piczak, 2015)"
_URBANSOUND8K = "UrbanSound8K (J. Salamon, C. Jacoby, J. P. Bello, 2014)"
# How the releases name a clip; the group is the recording's number at freesound.org.
_NAMES = {
    "esc50": re.compile(r"\d-(\d+)-[A-Z]-\d+"),
    "urbansound8k": re.compile(r"(\d+)-\d+-\d+-\d+"),
}


def find_clip(audio: Path, name: str) -> Path | None:
    """The file of a clip.

    Parameters
    ----------
    audio : Path
        The folder that one of the data set's clips lies in.
    name : str
        The clip's file name.

    Returns
    -------
    Path or None
        There, or in a folder beside it (UrbanSound8K has one for each fold); None if it is gone.
    """
    candidates = [audio / name, *sorted(audio.parent.glob(f"*/{name}"))]
    return next((path for path in candidates if path.is_file()), None)


def credit(dataset: str, file: Path) -> str:
    """Name the authors and the licence of a clip.

    Parameters
    ----------
    dataset : str
        One of `advtrack.data.DATASETS`.
    file : Path
        Where the clip lies in the data set's folder.

    Returns
    -------
    str
        A sentence or two: of ESC-50 with what the release's LICENSE says of the clip, where that file is there. Of a
        clip that is not named as the release names its own, that neither is known.
    """
    if dataset == "synthetic":
        return "Generated; free of rights."
    named = _NAMES[dataset].fullmatch(file.stem)
    if not named:
        return "A file of your own in the layout of the data set: its author and licence are not known here."
    recording = named[1]
    if dataset == "urbansound8k":
        return f"{_URBANSOUND8K}, CC BY-NC 3.0; from freesound.org/s/{recording}, by its author there."
    folder = file.parent.parent
    licence = "CC BY 3.0 (subset ESC-10)" if _in_esc10(folder, file.name) else "CC BY-NC 3.0"
    author = _author(folder / "LICENSE", file.stem)
    return f"{_ESC50}, {licence}; {author or f'from freesound.org/s/{recording}, by its author there'}."


def _in_esc10(folder: Path, name: str) -> bool:
    with (folder / "meta" / "esc50.csv").open(newline="", encoding="utf-8-sig") as table:
        return any(row["filename"] == name and row.get("esc10") == "True" for row in csv.DictReader(table))


def _author(licences: Path, stem: str) -> str | None:
    """What the release's list says of a clip, which it calls by fold, recording and take, without the class."""
    if not licences.is_file():
        return None
    called = f"- [{stem.rsplit('-', 1)[0]}."
    lines = licences.read_text("utf-8", errors="replace").splitlines()
    return next((line.partition("]: ")[2].strip() for line in lines if line.startswith(called)), None)
