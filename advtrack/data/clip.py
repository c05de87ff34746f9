"""One clip, a data set of them, and the way from a sound file to a waveform."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import soxr

from advtrack.errors import InputError

LISTED = 10  # bad files named in one error before the rest is only counted


@dataclass(frozen=True)
class Clip:
    """One labelled sound file.

    Attributes
    ----------
    path
        The sound file.
    label
        Index into the data set's class names.
    fold
        The fold its publisher filed it under.
    source
        The recording it was cut from: clips of one recording never straddle a split.
    """

    path: Path
    label: int
    fold: int
    source: str


@dataclass(frozen=True)
class Dataset:
    """A data set's clips with what the representations need to know about them.

    Attributes
    ----------
    name
        The data set's name, as in `advtrack.data.DATASETS`.
    classes
        Class names; `Clip.label` indexes them.
    clips
        The clips, in the order of the publisher's table.
    duration
        Seconds that each clip is cut or filled to.
    wavelet_rate
        Sampling rate in Hz of the scalogram (paper, section IV: 16 kHz for ESC-50, 8 kHz for UrbanSound8K).
    """

    name: str
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    duration: float
    wavelet_rate: int


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Read a csv file and see to it that it has the columns and at least one row.

    Raises
    ------
    InputError
        If the file is missing, unreadable, lacks a column or has no rows.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: point data_dir at the folder that holds it")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            found = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as csv: {error}") from error
    missing = [column for column in columns if column not in found]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}: restore the file from the data set's release")
    if not rows:
        raise InputError(f"{path} lists no clips")
    return rows


def tabulate(
    table: Path,
    rows: list[dict[str, str]],
    *,
    fold: str,
    label: str,
    category: str,
    source: str,
    path: Callable[[dict[str, str]], Path],
) -> tuple[tuple[str, ...], tuple[Clip, ...]]:
    """Turn the rows of a publisher's table into class names and clips.

    Parameters
    ----------
    table
        The csv file, named in errors.
    rows
        Its rows.
    fold, label, category, source
        The columns that hold them.
    path
        Function of a row that gives the clip's sound file.

    Returns
    -------
    classes, clips
        Labels count from 0 in the order of the publisher's class numbers, whichever classes are there.

    Raises
    ------
    InputError
        If a number is not a number, a class number has two names, or a sound file is absent or listed twice.
    """
    names: dict[int, str] = {}
    parsed = []
    for line, row in enumerate(rows, start=2):
        try:
            number, part = int(row[label]), int(row[fold])
        except (TypeError, ValueError):
            raise InputError(
                f"{table}, line {line}: {label} and {fold} must be whole numbers, not {row[label]!r} and {row[fold]!r}"
            ) from None
        if any(not row[column] for column in (category, source)):
            raise InputError(f"{table}, line {line}: {category} and {source} must not be empty")
        if names.setdefault(number, row[category]) != row[category]:
            raise InputError(f"{table}, line {line}: {label} {number} is both {names[number]} and {row[category]}")
        parsed.append((path(row), number, part, row[source]))
    absent = [str(file) for file, *_ in parsed if not file.is_file()]
    if absent:
        raise InputError(f"{len(absent)} files that {table} names are not there, restore them: {_listed(absent)}")
    twice = [str(file) for file, times in Counter(file for file, *_ in parsed).items() if times > 1]
    if twice:
        raise InputError(f"{table} names {len(twice)} files more than once, keep one line of each: {_listed(twice)}")
    labels = {number: index for index, number in enumerate(sorted(names))}
    clips = tuple(Clip(file, labels[number], part, recording) for file, number, part, recording in parsed)
    return tuple(names[number] for number in sorted(names)), clips


def _listed(entries: list[str]) -> str:
    more = len(entries) - LISTED
    return "; ".join(entries[:LISTED]) + (f"; and {more} more" if more > 0 else "")


def decode(path: Path | str) -> tuple[np.ndarray, int]:
    """Decode a sound file to mono.

    Parameters
    ----------
    path
        Any file that libsndfile reads: WAV, FLAC, Ogg, MP3, any rate, width and number of channels.

    Returns
    -------
    waveform
        float32 [n], the mean of the channels, full scale at 1.
    rate
        Its sampling rate in Hz.

    Raises
    ------
    InputError
        If the file is absent, empty, not audio, damaged, or holds NaN or infinite samples.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: replace or remove it")
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(f"{path} cannot be decoded: {error}") from error
    if not len(samples):
        raise InputError(f"{path} holds no samples: replace or remove it")
    waveform = samples.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise InputError(f"{path} holds NaN or infinite samples: replace or remove it")
    return waveform, int(rate)


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample a waveform.

    Parameters
    ----------
    waveform
        float32 [n] at `rate` Hz.
    rate, new_rate
        Sampling rates in Hz.

    Returns
    -------
    waveform
        float32 [about n * new_rate / rate], band-limited to the lower of the two Nyquist frequencies (soxr HQ).
    """
    return waveform if rate == new_rate else cast(np.ndarray, soxr.resample(waveform, rate, new_rate, quality="HQ"))


def check(dataset: Dataset) -> None:
    """Decode every clip once, so that a bad file is known before an hour is spent.

    Raises
    ------
    InputError
        One for all bad files, with path and reason.
    """
    bad = []
    for clip in dataset.clips:
        try:
            decode(clip.path)
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError(f"{len(bad)} of {len(dataset.clips)} clips of {dataset.name} are unusable: {_listed(bad)}")


def digest(dataset: Dataset) -> str:
    """Sixteen hex digits that change with any clip's bytes, name, label, fold or source, or with the class names.

    The order of the clips and the folder they lie in do not matter.
    """
    sha = hashlib.sha256(repr((dataset.classes, dataset.duration, dataset.wavelet_rate)).encode())
    for clip in sorted(dataset.clips, key=lambda clip: (clip.path.name, clip.fold, clip.source)):
        sha.update(repr((clip.path.name, clip.label, clip.fold, clip.source)).encode())
        with clip.path.open("rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()[:16]
