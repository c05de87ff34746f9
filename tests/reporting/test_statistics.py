"""Intervals and tests over recordings: against scipy, closed forms, brute force; their coverage by simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from advtrack.reporting.statistics import DRAWS, Bootstrap, holm, sign_flip


def recordings(count, clips=1):
    return [f"r{i:03d}" for i in range(count) for _ in range(clips)]


def test_totals_are_those_of_the_weighted_clips():
    names = ["b", "a", "b", "c"]
    bootstrap = Bootstrap(names)
    counts = {name: bootstrap.total([name], [1.0]) for name in "abc"}
    assert all(count[0] == 1 for count in counts.values())
    assert len(counts["a"]) == 1 + DRAWS and all((count[1:] > 0).all() for count in counts.values())
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
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=DRAWS, rng=1).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.01)


def test_two_copies_of_each_clip_tell_no_more_than_one():
    values = np.random.default_rng(0).random(30)
    once, twice = Bootstrap(recordings(30)), Bootstrap(recordings(30))
    first = once.interval(once.mean(recordings(30), values))
    assert twice.interval(twice.mean(recordings(30, 2), values.repeat(2))) == pytest.approx(first)


def test_what_no_draw_changes_has_no_interval():
    names, values = recordings(12), np.random.default_rng(0).random(12)
    bootstrap = Bootstrap(names)
    assert bootstrap.interval(bootstrap.mean(names, values + 0.1) - bootstrap.mean(names, values)) is None
    assert bootstrap.interval(bootstrap.mean(names, np.full(12, 0.3))) is None


@pytest.mark.parametrize("hits", [0, 1, 7, 10])
@pytest.mark.parametrize("clips", [1, 3])
def test_of_recordings_that_are_hit_or_not_a_rate_is_drawn_from_its_posterior(hits, clips):
    names, values = recordings(10, clips), np.arange(10 * clips) < hits * clips
    drawn = Bootstrap(names).rate(names, values)
    assert drawn[0] == hits / 10
    posterior = stats.beta(hits + 0.5, 10 - hits + 0.5)
    assert stats.kstest(drawn[1:], posterior.cdf).statistic < 1.95 / np.sqrt(DRAWS)  # p = 0.001


def test_no_interval_where_nothing_can_be_drawn():
    alone = Bootstrap(["a", "a"])
    assert alone.interval(alone.mean(["a", "a"], [0, 1])) is None
    two = Bootstrap(["a", "b"])
    assert two.interval(np.full(1 + DRAWS, np.nan)) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_an_interval_of_shares_holds_the_value_and_lies_in_the_unit_interval(values):
    names = recordings(len(values))
    bootstrap = Bootstrap(names)
    statistic = bootstrap.rate(names, values)
    low, high = bootstrap.interval(statistic)
    assert -1e-9 <= low <= high <= 1 + 1e-9
    assert low - 1e-9 <= statistic[0] <= high + 1e-9


def covered(intervals, truth):
    return np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in intervals])


@pytest.mark.parametrize(
    ("count", "rate"), [(4, 0.5), (4, 0.8), (8, 0.9), (10, 0.5), (20, 0.8), (40, 0.9), (120, 0.95)]
)
def test_intervals_of_rates_cover_as_often_as_they_say(count, rate):
    """Two clips of a recording agree more often than others do (beta-binomial, intra-class correlation 0.3)."""
    rng, runs = np.random.default_rng(count), 400
    names = recordings(count, 2)
    bootstrap = Bootstrap(names)
    own = rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, (runs, count))
    clips = rng.random((runs, count, 2)) < own[..., None]
    intervals = [bootstrap.interval(bootstrap.rate(names, one.ravel())) for one in clips]
    assert covered(intervals, rate) > 0.92  # 400 simulations of 0.95 fall below that once in 200


@pytest.mark.parametrize(("struck", "survive"), [(8, 0.5), (8, 0.1), (20, 0.7)])
def test_intervals_of_an_accuracy_times_a_share_of_few_clips_cover_as_often_as_they_say(struck, survive):
    rng, runs, accuracy = np.random.default_rng(struck), 400, 0.8
    names = recordings(40)
    bootstrap = Bootstrap(names)
    intervals = []
    for _ in range(runs):
        correct = bootstrap.rate(names, rng.random(40) < accuracy)
        resist = bootstrap.rate(names[:struck], rng.random(struck) < survive, side=1)
        intervals.append(bootstrap.interval(correct * resist))
    assert covered(intervals, accuracy * survive) > 0.92


@pytest.mark.parametrize(("before", "after", "count"), [(0.9, 0.1, 4), (0.9, 0.9, 8), (0.85, 0.8, 40), (1, 0.97, 40)])
def test_intervals_of_paired_differences_of_rates_cover_as_often_as_they_say(before, after, count):
    """A clip that is hard before is so after (a latent correlation of 0.8)."""
    rng, runs = np.random.default_rng(count), 400
    names = recordings(count)
    bootstrap = Bootstrap(names)
    hardness = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], (runs, count))
    clips = hardness < stats.norm.ppf([before, after])
    intervals = [
        bootstrap.interval(bootstrap.rate(names, one[:, 0]) - bootstrap.rate(names, one[:, 1], side=1)) for one in clips
    ]
    assert covered(intervals, before - after) > 0.92


def test_intervals_of_ratios_cover_as_often_as_they_say():
    rng, runs, count = np.random.default_rng(5), 400, 40
    names = recordings(count)
    bootstrap = Bootstrap(names)
    intervals = []
    for _ in range(runs):
        hardness = rng.lognormal(0, 0.5, count)  # a clip that is hard for one victim is so for the other
        plain, robust = (scale * hardness * rng.lognormal(0, 0.2, count) for scale in (1.0, 2.3))
        intervals.append(bootstrap.interval(bootstrap.mean(names, robust) / bootstrap.mean(names, plain)))
    assert 0.92 < covered(intervals, 2.3) < 0.985


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
