"""Figures decode, show something, and leave matplotlib's global state alone."""

import io
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from advtrack.reporting.figures import (
    GalleryExample,
    amplification,
    budget_figure,
    confusion_figure,
    curve_figure,
    gallery_figure,
)
from advtrack.reporting.records import AttackRecord, Training, VictimRecord

FOUND = AttackRecord(
    "bim_a",
    "linf",
    True,
    0.9,
    0.92,
    0.01,
    0.009,
    40,
    {},
    0.008,
    900.0,
    0.2,
    0.008,
    50,
    0,
    0,
    100,
    None,
    None,
    "run",
    1000,
)


def pixels(png: bytes) -> NDArray[Any]:
    from matplotlib.image import imread

    image = imread(io.BytesIO(png), format="png")
    assert image.ndim == 3
    assert image.std() > 0.02, "the picture is all but blank"
    return image


def victim(training: Training, *attacks: AttackRecord) -> VictimRecord:
    return VictimRecord(
        "esc10",
        "stft",
        "alexnet",
        training,
        {0: 0.8},
        0,
        "1",
        "run",
        {"seed": "0"},
        {record.attack: record for record in attacks},
    )


def test_budget_figure_ignores_order_and_takes_undefined_values() -> None:
    robust = replace(FOUND, perturbation=0.02, transferred_fooling_rate=0.4)
    unreached = replace(FOUND, attack="jsma", norm="l0", target_reached=False, fooling_rate=0.0, perturbation=math.nan)
    records = [victim("plain", FOUND, unreached), victim("adversarial", robust)]
    image = pixels(budget_figure(records))
    assert np.array_equal(image, pixels(budget_figure(records[::-1])))


def test_budget_figure_without_attacks() -> None:
    with pytest.raises(ValueError, match="no attack"):
        budget_figure([victim("plain")])


def test_gallery_figure() -> None:
    x = np.linspace(0, 1, 32 * 40).reshape(32, 40)
    example = GalleryExample("$stft$, bim_a", x, np.clip(x + 0.01, 0, 1), "dog", "rain $ hail", 0.93)
    one, two = (pixels(gallery_figure([example] * n)) for n in (1, 2))
    assert two.shape[0] > 1.5 * one.shape[0]
    with pytest.raises(ValueError, match="no example"):
        gallery_figure([])


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
