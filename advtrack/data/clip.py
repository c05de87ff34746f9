"""One clip, a data set of them, and the way from a sound file to a waveform."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from advtrack.data import containers
from advtrack.errors import InputError, reason

LISTED = 10  # bad files named in one error before the rest is only counted
#: Samples beyond this are no sound at a full scale of 1, and their power would overflow.
LOUDEST = 1e6
_BLOCK = 1 << 20  # samples decoded at a time
_UNKNOWN = 1 << 62  # more samples than this are announced where the number was not known


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
    name: str,
    path: Callable[[dict[str, str]], Path],
) -> tuple[tuple[str, ...], tuple[Clip, ...]]:
    """Turn the rows of a publisher's table into class names and clips.

    Parameters
    ----------
    table
        The csv file, named in errors.
    rows
        Its rows.
    fold, label, category, source, name
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
        If a number is not a number, a class number has two names, or a sound file is listed twice.
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
        for column in (category, source, name):
            if not row[column] or "\0" in row[column]:
                raise InputError(f"{table}, line {line}: {column} must not be empty or hold a NUL, not {row[column]!r}")
        if names.setdefault(number, row[category]) != row[category]:
            raise InputError(f"{table}, line {line}: {label} {number} is both {names[number]} and {row[category]}")
        parsed.append((path(row), number, part, row[source]))
    twice = [str(file) for file, times in Counter(file for file, *_ in parsed).items() if times > 1]
    if twice:
        raise InputError(f"{table} names {len(twice)} files more than once, keep one line of each: {listed(twice)}")
    labels = {number: index for index, number in enumerate(sorted(names))}
    clips = tuple(Clip(file, labels[number], part, recording) for file, number, part, recording in parsed)
    return tuple(names[number] for number in sorted(names)), clips


def listed(entries: Sequence[str]) -> str:
    """The first entries in one line, and how many more there are."""
    more = len(entries) - LISTED
    return "; ".join(entries[:LISTED]) + (f"; and {more} more" if more > 0 else "")


def decode(path: Path | str) -> tuple[np.ndarray, int]:
    """Decode a sound file to mono.

    Parameters
    ----------
    path
        WAV and its relatives (W64, RF64, AIFF, AU, CAF), FLAC, Ogg or MP3, of any rate, width and number of channels.

    Returns
    -------
    waveform
        float32 [n], the mean of the channels, full scale at 1.
    rate
        Its sampling rate in Hz.

    Raises
    ------
    InputError
        If the file is absent, empty, not audio, damaged, cut off, or holds samples that are NaN or beyond `LOUDEST`.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path} is empty: replace or remove it")
        with path.open("rb") as stream:
            fault = containers.fault(stream, size)
            stream.seek(0)
            with soundfile.SoundFile(stream) as file:
                announced, rate = file.frames, int(file.samplerate)
                if file.format not in containers.FORMATS:
                    raise InputError(f"{path} is of the format {file.format}: convert it to WAV or FLAC")
                parts = list(_blocks(file))
            partly = file.format == "MP3" and containers.frames_behind(path, stream.tell())
    except FileNotFoundError:
        raise InputError(f"{path} is not there: restore it") from None
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path} cannot be decoded ({error.error_string}): replace or convert it") from error
    except (OSError, soundfile.SoundFileError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be decoded ({reason(error)}): replace or convert it") from error
    waveform = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if fault or len(waveform) < announced < _UNKNOWN:
        raise InputError(f"{path} {fault or containers.CUT_OFF}")
    if partly:
        raise InputError(f"{path} holds more sound than it announces (VBR without a Xing header): convert it")
    if not len(waveform):
        raise InputError(f"{path} holds no samples: replace or remove it")
    if not np.abs(waveform).max() <= LOUDEST:
        raise InputError(f"{path} holds NaN, infinite or absurd samples (full scale is 1): replace or remove it")
    return waveform, rate


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The mean of the channels [n], piece by piece: some streams do not know how many samples there are."""
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        with np.errstate(invalid="ignore"):  # infinities of both signs, which are refused later
            yield block.mean(axis=1)


def unusable(dataset: Dataset) -> dict[Path, str]:
    """Decode every clip once, so that bad files are known before an hour is spent: their reasons, by path."""

    def fault(clip: Clip) -> str | None:
        try:
            decode(clip.path)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # libsndfile decodes outside of Python's lock
        faults = tqdm(pool.map(fault, dataset.clips), total=len(dataset.clips), desc="checking", unit="clip")
        return {clip.path: why for clip, why in zip(dataset.clips, faults, strict=True) if why}


def leaks(dataset: Dataset, checksums: Sequence[str]) -> list[str]:
    """What may carry a recording from training into test: a recording filed under two folds, bytes under two names."""
    folds: dict[str, set[int]] = defaultdict(set)
    names: dict[str, list[str]] = defaultdict(list)
    for clip, checksum in zip(dataset.clips, checksums, strict=True):
        folds[clip.source].add(clip.fold)
        names[checksum].append(clip.path.name)
    straddling = [
        f"recording {source} is filed under folds {', '.join(map(str, sorted(numbers)))}"
        for source, numbers in sorted(folds.items())
        if len(numbers) > 1
    ]
    return straddling + [f"{', '.join(same)} are the same bytes" for same in names.values() if len(same) > 1]


def checksums(dataset: Dataset) -> tuple[str, ...]:
    """SHA-256 of each clip's file, sixteen hex digits; 'unreadable' for one that is not there or cannot be read."""

    def checksum(clip: Clip) -> str:
        try:
            with clip.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError:  # `unusable` says what is the matter with it
            return "unreadable"

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return tuple(pool.map(checksum, dataset.clips))


def digest(dataset: Dataset, checksums: Sequence[str]) -> str:
    """Sixteen hex digits that change with any clip's bytes, name, label, fold or source, and with the data set's names.

    The order of the clips and the folder they lie in do not matter.
    """
    clips = sorted(
        (clip.path.name, clip.label, clip.fold, clip.source, checksum)
        for clip, checksum in zip(dataset.clips, checksums, strict=True)
    )
    content = repr((dataset.name, dataset.classes, dataset.duration, dataset.wavelet_rate, clips))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
