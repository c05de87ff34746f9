"""Per-sample bounds: never wrong about monotone victims, quick to the smallest bound, honest about contradictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advtrack.search.bounds import Bounds, successes_needed

LOW, HIGH = 1e-4, 0.3
EPS = st.floats(LOW, HIGH)
#: Thresholds from below the interval to out of reach.
THRESHOLDS = st.lists(st.one_of(EPS, st.floats(1e-6, LOW), st.just(np.inf)), min_size=1, max_size=12).map(np.array)


@pytest.mark.parametrize(
    ("target", "samples", "needed"),
    [(0.9, 10, 9), (0.9, 11, 10), (1.0, 7, 7), (0.1, 30, 3), (0.7, 10, 7), (0.01, 5, 1), (0.901, 1000, 901)],
)
def test_successes_needed_is_the_ceiling(target, samples, needed):
    assert successes_needed(target, samples) == needed


@given(samples=st.integers(1, 3000), share=st.integers(1, 3000))
def test_a_rate_that_was_reached_needs_no_more_than_what_reached_it(samples, share):
    share = min(share, samples)
    assert successes_needed(share / samples, samples) == share


@settings(deadline=None)
@given(thresholds=THRESHOLDS, data=st.data())
def test_truthful_outcomes_never_lead_to_a_wrong_decision(thresholds, data):
    n = len(thresholds)
    needed = data.draw(st.integers(1, n))
    bounds, tried = Bounds(n, LOW, HIGH, needed), data.draw(st.lists(EPS, min_size=1, max_size=8))
    for eps in tried:
        truth = int((thresholds <= eps).sum()) >= needed
        undecided = bounds.undecided(eps)
        batch = undecided[: data.draw(st.integers(0, len(undecided)))]  # a probe may stop early
        bounds.record(batch, eps, thresholds[batch] <= eps)
        assert bounds.decision(eps) in (None, truth)
        if len(batch) == len(undecided):
            assert bounds.decision(eps) is truth
            assert bounds.successes(eps) == (thresholds <= eps).sum()
            assert not len(bounds.undecided(eps))
        for other in (*tried, LOW, HIGH):
            assert bounds.decision(other) in (None, int((thresholds <= other).sum()) >= needed)
        missed, reached = bounds.bracket()
        smallest = np.sort(thresholds)[needed - 1]
        assert missed <= smallest <= reached
    assert bounds.contradictions == 0


@settings(deadline=None)
@given(thresholds=THRESHOLDS, data=st.data(), tolerance=st.sampled_from([0.05, 0.02]))
def test_bisection_ends_next_to_the_smallest_bound(thresholds, data, tolerance):
    n = len(thresholds)
    needed, steps = data.draw(st.integers(1, n)), 0
    bounds = Bounds(n, LOW, HIGH, needed)
    while not bounds.settled(tolerance):
        eps = bounds.proposal()
        assert LOW <= eps <= HIGH and bounds.decision(eps) is None  # every step teaches something
        undecided = bounds.undecided(eps)
        bounds.record(undecided, eps, thresholds[undecided] <= eps)
        steps += 1
    assert steps <= 14
    smallest, reached = np.sort(thresholds)[needed - 1], bounds.bracket()[1]
    if smallest > HIGH:
        assert steps == 1 and reached == np.inf
    else:
        assert max(smallest, LOW) <= reached <= max(smallest, LOW) * (1 + tolerance)


def test_only_undecided_samples_are_left_to_attack():
    bounds = Bounds(4, LOW, HIGH, 2)
    bounds.record(np.arange(4), 0.1, np.array([True, True, False, False]))
    assert bounds.undecided(0.1).tolist() == []
    assert bounds.undecided(0.05).tolist() == [0, 1]
    assert bounds.undecided(0.2).tolist() == [2, 3]


def test_contradictions_are_counted_and_withdrawn():
    bounds = Bounds(3, LOW, HIGH, 2)
    bounds.record(np.arange(3), 0.1, np.array([True, True, False]))
    assert bounds.decision(0.2) is True
    bounds.record(np.arange(3), 0.2, np.array([True, False, False]))  # sample 1 resists above where it fell
    assert bounds.contradictions == 1
    assert bounds.fooled_at.tolist() == [0.1, np.inf, np.inf]
    assert bounds.resisted_at.tolist() == [0.0, 0.2, 0.2]
    assert bounds.decision(0.2) is False
    bounds.record(np.array([2]), 0.15, np.array([True]))  # sample 2 falls below where it resisted
    assert bounds.contradictions == 2
    assert bounds.fooled_at[2] == 0.15 and bounds.resisted_at[2] == 0.0


def test_proposals_stride_down_from_the_largest_and_halve_once_one_missed():
    bounds = Bounds(1, LOW, HIGH, 1)
    assert bounds.bracket() == (0.0, np.inf)
    assert bounds.proposal() == HIGH
    bounds.record(np.array([0]), HIGH, np.array([True]))
    assert bounds.proposal() == pytest.approx(HIGH / 4)
    bounds.record(np.array([0]), HIGH / 4, np.array([True]))
    assert bounds.proposal() == pytest.approx(HIGH / 16)
    bounds.record(np.array([0]), 0.01, np.array([False]))
    assert bounds.proposal() == pytest.approx((0.01 * HIGH / 4) ** 0.5)


def test_strides_end_at_the_lowest():
    bounds = Bounds(1, LOW, HIGH, 1)
    bounds.record(np.array([0]), 2 * LOW, np.array([True]))
    assert bounds.proposal() == LOW
