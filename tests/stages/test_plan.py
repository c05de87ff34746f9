"""The plan: every command once, in an order in which it can be given, timed by runs like it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from advtrack.reporting.cells import Cell, Column, Table
from advtrack.stages import plan
from advtrack.stages.plan import as_text, steps
from advtrack.tracking import lookup

CELL = "--dataset esc50 --representation stft --model alexnet"
FEATURES = "advtrack features --dataset esc50 --representation stft"
TRAIN, HARDEN = f"advtrack train {CELL}", f"advtrack adv-train {CELL} --epochs 60"
STANDARD, ROBUST = (f"advtrack attack {CELL} --victim {alias} --attack all" for alias in ("standard", "robust"))


def table(*cells):
    columns = (Column("Data set", "key"), *(Column(f"m{i}") for i in range(len(cells))))
    return Table("table_I", "t", "c", columns, ((Cell("esc50"), *(Cell("—", missing=one) for one in cells)),))


def a_run(seconds, params=None, **tags):
    info = SimpleNamespace(start_time=1000, end_time=1000 + 1000 * seconds)
    data = SimpleNamespace(params=params or {}, tags={f"advtrack.{name}": value for name, value in tags.items()})
    return SimpleNamespace(info=info, data=data)


@pytest.fixture
def history(monkeypatch):
    """Runs that the plan finds, by stage."""
    found = {"features": [], "fold": [], "attack": []}
    monkeypatch.setattr(lookup, "find", lambda tags, status: found[tags["stage"]])
    return found


def test_every_command_stands_once_and_after_those_it_needs(history):
    first = table((ROBUST,), (f"{FEATURES} && {TRAIN}", HARDEN, STANDARD, ROBUST))
    found = steps([first, first])
    assert [step.command for step in found] == [FEATURES, TRAIN, HARDEN, STANDARD, ROBUST]
    assert found[-1].fills == ("table_I: esc50, m0", "table_I: esc50, m1")
    assert all(step.seconds is None and "no" in step.basis for step in found)
    assert "5 commands: no time can be told." in as_text(found)


def test_times_are_those_of_runs_like_it(history):
    like = {"dataset": "esc50", "representation": "stft", "model": "alexnet"}
    history["features"] = [a_run(10, **like)]
    history["fold"] = [
        a_run(30, {"epochs": "30"}, **like, training="plain"),
        a_run(90, {"epochs": "30"}, **like, training="plain"),
        a_run(60, {"epochs": "30"}, **like, training="plain"),
        a_run(9000, {"epochs": "30"}, **{**like, "model": "vgg16"}, training="plain"),
        a_run(60, {"epochs": "30"}, **{**like, "representation": "dwt"}, training="adversarial"),
    ]
    searched = {"bim_a.study": "s", "jsma.study": "s"}
    history["attack"] = [a_run(20, **like, training="plain", **searched), a_run(1, **like, training="plain")]
    found = steps([table((f"{FEATURES} && {TRAIN}", HARDEN, STANDARD, ROBUST))])
    # Features; five folds of AlexNet's own 60 epochs of 2 s; five of 60 epochs of 2 s; six attacks of 10 s.
    assert [step.seconds for step in found] == [10, 600, 600, 60, None]
    assert "3 fold runs of plain, esc50, stft, alexnet" in found[1].basis
    assert "1 fold run of adversarial, alexnet" in found[2].basis
    assert found[4].basis == "no attack run like it was made"
    text = as_text(found)
    assert "about 0:10:00" in text and "5 commands: about 0:21:10 for 4 of them, and 1 of unknown time." in text


def test_nothing_is_left_to_do(history):
    assert as_text(steps([table(())])) == "Every cell is filled."


def test_durations_are_in_hours(history):
    assert plan._duration(3 * 3600 + 61.4) == "about 3:01:01"
