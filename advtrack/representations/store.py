"""The spectrogram store: a folder with shards of images and a manifest that says what they are.

A shard is a float16 `.npy` of at most 256 images, read as a memmap; beside it lies a `.json` with its items. Both are
written under another name and renamed, the images last, and the manifest when all shards are there. So a killed
extraction goes on with the shards it finished, and two processes that extract the same store replace each other's
files by equal ones. float16 resolves 80 dB in steps of at most 0.04 dB, at half the size of float32.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from advtrack.errors import InputError
from advtrack.representations import REPRESENTATIONS, morlet, stft
from advtrack.representations.image import TOP_DB, at_rates, image, shape
from advtrack.representations.pitch_shift import SCALES

VERSION = 1  # raised when images or layout change: stores of another version are not read
SHARD = 256  # images at most; a clip and its augmented copies lie in one shard
MANIFEST = "manifest.json"

Decode = Callable[[Path], tuple[np.ndarray, int]]


class ClipLike(Protocol):
    """What is read of a clip, as in `advtrack.data.clip.Clip`."""

    @property
    def path(self) -> Path: ...
    @property
    def label(self) -> int: ...
    @property
    def fold(self) -> int: ...
    @property
    def source(self) -> str: ...


class DatasetLike(Protocol):
    """What is read of a data set, as in `advtrack.data.clip.Dataset`."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def clips(self) -> Sequence[ClipLike]: ...
    @property
    def duration(self) -> float: ...
    @property
    def wavelet_rate(self) -> int: ...


@dataclass(frozen=True, eq=False)
class SpectrogramSet:
    """The images of a data set in one representation; arrays have one entry per item, in the store's order.

    Attributes
    ----------
    path
        The store's folder.
    representation
        One of `advtrack.representations.REPRESENTATIONS`.
    classes
        Class names; `y` indexes them.
    shape
        Channels, rows and columns of an image: (1, H, W).
    clip
        What makes such an image of any waveform: its `duration` in seconds, and `height`, `width` and `wavelet_rate`
        of `advtrack.representations.image.image`.
    y, fold
        int64 [N].
    source, name
        str [N]: the recording a clip was cut from, and its file's name.
    scale
        float64 [N]: the pitch shift's factor, 1 for an original.
    digest
        Changes with the data and with every parameter of the images.
    """

    path: Path
    representation: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    clip: dict[str, Any]
    y: np.ndarray
    fold: np.ndarray
    source: np.ndarray
    name: np.ndarray
    scale: np.ndarray
    digest: str
    _shards: tuple[str, ...]
    _starts: np.ndarray  # index of each shard's first item, then N

    def __len__(self) -> int:
        return len(self.y)

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read images: float32 [n, 1, H, W] in [0, 1], in the order of `indices`, each from 0 to N - 1."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"indices must lie from 0 to {len(self) - 1}")
        images = np.empty((len(indices), *self.shape), np.float32)
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        for shard in np.unique(shard_of):
            wanted = shard_of == shard
            stored = np.load(self.path / self._shards[shard], mmap_mode="r")
            images[wanted, 0] = stored[indices[wanted] - self._starts[shard]]
        return images


