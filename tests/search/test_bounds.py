"""Per-sample bounds: never wrong about monotone victims, quick to the smallest bound, honest about contradictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advtrack.search.bounds import Bounds
from advtrack.search.criterion import Criterion, Verdict

LOW, HIGH = 1e-4, 0.3


def bounds_of(samples, needed, tolerance=0.05):
    return Bounds(samples, LOW, HIGH, Criterion("fooling_rate", needed / samples), tolerance)


def decided(reached):
    return Verdict.REACHED if reached else Verdict.MISSED


def record(bounds, indices, eps, success, first=1):
    bounds.record(indices, eps, success, np.full(len(indices), first))


EPS = st.floats(LOW, HIGH)
#: Thresholds from below the interval to out of reach.
THRESHOLDS = st.lists(st.one_of(EPS, st.floats(1e-6, LOW), st.just(np.inf)), min_size=1, max_size=12).map(np.array)


@settings(deadline=None)
@given(thresholds=THRESHOLDS, data=st.data())
def test_truthful_outcomes_never_lead_to_a_wrong_decision(thresholds, data):
    n = len(thresholds)
    needed = data.draw(st.integers(1, n))
    bounds, tried = bounds_of(n, needed), data.draw(st.lists(EPS, min_size=1, max_size=8))
    for eps in tried:
        truth = int((thresholds <= eps).sum()) >= needed
        undecided = bounds.undecided(eps)
        batch = undecided[: data.draw(st.integers(0, len(undecided)))]  # a probe may stop early
        record(bounds, batch, eps, thresholds[batch] <= eps)
        assert bounds.verdict(eps) in (Verdict.OPEN, decided(truth))
        if len(batch) == len(undecided):
            assert bounds.verdict(eps) is decided(truth)
            assert (bounds.fooled_at <= eps).sum() == (thresholds <= eps).sum()
            assert not len(bounds.undecided(eps))
        for other in (*tried, LOW, HIGH):
            assert bounds.verdict(other) in (Verdict.OPEN, decided(int((thresholds <= other).sum()) >= needed))
        missed, reached = bounds.bracket()
        smallest = np.sort(thresholds)[needed - 1]
        assert missed <= smallest <= reached
    assert bounds.contradictions == 0


@settings(deadline=None)
@given(thresholds=THRESHOLDS, data=st.data(), tolerance=st.sampled_from([0.05, 0.02]))
def test_bisection_ends_next_to_the_smallest_bound(thresholds, data, tolerance):
    n = len(thresholds)
    needed, steps = data.draw(st.integers(1, n)), 0
    bounds = bounds_of(n, needed, tolerance)
    while not bounds.settled():
        eps = bounds.proposal()
        assert LOW <= eps <= HIGH and bounds.verdict(eps) is Verdict.OPEN  # every step teaches something
        undecided = bounds.undecided(eps)
        record(bounds, undecided, eps, thresholds[undecided] <= eps)
        steps += 1
    assert steps <= 14
    smallest, reached = np.sort(thresholds)[needed - 1], bounds.bracket()[1]
    if smallest > HIGH:
        assert steps == 1 and reached == np.inf
    else:
        assert max(smallest, LOW) <= reached <= max(smallest, LOW) * (1 + tolerance)


def test_only_undecided_samples_are_left_to_attack():
    bounds = bounds_of(4, 2)
    record(bounds, np.arange(4), 0.1, np.array([True, True, False, False]))
    assert bounds.undecided(0.1).tolist() == []
    assert bounds.undecided(0.05).tolist() == [0, 1]
    assert bounds.undecided(0.2).tolist() == [2, 3]


def test_iterations_of_what_was_withdrawn_count_no_longer():
    bounds, only = bounds_of(1, 1), np.array([0])
    record(bounds, only, 0.05, np.array([True]), first=3)
    record(bounds, only, 0.1, np.array([False]))
    record(bounds, only, 0.2, np.array([True]), first=50)
    assert bounds.iterations(0.2).tolist() == [50] and bounds.iterations(0.1).tolist() == [np.inf]


def test_contradictions_are_counted_and_withdrawn():
    bounds = bounds_of(3, 2)
    record(bounds, np.arange(3), 0.1, np.array([True, True, False]))
    assert bounds.verdict(0.2) is Verdict.REACHED
    record(bounds, np.arange(3), 0.2, np.array([True, False, False]))  # sample 1 resists above where it fell
    assert bounds.contradictions == 1
    assert bounds.fooled_at.tolist() == [0.1, np.inf, np.inf]
    assert bounds.resisted_at.tolist() == [0.0, 0.2, 0.2]
    assert bounds.verdict(0.2) is Verdict.MISSED
    record(bounds, np.array([2]), 0.15, np.array([True]))  # sample 2 falls below where it resisted
    assert bounds.contradictions == 2
    assert bounds.fooled_at[2] == 0.15 and bounds.resisted_at[2] == 0.1


def test_what_is_withdrawn_gives_way_to_what_was_seen_beyond_it():
    bounds = bounds_of(1, 1)
    only = np.array([0])
    for eps, fooled in ((0.2, True), (0.1, True), (0.05, False), (0.02, False)):
        record(bounds, only, eps, np.array([fooled]))
    record(bounds, only, 0.12, np.array([False]))  # above 0.1, where it fell
    assert (bounds.fooled_at[0], bounds.resisted_at[0]) == (0.2, 0.12)
    record(bounds, only, 0.03, np.array([True]))  # below 0.05, where it resisted
    assert (bounds.fooled_at[0], bounds.resisted_at[0]) == (0.03, 0.02)
    assert bounds.contradictions == 2


def test_proposals_stride_down_from_the_largest():
    bounds = bounds_of(1, 1)
    assert bounds.bracket() == (0.0, np.inf)
    assert bounds.proposal() == HIGH
    record(bounds, np.array([0]), HIGH, np.array([True]))
    assert bounds.proposal() == pytest.approx(HIGH / 4)
    record(bounds, np.array([0]), HIGH / 4, np.array([True]))
    assert bounds.proposal() == pytest.approx(HIGH / 16)


def test_the_more_iterations_it_took_the_nearer_is_the_next_proposal():
    for iterations, share in ((1, 1 / 4), (10, 1 / 2), (50, 0.9)):
        bounds = bounds_of(1, 1)
        record(bounds, np.array([0]), HIGH, np.array([True]), iterations)
        assert bounds.proposal() == pytest.approx(share * HIGH)


def test_proposals_go_just_above_one_that_missed_but_once():
    bounds = bounds_of(1, 1)
    record(bounds, np.array([0]), HIGH, np.array([True]))
    record(bounds, np.array([0]), HIGH / 4, np.array([False]))
    assert bounds.proposal() == bounds.conclusive() == pytest.approx(HIGH / 4 * 1.05)
    record(bounds, np.array([0]), HIGH / 4 * 1.05, np.array([False]))
    assert bounds.proposal() == pytest.approx(HIGH * (1.05 / 4) ** 0.5)


def test_proposals_go_above_what_was_given_up_until_a_proof_is_missing():
    bounds, only = bounds_of(1, 1), np.array([0])
    # Of the largest and what is close to it there has to be proof, also while none is known to reach the target.
    assert bounds.may_give_up(HIGH / 4) and not bounds.may_give_up(HIGH / 1.05)
    record(bounds, only, HIGH, np.array([True]))
    assert bounds.may_give_up(HIGH / 4) and not bounds.may_give_up(HIGH / 1.05)
    bounds.give_up(HIGH / 4)
    assert bounds.proposal() == pytest.approx(HIGH / 2)
    bounds.give_up(HIGH / 1.07)
    assert not bounds.settled() and not bounds.worth_proving() and bounds.bracket()[0] == 0
    proof = bounds.proposal()
    assert proof == pytest.approx(HIGH / 1.05) and not bounds.may_give_up(proof)
    record(bounds, only, proof, np.array([False]))
    assert bounds.settled()


@settings(deadline=None)
@given(smallest=EPS, wrong=st.lists(st.booleans(), min_size=60, max_size=60), iterations=st.integers(1, 100))
def test_what_is_given_up_or_suggested_wrongly_costs_no_more_than_some_steps(smallest, wrong, iterations):
    """Whether an eps seems hopeless is as good as random, and the iterations say nothing."""
    bounds, only, steps = bounds_of(1, 1), np.array([0]), 0
    while not bounds.settled():
        eps, steps = bounds.proposal(), steps + 1
        assert LOW <= eps <= HIGH and eps not in bounds.tried()
        if bounds.may_give_up(eps) and wrong[steps]:
            record(bounds, only[:0], eps, np.array([], bool))
            bounds.give_up(eps)
        else:
            record(bounds, only, eps, np.array([eps >= smallest]), iterations)
    assert smallest <= bounds.bracket()[1] <= max(smallest, LOW) * 1.05 * (1 + 1e-9)
    assert steps <= 30


def test_strides_end_at_the_lowest():
    bounds = bounds_of(1, 1)
    record(bounds, np.array([0]), 2 * LOW, np.array([True]))
    assert bounds.proposal() == LOW


def test_processes_divide_the_interval_between_them():
    bounds = bounds_of(1, 1)
    assert [bounds.proposal(), bounds.proposal([HIGH]), bounds.proposal([HIGH, HIGH / 4])] == [
        HIGH,
        HIGH / 4,
        HIGH / 16,
    ]
    record(bounds, np.array([0]), HIGH, np.array([True]))
    record(bounds, np.array([0]), HIGH / 16, np.array([False]))
    middle = bounds.proposal()
    assert middle == pytest.approx(HIGH / 4)
    assert bounds.proposal([middle]) in (pytest.approx(HIGH / 8), pytest.approx(HIGH / 2))
    assert bounds.proposal([middle, bounds.proposal([middle])]) != bounds.proposal([middle])


def test_iterations_are_the_fewest_at_an_eps_or_below():
    bounds = bounds_of(3, 2)
    bounds.record(np.arange(3), 0.2, np.array([True, True, False]), np.array([3, 4, -1]))
    bounds.record(np.array([0, 1]), 0.1, np.array([True, False]), np.array([7, -1]))
    assert bounds.iterations(0.3).tolist() == [3, 4, np.inf]
    assert bounds.iterations(0.1).tolist() == [7, np.inf, np.inf]


@settings(deadline=None)
@given(thresholds=THRESHOLDS, target=st.sampled_from([0.3, 0.7, 0.9]))
def test_an_area_is_bracketed_too(thresholds, target):
    bounds = Bounds(len(thresholds), LOW, HIGH, Criterion("auc", target), 0.05)
    smallest = bounds.criterion.smallest_bound(np.maximum(thresholds, LOW))  # below LOW nothing is searched
    for _ in range(200):
        missed, reached = bounds.bracket()
        assert missed <= smallest * (1 + 1e-9) and smallest <= reached * (1 + 1e-9)
        if bounds.settled():
            break
        eps = bounds.proposal()
        undecided = bounds.undecided(eps)
        assert len(undecided)  # every step teaches something
        record(bounds, undecided, eps, thresholds[undecided] <= eps)
        for other in (*bounds.tried(), LOW, HIGH):
            assert bounds.verdict(other) in (Verdict.OPEN, decided(bounds.criterion.missed_by(thresholds, other) <= 0))
    assert bounds.settled() and bounds.contradictions == 0
