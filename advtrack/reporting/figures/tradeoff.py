"""What robustness costs: accuracy against robust accuracy, a point for each model and representation."""

from __future__ import annotations

from typing import Any

from advtrack.reporting.cells import Table
from advtrack.reporting.figures.drawing import (
    BLUE,
    CALLED,
    GREEN,
    GREY,
    LOOKS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Picture,
    canvas,
    picture,
    quiet_grid,
)

_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
_MARKERS = "osD^vP*X"


def tradeoff_figure(name: str, title: str, robust_accuracy: Table, dataset: str) -> Picture | None:
    """Draw the table of robust accuracies at the one eps where the victims of a data set differ most.

    Parameters
    ----------
    name, title : str
        Of the picture.
    robust_accuracy : Table
        Of that name.
    dataset : str
        The data set.

    Returns
    -------
    Picture or None
        Colour: representation. Marker: model. Filled: plain; open: adversarially trained, with a line from the one to
        the other. Bars: 95% intervals. None where no victim has robust accuracies.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lines = [line for line in robust_accuracy.lines if line[0].text == dataset]
    columns = [i for i, column in enumerate(robust_accuracy.columns) if column.name.startswith("eps ")]
    if not lines:
        return None

    def spread(column: int) -> float:
        values = [line[column].value or 0.0 for line in lines]
        return max(values) - min(values)

    clean, eps = columns[0], max(columns[1:], key=spread)
    at = robust_accuracy.columns[eps].name
    representations = list(dict.fromkeys(line[1].text for line in lines))
    models = list(dict.fromkeys(line[2].text for line in lines))
    figure = canvas(8.0, 5.0)
    ax = figure.subplots()
    sentences: list[str] = []
    ends: dict[tuple[str, str], tuple[float, float]] = {}
    for line in lines:
        _, representation, model, training = (cell.text for cell in line[:4])
        colour = _COLOURS[representations.index(representation) % len(_COLOURS)]
        look: dict[str, Any] = {"color": colour, "marker": _MARKERS[models.index(model) % len(_MARKERS)]}
        point = (line[clean].value or 0.0, line[eps].value or 0.0)
        bars: dict[str, Any] = {
            f"{axis}err": [[max(0.0, value - cell.interval[0])], [max(0.0, cell.interval[1] - value)]]
            for axis, value, cell in zip("xy", point, (line[clean], line[eps]), strict=True)
            if cell.interval
        }
        filled: dict[str, Any] = {} if training == "plain" else {"markerfacecolor": "white"}
        style = {**bars, **look, **filled, "markersize": 9, "markeredgewidth": 1.6, "elinewidth": 0.6}
        ax.errorbar(*point, **style)
        if start := ends.get((representation, model)):
            ax.plot(*zip(start, point, strict=True), color=colour, linestyle=LOOKS["adversarial"]["linestyle"], lw=0.8)
        ends[representation, model] = point
        sentences.append(
            f"{model} on {representation}, {CALLED[training]}: accuracy {point[0]:.1f} %, at {at} {point[1]:.1f} %."
        )
    handles = [
        *(Line2D([], [], color=_COLOURS[i % len(_COLOURS)], label=text) for i, text in enumerate(representations)),
        *(
            Line2D([], [], color=GREY, marker=_MARKERS[i % len(_MARKERS)], linestyle="none", label=text)
            for i, text in enumerate(models)
        ),
        # No markers, which stand for models.
        Patch(facecolor=GREY, edgecolor=GREY, label=f"filled: {CALLED['plain']}"),
        Patch(facecolor="white", edgecolor=GREY, label=f"open: {CALLED['adversarial']}"),
    ]
    ax.set_xlabel("test accuracy, %", fontsize=8)
    ax.set_ylabel(f"robust accuracy at {at} (l-inf, inputs in [0, 1]), %", fontsize=8)
    quiet_grid(ax)
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    return picture(name, title, " ".join(sentences), figure)
