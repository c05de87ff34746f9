"""The report stands alone, agrees with the other formats and escapes what it is given."""

import csv
import io
from html.parser import HTMLParser

import pytest

from advtrack.reporting.cells import Table
from advtrack.reporting.figures import curve_figure
from advtrack.reporting.formats import to_csv, to_markdown
from advtrack.reporting.records import AttackRecord, Training, VictimRecord
from advtrack.reporting.report import ReportFigure, html_report
from advtrack.reporting.tables import per_attack_table, table_one, table_three, table_two

MODELS = ["alexnet", "resnet18"]
EVIL = '<script>alert("x")</script>'


def command(dataset: str, representation: str, model: str, training: Training, attacks: tuple[str, ...]) -> str:
    return " ".join(["fill", dataset, representation, model, training, *attacks])


def victim(dataset: str, model: str, training: Training, accuracy: float, perturbation: float) -> VictimRecord:
    transferred = 0.438 if training == "adversarial" else None
    found = AttackRecord(
        "bim_a", "linf", True, 0.9, 0.925, 0.0125, 0.012, 40, {}, perturbation, 900, 0.25, 0.01, 80,
        0, 0, 100, transferred, "run", "run", 6400,
    )  # fmt: skip
    accuracies = {0: accuracy, 1: accuracy + 0.016}
    return VictimRecord(dataset, "stft", model, training, accuracies, 0, "1", "run", {"seed": "0"}, {"bim_a": found})


def records(dataset: str) -> list[VictimRecord]:
    return [
        victim(dataset, "alexnet", "plain", 0.75, 0.01),
        victim(dataset, "alexnet", "adversarial", 0.713, 0.0237),
        victim(dataset, "resnet18", "plain", 0.80, 0.01),
    ]


def tables(dataset: str) -> list[Table]:
    rows = [(dataset, "stft")]
    return [
        table_one(records(dataset), rows, MODELS, command),
        table_two(records(dataset), rows, MODELS, ["bim_a"], command),
        table_three(records(dataset), rows, MODELS, ["bim_a"], command),
    ]


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.tables[-1][-1][-1] += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def report(dataset: str = "esc10", facts: dict[str, str] | None = None) -> str:
    curve = curve_figure([(1e-3, 0.5, 0.5), (1e-2, 0.95, 1.0)], 0.9, "eps")
    figure = ReportFigure("Search", 'Rate against "eps"', curve)
    return html_report(tables(dataset), per_attack_table(records(dataset)), [figure], facts or {"Seed": "0"})


def test_nothing_is_fetched() -> None:
    page = Page(report(facts={"Tracking": "http://127.0.0.1:5000/#/runs"}))
    assert not page.all("script", "link", "iframe", "object", "embed", "base")
    assert all((attributes.get("src") or "").startswith("data:") for attributes in page.all("img"))
    assert not any("src" in attributes for tag, attributes in page.elements if tag != "img")
    assert "url(" not in report()
    assert [attributes["href"] for attributes in page.all("a")] == ["http://127.0.0.1:5000/#/runs"]


def test_numbers_equal_those_of_markdown_and_csv() -> None:
    page = Page(report())
    for table, shown in zip(tables("esc10"), page.tables, strict=False):
        body = [cell for line in shown[1:] for cell in line[2:]]
        assert body == [line["text"] for line in csv.DictReader(io.StringIO(to_csv(table)))]
        markdown = [line for line in to_markdown(table).splitlines() if line.startswith("| esc10")]
        printed = [cell.strip(" *") for line in markdown for cell in line.strip("|").split("|")[2:]]
        assert body == printed
    sheet = per_attack_table(records("esc10"))
    assert page.tables[3] == [list(sheet.header), *([cell.text for cell in line] for line in sheet.lines)]


def test_summary_says_the_numbers_of_the_tables() -> None:
    text = " ".join(Page(report()).text.split())
    assert "On esc10, the highest accuracy of a plain model is 80.8 %: resnet18 on stft." in text
    assert "75.8 % of the test clips are named correctly, and adversarial training costs 3.7 percentage points" in text
    assert "fool the adversarially trained one on 43.8 % of the clips (bim_a only)" in text
    assert "takes 2.37 times the perturbation" in text
    assert "3 of 6 cells are empty or incomplete" in text


def test_summary_before_anything_is_trained() -> None:
    empty = [table_one([], [("esc10", "stft")], MODELS, command)]
    text = html_report(empty, per_attack_table([]), [], {})
    assert "Nothing has been trained yet" in text
    assert "fill esc10 stft alexnet plain" in text


def test_everything_is_escaped() -> None:
    html = report(dataset=EVIL, facts={EVIL: EVIL, "Link": 'https://x/"><script>', "Trap": "javascript:alert(1)"})
    page = Page(html)
    assert not page.all("script")
    assert EVIL in page.text
    assert [attributes["href"] for attributes in page.all("a")] == ['https://x/"><script>']


def test_accessible_and_fit_for_any_screen() -> None:
    html = report()
    page = Page(html)
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("h1")) == 1
    assert html.count('<div class="scroll" role="region" tabindex="0"') == html.count("<table>") + html.count("<img ")
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


@pytest.mark.parametrize("number", ["I", "II", "III"])
def test_each_table_is_headed(number: str) -> None:
    assert f"<h3>Table {number}: " in report()