def extract(
    dataset: DatasetLike,
    representation: str,
    destination: Path | str,
    *,
    height: int,
    width: int,
    decode: Decode,
    digest: str,
    augment: bool = False,
    workers: int | None = None,
) -> SpectrogramSet:
    """Compute the images of all clips, or what is missing of them, and open the store.

    Parameters
    ----------
    dataset
        The clips and the data set's duration, wavelet rate and class names.
    representation
        One of `advtrack.representations.REPRESENTATIONS`.
    destination
        The store's folder, made if need be.
    height, width
        Rows of the spectrogram (the tonnetz adds height // 4) and columns.
    decode
        Function of a path that returns mono float32 [n] and its rate in Hz; importable by name, for the workers.
    digest
        Of the data set's content; stored images are reused only under the same one.
    augment
        Whether to add four pitch-shifted copies of each clip (paper, section V).
    workers
        Number of processes, by default one per core; 1 computes in this one. The bytes do not depend on it.

    Raises
    ------
    InputError
        If an option is out of range, the folder holds another store or cannot be written, or a clip cannot be decoded.
    """
    if representation not in REPRESENTATIONS:
        raise InputError(f"unknown representation {representation!r}: choose one of {', '.join(REPRESENTATIONS)}")
    if height < 4 or width < 1:
        raise InputError(f"image size {height} x {width} is too small: height must be at least 4, width at least 1")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}: at least 1 is needed")
    folder = Path(destination)
    parameters = _parameters(dataset, representation, height, width, augment)
    scales = (1.0, *SCALES) if augment else (1.0,)
    clips = [[clip.path.name, clip.label, clip.fold, clip.source] for clip in dataset.clips]
    key = hashlib.sha256(json.dumps([VERSION, digest, parameters, clips]).encode()).hexdigest()[:16]

    manifest = folder / MANIFEST
    if manifest.exists() and _read_manifest(folder)["digest"] != key:
        raise InputError(f"{folder} holds a store of other data or parameters: delete it or choose another folder")
    clips_per_shard = SHARD // len(scales)
    batches = [dataset.clips[i : i + clips_per_shard] for i in range(0, len(dataset.clips), clips_per_shard)]
    shards = [f"{key}-{number:05d}.npy" for number in range(len(batches))]
    size = shape(representation, height, width)
    missing = [
        (shard, batch)
        for shard, batch in zip(shards, batches, strict=True)
        if not _finished(folder / shard, len(batch) * len(scales), size)
    ]
    if missing:
        compute = partial(
            _images, decode=decode, representation=representation, height=height, width=width, scales=scales,
            duration=dataset.duration, wavelet_rate=dataset.wavelet_rate,
        )  # fmt: skip
        with _told_plainly(folder):
            folder.mkdir(parents=True, exist_ok=True)
        wanted = [clip.path for _, batch in missing for clip in batch]
        with _computed(compute, wanted, workers or os.cpu_count() or 1, representation) as results:
            for shard, batch in missing:
                _write_shard(folder / shard, [(clip, next(results)) for clip in batch], scales)
    if missing or not manifest.exists():
        items = [item for shard in shards for item in json.loads((folder / shard).with_suffix(".json").read_text())]
        content = {
            "version": VERSION, "digest": key, "data_digest": digest, "dataset": dataset.name,
            "classes": list(dataset.classes), "parameters": parameters, "shards": shards, "items": items,
        }  # fmt: skip
        _write(manifest, lambda file: file.write(json.dumps(content, indent=1).encode()))
    return open_store(folder)


def _parameters(
    dataset: DatasetLike, representation: str, height: int, width: int, augment: bool
) -> dict[str, str | int | float | bool | list[float]]:
    """All that determines the images, and what inverts them."""
    parameters: dict[str, Any] = {
        "representation": representation, "height": height, "width": width, "augment": augment,
        "top_db": TOP_DB, "duration": dataset.duration,
    }  # fmt: skip
    if representation.startswith("stft"):
        parameters |= {"rate": stft.RATE, "n_fft": stft.N_FFT, "hop": stft.HOP, "window": "hann"}
    else:
        parameters |= {
            "rate": dataset.wavelet_rate, "wavelet": f"cmor{morlet.BANDWIDTH}-{morlet.CENTRE}",
            "frequencies": morlet.frequencies(dataset.wavelet_rate, height).round(6).tolist(),
        }  # fmt: skip
    return parameters


def _images(
    path: Path,
    *,
    decode: Decode,
    representation: str,
    height: int,
    width: int,
    scales: Sequence[float],
    duration: float,
    wavelet_rate: int,
) -> list[tuple[np.ndarray, float]]:
    """One clip's images, float16, with their references: one per pitch scale."""
    waveform, rate = decode(path)
    images = []
    for scale in scales:
        computed, reference = image(
            at_rates(waveform, rate, duration, scale),
            representation,
            height=height,
            width=width,
            wavelet_rate=wavelet_rate,
        )
        images.append((computed.astype(np.float16), reference))
    return images


