"""Clips to spectrogram stores, in one pass for all representations asked for.

Shards of at most 256 images are written under another name and renamed, the images last, and the manifest when all
shards are there. So a killed extraction goes on with the shards it finished, and two processes that extract the same
store replace each other's files by equal ones. Images of a clip whose bytes are in another store of the same
parameters are copied from there: a data set that has changed costs the clips that have changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import multiprocessing
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import time
from typing import IO, Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from advtrack.errors import InputError, reason
from advtrack.representations import REPRESENTATIONS, morlet, stft
from advtrack.representations.image import ImageSettings, images
from advtrack.representations.pitch_shift import SCALES
from advtrack.representations.store import (
    MANIFEST,
    VERSION,
    SpectrogramSet,
    checksum,
    open_store,
    shard_items,
)

logger = logging.getLogger("advtrack")

SHARD = 256  # images at most; a clip and its augmented copies lie in one shard
SHARD_BYTES = 1 << 26  # of its images at most, unless it is a single clip's: one shard of each store is held in memory
INVERSE = ("reference", "seconds")  # of an item: the power that 1 stands for, and how long the clip was by itself
_ABANDONED = 3600  # seconds after which a file that was never renamed is taken for one that a kill left

Decode = Callable[[Path], tuple[np.ndarray, int]]
Images = dict[str, list[tuple[np.ndarray, dict[str, float]]]]
"""One clip's images with what inverts them, by representation: a list over pitch scales."""


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


