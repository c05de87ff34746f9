"""Figures decode, show something, and leave matplotlib's global state alone."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from advtrack.reporting.cells import Cell, Column, Table
from advtrack.reporting.examples import Example
from advtrack.reporting.figures.classes import confusion_figure
from advtrack.reporting.figures.examples import amplification, example_figure, overview_figure
from advtrack.reporting.figures.rates import (
    _against_bound,
    curve_figure,
    rates_figure,
    rates_over_bound,
    rates_over_iterations,
)
from advtrack.reporting.figures.tradeoff import tradeoff_figure
from advtrack.reporting.figures.training import training_figure
from advtrack.reporting.records import AttackRecord, StruckClips, Training, VictimRecord

CLIPS = StruckClips(
    names=("a", "b", "c", "d"),
    recordings=("a", "b", "c", "d"),
    success=(True, True, True, False),
    perturbation=(0.01, 0.02, 0.02, 0.3),
    fooled_at=(0.01, 0.02, 0.02, np.inf),
    resisted_at=(0.005, 0.02, 0.015, 0.3),
    first_success=(2, 2, 7, 1),
)
FOUND = AttackRecord(
    attack="bim_a", norm="linf", target_reached=True, target_fooling_rate=0.7, fooling_rate=0.75, bound=0.02,
    missed_at=None, iterations=7, settings={}, perturbation=0.015, l0=900.0, l2=0.2, linf=0.02, samples=4, seed=0,
    sample_limit=0, longest=100, transferred_fooling_rate=None, plain_run_id=None, run_id="run", passes=1000,
    fooling_low=0.3, fooling_high=0.95, front=[(0.02, 7), (0.04, 3)], clips=CLIPS,
)  # fmt: skip


def pixels(png: bytes) -> NDArray[Any]:
    from PIL import Image

    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255
    assert image.std() > 0.02, "the picture is all but blank"
    return image


def victim(training: Training, *attacks: AttackRecord) -> VictimRecord:
    found = {record.attack: record for record in attacks}
    return VictimRecord("esc10", "stft", "alexnet", training, (), 0, "1", "run", {"seed": "0"}, found)


def example(clip: str = "$a$.wav", fooled: bool = True) -> Example:
    x = np.linspace(0, 1, 32 * 40).reshape(32, 40)
    scores = np.array([[0.7, 0.3], [0.1, 0.9]])
    return Example(clip, "dog", "rain $", ("dog", "rain $"), x, np.full_like(x, -0.004), scores, fooled)


def test_rates_over_the_bound_say_what_is_not_known() -> None:
    bounds, least, most = rates_over_bound(CLIPS)
    assert bounds.tolist() == [0.005, 0.01, 0.015, 0.02, 0.3]
    assert least.tolist() == [0, 1, 1, 3, 3]
    assert most.tolist() == [1, 1, 2, 3, 3]  # resisted at a bound: perhaps not beyond it
    wider = replace(CLIPS, resisted_at=(0.0, 0.0, 0.0, 0.0))
    assert rates_over_bound(wider)[2].tolist() == [4, 4]


def test_rates_over_iterations_count_whom_the_budget_fools() -> None:
    iterations, fooled = rates_over_iterations(CLIPS)
    assert iterations.tolist() == [2, 7] and fooled.tolist() == [2, 3]


def test_an_axis_of_one_number_names_it() -> None:
    drawn = rates_figure(
        "rates", "Rates", [victim("plain", replace(FOUND, iterations=47, front=[(0.02, 47)]))], ["bim_a"]
    )
    assert ">47</text>" in drawn.svg.decode()


def test_a_rate_that_is_not_known_is_drawn_as_a_span_and_not_as_its_least() -> None:
    """As of BIM-b, whose search shows of most clips only that they fall below the budget."""
    from matplotlib.figure import Figure

    unknown = replace(CLIPS, fooled_at=(0.02,) * 3 + (np.inf,), resisted_at=(0.0, 0.0, 0.015, 0.02))
    ax = Figure().subplots()
    _against_bound(ax, unknown, {"color": "C0", "linestyle": "-"})
    least, most, line = (drawn.get_ydata().tolist() for drawn in ax.lines)
    assert (least, most) == ([0, 75], [75, 75])  # from 0.015 on and from 0.02 on
    assert np.isnan(line[0]) and line[1] == 75


def test_rates_figure_ignores_order_and_takes_what_is_missing() -> None:
    unread = replace(FOUND, attack="jsma", norm="l0", bound=20.0, target_reached=False, clips=None, front=[])
    nobody = replace(FOUND, clips=replace(CLIPS, success=(False,) * 4, fooled_at=(np.inf,) * 4), front=[])
    victims = [victim("plain", FOUND, unread), victim("adversarial", nobody)]
    one, other = (rates_figure("rates", "Rates", order, ["bim_a", "jsma", "pia"]) for order in (victims, victims[::-1]))
    assert one.png == other.png and one.svg == other.svg
    pixels(one.png)
    assert "bim_a, plain: 75.0 % (30.0 to 95.0) at linf 0.02 and 7 iterations." in one.alt
    assert "pia" not in one.alt and b"<svg" in one.svg and b"fooling rate" in one.svg


def test_examples_are_a_row_each() -> None:
    one, two = (pixels(example_figure("bim_a", [example()] * n)) for n in (1, 2))
    assert two.shape[0] > 1.5 * one.shape[0]


def test_overview_says_what_each_picture_shows() -> None:
    shown = {"stft": {"bim_a": example(), "pia": example(fooled=False)}, "dwt": {"bim_a": example()}}
    picture = overview_figure("examples", "One clip", shown)
    pixels(picture.png)
    assert "stft, legitimate: dog, p = 0.70." in picture.alt
    assert "stft, pia: rain $, p = 0.90 (resists)." in picture.alt
    assert b"difference x 200" in picture.svg


def test_tradeoff_is_drawn_where_victims_differ_most() -> None:
    columns = (*(Column(n, "key") for n in "drmt"), *map(Column, ("eps 0", "eps 1/255", "eps 2/255", "Attacks")))

    def line(training: str, *values: float) -> tuple[Cell, ...]:
        numbers = (Cell(f"{v}", v, interval=(v - 5, v + 5)) for v in values)
        return (*map(Cell, ("esc10", "stft", "alexnet", training)), *numbers, Cell("bim_a"))

    table = Table("robust_accuracy", "t", "c", columns, (line("plain", 80, 40, 5), line("adversarial", 75, 50, 45)))
    picture = tradeoff_figure("tradeoff", "Trade-off", table, "esc10")
    assert picture is not None and "alexnet on stft, plain: accuracy 80.0 %, at eps 2/255 5.0 %." in picture.alt
    pixels(picture.png)
    assert tradeoff_figure("tradeoff", "Trade-off", table, "another") is None


def test_training_figure() -> None:
    epochs = {"train_loss": [2.0, 1.0], "stop_loss": [2.1, 1.2], "stop_accuracy": [0.2, 0.55]}
    picture = training_figure("training", "Training", {"plain": epochs, "adversarial": epochs})
    assert "plain: 2 epochs, best accuracy 55.0 %." in picture.alt
    pixels(picture.png)


@pytest.mark.parametrize(
    ("largest", "factor"), [(0.0, 1), (1.0, 1), (0.6, 1), (0.5, 2), (0.11, 5), (0.1, 10), (0.008, 100), (0.003, 200)]
)
def test_amplification_shows_without_clipping(largest: float, factor: float) -> None:
    assert amplification(np.array([[0.0, -largest]])) == pytest.approx(factor)


@pytest.mark.parametrize("k", [2, 10, 50])
def test_confusion_figure(k: int) -> None:
    pixels(confusion_figure(np.diag(np.arange(k)), [f"class_{i}" for i in range(k)]))


def test_confusion_figure_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match="3 x 3"):
        confusion_figure(np.eye(2), ["a", "b", "c"])


def test_curve_figure_shows_what_is_not_known() -> None:
    known = pixels(curve_figure([(1e-3, 0.5, 0.5), (1e-2, 1.0, 1.0)], 0.9, "eps"))
    open_ = pixels(curve_figure([(1e-3, 0.5, 0.9), (1e-2, 1.0, 1.0)], 0.9, "eps"))
    assert not np.array_equal(known, open_)
    assert pixels(curve_figure([], 0.9, "eps")).shape == known.shape


def test_no_global_state() -> None:
    before = "matplotlib.pyplot" in sys.modules
    curve_figure([(1e-3, 0.5, 0.5)], 0.9, "eps")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_a_process_that_draws_loads_no_torch() -> None:
    program = (
        "import sys, pkgutil, importlib; from advtrack.reporting import figures; "
        "names = [one.name for one in pkgutil.iter_modules(figures.__path__)]; "
        "[importlib.import_module(f'{figures.__name__}.{name}') for name in names]; "
        "print(*names, *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    root = Path(__file__).parents[2]
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    loaded = set(finished.stdout.split())
    assert {"rates", "training", "numpy"} <= loaded and not loaded & {"torch", "art", "mlflow", "optuna"}
