"""Intervals and tests over recordings: against scipy, closed forms, brute force; their coverage by simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from advtrack.reporting.statistics import RESAMPLES, Bootstrap, holm, sign_flip


def recordings(count, clips=1):
    return [f"r{i:03d}" for i in range(count) for _ in range(clips)]


def test_totals_are_those_of_the_clips_drawn():
    names = ["b", "a", "b", "c"]
    bootstrap = Bootstrap(names)
    counts = {name: bootstrap.total([name], [1.0]) for name in "abc"}
    assert all(count[0] == 1 for count in counts.values())
    assert (sum(counts.values()) == 3).all() and len(counts["a"]) == 1 + RESAMPLES
    expected = 2 * counts["a"] + (1 + 5) * counts["b"] + 7 * counts["c"]
    assert np.allclose(bootstrap.total(names, [1, 2, 5, 7]), expected)


def test_order_and_repeats_of_recordings_change_nothing():
    names, values = recordings(9, 2), np.arange(18.0)
    order = np.random.default_rng(1).permutation(18)
    shuffled = [names[i] for i in order]
    assert (Bootstrap(names).mean(names, values) == Bootstrap(shuffled).mean(shuffled, values[order])).all()


def test_of_many_recordings_the_interval_is_scipys():
    values = np.random.default_rng(0).exponential(size=300)
    names = recordings(300)
    bootstrap = Bootstrap(names)
    ours = bootstrap.interval(bootstrap.mean(names, values))
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=1).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.01)


def test_two_copies_of_each_clip_tell_no_more_than_one():
    values = np.random.default_rng(0).random(30)
    once, twice = Bootstrap(recordings(30)), Bootstrap(recordings(30))
    first = once.interval(once.mean(recordings(30), values))
    assert twice.interval(twice.mean(recordings(30, 2), values.repeat(2))) == pytest.approx(first)


def test_a_paired_difference_of_a_victim_to_itself_is_zero():
    names, values = recordings(12), np.random.default_rng(0).random(12)
    bootstrap = Bootstrap(names)
    lead = bootstrap.mean(names, values + 0.1) - bootstrap.mean(names, values)
    assert bootstrap.interval(lead) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("rate", [0, 1])
def test_where_all_agree_the_interval_is_wilsons_over_recordings(rate):
    names = recordings(10, 3)
    bootstrap = Bootstrap(names)
    interval = bootstrap.interval(bootstrap.mean(names, np.full(30, rate)), rate=True)
    wilson = stats.binomtest(10 * rate, 10).proportion_ci(0.95, "wilson")
    assert interval == pytest.approx((wilson.low, wilson.high))


def test_no_interval_where_nothing_can_be_resampled():
    alone = Bootstrap(["a", "a"])
    assert alone.interval(alone.mean(["a", "a"], [0, 1])) is None
    two = Bootstrap(["a", "b"])
    assert two.interval(np.full(1 + RESAMPLES, np.nan)) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_an_interval_of_shares_holds_the_value_and_lies_in_the_unit_interval(values):
    names = recordings(len(values))
    bootstrap = Bootstrap(names)
    statistic = bootstrap.mean(names, values)
    low, high = bootstrap.interval(statistic, rate=True)
    assert -1e-9 <= low <= high <= 1 + 1e-9
    assert low - 1e-9 <= statistic[0] <= high + 1e-9


@pytest.mark.parametrize(("count", "rate"), [(10, 0.5), (20, 0.8), (40, 0.9), (120, 0.95)])
def test_intervals_of_rates_cover_as_often_as_they_say(count, rate):
    """Two clips of a recording agree more often than others do (beta-binomial, intra-class correlation 0.3)."""
    rng, runs = np.random.default_rng(count), 400
    names = recordings(count, 2)
    bootstrap = Bootstrap(names)
    own = rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, (runs, count))
    clips = rng.random((runs, count, 2)) < own[..., None]
    intervals = [bootstrap.interval(bootstrap.mean(names, one.ravel()), rate=True) for one in clips]
    covered = np.mean([low - 1e-9 <= rate <= high + 1e-9 for low, high in intervals])
    assert covered > 0.92  # 400 simulations of 0.95 fall below that once in 200


def test_intervals_of_ratios_cover_as_often_as_they_say():
    rng, runs, count = np.random.default_rng(5), 400, 40
    names = recordings(count)
    bootstrap = Bootstrap(names)
    covered = 0
    for _ in range(runs):
        hardness = rng.lognormal(0, 0.5, count)  # a clip that is hard for one victim is so for the other
        plain, robust = (scale * hardness * rng.lognormal(0, 0.2, count) for scale in (1.0, 2.3))
        ratio = bootstrap.mean(names, robust) / bootstrap.mean(names, plain)
        low, high = bootstrap.interval(ratio)
        covered += low <= 2.3 <= high
    assert 0.92 < covered / runs < 0.985


def test_sign_flips_agree_with_all_of_them():
    differences = np.random.default_rng(2).normal(0.3, 1, (10, 4))
    signs = np.array(list(itertools.product((-1, 1), repeat=10)))
    exact = (np.abs(signs @ differences) >= np.abs(differences.sum(0)) - 1e-9).mean(0)
    assert sign_flip(differences) == pytest.approx(exact, abs=0.015)


def test_sign_flips_agree_with_scipy():
    differences = np.random.default_rng(3).normal(0.2, 1, 12)
    reference = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(differences[:, None])[0] == pytest.approx(reference.pvalue, abs=0.015)


def test_sign_flips_of_nothing_tell_nothing():
    assert sign_flip(np.zeros((5, 2))).tolist() == [1, 1]


def test_without_a_difference_p_values_are_small_as_seldom_as_they_say():
    differences = np.random.default_rng(4).normal(0, 1, (25, 400))
    p_values = sign_flip(differences)
    assert 0.02 < (p_values <= 0.05).mean() < 0.09


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """A comparison's corrected p-value is the largest Bonferroni p-value of all sets of comparisons that hold it."""
    p = np.array(p_values)
    expected = [
        max(
            min(1.0, size * min(p[list(subset)]))
            for size in range(1, len(p) + 1)
            for subset in itertools.combinations(range(len(p)), size)
            if i in subset
        )
        for i in range(len(p))
    ]
    assert holm(p) == pytest.approx(expected)
