"""How often attacks fool a victim, over the perturbation bound and over the iterations, and the Pareto fronts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advtrack.intervals import wilson
from advtrack.reporting.figures.drawing import (
    BLUE,
    CALLED,
    GREY,
    LOOKS,
    UNITS,
    Picture,
    canvas,
    counting,
    labelled,
    literal,
    logarithmic,
    picture,
    quiet_grid,
    to_png,
)
from advtrack.reporting.records import AttackRecord, StruckClips, VictimRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]


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
    figure = canvas(6.0, 3.6)
    ax = figure.subplots()
    if len(bounds):
        ax.set_xscale("log")
    ax.fill_between(bounds, 100 * least, 100 * most, step="post", color=BLUE, alpha=0.25, label="not known")
    ax.step(bounds, 100 * least, where="post", color=BLUE, marker="o", markersize=3, label="at least")
    ax.axhline(100 * target, color=GREY, linestyle=":", label=f"target {100 * target:g} %")
    ax.set_ylim(-3, 103)
    ax.set_xlabel(literal(bound_name))
    ax.set_ylabel("fooling rate, % of samples")
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.legend(frameon=False, fontsize=8)
    return to_png(figure)


def rates_figure(name: str, title: str, victims: Sequence[VictimRecord], attacks: Sequence[str]) -> Picture:
    """Draw the searches on the victims of one cell, plain and adversarially trained in one picture.

    Parameters
    ----------
    name, title : str
        Of the picture.
    victims : sequence of VictimRecord
        Of one cell, in any order.
    attacks : sequence of str
        In this order; those that no victim has are left out.

    Returns
    -------
    Picture
        A row for each attack: the fooling rate against the bound (any number of iterations up to the longest), the
        fooling rate against the iterations (at the budget's bound), and the Pareto front. Shaded: Wilson's 95%
        interval. On the left, between two thin lines lies what the search leaves open, and the shading spans it. A
        large marker is the budget.
    """
    from matplotlib.lines import Line2D

    victims = sorted(victims, key=lambda victim: victim.training != "plain")
    drawn = [attack for attack in attacks if any(attack in victim.attacks for victim in victims)]
    height = 1.8 * len(drawn) + 0.4
    # Laid out by hand: the constrained layout of so many panels takes half of the drawing's time.
    figure = canvas(10.0, height, layout=None)
    figure.subplots_adjust(0.06, 0.45 / height, 0.99, 1 - 0.65 / height, wspace=0.2, hspace=0.65)
    sentences = []
    for (left, middle, right), attack in zip(figure.subplots(len(drawn), 3, squeeze=False), drawn, strict=True):
        for victim in victims:
            if attack in victim.attacks:
                record, look = victim.attacks[attack], LOOKS[victim.training]
                if record.clips is not None:
                    _against_bound(left, record.clips, look)
                    _against_iterations(middle, record.clips, look)
                _front(right, record, look)
                _mark(left, record.bound, 100 * record.fooling_rate, look)
                _mark(middle, record.iterations, 100 * record.fooling_rate, look)
                _mark(right, record.bound, record.iterations, look)
                sentences.append(
                    f"{attack}, {CALLED[victim.training]}: {100 * record.fooling_rate:.1f} % "
                    f"({100 * record.fooling_low:.1f} to {100 * record.fooling_high:.1f}) at {record.norm} "
                    f"{record.bound:.4g} and {record.iterations} iterations."
                )
                target, norm = 100 * record.target_fooling_rate, record.norm
        for ax in (left, middle):
            ax.axhline(target, color=GREY, linestyle=":", linewidth=1)
            ax.set_ylim(-3, 103)
            ax.set_ylabel("fooling rate, % of clips", fontsize=7)
        left.set_title(f"{attack}: over the bound", fontsize=8, loc="left")
        middle.set_title(f"{attack}: over the iterations", fontsize=8, loc="left")
        right.set_title(f"{attack}: Pareto front", fontsize=8, loc="left")
        for ax in (left, right):
            logarithmic(ax.xaxis)
            ax.set_xlabel(f"bound, {UNITS[norm]}", fontsize=7)
        counting(middle.xaxis)
        middle.set_xlim(left=0)
        middle.set_xlabel("iterations", fontsize=7)
        counting(right.yaxis)
        right.margins(y=0.15)
        labelled(right.yaxis)
        right.set_ylabel("iterations", fontsize=7)
        for ax in (left, middle, right):
            quiet_grid(ax)
    handles = [Line2D([], [], label=CALLED[victim.training], **LOOKS[victim.training]) for victim in victims]
    handles.append(Line2D([], [], linestyle=":", color=GREY, label="target"))
    figure.legend(handles=handles, loc="upper center", ncols=3, fontsize=8, frameon=False)
    return picture(name, title, " ".join(sentences), figure)


def rates_over_bound(clips: StruckClips) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Bounds at which the fooling rate is known to change, and how many clips are fooled from there to the next one.

    At least, and at most.
    """
    fooled, resisted = np.array(clips.fooled_at), np.array(clips.resisted_at)
    steps = np.concatenate([fooled, resisted])
    bounds = np.unique(steps[np.isfinite(steps) & (steps > 0)])
    least = (fooled[:, None] <= bounds).sum(0)
    # Of a clip that resists at a bound, nothing is known from there to the next one.
    following = np.append(bounds[1:], bounds[-1:])
    return bounds, least, ((fooled[:, None] <= bounds) | (resisted[:, None] < following)).sum(0)


def rates_over_iterations(clips: StruckClips) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Iterations at which further clips are first fooled, and how many are by then, of those the budget fools."""
    first = np.array(clips.first_success)[np.array(clips.success, bool)]
    iterations = np.unique(first)
    return iterations, (first[:, None] <= iterations).sum(0)


def _against_bound(ax: Axes, clips: StruckClips, look: dict[str, Any]) -> None:
    bounds, least, most = rates_over_bound(clips)
    n = len(clips.names)
    ax.fill_between(
        bounds, 100 * wilson(least, n)[0], 100 * wilson(most, n)[1],
        step="post", color=look["color"], alpha=0.2, linewidth=0,
    )  # fmt: skip
    for counts in (least, most):
        ax.step(bounds, 100 * counts / n, where="post", color=look["color"], linewidth=0.6)
    known = np.where(least == most, 100 * least / n, np.nan)
    ax.step(bounds, known, where="post", color=look["color"], linestyle=look["linestyle"])


def _against_iterations(ax: Axes, clips: StruckClips, look: dict[str, Any]) -> None:
    iterations, fooled = rates_over_iterations(clips)
    n = len(clips.names)
    low, high = wilson(fooled, n)
    ax.fill_between(iterations, 100 * low, 100 * high, step="post", color=look["color"], alpha=0.2, linewidth=0)
    ax.step(iterations, 100 * fooled / n, where="post", color=look["color"], linestyle=look["linestyle"])


def _front(ax: Axes, record: AttackRecord, look: dict[str, Any]) -> None:
    bounds, iterations = zip(*record.front, strict=True) if record.front else ((), ())
    ax.step(bounds, iterations, where="post", markersize=3, **look)


def _mark(ax: Axes, x: float, y: float, look: dict[str, Any]) -> None:
    whole = {"linestyle": "none", "markeredgecolor": "black", "clip_on": False, "zorder": 3}  # also at the edge
    ax.plot([x], [y], markersize=7, **(look | whole))
