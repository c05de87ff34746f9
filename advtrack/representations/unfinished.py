"""A store of images while it is filled.

Shards are written under another name and renamed, the images last, and the manifest when all shards are there. So what
a kill leaves is whole, and two processes that fill the same store replace each other's files by equal ones. Images of a
clip whose bytes are in another store of the same parameters are copied from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import time
from typing import IO, Any, Protocol

import numpy as np

from advtrack.errors import InputError, reason
from advtrack.representations import morlet, stft
from advtrack.representations.image import ImageSettings
from advtrack.representations.store import MANIFEST, VERSION, SpectrogramSet, checksum, open_store, shard_items

logger = logging.getLogger("advtrack")

INVERSE = ("reference", "seconds")  # of an item: the power that 1 stands for, and how long the clip was by itself
_ABANDONED = 3600  # seconds after which a file that was never renamed is taken for one that a kill left

ClipImages = list[tuple[np.ndarray, dict[str, float]]]
"""One clip's images of a representation with what inverts them, over the pitch scales."""


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


@dataclass(frozen=True, eq=False)
class Reusable:
    """Where another store of the same parameters keeps the images of a clip."""

    shard: Path
    first: int
    items: list[dict[str, Any]]

    def __call__(self) -> ClipImages:
        stored = np.load(self.shard, mmap_mode="r")[self.first : self.first + len(self.items)]
        return [
            (np.array(image), {name: item[name] for name in INVERSE})
            for image, item in zip(stored, self.items, strict=True)
        ]


class Unfinished:
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

    def siblings(self, scales: Sequence[float]) -> dict[str, Reusable]:
        """Images of the same parameters in the shards of other stores, finished or not, by their file's checksum."""
        found: dict[str, Reusable] = {}
        for shard in sorted(self.folder.parent.glob("*/*.npy")):
            if shard.parent == self.folder or self.representation not in shard.parent.name:
                continue
            items = shard_items(shard, self.parameters) or []
            for first in range(0, len(items), len(scales)):
                found[items[first]["file"]] = Reusable(shard, first, items[first : first + len(scales)])
        return found

    def write_shard(
        self,
        number: int,
        batch: Sequence[tuple[ClipLike, str]],
        rows: Sequence[ClipImages],
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
