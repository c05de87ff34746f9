"""Examples come back from their file as they were."""

import io

import numpy as np
import pytest

from advtrack.reporting.examples import Example, pack, unpack

RNG = np.random.default_rng(0)


def example(clip: str = "1-a.wav", target: str = "rain", fooled: bool = True) -> Example:
    x = RNG.random((8, 12)).astype(np.float16)
    difference = (RNG.random((8, 12)) * 2e-3 - 1e-3).astype(np.float16)
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32)
    return Example(clip, "dog", target, ("dog", "rain", "bell"), x, difference, scores, fooled)


def test_examples_come_back_as_they_were() -> None:
    kept = [example(), example("b.wav", "", fooled=False)]
    for before, after in zip(kept, unpack(pack(kept)), strict=True):
        for name in ("clip", "true_class", "target_class", "classes", "fooled"):
            assert getattr(after, name) == getattr(before, name)
        for name in ("x", "difference", "probabilities"):
            assert np.array_equal(getattr(after, name), getattr(before, name))
            assert getattr(after, name).dtype == getattr(before, name).dtype


def test_a_difference_is_kept_far_below_the_steps_of_the_image() -> None:
    """float16 images near 1 have steps of 5e-4; what an attack adds is kept to 0.1% of itself all the same."""
    difference = np.full((2, 2), 1.234e-4)
    kept = Example("a", "dog", "", ("dog",), np.ones((2, 2)), difference, np.ones((2, 1)), True)
    (found,) = unpack(pack([kept]))
    assert found.difference.astype(float) == pytest.approx(difference, rel=1e-3)


def test_what_the_victim_says() -> None:
    assert example().predicted(adversarial=False) == ("dog", pytest.approx(0.7))
    assert example().predicted(adversarial=True) == ("rain", pytest.approx(0.8))


def test_a_file_that_would_run_code_is_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, clip=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        unpack(buffer.getvalue())
