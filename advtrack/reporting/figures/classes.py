"""What a data set looks like, and what a network makes of it: an image per class, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from advtrack.reporting.figures.drawing import canvas, literal, to_png


def class_figure(images: Sequence[np.ndarray], classes: Sequence[str], representation: str) -> bytes:
    """Draw one image per class, for a look at what was extracted.

    Parameters
    ----------
    images : sequence of ndarray, shape (H, W)
        In [0, 1].
    classes : sequence of str
        Their class names.
    representation : str
        What they are, for the title.

    Returns
    -------
    bytes
        PNG.
    """
    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    figure = canvas(2.2 * columns, 1.8 * rows + 0.4)
    figure.suptitle(literal(f"{representation}: one clip of each class"), fontsize=9)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, name in zip(axes.flat, images, classes, strict=False):
        ax.imshow(image, cmap="magma", vmin=0.0, vmax=1.0, aspect="auto", origin="lower")
        ax.set_title(literal(name), fontsize=8)
    return to_png(figure)


def confusion_figure(matrix: ArrayLike, classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix; the shade is the share of the true class.

    Parameters
    ----------
    matrix : array_like of int, shape (K, K)
        Clips counted by true class (row) and predicted class (column).
    classes : sequence of str
        The K class names.

    Returns
    -------
    bytes
        PNG; counts are written in where there is room for them.
    """
    counts = np.asarray(matrix)
    k = len(classes)
    if counts.shape != (k, k):
        raise ValueError(f"a confusion matrix of {k} classes is {k} x {k}, not {counts.shape}")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.5, 0.32 * k + 2.0)
    figure = canvas(side + 0.8, side)
    ax = figure.subplots()
    image = ax.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    names = [literal(name) for name in classes]
    ax.set_xticks(range(k), names, rotation=90, fontsize=7)
    ax.set_yticks(range(k), names, fontsize=7)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    if k <= 20:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                ax.text(
                    j,
                    i,
                    str(count),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="black" if share[i, j] < 0.5 else "white",
                )
    figure.colorbar(image, ax=ax, label="share of the true class", shrink=0.8)
    return to_png(figure)
