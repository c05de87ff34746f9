"""Batches, read by a thread while the network computes on those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from advtrack.training.augmentation import augment

#: Batches that lie ready, or are being read, beside the one that is trained on.
_AHEAD = 2

T = TypeVar("T")


class Images(Protocol):
    """Where inputs come from: a spectrogram store, or a stand-in of a test."""

    @property
    def y(self) -> np.ndarray:
        """Labels, int64, shape (N,)."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Class names, which the labels index."""
        ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Float32 inputs in [0, 1], shape (n, 1, H, W)."""
        ...


class Batches:
    """The batches of one epoch: each is the same whoever reads it, in whatever order, from whatever batch on.

    Order and augmentation derive from the seed and the numbers of epoch and batch alone.

    Parameters
    ----------
    data : Images
        Inputs and labels.
    indices : ndarray of int
        Those trained on.
    batch_size : int
        Clips per batch. A last batch of one clip is left out, unless it is the only one: BatchNorm cannot normalise a
        lone sample where its map is 1 x 1.
    augmentation : {'all', 'roll', 'none'}
        As `augment`.
    seed, number : int
        Of the training, and the epoch's own.
    """

    def __init__(
        self, data: Images, indices: np.ndarray, batch_size: int, augmentation: str, seed: int, number: int
    ) -> None:
        self.data, self.augmentation, self._seeds = data, augmentation, (seed, number)
        order = np.random.default_rng(self._seeds).permutation(indices)
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self._parts = parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 else parts
        self.sizes = [len(part) for part in self._parts]

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs (n, 1, H, W) and label distributions (n, classes) of a batch, float32."""
        part, rng = self._parts[number], np.random.default_rng((*self._seeds, number + 1))
        labels = np.eye(len(self.data.classes), dtype=np.float32)[self.data.y[part]]
        x, labels = augment(self.data.images(part), labels, self.augmentation, rng)
        return torch.from_numpy(x), torch.from_numpy(labels)

    def read(self, first: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches from number ``first`` on, on a device."""
        for x, labels in ahead(self._pinned if device.type == "cuda" else self.batch, range(first, len(self._parts))):
            # From pinned memory the GPU fetches them by itself, while it computes.
            x, labels = x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            yield x.contiguous(memory_format=torch.channels_last), labels

    def _pinned(self, number: int) -> tuple[Tensor, Tensor]:
        x, labels = self.batch(number)
        return x.pin_memory(), labels.pin_memory()


def ahead(read: Callable[[int], T], numbers: Sequence[int]) -> Iterator[T]:
    """What ``read`` returns for each number, in order, read by a thread some numbers ahead."""
    with ThreadPoolExecutor(1) as reader:
        coming: deque[Future[T]] = deque()
        for number in numbers:
            coming.append(reader.submit(read, number))
            if len(coming) > _AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
