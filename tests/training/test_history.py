"""Which epoch is the best, and when training has overfitted to one step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advtrack.training.history import Epoch, best, goes_on, overfitted_since


@pytest.mark.parametrize(
    ("accuracies", "losses", "expected"),
    [
        ([0.5, 0.9, 0.7], [1.0, 2.0, 0.1], 2),
        ([0.5, 0.9, 0.9], [1.0, 0.5, 0.4], 3),
        ([0.9, 0.9, 0.9], [0.4, 0.4, 0.4], 1),
    ],
)
def test_best_is_by_accuracy_then_loss_then_the_first(accuracies, losses, expected):
    history = [Epoch(i + 1, 0.0, loss, acc) for i, (acc, loss) in enumerate(zip(accuracies, losses, strict=True))]
    assert best(history).number == expected


def attacked(fgsm, bim, accuracy=0.5):
    pairs = zip(fgsm, bim, strict=True)
    return [Epoch(i + 1, 1.0, 1.0, accuracy + i / 100, one, several) for i, (one, several) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("fgsm", "bim", "marked", "since"),
    [
        # As in Wong et al. (2020), figure 2: one step is withstood ever better, several no longer.
        ([0.3, 0.4, 0.5, 0.8, 0.9], [0.2, 0.3, 0.4, 0.1, 0.0], [4, 5], 4),
        ([0.3, 0.4, 0.5, 0.8, 0.9, 1.0], [0.2, 0.3, 0.4, 0.1, 0.0, 0.0], [4, 5, 6], 4),
        ([0.3, 0.4, 0.5, 0.8], [0.2, 0.3, 0.4, 0.1], [4], None),  # one epoch may be chance
        ([0.3, 0.4, 0.8, 0.5, 0.9], [0.2, 0.4, 0.1, 0.4, 0.1], [3, 5], None),  # it recovered
        ([0.3, 0.5, 0.2, 0.1], [0.2, 0.4, 0.1, 0.0], [], None),  # FGSM falls as well: training got worse
        ([0.1, 0.4, 0.4, 0.4], [0.0, 0.1, 0.0, 0.0], [2, 3, 4], 2),
        ([0.1, 0.2, 0.25, 0.25], [0.0, 0.1, 0.0, 0.0], [], None),  # there was little to lose
        # BIM's accuracy never rose, or FGSM's fell a little as several steps became fatal, or BIM keeps a fifth.
        ([0.2, 0.5, 0.8, 0.95, 0.99], [0.15, 0.05, 0.0, 0.0, 0.0], [2, 3, 4, 5], 2),
        ([0.1, 0.5, 0.9, 0.99], [0.0, 0.0, 0.0, 0.0], [2, 3, 4], 2),
        ([0.6, 0.55, 0.55, 0.55], [0.4, 0.0, 0.0, 0.0], [2, 3, 4], 2),
        ([0.5, 0.8, 0.9, 0.9], [0.4, 0.21, 0.21, 0.21], [2, 3, 4], 2),
        ([0.5, 0.5, 0.5], [0.4, 0.2, 0.2], [2, 3], 2),
        ([0.5, 0.5, 0.5], [0.4, 0.3, 0.3], [], None),
        ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], [], None),
        ([0.3] * 5 + [0.46] * 25, [0.18] * 5 + [0.0] * 25, list(range(6, 31)), 6),
        ([0.42] * 5 + [0.41] * 25, [0.36] * 5 + [0.0] * 25, list(range(6, 31)), 6),
    ],
)
def test_overfitting_to_one_step_is_told_from_its_course(fgsm, bim, marked, since):
    history = attacked(fgsm, bim)
    assert [epoch.number for epoch in history if epoch.collapsed] == marked
    assert overfitted_since(history) == since
    assert goes_on(history, 99, 0) == (since is None)
    assert best(history).number == max(set(range(1, len(fgsm) + 1)) - set(marked))


RATE = st.floats(0, 1)


@given(st.lists(st.tuples(RATE, RATE), min_size=1, max_size=12))
def test_a_collapsed_epoch_is_the_best_only_if_all_are(rates):
    history = attacked(*zip(*rates, strict=True))
    assert not best(history).collapsed or all(epoch.collapsed for epoch in history)
    for epoch in history:
        assert not epoch.collapsed or epoch.fgsm_accuracy - epoch.bim_accuracy >= 0.3


@given(st.lists(st.one_of(st.none(), st.tuples(RATE, RATE)), min_size=1, max_size=12), st.lists(RATE, min_size=12))
def test_the_best_epoch_is_the_latest_one_or_the_one_that_was(pairs, accuracies):
    """The weights of no other are kept."""
    history = [Epoch(i + 1, 1.0, 1.0, accuracies[i], *(pair or ())) for i, pair in enumerate(pairs)]
    for n in range(2, len(history) + 1):
        assert best(history[:n]) in (best(history[: n - 1]), history[n - 1])


def test_an_epoch_that_was_not_attacked_is_the_best_only_until_one_was():
    history = attacked([None, 0.5, None, None, 0.9, None, 0.95], [None, 0.4, None, None, 0.1, None, 0.0])
    assert [best(history[:n]).number for n in range(1, 8)] == [1, 2, 2, 2, 2, 2, 2]
    assert overfitted_since(history) == 5 and overfitted_since(history[:6]) is None


def test_patience_waits_for_an_improvement_also_between_attacks():
    history = attacked([0.5, None, None, None], [0.4, None, None, None])
    assert goes_on(history, 99, 2) and best(history).number == 1
    stale = [*history, Epoch(5, 1.0, 1.0, 0.5), Epoch(6, 1.0, 1.0, 0.5)]
    assert not goes_on(stale, 99, 2) and goes_on(stale, 99, 3)


def test_noise_of_32_clips_alarms_nobody():
    """Both accuracies rise together, as in training that goes well; 2000 of them, of 40 epochs."""
    rng, false = np.random.default_rng(0), 0
    for _ in range(2000):
        clean = np.linspace(0.1, rng.uniform(0.3, 0.8), 40)
        several = rng.binomial(32, clean * rng.uniform(0.6, 1)) / 32
        one = np.minimum(several + rng.binomial(32, 0.1, 40) / 32, 1)
        false += any(overfitted_since(attacked(one[:n], several[:n])) for n in (10, 20, 30, 40))
    assert false == 0


def test_plain_training_does_not_overfit_to_what_it_was_not_trained_on():
    assert not any(epoch.collapsed for epoch in [Epoch(1, 1.0, 1.0, 0.5), Epoch(2, 1.0, 1.0, 0.4)])
