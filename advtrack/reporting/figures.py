"""Figures as PNG bytes, drawn with matplotlib's objects alone: no global state, no display.

Plain and adversarially trained models differ in colour, brightness and marker, so that a figure can be read by the
colour-blind and in grey print.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from advtrack.reporting.records import AttackRecord, VictimRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Two of Okabe and Ito's colours, far apart in brightness too.
PLAIN = "#0072B2"
ROBUST = "#E69F00"
UNITS = {"l0": "values changed", "l2": "l2, inputs in [0, 1]", "linf": "l-inf, inputs in [0, 1]"}


@dataclass(frozen=True)
class GalleryExample:
    """An adversarial example beside its original.

    Attributes
    ----------
    title : str
        Representation and attack, for instance.
    x, x_adv : ndarray, shape (H, W)
        Legitimate and adversarial image in [0, 1].
    true_class, adversarial_class : str
        What the model says for each.
    probability : float
        The model's probability for the adversarial class on the adversarial image.
    """

    title: str
    x: NDArray[np.floating[Any]]
    x_adv: NDArray[np.floating[Any]]
    true_class: str
    adversarial_class: str
    probability: float


def budget_figure(records: Sequence[VictimRecord]) -> bytes:
    """Draw, attack by attack, the perturbation and the fooling rate of every model, plain and adversarially trained.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order; those without attacks do not appear.

    Returns
    -------
    bytes
        PNG. A triangle to the right is a lower bound: the target was not reached.
    """
    from matplotlib.lines import Line2D

    attacks = sorted({attack for record in records for attack in record.attacks})
    places = sorted({(r.dataset, r.representation, r.model) for r in records if r.attacks})
    if not attacks:
        raise ValueError("no attack to draw: the records hold none")
    figure = _figure(10.0, 0.7 + (0.75 + 0.28 * len(places)) * len(attacks))
    axes = figure.subplots(len(attacks), 2, squeeze=False, sharey=True)
    for (left, right), attack in zip(axes, attacks, strict=True):
        norms = set()
        for record in sorted(records, key=lambda record: record.training != "plain"):
            found = record.attacks.get(attack)
            if found is None:
                continue
            norms.add(found.norm)
            y = places.index((record.dataset, record.representation, record.model))
            _draw_budget(left, right, y, record.training == "plain", found)
        left.set_xscale("log")
        left.set_xlabel(" / ".join(UNITS.get(norm, norm) for norm in sorted(norms)), fontsize=8)
        left.set_title(f"{attack}: mean perturbation", fontsize=9, loc="left")
        right.set_title(f"{attack}: fooling rate", fontsize=9, loc="left")
        right.set_xlabel("% of samples", fontsize=8)
        right.set_xlim(-3, 103)
        left.set_ylim(len(places) - 0.5, -0.5)
        left.set_yticks(range(len(places)), [_literal(", ".join(place)) for place in places], fontsize=8)
        for ax in (left, right):
            ax.tick_params(axis="x", which="both", labelsize=8)
            ax.grid(color="#dddddd", linewidth=0.6)
            ax.set_axisbelow(True)
    marks: tuple[tuple[str, dict[str, Any]], ...] = (
        ("plain", _marker(plain=True)),
        ("adversarially trained", _marker(plain=False)),
        ("at least (target not reached)", {"marker": ">", "color": "#555555"}),
        ("adversarially trained, at the plain budget", {"marker": "x", "color": "black"}),
    )
    handles = [Line2D([], [], linestyle="none", label=label, **style) for label, style in marks]
    handles.append(Line2D([], [], linestyle=":", color="#555555", label="target"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return _png(figure)


def gallery_figure(examples: Sequence[GalleryExample]) -> bytes:
    """Draw adversarial examples: legitimate, adversarial and, amplified, their difference.

    Parameters
    ----------
    examples : sequence of GalleryExample
        One row each.

    Returns
    -------
    bytes
        PNG; in the difference, grey is unchanged, white added and black taken away.
    """
    if not examples:
        raise ValueError("no example to draw")
    figure = _figure(9.0, 2.6 * len(examples) + 0.3)
    axes = figure.subplots(len(examples), 3, squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        difference = np.asarray(example.x_adv, dtype=float) - np.asarray(example.x, dtype=float)
        factor = amplification(difference)
        images = (
            (example.x, "magma", 0.0, f"{example.title}\nlegitimate: {example.true_class}"),
            (example.x_adv, "magma", 0.0, f"adversarial: {example.adversarial_class} (p = {example.probability:.2f})"),
            (factor * difference, "gray", -1.0, f"difference x {factor:g}"),
        )
        for ax, (image, colours, low, title) in zip(row, images, strict=True):
            # Nearest keeps single changed values visible, which is all that an l0 attack leaves.
            # Row 0 of every representation is its lowest frequency.
            ax.imshow(image, cmap=colours, vmin=low, vmax=1.0, aspect="auto", interpolation="nearest", origin="lower")
            ax.set_title(_literal(title), fontsize=8, loc="left")
            ax.tick_params(labelsize=7)
        row[0].set_ylabel("image row", fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("image column (time)", fontsize=8)
    return _png(figure)


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
    figure = _figure(2.2 * columns, 1.8 * rows + 0.4)
    figure.suptitle(_literal(f"{representation}: one clip of each class"), fontsize=9)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, name in zip(axes.flat, images, classes, strict=False):
        ax.imshow(image, cmap="magma", vmin=0.0, vmax=1.0, aspect="auto", origin="lower")
        ax.set_title(_literal(name), fontsize=8)
    return _png(figure)


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
    figure = _figure(side + 0.8, side)
    ax = figure.subplots()
    image = ax.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    names = [_literal(name) for name in classes]
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
    return _png(figure)


def curve_figure(curve: Sequence[tuple[float, float, float]], target: float, bound_name: str) -> bytes:
    """Draw the fooling rate against the perturbation bound, as far as a search knows it.

    Parameters
    ----------
    curve : sequence of (bound, least rate, largest rate)
        In order; from each bound to the next, the fooling rate, in [0, 1], lies between the two.
    target : float
        The value searched for.
    bound_name : str
        What the bound is, with its unit.

    Returns
    -------
    bytes
        PNG.
    """
    bounds, least, most = np.array(curve).reshape(-1, 3).T
    figure = _figure(6.0, 3.6)
    ax = figure.subplots()
    if len(bounds):
        ax.set_xscale("log")
    ax.fill_between(bounds, 100 * least, 100 * most, step="post", color=PLAIN, alpha=0.25, label="not known")
    ax.step(bounds, 100 * least, where="post", color=PLAIN, marker="o", markersize=3, label="at least")
    ax.axhline(100 * target, color="#555555", linestyle=":", label=f"target {100 * target:g} %")
    ax.set_ylim(-3, 103)
    ax.set_xlabel(_literal(bound_name))
    ax.set_ylabel("fooling rate, % of samples")
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.legend(frameon=False, fontsize=8)
    return _png(figure)


def _marker(plain: bool) -> dict[str, Any]:
    if plain:
        return {"marker": "o", "color": PLAIN, "markersize": 6}
    return {"marker": "s", "color": ROBUST, "markersize": 6, "markeredgecolor": "black", "markeredgewidth": 0.6}


def _draw_budget(left: Axes, right: Axes, y: int, plain: bool, record: AttackRecord) -> None:
    """Put one search into its attack's two panels; the two trainings stand a little above and below the line."""
    y_shifted = y + (-0.13 if plain else 0.13)
    style = _marker(plain)
    if math.isfinite(record.perturbation) and record.perturbation > 0:
        shape = {} if record.target_reached else {"marker": ">"}
        left.plot(record.perturbation, y_shifted, linestyle="none", **(style | shape))
    right.plot(100 * record.fooling_rate, y_shifted, linestyle="none", **style)
    if record.transferred_fooling_rate is not None:
        right.plot(100 * record.transferred_fooling_rate, y_shifted, "x", color="black", markersize=6)
    right.axvline(100 * record.target_fooling_rate, color="#555555", linestyle=":", linewidth=1)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _literal(text: str) -> str:
    """Keep dollar signs in names from being read as formulas."""
    return text.replace("$", r"\$")
