"""The spectrogram store: a folder with shards of images and a manifest that says what they are.

A shard is a float16 `.npy`, read as a memmap; beside it lies a `.json` with its items and their checksums.

float16 resolves 80 dB in steps of at most 0.04 dB, at half the size of float32. A byte would halve it again. On the 400
clips of ESC-10 neither changes a prediction of a ResNet-18 (`benchmarks/features.py --victim`), but a byte is off by up
to 0.002, and DeepFool fools such networks with 0.0035 to 0.02: what is stored must be much finer than what is searched.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advtrack.errors import InputError
from advtrack.representations.image import ImageSettings

logger = logging.getLogger("advtrack")

VERSION = 5  # raised when images or layout change: stores of another version are not read
MANIFEST = "manifest.json"


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
    settings
        What makes such an image of any waveform.
    y, fold
        int64 [N].
    source, name
        str [N]: the recording a clip was cut from, and its file's name.
    scale
        float64 [N]: the pitch shift's factor, 1 for an original, which its copies follow.
    digest
        Changes with the data and with every parameter of the images.
    data_digest
        Of the data set alone.
    """

    path: Path
    representation: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    settings: ImageSettings
    y: np.ndarray
    fold: np.ndarray
    source: np.ndarray
    name: np.ndarray
    scale: np.ndarray
    digest: str
    data_digest: str
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

    def moments(self, indices: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation of images, read a few at a time."""
        count, total, squares = 0, 0.0, 0.0
        for i in range(0, len(indices), 256):
            images = self.images(indices[i : i + 256]).astype(np.float64)
            count, total, squares = count + images.size, total + images.sum(), squares + (images**2).sum()
        mean = total / count
        return mean, max(float(np.sqrt(max(squares / count - mean**2, 0))), 1e-6)


def open_store(path: Path | str) -> SpectrogramSet:
    """Open a finished store; images are read when asked for.

    Raises
    ------
    InputError
        If the folder holds no finished store, the manifest is damaged, or a shard is missing or of the wrong size.
    """
    folder = Path(path)
    content = read_manifest(folder)
    try:
        parameters, items, shards = content["parameters"], content["items"], content["shards"]
        settings = ImageSettings(**parameters["settings"])
        size = settings.shape(parameters["representation"])
        lengths = [_length(folder / shard, size) for shard in shards]
        if sum(lengths) != len(items):
            raise ValueError(f"{len(items)} items but {sum(lengths)} images")
        return SpectrogramSet(
            path=folder,
            representation=parameters["representation"],
            classes=tuple(content["classes"]),
            shape=(1, *size),
            settings=settings,
            y=np.array([item["label"] for item in items], np.int64),
            fold=np.array([item["fold"] for item in items], np.int64),
            source=np.array([item["source"] for item in items], str),
            name=np.array([item["name"] for item in items], str),
            scale=np.array([item["scale"] for item in items], np.float64),
            digest=content["digest"],
            data_digest=content["data_digest"],
            _shards=tuple(shards),
            _starts=np.cumsum([0, *lengths]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} is damaged ({error}): delete it and run the features stage again") from (
            error
        )


def intact(folder: Path | str) -> bool:
    """Whether a finished store is as it was written, item by item; what is damaged is named."""
    folder = Path(folder)
    try:
        content = read_manifest(folder)
        parameters, listed = content["parameters"], content["items"]
        shards = dict(zip(content["shards"], content["lengths"], strict=True))
    except (InputError, KeyError, TypeError, ValueError):
        logger.warning("%s is missing, damaged or of another version: making it anew", folder / MANIFEST)
        return False
    found = {name: shard_items(folder / name, parameters, length) for name, length in shards.items()}
    damaged = [name for name, items in found.items() if items is None]
    if not damaged and listed != [item for items in found.values() for item in items or []]:
        damaged = [MANIFEST]
    for name in damaged:
        logger.warning("%s is damaged", folder / name)
    return not damaged


def shard_items(path: Path, parameters: Mapping[str, Any], length: int | None = None) -> list[dict[str, Any]] | None:
    """What a shard holds, item by item; None unless it is whole, by their checksums, and of these parameters."""
    try:
        content = json.loads(path.with_suffix(".json").read_text())
        items: list[dict[str, Any]] = content["items"]
        stored = np.load(path, mmap_mode="r")
        whole = (
            content["parameters"] == parameters
            and len(items) == len(stored) == (len(stored) if length is None else length)
            and all(checksum(one, item) == item["checksum"] for one, item in zip(stored, items, strict=True))
        )
        return items if whole else None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished store; an `InputError` where there is none of this version."""
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


def checksum(stored: np.ndarray, item: Mapping[str, Any]) -> str:
    """SHA-256 of an image as it is stored and of what is known about it, sixteen hex digits."""
    known = {name: value for name, value in item.items() if name != "checksum"}
    digest = hashlib.sha256(np.ascontiguousarray(stored).tobytes())
    digest.update(json.dumps(known, sort_keys=True).encode())
    return digest.hexdigest()[:16]
