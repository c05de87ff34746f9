"""Adversarial examples: legitimate, adversarial and, amplified, their difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from advtrack.reporting.examples import Example
from advtrack.reporting.figures.drawing import Picture, canvas, literal, picture, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def example_figure(attack: str, examples: Sequence[Example]) -> bytes:
    """Draw the examples that one attack run keeps, a row each.

    Parameters
    ----------
    attack : str
        For the titles.
    examples : sequence of Example
        One row each.

    Returns
    -------
    bytes
        PNG; in the difference, grey is unchanged, white added and black taken away.
    """
    figure = canvas(9.0, 2.6 * len(examples) + 0.3)
    axes = figure.subplots(len(examples), 3, squeeze=False)
    for (left, middle, right), example in zip(axes, examples, strict=True):
        _show(left, example.x, f"{attack}: {example.clip} ({example.true_class})\nlegitimate: {_said(example, False)}")
        _show(middle, example.x_adv, f"adversarial: {_said(example, True)}")
        _show_difference(right, example, "difference x ")
        left.set_ylabel("image row (frequency)", fontsize=8)
        for ax in (left, middle, right):
            ax.tick_params(labelsize=7)
    for ax in axes[-1]:
        ax.set_xlabel("image column (time)", fontsize=8)
    return to_png(figure)


def overview_figure(name: str, title: str, shown: Mapping[str, Mapping[str, Example]]) -> Picture:
    """Draw one clip in several representations under several attacks (the paper's Fig. 29).

    Parameters
    ----------
    name, title : str
        Of the picture.
    shown : mapping of str to mapping of str to Example
        By representation and attack; all of one clip.

    Returns
    -------
    Picture
        A pair of columns for each representation, a row for each attack, the legitimate images on top.
    """
    attacks = list(dict.fromkeys(attack for examples in shown.values() for attack in examples))
    figure = canvas(3.1 * len(shown) + 0.4, 1.35 * (len(attacks) + 1) + 0.3)
    axes = figure.subplots(len(attacks) + 1, 2 * len(shown), squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_frame_on(False)
    sentences = []
    for column, (representation, examples) in enumerate(shown.items()):
        first = next(iter(examples.values()))
        legitimate = axes[0, 2 * column]
        _show(legitimate, first.x, f"{representation}\nlegitimate: {_said(first, False)}", 7)
        sentences.append(f"{representation}, legitimate: {_said(first, False)}.")
        for row, attack in enumerate(attacks, start=1):
            if attack in examples:
                example = examples[attack]
                _show(axes[row, 2 * column], example.x_adv, _said(example, True), 7)
                _show_difference(axes[row, 2 * column + 1], example, "difference x ", 7)
                sentences.append(f"{representation}, {attack}: {_said(example, True)}.")
    for row, label in enumerate(["legitimate", *attacks]):
        axes[row, 0].set_ylabel(label, fontsize=8)
    figure.supxlabel("each picture: image column (time, left to right)", fontsize=8)
    figure.supylabel("image row (frequency, bottom to top)", fontsize=8)
    return picture(name, title, " ".join(sentences), figure)


def amplification(difference: ArrayLike) -> float:
    """Choose the factor 1, 2 or 5 times a power of ten that makes a difference visible without clipping it.

    Parameters
    ----------
    difference : array_like
        Signed difference of two images.

    Returns
    -------
    float
        At least 1, even where nothing differs.
    """
    largest = float(np.max(np.abs(difference), initial=0.0))
    if largest == 0:
        return 1.0
    room = 1 / largest
    power = 10.0 ** math.floor(math.log10(room))
    return max(1.0, max(step * power for step in (1, 2, 5) if step == 1 or step * power <= room))


def _said(example: Example, adversarial: bool) -> str:
    """What the victim says of an image, and whether the attack failed."""
    label, probability = example.predicted(adversarial)
    failed = " (resists)" if adversarial and not example.fooled else ""
    return f"{label}, p = {probability:.2f}{failed}"


def _show(ax: Axes, image: NDArray[np.floating[Any]], title: str, size: int = 8) -> None:
    # Without interpolation single changed values stay visible, which is all that an l0 attack leaves.
    # Row 0 of every representation is its lowest frequency.
    ax.imshow(image, cmap="magma", vmin=0.0, vmax=1.0, aspect="auto", interpolation="none", origin="lower")
    ax.set_title(literal(title), fontsize=size, loc="left")


def _show_difference(ax: Axes, example: Example, title: str, size: int = 8) -> None:
    difference = example.difference.astype(float)
    factor = amplification(difference)
    amplified = factor * difference
    ax.imshow(amplified, cmap="gray", vmin=-1.0, vmax=1.0, aspect="auto", interpolation="none", origin="lower")
    ax.set_title(f"{title}{factor:g}", fontsize=size, loc="left")
