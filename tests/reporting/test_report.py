"""The report stands alone, escapes what it is given, and works in a browser."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advtrack.reporting.cells import Cell, Column, Table
from advtrack.reporting.examples import Example
from advtrack.reporting.figures.drawing import Picture
from advtrack.reporting.figures.training import training_figure
from advtrack.reporting.gallery import Shown, clips_of, gallery
from advtrack.reporting.report import html_report
from advtrack.reporting.sound import Sound, to_mp3

EVIL = '<script>alert("x")</script>'
RATE = 22_050
RUNS = Table("runs_made", "Runs", "Which", (Column("Data set", "key"), Column("Seed")), ((Cell("esc50"), Cell("0")),))


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def picture(title: str = "Training") -> Picture:
    epochs = {"train_loss": [2.0, 1.0], "stop_loss": [2.1, 1.2], "stop_accuracy": [0.2, 0.55]}
    return training_figure("training", title, {"plain": epochs})


def example(clip: str = "1-1-A-0.wav", correct: bool = True) -> Example:
    x = np.linspace(0, 1, 300 * 40).reshape(300, 40)
    scores = np.array([[0.7, 0.3] if correct else [0.3, 0.7], [0.1, 0.9]])
    return Example(clip, "dog", "rain", ("dog", "rain"), x, np.full_like(x, -0.004), scores, True)


def sound() -> Sound:
    return Sound(to_mp3(np.sin(np.arange(RATE) / 20).astype(np.float32), RATE), f"ESC-50, CC BY; by somebody {EVIL}")


def address(run: str) -> str:
    return f"http://127.0.0.1:5000/#/runs/{run}"


@pytest.fixture
def page(found, records):
    """A report of the fixed records, with a figure and a gallery."""

    def make(**changes: Any) -> str:
        shown = [Shown(record, {"bim_a": [example()]}) for record in records]
        given: dict[str, Any] = {
            "findings": found(),
            "pictures": [picture()],
            "gallery": gallery(shown, {("esc50", "1-1-A-0.wav"): sound()}),
            "runs": RUNS,
            "facts": {"Program": "advtrack"},
            "address": address,
            "run_id": "r0",
        }
        return html_report(**(given | changes))

    return make


def test_nothing_is_fetched(page):
    shown = Page(page())
    assert not shown.all("link", "iframe", "object", "embed", "base")
    assert all((one.get("src") or "").startswith("data:") for one in shown.all("img", "audio"))
    assert not any("src" in attributes for attributes in shown.all("script"))
    assert "url(" not in page()
    assert all((one["href"] or "").startswith(("#", "http://127.0.0.1:5000/#/runs/")) for one in shown.all("a"))


def test_everything_is_escaped(page, found):
    evil = replace(found(), summary=(EVIL,), left_out=(EVIL,))
    table = replace(RUNS, title=EVIL, lines=((Cell(EVIL), Cell(EVIL)),))
    shown = Page(page(findings=evil, runs=table, facts={EVIL: EVIL}, pictures=[picture(EVIL)], run_id=EVIL))
    assert len(shown.all("script")) == 1  # our own
    assert shown.text.count(EVIL) >= 6


def test_headings_are_in_order_and_everything_has_a_name(page):
    shown = Page(page())
    levels = [int(tag[1]) for tag, _ in shown.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(one.get("alt") for one in shown.all("img"))
    assert all(one.get("aria-label") for one in shown.all("audio"))
    assert all(one.get("scope") in ("row", "col") for one in shown.all("th"))
    assert [tag for tag, _ in shown.elements if tag in ("table", "caption")] == 8 * ["table", "caption"]
    names = [one["id"] for _, one in shown.elements if "id" in one]
    assert len(names) == len(set(names))
    assert {one["href"] for one in shown.all("a") if (one["href"] or "").startswith("#")} <= {f"#{n}" for n in names}
    for landmark in ("header", "nav", "main", "footer"):
        assert len(shown.all(landmark)) == 1


def test_colours_have_contrast_in_light_and_dark():
    """WCAG 2.1: at least 4.5 to 1 between text and what lies behind it."""
    import importlib.resources

    css = importlib.resources.files("advtrack.reporting").joinpath("page", "page.css").read_text("utf-8")

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        linear = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in linear)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)]
    assert len(schemes) == 2
    for scheme in schemes:
        for text in ("text", "dim", "link", "holds", "fails", "undecided"):
            for behind in ("page", "raised"):
                one, other = sorted((luminance(scheme[text]), luminance(scheme[behind])))
                assert (other + 0.05) / (one + 0.05) >= 4.5, (text, behind)


def test_clips_that_most_victims_know_come_first(records):
    kept = [example("a", correct=False), example("b")]
    shown = [Shown(records[0], {"bim_a": kept})]
    assert clips_of(shown, records[0].dataset) == ["b", "a"]


def test_many_victims_keep_the_gallery_small(records):
    kept = {"bim_a": [example(clip) for clip in "abc"]}
    counts = [gallery([Shown(records[0], kept)] * n, {}).count("<h3>") for n in (2, 12, 24)]
    assert counts == [3, 2, 1]


def test_a_clip_without_sound_has_no_player(records):
    assert "<audio" not in gallery([Shown(records[0], {"bim_a": [example()]})], {})


# In a browser


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def test_in_a_browser_it_opens_sorts_plays_and_fits(page, browser, tmp_path: Path):
    from selenium.webdriver.common.keys import Keys

    (tmp_path / "report.html").write_text(page(), encoding="utf-8")
    browser.get((tmp_path / "report.html").as_uri())

    # The ranking's second number, ascending by click and descending by keyboard.
    def column(index: int) -> list[str]:
        script = """return [...document.querySelector('#ranking ~ .scroll table').tBodies[0].rows]
            .map(row => row.cells[arguments[0]].dataset.value ?? row.cells[arguments[0]].textContent)"""
        return browser.execute_script(script, index)

    button = browser.find_elements("css selector", "#ranking ~ .scroll th button")[5]
    before = [float(value) for value in column(5)]
    button.click()
    assert [float(value) for value in column(5)] == sorted(before)
    button.send_keys(Keys.ENTER)
    assert [float(value) for value in column(5)] == sorted(before, reverse=True)
    sorted_by = browser.find_elements("css selector", "#ranking ~ .scroll th")[5].get_attribute("aria-sort")
    assert sorted_by == "descending"

    play = """const [player, done] = [document.querySelector('audio'), arguments[0]];
        player.onended = () => done(player.currentTime); player.onerror = () => done(-1); player.play();"""
    assert browser.execute_async_script(play) == pytest.approx(1.0, abs=0.2)

    for width in (400, 900, 1600):
        # Chromium's windows are at least 500 pixels wide; its device emulation is not.
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []
