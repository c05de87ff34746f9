"""What all figures have in common: the canvas, its formats, and how plain and adversarially trained victims look."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
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


def canvas(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of that size in inches; without a layout its panels are placed by hand."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def to_png(figure: Figure) -> bytes:
    """Render at 120 dots an inch, in at most 256 colours."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
    return packed.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Render with text as text; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "advtrack"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def picture(name: str, title: str, alt: str, figure: Figure) -> Picture:
    """Render a figure in both formats."""
    png = to_png(figure)
    figure.set_layout_engine("none")  # it is laid out now
    return Picture(name, title, alt, png, to_svg(figure))


def literal(text: str) -> str:
    """Keep dollar signs in names from being read as formulas."""
    return text.replace("$", r"\$")


def quiet_grid(ax: Axes) -> None:
    """A light grid behind what is drawn, and small labels."""
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", labelsize=7)


def logarithmic(axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers instead of powers of ten."""
    from matplotlib.ticker import LogLocator

    _scale(axis, "log")
    axis.set_major_locator(LogLocator(subs=(1, 3), numticks=5))
    _plain_numbers(axis)


def counting(axis: Axis) -> None:
    """Make an axis of iterations: logarithmic, but for a 0."""
    from matplotlib.ticker import FixedLocator

    _scale(axis, "symlog")
    axis.set_major_locator(FixedLocator([0, *(step * 10**power for power in range(5) for step in (1, 3))]))
    _plain_numbers(axis)


def labelled(axis: Axis) -> None:
    """Name the least and the greatest value of an axis that is so short that fewer than two ticks fall on it."""
    from matplotlib.ticker import FixedLocator

    low, high = axis.get_view_interval()
    if sum(low <= tick <= high for tick in axis.get_majorticklocs()) < 2:
        ax = axis.axes
        axis.set_major_locator(FixedLocator(ax.dataLim.intervalx if axis is ax.xaxis else ax.dataLim.intervaly))


def _scale(axis: Axis, scale: str) -> None:
    ax = axis.axes
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)(scale)


def _plain_numbers(axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
