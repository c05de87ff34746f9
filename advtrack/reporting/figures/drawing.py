"""What all figures have in common: the canvas, its formats, and how plain and adversarially trained victims look."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#555555"
UNITS = {"l0": "l0 (values changed)", "l2": "l2 (inputs in [0, 1])", "linf": "l-inf (inputs in [0, 1])"}
#: Colour, brightness, line and marker differ, so that the two are told apart in grey print too.
LOOKS: dict[str, dict[str, Any]] = {
    "plain": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "adversarial": {"color": ORANGE, "linestyle": "--", "marker": "s", "markeredgecolor": "black"},
}
CALLED = {"plain": "plain", "adversarial": "adversarially trained"}


@dataclass(frozen=True)
class Picture:
    """A figure with what is said of it.

    Attributes
    ----------
    name : str
        Short and unique: what its files are called.
    title : str
        Heading above it.
    alt : str
        What it shows, with its numbers, for those who cannot see it.
    png, svg : bytes
        The same in both formats.
    """

    name: str
    title: str
    alt: str
    png: bytes
    svg: bytes


def canvas(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def to_png(figure: Figure) -> bytes:
    """Render at 120 dots an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Render with text as text; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "advtrack"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def literal(text: str) -> str:
    """Keep dollar signs in names from being read as formulas."""
    return text.replace("$", r"\$")


def quiet_grid(ax: Axes) -> None:
    """A light grid behind what is drawn, and small labels."""
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", labelsize=7)
