"""The cells of the paper's tables that survive in the text we work from: the best of each row.

They are for orientation: the paper's data, image sizes and budgets are those of the whole data set.
"""

from __future__ import annotations

from advtrack.reporting.cells import ABSENT, Cell
from advtrack.reporting.numbers import fixed

_ROWS = ("stft", "dwt", "stft_tonnetz", "dwt_tonnetz")
_VALUES = {
    "table_I": {"esc50": (69.77, 71.56, 70.22, 71.79), "urbansound8k": (88.77, 90.14, 89.42, 91.36)},
    "table_II": {"esc50": (50.97, 51.03, 50.46, 49.33), "urbansound8k": (53.24, 51.92, 50.71, 52.23)},
    "table_III": {"esc50": (2.312, 2.307, 2.161, 2.609), "urbansound8k": (2.439, 2.892, 2.308, 2.501)},
}
_DIGITS = {"table_I": 2, "table_II": 2, "table_III": 3}
#: What a column of these cells is called.
HEADING = "Paper, best of row"
CAPTION = (
    f"{HEADING}: what survives of the paper's table, on the whole data set, with its own sizes and budgets; it is no "
    "result of these runs."
)


def paper_cell(table: str, dataset: str, representation: str) -> Cell:
    """The best cell of a row as the paper prints it, or an absent one.

    Parameters
    ----------
    table : {'table_I', 'table_II', 'table_III'}
        Name of the table.
    dataset, representation : str
        The row.
    """
    values = _VALUES[table].get(dataset)
    if values is None:
        return Cell(ABSENT)
    value = values[_ROWS.index(representation)]
    text = fixed(value, _DIGITS[table])
    if table == "table_I":  # of the others, which network it is has not survived
        other = dataset == "urbansound8k" and representation == "stft_tonnetz"
        text += " (resnet56 or vgg16)" if other else " (resnet56)"
    return Cell(text, value)
