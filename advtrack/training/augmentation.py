"""What is done to the clips of a batch as they are trained on, on the CPU, by the thread that reads them."""

from __future__ import annotations

import numpy as np


def augment(x: np.ndarray, labels: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels as they are trained on: 'all' rolls, masks and mixes, 'roll' rolls, 'none' does neither."""
    if kind != "none":
        x = roll(x, rng)
    return mix(mask(x, rng), labels, rng) if kind == "all" else (x, labels)


def roll(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift each clip of a batch (N, C, H, W) in time, its last axis, around a circle and by a random amount."""
    shifts = rng.integers(x.shape[3], size=len(x))
    return np.stack([np.roll(clip, shift, axis=-1) for clip, shift in zip(x, shifts, strict=True)])


def mask(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Silence a random band of rows and one of columns per clip, up to a sixth each (SpecAugment, Park et al. 2019).

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Inputs in [0, 1]; not changed.
    rng : Generator
        Decides which.
    """
    x = x.copy()
    for axis in (1, 2):
        length = x.shape[axis + 1]
        starts, extents = rng.integers(length, size=len(x)), rng.integers(max(length // 6, 1), size=len(x))
        for clip, start, extent in zip(x, starts, extents, strict=True):
            clip.swapaxes(0, axis)[start : start + extent] = 0
    return x


def mix(x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Blend each clip with up to 40% of another (mixup, Zhang et al. 2018; the share is ours).

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Inputs in [0, 1].
    labels : ndarray, shape (N, classes)
        Label distributions that sum to 1.
    rng : Generator
        Decides which and how much.

    Returns
    -------
    x, labels : ndarray
        Blended in the same shares.
    """
    share = 0.4 * rng.random((len(x), 1), dtype=x.dtype)
    partner = rng.permutation(len(x))
    return x + share[:, :, None, None] * (x[partner] - x), labels + share * (labels[partner] - labels)
