"""The report: one HTML file that opens from disk and needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from advtrack.reporting.cells import Cell, Sheet, Table

# Nothing may be fetched, whatever ends up in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1f; --dim: #55565c; --page: #fff; --raised: #f4f5f7; --line: #c9cbd1;
  --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6ea; --dim: #b0b2ba; --page: #17181b; --raised: #22242a;
  --line: #454851; --link: #8ec1ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 75rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
a { color: var(--link); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 0.35rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { background: var(--raised); }
th.key { text-align: left; }
tbody th { font-weight: normal; }
.dim { color: var(--dim); }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; min-width: 36rem; height: auto; }
figure .scroll { background: #fff; }
code { background: var(--raised); padding: 0.1rem 0.3rem; border-radius: 4px; }
dt { font-weight: 600; }
dd { margin: 0 0 0.5rem; }
@media (min-width: 40rem) { dl { display: grid; grid-template-columns: max-content 1fr; column-gap: 1.5rem; } }
"""


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes
    ----------
    title : str
        Heading above it.
    alt : str
        What it shows, for those who cannot see it.
    png : bytes
        The image.
    """

    title: str
    alt: str
    png: bytes


def html_report(
    tables: Sequence[Table], budgets: Sheet, figures: Sequence[ReportFigure], facts: Mapping[str, str]
) -> str:
    """Write the report.

    Parameters
    ----------
    tables : sequence of Table
        Tables I, II and III.
    budgets : Sheet
        The list of budgets per attack.
    figures : sequence of ReportFigure
        Figures, in order.
    facts : mapping of str to str
        What was run; a value that is a web address becomes a link.

    Returns
    -------
    str
        A complete HTML document without references to other files.
    """
    title = "Adversarial robustness of audio classifiers"
    shown = [_figure(figure) for figure in figures]
    sections = [
        ("Summary", _summary(tables)),
        ("Tables", "\n".join(_sheet(table.sheet()) for table in tables)),
        ("Budgets", _sheet(budgets)),
        ("Figures", "\n".join(shown) or "<p>There are none.</p>"),
        ("What was run", _facts(facts)),
    ]
    body = "\n".join(f"<section>\n<h2>{heading}</h2>\n{content}\n</section>" for heading, content in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def _summary(tables: Sequence[Table]) -> str:
    """Say in sentences what the tables hold: the best of each data set first, then model by model."""
    cells = {
        (table.number, row.dataset, row.representation, model): cell
        for table in tables
        for row in table.rows
        for model, cell in zip(table.models, row.cells, strict=True)
    }
    places = list(dict.fromkeys(key[1:] for key in cells))
    leaders, items = [], []
    for dataset in dict.fromkeys(place[0] for place in places):
        accuracies = {
            place: cell.value
            for place in places
            if place[0] == dataset and (cell := cells.get(("I", *place))) and cell.value is not None
        }
        if accuracies:
            _, representation, model = max(accuracies, key=lambda place: accuracies[place])
            best = max(accuracies.values())
            leaders.append(
                f"<p>On {escape(dataset)}, the highest accuracy of a plain model is {best:.1f} %: "
                f"<strong>{escape(model)} on {escape(representation)}</strong>.</p>"
            )
    for place in places:
        sentence = _sentence(*(cells.get((number, *place)) for number in ("I", "II", "III")))
        if sentence:
            dataset, representation, model = map(escape, place)
            items.append(f"<li><strong>{model}</strong> on {dataset}, {representation}: {sentence}</li>")
    if not items:
        return "<p>Nothing has been trained yet. The tables below name the command that comes next for each cell.</p>"
    waiting = sum(cell.missing is not None for cell in cells.values())
    if waiting:
        leaders.append(
            f"<p>{waiting} of {len(cells)} cells are empty or incomplete; each table names the commands for them.</p>"
        )
    return "\n".join([*leaders, "<ul>", *items, "</ul>"])


def _sentence(accuracy: Cell | None, fooled: Cell | None, ratio: Cell | None) -> str:
    """Say what one model achieves, what its robustness costs and what that buys."""
    parts = []
    if accuracy is not None and accuracy.value is not None:
        part = f"{accuracy.value:.1f} % of the test clips are named correctly"
        drop = accuracy.details.get("drop")
        if drop is not None:
            part += f", and adversarial training {'costs' if drop >= 0 else 'adds'} {abs(drop):.1f} percentage points"
        parts.append(part)
    if fooled is not None and fooled.value is not None:
        parts.append(
            f"budgets made for the plain model fool the adversarially trained one on {fooled.value:.1f} % of the "
            f"clips ({_count(fooled.attacks)})"
        )
    if ratio is not None and ratio.value is not None:
        parts.append(
            f"fooling it as often as the plain one takes {'at least ' if ratio.at_least else ''}{ratio.value:.2f} "
            f"times the perturbation ({_count(ratio.attacks)})"
        )
    return "; ".join(parts) + "." if parts else ""


def _count(attacks: Sequence[str]) -> str:
    return f"mean over {len(attacks)} attacks" if len(attacks) > 1 else f"{escape(attacks[0])} only"


def _sheet(sheet: Sheet) -> str:
    """Render a table with everything that belongs to it."""
    head = "".join(f'<th scope="col"{_key(i < sheet.keys)}>{escape(name)}</th>' for i, name in enumerate(sheet.header))
    lines = []
    for line in sheet.lines:
        keys = "".join(f'<th scope="row" class="key">{escape(cell.text)}</th>' for cell in line[: sheet.keys])
        lines.append(f"<tr>{keys}{''.join(f'<td>{_text(cell)}</td>' for cell in line[sheet.keys :])}</tr>")
    body = "\n".join(lines)
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    parts = [
        f"<h3>{escape(sheet.title)}</h3>",
        _frame(sheet.title, table),
        f'<p class="dim">{escape(sheet.caption)}</p>',
    ]
    if sheet.notes:
        parts += ["<p>Notes:</p>", _list(escape(note) for note in sheet.notes)]
    if sheet.commands:
        fills = (
            f"<code>{escape(command)}</code> ({escape('; '.join(places))})"
            for command, places in sheet.commands.items()
        )
        parts += ["<p>Open cells, and the command that comes next for them:</p>", _list(fills)]
    return "\n".join(parts)


def _text(cell: Cell) -> str:
    return f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)


def _key(is_key: bool) -> str:
    return ' class="key"' if is_key else ""


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _figure(figure: ReportFigure) -> str:
    source = f"data:image/png;base64,{base64.b64encode(figure.png).decode()}"
    image = f'<img alt="{escape(figure.alt)}" src="{source}">'
    return f"<figure><h3>{escape(figure.title)}</h3>\n{_frame(figure.title, image)}\n</figure>"


def _frame(label: str, content: str) -> str:
    """Frame what is wider than a narrow screen, so that it scrolls and the page does not."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">\n{content}\n</div>'


def _facts(facts: Mapping[str, str]) -> str:
    """List what was run; only web addresses become links, so that no value can carry a script."""
    pairs = []
    for name, value in facts.items():
        shown = escape(value)
        if value.startswith(("http://", "https://")):
            shown = f'<a href="{shown}">{shown}</a>'
        pairs.append(f"<dt>{escape(name)}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(pairs)}</dl>"
