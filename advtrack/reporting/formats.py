"""Tables as text: Markdown to read, CSV to compute with, LaTeX to print, HTML to click."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape

from advtrack.reporting.cells import ABSENT, Cell, Table

_LATEX = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "—": "---",
        # A line of a table that begins so would be read as the length after its \\.
        "[": "{[}",
        "]": "{]}",
        "*": "{*}",
    }
)


def to_markdown(table: Table) -> str:
    """Render a table as Markdown that also reads well in a console.

    Parameters
    ----------
    table : Table
        What to render.

    Returns
    -------
    str
        Heading, aligned table, caption, notes, and the commands that fill open cells.
    """
    grid = [_header(table), *(tuple(_bold(cell, "**", "**", cell.text) for cell in line) for line in table.lines)]
    grid = [tuple(text.replace("|", r"\|") for text in line) for line in grid]
    widths = [max(3, *(len(line[i]) for line in grid)) for i in range(len(table.columns))]
    rule = [":" + "-" * (w - 1) if i < table.keys else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def row(line: Sequence[str]) -> str:
        padded = (
            t.ljust(w) if i < table.keys else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    parts = [f"### {table.title}", "\n".join([row(grid[0]), row(rule), *map(row, grid[1:])]), table.caption]
    if remarks := table.remarks():
        parts.append("\n".join(["Notes:", "", *(f"- {remark}" for remark in remarks)]))
    if commands := table.commands():
        fills = [f"- `{command}` ({'; '.join(places)})" for command, places in commands.items()]
        parts.append("\n".join(["Open cells, and the command that comes next for them:", "", *fills]))
    return "\n\n".join(parts) + "\n"


def to_csv(table: Table) -> str:
    """Render a table as CSV, numbers to ten significant digits.

    Parameters
    ----------
    table : Table
        What to render.

    Returns
    -------
    str
        One header line, then a line per line. After a column of numbers come, where its cells have them, columns of
        the same name and 'low', 'high' (the interval), 'at least', 'best' (1 or 0), the names of the details, and
        'runs'. Empty where there is nothing.
    """
    columns: list[list[str]] = []
    for i, column in enumerate(table.columns):
        cells = [line[i] for line in table.lines]
        columns.append([column.name, *map(_csv_cell, cells)])
        if any(cell.interval for cell in cells):
            for end, name in enumerate(("low", "high")):
                columns.append([f"{column.name} {name}", *(_raw(c.interval and c.interval[end]) for c in cells)])
        for name, mark in (("at least", "at_least"), ("best", "best")):
            if any(getattr(cell, mark) for cell in cells):
                columns.append([f"{column.name} {name}", *(str(int(getattr(cell, mark))) for cell in cells)])
        for name in dict.fromkeys(name for cell in cells for name in cell.details):
            columns.append([f"{column.name} {name}", *(_raw(cell.details.get(name)) for cell in cells)])
        if any(cell.runs for cell in cells):
            columns.append([f"{column.name} runs", *(" ".join(cell.runs) for cell in cells)])
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(zip(*columns, strict=True))
    return buffer.getvalue()


def to_latex(table: Table) -> str:
    r"""Render a table as LaTeX, for ``\input``.

    Parameters
    ----------
    table : Table
        What to render.

    Returns
    -------
    str
        A ``table*`` with caption, label ``tab:NAME`` and notes. It takes the packages booktabs and graphicx.
    """
    keys = table.keys
    lines = [_header(table), *(tuple(cell.text for cell in line) for line in table.lines)]
    grid = [[text.translate(_LATEX) for text in line] for line in lines]
    for i, line in enumerate(table.lines):
        grid[i + 1] = [_bold(cell, r"\textbf{", "}", text) for cell, text in zip(line, grid[i + 1], strict=True)]
    rows = [" & ".join(line) + r" \\" for line in grid]
    notes = [rf"\par\footnotesize {remark.translate(_LATEX)}" for remark in table.remarks()]
    return (
        "\n".join(
            [
                r"% \usepackage{booktabs,graphicx}",
                r"\begin{table*}",
                r"\centering",
                rf"\caption{{{table.title.translate(_LATEX)}. {table.caption.translate(_LATEX)}}}",
                rf"\label{{tab:{table.name}}}",
                r"\resizebox{\linewidth}{!}{%",
                rf"\begin{{tabular}}{{{'l' * keys}{'r' * (len(table.columns) - keys)}}}",
                r"\toprule",
                rows[0],
                r"\midrule",
                *rows[1:],
                r"\bottomrule",
                r"\end{tabular}}",
                *notes,
                r"\end{table*}",
            ]
        )
        + "\n"
    )


def to_html(table: Table, address: Callable[[str], str | None] = lambda run: None) -> str:
    """Render a table as a fragment of HTML, with everything that belongs to it.

    Parameters
    ----------
    table : Table
        What to render.
    address : callable
        The web address of an MLflow run, or None where it has none.

    Returns
    -------
    str
        A heading of the third level, the table with its caption in a frame that scrolls, notes, and the commands that
        fill open cells. Cells of numbers carry ``data-value``; columns of the paper's values have the class ``paper``.
    """
    head = "".join(
        f'<th scope="col" class="{column.role}">{escape(column.name)}</th>' for column in table.columns
    )  # fmt: skip
    lines = []
    for line in table.lines:
        keys = "".join(f'<th scope="row" class="key">{escape(cell.text)}</th>' for cell in line[: table.keys])
        values = zip(table.columns[table.keys :], line[table.keys :], strict=True)
        lines.append(f"<tr>{keys}{''.join(_html_cell(cell, column.role, address) for column, cell in values)}</tr>")
    body, name = "\n".join(lines), escape(table.name)
    parts = [
        f'<h3 id="{name}">{escape(table.title)}</h3>',
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}">\n'
        f'<table aria-labelledby="{name}">\n<caption><span>{escape(table.caption)}</span></caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>",
    ]
    if remarks := table.remarks():
        parts += ["<p>Notes:</p>", _list(escape(remark) for remark in remarks)]
    if commands := table.commands():
        fills = (
            f"<code>{escape(command)}</code> ({escape('; '.join(places))})" for command, places in commands.items()
        )
        parts += ["<p>Open cells, and the command that comes next for them:</p>", _list(fills)]
    return "\n".join(parts)


def _header(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns)


def _bold(cell: Cell, before: str, after: str, text: str) -> str:
    return f"{before}{text}{after}" if cell.best else text


def _raw(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def _csv_cell(cell: Cell) -> str:
    if cell.value is not None:
        return _raw(cell.value)
    return "" if cell.text == ABSENT else cell.text


def _html_cell(cell: Cell, role: str, address: Callable[[str], str | None]) -> str:
    links = [(run, link) for run in cell.runs if (link := address(run))]
    shown = _bold(cell, "<strong>", "</strong>", escape(cell.text))
    shown += "".join(f" {run_link(run, link, number)}" for number, (run, link) in enumerate(links, start=1))
    value = "" if cell.value is None else f' data-value="{_raw(cell.value)}"'
    return f'<td class="{role}"{value}>{shown}</td>'


def run_link(run: str, link: str, number: int) -> str:
    """A small number that leads to a run's page, in a tab of its own."""
    return f'<a class="run" href="{escape(link)}" target="_blank" rel="noopener" title="run {escape(run)}">{number}</a>'


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
