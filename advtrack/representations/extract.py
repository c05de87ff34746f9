"""Clips to spectrogram stores, in one pass for all representations asked for.

Workers compute the images that `Unfinished` stores lack: a killed extraction goes on with the shards it finished, and a
data set that has changed costs the clips that have changed.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from advtrack.errors import InputError
from advtrack.processes import end_with_parent
from advtrack.representations import REPRESENTATIONS
from advtrack.representations.image import ImageSettings, images
from advtrack.representations.pitch_shift import SCALES
from advtrack.representations.store import SpectrogramSet
from advtrack.representations.unfinished import ClipImages, DatasetLike, Unfinished

logger = logging.getLogger("advtrack")

SHARD = 256  # images at most; a clip and its augmented copies lie in one shard
SHARD_BYTES = 1 << 26  # of its images at most, unless it is a single clip's: one shard of each store is held in memory

Decode = Callable[[Path], tuple[np.ndarray, int]]
Images = dict[str, ClipImages]
"""One clip's images, by representation."""


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
    stores = [Unfinished(dataset, name, Path(root), settings, augment, checksums) for name in representations]
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
            rows: dict[Unfinished, list[ClipImages]] = {store: [] for store in wanted}
            for _, file in batch:
                here = {store: reusable[store][file]() for store in wanted if file in reusable[store]}
                computed = next(results) if len(here) < len(wanted) else {}
                for store in wanted:
                    rows[store].append(here[store] if store in here else computed[store.representation])
            for store in wanted:
                store.write_shard(n, batch, rows[store], scales)
    return {store.representation: store.finish(len(batches), data_digest) for store in stores}


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
    end_with_parent()


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
