"""Targets, against their definitions and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advtrack.search.criterion import Criterion, fooling_auc, successes_needed

DISTANCES = st.lists(st.one_of(st.floats(1e-3, 1), st.just(np.inf)), min_size=1, max_size=12).map(np.array)


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


def test_the_area_is_that_under_the_fooling_rate():
    smallest = np.array([0.1, 0.4, 0.2, np.inf])
    bounds = np.linspace(0, 0.5, 200_001)
    area = np.mean([(smallest[:, None] <= bounds[None, i : i + 1000]).mean() for i in range(0, len(bounds), 1000)])
    assert fooling_auc(smallest, 0.5) == pytest.approx(area, abs=5e-3)
    assert fooling_auc(smallest, 0.0) == 0


@settings(deadline=None)
@given(smallest=DISTANCES, target=st.floats(0.05, 1), name=st.sampled_from(["fooling_rate", "auc"]))
def test_the_smallest_bound_reaches_the_target_and_none_below_does(smallest, target, name):
    criterion = Criterion(name, target)
    bound = criterion.smallest_bound(smallest)
    tried = np.append(np.geomspace(1e-3, 1e3, 200), smallest[np.isfinite(smallest)])
    if np.isfinite(bound):
        assert criterion.missed_by(smallest, bound * (1 + 1e-9)) <= 1e-6
        tried = tried[tried < bound * (1 - 1e-9)]
    for smaller in tried:
        assert criterion.missed_by(smallest, smaller) > -1e-9


@given(smallest=DISTANCES, target=st.floats(0.05, 1), name=st.sampled_from(["fooling_rate", "auc"]))
def test_nearer_samples_never_need_a_larger_bound(smallest, target, name):
    criterion = Criterion(name, target)
    assert criterion.smallest_bound(0.9 * smallest) <= criterion.smallest_bound(smallest)
