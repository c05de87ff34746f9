"""Tables as text: Markdown to read, CSV to compute with."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from advtrack.reporting.cells import ABSENT, Cell, Sheet, Table


def to_markdown(table: Table | Sheet) -> str:
    """Render a table as Markdown that also reads well in a console.

    Parameters
    ----------
    table : Table or Sheet
        What to render.

    Returns
    -------
    str
        Heading, aligned table, caption, notes, and the commands that fill open cells.
    """
    sheet = table.sheet() if isinstance(table, Table) else table
    grid = [sheet.header, *(tuple(_markdown_cell(cell) for cell in line) for line in sheet.lines)]
    grid = [tuple(text.replace("|", r"\|") for text in line) for line in grid]
    widths = [max(3, *(len(line[i]) for line in grid)) for i in range(len(sheet.header))]
    rule = [":" + "-" * (w - 1) if i < sheet.keys else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def row(line: Sequence[str]) -> str:
        padded = (
            t.ljust(w) if i < sheet.keys else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    parts = [f"### {sheet.title}", "\n".join([row(grid[0]), row(rule), *map(row, grid[1:])]), sheet.caption]
    if sheet.notes:
        parts.append("\n".join(["Notes:", "", *(f"- {note}" for note in sheet.notes)]))
    if sheet.commands:
        fills = [f"- `{command}` ({'; '.join(places)})" for command, places in sheet.commands.items()]
        parts.append("\n".join(["Open cells, and the command that comes next for them:", "", *fills]))
    return "\n\n".join(parts) + "\n"


def to_csv(table: Table | Sheet) -> str:
    """Render a table as CSV, numbers to ten significant digits.

    Parameters
    ----------
    table : Table or Sheet
        A `Table` gives a line per cell, a `Sheet` a line per line.

    Returns
    -------
    str
        Comma-separated, one header line; empty where there is no value.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if isinstance(table, Sheet):
        writer.writerow(table.header)
        writer.writerows([_csv_cell(cell) for cell in line] for line in table.lines)
        return buffer.getvalue()
    names = list(dict.fromkeys(name for row in table.rows for cell in row.cells for name in cell.details))
    header = ["table", "dataset", "representation", "model", "value", "text", "best", "at_least", "attacks", "missing"]
    writer.writerow([*header, "notes", *names])
    for row in table.rows:
        for model, cell in zip(table.models, row.cells, strict=True):
            place = (table.number, row.dataset, row.representation, model)
            marks = (int(cell.best), int(cell.at_least), " ".join(cell.attacks), cell.missing or "")
            details = (_raw(cell.details.get(name)) for name in names)
            writer.writerow([*place, _raw(cell.value), cell.text, *marks, "; ".join(cell.notes), *details])
    return buffer.getvalue()


def _raw(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def _csv_cell(cell: Cell) -> str:
    if cell.value is not None:
        return _raw(cell.value)
    return "" if cell.text == ABSENT else cell.text


def _markdown_cell(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.best else cell.text