@contextmanager
def _computed(
    compute: Callable[[Path], list[tuple[np.ndarray, float]]], paths: list[Path], workers: int, title: str
) -> Iterator[Iterator[list[tuple[np.ndarray, float]]]]:
    """Give an iterator over the clips' images, in order, with a progress bar."""

    def shown(results: Iterator[Any]) -> Iterator[Any]:
        return iter(tqdm(results, total=len(paths), desc=title, unit="clip", file=sys.stderr))

    workers = min(workers, len(paths))
    if workers == 1:
        with threadpool_limits(1):
            yield shown(map(compute, paths))
        return
    # spawn: a fork would copy the threads' locks of whatever the parent has loaded. One BLAS thread each, here and
    # above: several would compete for the workers' cores and might add numbers up in another order.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=threadpool_limits, initargs=(1,))
    try:
        yield shown(pool.map(compute, paths, chunksize=max(1, min(8, len(paths) // workers))))
    except BrokenProcessPool as error:
        raise InputError(
            "a worker died, most likely for want of memory: run again with fewer workers; finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shard(
    path: Path, results: Sequence[tuple[ClipLike, list[tuple[np.ndarray, float]]]], scales: Sequence[float]
) -> None:
    images, items = [], []
    for clip, clip_images in results:
        for scale, (stored, reference) in zip(scales, clip_images, strict=True):
            images.append(stored)
            items.append(
                {
                    "name": clip.path.name, "label": clip.label, "fold": clip.fold, "source": clip.source,
                    "scale": scale, "reference": reference, "checksum": _checksum(stored),
                }
            )  # fmt: skip
    _write(path.with_suffix(".json"), lambda file: file.write(json.dumps(items).encode()))
    _write(path, lambda file: np.save(file, np.stack(images)))


def _finished(path: Path, items: int, size: tuple[int, int]) -> bool:
    """Whether a shard is there as a whole, by its items' checksums."""
    try:
        listed = json.loads(path.with_suffix(".json").read_text())
        stored = np.load(path, mmap_mode="r")
        return (
            stored.shape == (items, *size)
            and len(listed) == items
            and all(_checksum(one) == item["checksum"] for one, item in zip(stored, listed, strict=True))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _checksum(stored: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(stored).tobytes()).hexdigest()[:16]


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a name of its own, then rename it: it is there as a whole or not at all."""
    partial_path = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _told_plainly(path.parent):
        try:
            with partial_path.open("wb") as file:
                write(file)
            partial_path.replace(path)
        finally:
            partial_path.unlink(missing_ok=True)


@contextmanager
def _told_plainly(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}): make room or choose another folder"
        ) from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        version = content["version"]
    except FileNotFoundError:
        raise InputError(f"{folder} holds no spectrogram store: run the features stage first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it and run the features stage again") from error
    if version != VERSION:
        raise InputError(f"{path} is of version {version}, not {VERSION}: delete the folder and extract it again")
    return content


def open_store(path: Path | str) -> SpectrogramSet:
    """Open a finished store; images are read when asked for.

    Raises
    ------
    InputError
        If the folder holds no finished store, the manifest is damaged, or a shard is missing or of the wrong size.
    """
    folder = Path(path)
    content = _read_manifest(folder)
    try:
        parameters, items, shards = content["parameters"], content["items"], content["shards"]
        size = shape(parameters["representation"], parameters["height"], parameters["width"])
        lengths = [_length(folder / shard, size) for shard in shards]
        if sum(lengths) != len(items):
            raise ValueError(f"{len(items)} items but {sum(lengths)} images")
        return SpectrogramSet(
            path=folder,
            representation=parameters["representation"],
            classes=tuple(content["classes"]),
            shape=(1, *size),
            clip={
                "duration": parameters["duration"],
                "wavelet_rate": parameters["rate"],
                "height": parameters["height"],
                "width": parameters["width"],
            },
            y=np.array([item["label"] for item in items], np.int64),
            fold=np.array([item["fold"] for item in items], np.int64),
            source=np.array([item["source"] for item in items], str),
            name=np.array([item["name"] for item in items], str),
            scale=np.array([item["scale"] for item in items], np.float64),
            digest=content["digest"],
            _shards=tuple(shards),
            _starts=np.cumsum([0, *lengths]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} is damaged ({error}): delete it and run the features stage again") from (
            error
        )


def _length(path: Path, size: tuple[int, int]) -> int:
    """Images in a shard, whose header and length must be right."""
    try:
        stored = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is missing or damaged ({error}): run the features stage again to rebuild it") from (
            error
        )
    if stored.shape[1:] != size or stored.dtype != np.float16:
        raise InputError(f"{path} is damaged: run the features stage again to rebuild it")
    return len(stored)
