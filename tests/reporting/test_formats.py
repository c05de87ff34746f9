"""Every format shows the same numbers: each is read back; and what stands in a table breaks none of them."""

import csv
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from advtrack.reporting.cells import ABSENT, Cell, Column, Table
from advtrack.reporting.formats import to_csv, to_html, to_latex, to_markdown

SPECIAL = r"50% of a_b & {c} #1 $x ~y^2 <script> \end{tabular} a|b [z] *"
TABLE = Table(
    "table_II",
    "Table II: a title",
    "A caption.",
    (Column("Data set", "key"), Column("Representation", "key"), Column("alexnet"), Column("resnet18")),
    (
        (
            Cell("esc10"),
            Cell("stft"),
            Cell("45.0 [40.0, 50.0]", 45.0, (40.0, 50.0), best=True, runs=("r1", "r2"), details={"bim_a": 100 / 3}),
            Cell("≥ 63.8", 63.75, at_least=True),
        ),
        (Cell("esc10"), Cell("dwt"), Cell(ABSENT, missing=("a", "b")), Cell(ABSENT, missing=("a",), notes=("a note",))),
    ),
    ("all of it",),
)


class Grid(HTMLParser):
    """The cells of a page's tables, without links, and their numbers."""

    def __init__(self, text):
        super().__init__()
        self.lines, self.numbers, self.links, self._cell, self._link = [], [], [], False, False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.lines.append([])
            self.numbers.append([])
        self._cell = self._cell or tag in ("td", "th")
        self._link = self._link or tag == "a"
        if tag in ("td", "th"):
            self.lines[-1].append("")
            self.numbers[-1].append(dict(attrs).get("data-value", ""))
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")
        self._link = self._link and tag != "a"

    def handle_data(self, data):
        if self._cell and not self._link:
            self.lines[-1][-1] += data


def read_markdown(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in (lines[0], *lines[2:])]
    return [[cell.strip().removeprefix("**").removesuffix("**").replace(r"\|", "|") for cell in line] for line in split]


LATEX = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"$\pm$": "±", r"$\geq$": "≥", r"$\leq$": "≤", "---": "—",
    "{[}": "[", "{]}": "]", "{*}": "*", **{f"\\{char}": char for char in "&%$#_{}"},
}  # fmt: skip


def read_latex(text):
    """Read the grid of a table strictly: whatever is not a known command or an escaped character is an error."""
    body = text[text.index(r"\toprule") + len(r"\toprule") : text.index(r"\bottomrule")].replace(r"\midrule", "")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    lines = []
    for row in body.strip().splitlines():
        if not row.strip():
            continue
        assert row.endswith(r" \\")
        lines.append([unescaped(cell.strip()) for cell in re.split(r"(?<!\\)&", row.removesuffix(r" \\"))])
    return lines


def unescaped(text):
    if text.startswith(r"\textbf{"):
        text = text.removeprefix(r"\textbf{").removesuffix("}")
    plain, at = "", 0
    while at < len(text):
        known = next((known for known in sorted(LATEX, key=len, reverse=True) if text.startswith(known, at)), None)
        assert known or text[at] not in "\\{}$&%#_^~", text[at:]
        plain, at = plain + (LATEX[known] if known else text[at]), at + len(known or " ")
    return plain


def same_everywhere(table):
    """Read a table back from all four formats and hold them against it."""
    texts = [[column.name for column in table.columns], *([cell.text for cell in line] for line in table.lines)]
    page = Grid(to_html(table, lambda run: f"http://host/{run}"))
    assert [[cell.strip() for cell in line] for line in page.lines] == texts
    assert read_markdown(to_markdown(table)) == texts
    assert read_latex(to_latex(table)) == texts
    read = list(csv.DictReader(io.StringIO(to_csv(table))))
    for line, numbers, row in zip(table.lines, page.numbers[1:], read, strict=True):
        for column, cell, number in zip(table.columns, line, numbers, strict=True):
            if cell.value is None:
                assert number == "" and row[column.name] == ("" if cell.text == ABSENT else cell.text)
                continue
            assert float(number) == float(row[column.name]) == pytest.approx(cell.value, rel=1e-9)
            whole, decimals, exponent = re.search(r"(-?\d+)(?:\.(\d+))?(?:e(-?\d+))?", cell.text).groups()
            unit = 10.0 ** (int(exponent or 0) - len(decimals or ""))
            printed = float(f"{whole}.{decimals or 0}e{exponent or 0}")
            assert abs(printed - cell.value) <= 0.5001 * unit
            if cell.interval:
                ends = [row[f"{column.name} {end}"] for end in ("low", "high")]
                assert [float(end) for end in ends] == pytest.approx(cell.interval, rel=1e-9)


def test_all_formats_show_the_same_numbers(found):
    for table in (*found().tables, TABLE):
        same_everywhere(table)


def test_special_characters_break_nothing():
    special = Table("t", SPECIAL, SPECIAL, (Column(SPECIAL, "key"), Column("v")), ((Cell(SPECIAL), Cell("1.5", 1.5)),))
    same_everywhere(special)
    assert "<script>" not in to_html(special)


def test_markdown_prints_cells_caption_notes_and_commands():
    heading, grid, caption, notes, commands = to_markdown(TABLE).rstrip().split("\n\n", 4)
    assert heading == "### Table II: a title" and caption == "A caption."
    assert len({len(line) for line in grid.splitlines()}) == 1  # aligned in a console
    assert "**45.0 [40.0, 50.0]**" in grid
    assert notes + commands == "Notes:" + "- all of it.\n- esc10, dwt, resnet18: a note.\n\n" + (
        "Open cells, and the command that comes next for them:\n\n- `a` (esc10, dwt, alexnet; esc10, dwt, resnet18)"
    )


def test_csv_has_columns_for_all_that_numbers_are_made_of():
    first, second = csv.DictReader(io.StringIO(to_csv(TABLE)))
    assert first == {
        "Data set": "esc10", "Representation": "stft", "alexnet": "45", "alexnet low": "40", "alexnet high": "50",
        "alexnet best": "1", "alexnet bim_a": "33.33333333", "alexnet runs": "r1 r2", "resnet18": "63.75",
        "resnet18 at least": "1",
    }  # fmt: skip
    assert (second["alexnet"], second["alexnet low"], second["alexnet best"]) == ("", "", "0")


def test_html_links_the_runs_and_marks_the_papers_values(found):
    assert Grid(to_html(TABLE, lambda run: f"http://host/{run}")).links == ["http://host/r1", "http://host/r2"]
    assert Grid(to_html(TABLE)).links == []
    assert to_html(found().table("table_I")).count('<td class="paper"') == 2


@pytest.mark.parametrize("engine", ["tectonic", "pdflatex"])
def test_latex_compiles(engine, found, tmp_path):
    if shutil.which(engine) is None:
        pytest.skip(f"{engine} is not installed")
    tables = "\n".join(map(to_latex, found().tables))
    preamble = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
    (tmp_path / "page.tex").write_text(f"{preamble}{tables}\n\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run([engine, "page.tex"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