def extract(
    dataset: DatasetLike,
    representations: Sequence[str],
    root: Path | str,
    settings: ImageSettings,
    *,
    decode: Decode,
    checksums: Sequence[str],
    data_digest: str,
    augment: bool = False,
    fresh: bool = False,
    workers: int | None = None,
) -> dict[str, SpectrogramSet]:
    """Compute the images of all clips, or what is missing of them, and open the stores.

    Parameters
    ----------
    dataset
        The clips and class names.
    representations
        Of `advtrack.representations.REPRESENTATIONS`; a store each, filled in one pass over the clips.
    root
        Folder of the stores, made if need be; each has a folder of its own in it.
    settings
        How clips become images.
    decode
        Function of a path that returns mono float32 [n] and its rate in Hz; importable by name, for the workers.
    checksums
        Of the clips' files, one each: images are reused only for a file of the same checksum.
    data_digest
        Of the data set; kept with the stores.
    augment
        Whether to add four pitch-shifted copies of each clip (paper, section V).
    fresh
        Whether to compute everything anew, whatever is there.
    workers
        Number of processes, by default one per core; 1 computes in this one. The bytes do not depend on it.

    Raises
    ------
    InputError
        If an option is out of range, the folder cannot be written, or a clip cannot be decoded.
    """
    for representation in representations:
        if representation not in REPRESENTATIONS:
            raise InputError(f"unknown representation {representation!r}: choose from {', '.join(REPRESENTATIONS)}")
    if settings.height < 4 or settings.width < 1:
        size = f"{settings.height} x {settings.width}"
        raise InputError(f"image size {size} is too small: height must be at least 4, width at least 1")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}: at least 1 is needed")
    scales = (1.0, *SCALES) if augment else (1.0,)
    entries = list(zip(dataset.clips, checksums, strict=True))
    largest = max(2 * math.prod(settings.shape(name)) for name in representations)  # float16
    per_shard = max(min(SHARD, SHARD_BYTES // largest) // len(scales), 1)
    batches = [entries[i : i + per_shard] for i in range(0, len(entries), per_shard)]
    stores = [_Unfinished(dataset, name, Path(root), settings, augment, checksums) for name in representations]
    missing = {
        store: {n for n, batch in enumerate(batches) if fresh or not store.has(n, len(batch) * len(scales))}
        for store in stores
    }
    reusable = {store: store.siblings(scales) if missing[store] and not fresh else {} for store in stores}
    tasks = []
    for n, batch in enumerate(batches):
        for clip, file in batch:
            lacking = [s.representation for s in stores if n in missing[s] and file not in reusable[s]]
            if lacking:
                tasks.append((clip.path, lacking))

    compute = partial(_images, decode=decode, settings=settings, scales=scales)
    with _computed(compute, tasks, workers or len(os.sched_getaffinity(0)), ", ".join(representations)) as results:
        for n, batch in enumerate(batches):
            wanted = [store for store in stores if n in missing[store]]
            rows: dict[_Unfinished, list[list[tuple[np.ndarray, dict[str, float]]]]] = {store: [] for store in wanted}
            for _, file in batch:
                here = {store: reusable[store][file]() for store in wanted if file in reusable[store]}
                computed = next(results) if len(here) < len(wanted) else {}
                for store in wanted:
                    rows[store].append(here[store] if store in here else computed[store.representation])
            for store in wanted:
                store.write_shard(n, batch, rows[store], scales)
    return {store.representation: store.finish(len(batches), data_digest) for store in stores}


@dataclass(frozen=True, eq=False)
class _Reusable:
    """Where another store of the same parameters keeps the images of a clip."""

    shard: Path
    first: int
    items: list[dict[str, Any]]

    def __call__(self) -> list[tuple[np.ndarray, dict[str, float]]]:
        stored = np.load(self.shard, mmap_mode="r")[self.first : self.first + len(self.items)]
        return [
            (np.array(image), {name: item[name] for name in INVERSE})
            for image, item in zip(stored, self.items, strict=True)
        ]


class _Unfinished:
    """A store while it is filled."""

    def __init__(
        self,
        dataset: DatasetLike,
        representation: str,
        root: Path,
        settings: ImageSettings,
        augment: bool,
        checksums: Sequence[str],
    ) -> None:
        self.representation, self.shape = representation, settings.shape(representation)
        self.parameters = _parameters(representation, settings, augment)
        clips = [
            [clip.path.name, clip.label, clip.fold, clip.source, file]
            for clip, file in zip(dataset.clips, checksums, strict=True)
        ]
        content = [self.parameters, dataset.name, dataset.classes, clips]
        self.digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        size = f"{settings.height}x{settings.width}" + ("-augmented" if augment else "")
        self.folder = root / f"{dataset.name}-{representation}-{size}-{self.digest[:8]}"
        self.dataset = dataset

    def shard(self, number: int) -> Path:
        return self.folder / f"{self.digest}-{number:05d}.npy"

    def has(self, number: int, items: int) -> bool:
        """Whether a shard is there as a whole; one that is damaged is named."""
        path = self.shard(number)
        if not (path.exists() and path.with_suffix(".json").exists()):
            return False
        if shard_items(path, self.parameters, items) is not None:
            return True
        logger.warning("%s is damaged: rebuilding it", path)
        return False

    def siblings(self, scales: Sequence[float]) -> dict[str, _Reusable]:
        """Images of the same parameters in the shards of other stores, finished or not, by their file's checksum."""
        found: dict[str, _Reusable] = {}
        for shard in sorted(self.folder.parent.glob("*/*.npy")):
            if shard.parent == self.folder or self.representation not in shard.parent.name:
                continue
            items = shard_items(shard, self.parameters) or []
            for first in range(0, len(items), len(scales)):
                found[items[first]["file"]] = _Reusable(shard, first, items[first : first + len(scales)])
        return found

    def write_shard(
        self,
        number: int,
        batch: Sequence[tuple[ClipLike, str]],
        rows: Sequence[list[tuple[np.ndarray, dict[str, float]]]],
        scales: Sequence[float],
    ) -> None:
        stored, items = [], []
        for (clip, file), clip_images in zip(batch, rows, strict=True):
            for scale, (image, inverse) in zip(scales, clip_images, strict=True):
                item = {"name": clip.path.name, "label": clip.label, "fold": clip.fold, "source": clip.source}
                item |= {"file": file, "scale": scale, **inverse}
                stored.append(image)
                items.append({**item, "checksum": checksum(image, item)})
        path, content = self.shard(number), {"parameters": self.parameters, "items": items}
        with _told_plainly(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        _write(path.with_suffix(".json"), lambda file: file.write(json.dumps(content).encode()))
        _write(path, partial(_save, np.stack(stored)))

    def finish(self, shards: int, data_digest: str) -> SpectrogramSet:
        """Write the manifest and open the store."""
        names = [self.shard(number).name for number in range(shards)]
        parts = [json.loads((self.folder / name).with_suffix(".json").read_text())["items"] for name in names]
        content = {
            "version": VERSION, "digest": self.digest, "data_digest": data_digest, "dataset": self.dataset.name,
            "classes": list(self.dataset.classes), "parameters": self.parameters, "shards": names,
            "lengths": [len(part) for part in parts], "items": [item for part in parts for item in part],
        }  # fmt: skip
        _write(self.folder / MANIFEST, lambda file: file.write(json.dumps(content, indent=1).encode()))
        for partial_path in self.folder.glob(".*"):
            with suppress(FileNotFoundError):  # another process has just renamed it
                if time() - partial_path.stat().st_mtime > _ABANDONED:
                    partial_path.unlink()
        return open_store(self.folder)


def _parameters(representation: str, settings: ImageSettings, augment: bool) -> dict[str, Any]:
    """All that determines the images, and what inverts them: each row's frequency, each column's time."""
    parameters = {
        "version": VERSION,
        "representation": representation,
        "augment": augment,
        "settings": asdict(settings),
    }
    parameters["seconds_per_column"] = settings.duration / settings.width
    if representation.startswith("stft"):
        bins = (np.arange(settings.height) + 0.5) * (stft.N_FFT // 2 + 1) / settings.height - 0.5
        parameters |= {"rate": stft.RATE, "n_fft": stft.N_FFT, "hop": stft.HOP, "window": "hann"}
        return parameters | {"frequencies": (bins * stft.RATE / stft.N_FFT).round(6).tolist()}
    wavelet = f"cmor{morlet.BANDWIDTH}-{morlet.CENTRE}"
    frequencies = morlet.frequencies(settings.wavelet_rate, settings.height).round(6).tolist()
    return parameters | {"rate": settings.wavelet_rate, "wavelet": wavelet, "frequencies": frequencies}


def _images(
    task: tuple[Path, Sequence[str]], *, decode: Decode, settings: ImageSettings, scales: Sequence[float]
) -> Images:
    """One clip's images, float16: for each representation one per pitch scale."""
    path, representations = task
    waveform, rate = decode(path)
    found: Images = {representation: [] for representation in representations}
    for scale in scales:
        for representation, (image, reference) in images(waveform, rate, representations, settings, scale).items():
            inverse = {"reference": reference, "seconds": len(waveform) / rate}
            found[representation].append((image.astype(np.float16), inverse))
    return found


def _begin_worker() -> None:
    """One BLAS thread: several would compete for the workers' cores, and might add numbers up in another order."""
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent is killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _computed(
    compute: Callable[[tuple[Path, Sequence[str]]], Images],
    tasks: list[tuple[Path, list[str]]],
    workers: int,
    title: str,
) -> Iterator[Iterator[Images]]:
    """Give an iterator over the clips' images, in order, with a progress bar that ends before any error is told."""
    workers = min(workers, len(tasks))
    if workers == 0:
        yield iter(())
        return
    with tqdm(total=len(tasks), desc=title, unit="clip", file=sys.stderr) as bar:

        def shown(results: Iterator[Images]) -> Iterator[Images]:
            for result in results:
                bar.update()
                yield result

        if workers == 1:
            with threadpool_limits(1):
                yield shown(map(compute, tasks))
            return
        # A fork would copy the locks held by the threads of whatever the parent has loaded.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)

        def results() -> Iterator[Images]:
            # Numba's cache of librosa's compiled functions is spoilt when processes fill it at once, and whoever loads
            # them from it crashes ever after. So one worker fills it before the others begin.
            yield pool.submit(compute, tasks[0]).result()
            yield from pool.map(compute, tasks[1:], chunksize=2)

        try:
            yield shown(results())
        except BrokenProcessPool as error:
            raise InputError(
                "a worker died, most likely for want of memory: free some and run again; finished shards are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _save(array: np.ndarray, file: IO[bytes]) -> None:
    """`np.save`, whose own way of writing to a file hides why it fails."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data)


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
            f"{folder} cannot be written ({error.strerror or reason(error)}): make room or choose another folder"
        ) from error
