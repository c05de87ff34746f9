"""Adversarial examples as a run keeps them: a few clips, in the smallest form that loses nothing a picture shows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Example:
    """One clip under one attack at its budget, whether that fools the victim or not.

    Attributes
    ----------
    clip : str
        The clip's file.
    true_class, target_class : str
        What it is, and what the attack wants it taken for; the latter is empty for an attack without a target.
    classes : tuple of str, length K
        All class names.
    x : ndarray of float16, shape (H, W)
        Legitimate image in [0, 1]; row 0 is its lowest frequency.
    difference : ndarray of float16, shape (H, W)
        What the attack adds.
    probabilities : ndarray of float32, shape (2, K)
        The victim's, of the legitimate and of the adversarial image.
    fooled : bool
        Whether the attack succeeded within the budget's bound.
    """

    clip: str
    true_class: str
    target_class: str
    classes: tuple[str, ...]
    x: NDArray[np.floating[Any]]
    difference: NDArray[np.floating[Any]]
    probabilities: NDArray[np.floating[Any]]
    fooled: bool

    @property
    def x_adv(self) -> NDArray[np.float64]:
        """The adversarial image, in [0, 1]."""
        return np.clip(self.x.astype(float) + self.difference, 0.0, 1.0)

    def predicted(self, adversarial: bool) -> tuple[str, float]:
        """What the victim takes the legitimate or the adversarial image for, and its probability."""
        scores = self.probabilities[int(adversarial)]
        return self.classes[int(scores.argmax())], float(scores.max())


def pack(examples: Sequence[Example]) -> bytes:
    """Write examples of one attack on one victim as a compressed ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        clip=[example.clip for example in examples],
        true_class=[example.true_class for example in examples],
        target_class=[example.target_class for example in examples],
        classes=examples[0].classes,
        x=np.stack([example.x for example in examples]).astype(np.float16),
        difference=np.stack([example.difference for example in examples]).astype(np.float16),
        probabilities=np.stack([example.probabilities for example in examples]).astype(np.float32),
        fooled=[example.fooled for example in examples],
    )
    return buffer.getvalue()


def unpack(content: bytes) -> list[Example]:
    """Read what `pack` has written."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    classes = tuple(map(str, arrays.pop("classes")))
    texts = {name: map(str, arrays.pop(name)) for name in ("clip", "true_class", "target_class")}
    return [
        Example(clip, true_class, target_class, classes, x, difference, probabilities, bool(fooled))
        for clip, true_class, target_class, x, difference, probabilities, fooled in zip(
            *texts.values(), *(arrays[name] for name in ("x", "difference", "probabilities", "fooled")), strict=True
        )
    ]
