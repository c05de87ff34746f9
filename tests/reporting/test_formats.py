"""Markdown and CSV of tables put together by hand."""

import csv
import io
import re

import pytest

from advtrack.reporting.cells import ABSENT, Cell, Row, Sheet, Table
from advtrack.reporting.formats import to_csv, to_markdown

TABLE = Table(
    number="II",
    title="a title",
    caption="A caption.",
    models=("alexnet", "resnet18"),
    rows=(
        Row(
            "esc10",
            "stft",
            (
                Cell("45.0 (2/2)", 45.0, best=True, attacks=("bim_a", "jsma"), details={"bim_a": 40.0, "jsma": 50.0}),
                Cell("≥ 63.8 (2/2)", 63.75, at_least=True, attacks=("bim_a", "jsma"), details={"bim_a": 100 / 3}),
            ),
        ),
        Row("esc10", "dwt", (Cell(ABSENT, missing="fill dwt"), Cell(ABSENT, missing="fill dwt", notes=("a note",)))),
    ),
)


def lines_of(table):
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def test_markdown_prints_cells_caption_notes_and_commands():
    markdown = to_markdown(TABLE)
    heading, grid, caption, notes, commands = markdown.rstrip().split("\n\n", 4)
    assert heading == "### Table II: a title" and caption == "A caption."
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in grid.splitlines()[2:]] == [
        ["esc10", "stft", "**45.0 (2/2)**", "≥ 63.8 (2/2)"],
        ["esc10", "dwt", ABSENT, ABSENT],
    ]
    assert len({len(line) for line in grid.splitlines()}) == 1  # aligned in a console
    assert (notes + commands).endswith("- `fill dwt` (esc10, dwt, alexnet; esc10, dwt, resnet18)")
    assert "- esc10, dwt, resnet18: a note." in markdown


def test_csv_has_a_line_per_cell_with_all_it_is_made_of():
    first, second, third, fourth = lines_of(TABLE)
    assert (first["table"], first["dataset"], first["representation"], first["model"]) == (
        "II", "esc10", "stft", "alexnet",
    )  # fmt: skip
    assert (first["value"], first["best"], first["at_least"], first["attacks"]) == ("45", "1", "0", "bim_a jsma")
    assert (first["bim_a"], first["jsma"]) == ("40", "50")
    assert (second["value"], second["at_least"], second["bim_a"]) == ("63.75", "1", "33.33333333")
    assert (third["value"], third["text"], third["missing"], fourth["notes"]) == ("", ABSENT, "fill dwt", "a note")


@pytest.mark.parametrize("value", [63.75, 0.05, 1 / 3, 99.95])
def test_both_formats_show_one_number(value):
    """The mean of two 63.75 may be 63.74999999999999: the text is made of the ten digits that CSV keeps."""
    table = Table("I", "t", "c", ("alexnet",), (Row("d", "r", (Cell(f"{float(f'{value:.10g}'):.1f}", value),)),))
    (line,) = lines_of(table)
    printed = re.search(r"\d+\.\d+", to_markdown(table))
    assert printed is not None and f"{float(line['value']):.1f}" == printed.group()


def test_pipes_do_not_break_markdown():
    sheet = Sheet("t", "c", ("a|b",), 1, ((Cell("c|d"),),))
    assert r"a\|b" in to_markdown(sheet) and r"c\|d" in to_markdown(sheet)


def test_csv_of_a_sheet_has_a_line_per_line():
    sheet = Sheet("t", "c", ("name", "value"), 1, ((Cell("x, y"), Cell("0.3333", 1 / 3)), (Cell("z"), Cell(ABSENT))))
    assert to_csv(sheet) == 'name,value\n"x, y",0.3333333333\nz,\n'
