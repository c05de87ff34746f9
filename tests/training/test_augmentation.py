"""What augmentation may do to a batch, and what it must leave."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advtrack.training import augmentation
from advtrack.training.augmentation import augment, mask, mix, roll

BATCHES = {
    "n": st.integers(1, 6),
    "height": st.integers(1, 20),
    "width": st.integers(1, 20),
    "seed": st.integers(0, 99),
}


def draws(seed):
    return np.random.default_rng(seed)


def images(n, height, width, seed):
    return draws(seed).random((n, 1, height, width), dtype=np.float32)


@pytest.mark.parametrize(("kind", "expected"), [("all", ["mask", "mix", "roll"]), ("roll", ["roll"]), ("none", [])])
def test_augmentation_is_as_asked_for(monkeypatch, kind, expected):
    calls = []

    def spy(name):
        original = getattr(augmentation, name)
        monkeypatch.setattr(augmentation, name, lambda *given: (calls.append(name), original(*given))[1])

    for name in ("roll", "mask", "mix"):
        spy(name)
    x, labels = images(5, 8, 8, 0), np.eye(5, dtype=np.float32)
    after, shares = augment(x, labels, kind, draws(1))
    assert sorted(calls) == expected
    assert after.dtype == shares.dtype == np.float32
    assert np.array_equal(after, x) == (kind == "none") and np.array_equal(shares, labels) == (kind != "all")


@settings(max_examples=40, deadline=None)
@given(**BATCHES)
def test_a_roll_keeps_every_column_and_their_order(n, height, width, seed):
    x = images(n, height, width, seed)
    rolled = roll(x, draws(seed))
    for before, after in zip(x, rolled, strict=True):
        assert any(np.array_equal(after, np.roll(before, shift, 2)) for shift in range(width))
    assert np.array_equal(rolled, roll(x, draws(seed)))


def test_a_roll_goes_everywhere_and_differs_between_clips():
    x = np.broadcast_to(np.arange(8.0), (400, 1, 2, 8))
    starts = roll(x, draws(0))[:, 0, 0, 0].astype(int)
    assert np.bincount(starts, minlength=8).min() > 25


@settings(max_examples=40, deadline=None)
@given(**BATCHES)
def test_a_mask_silences_a_band_of_rows_and_one_of_columns(n, height, width, seed):
    x = 0.1 + 0.9 * images(n, height, width, seed)
    before = x.copy()
    masked = mask(x, draws(seed))
    assert np.array_equal(x, before) and np.array_equal(masked, mask(x, draws(seed)))
    for clip, original in zip(masked[:, 0], x[:, 0], strict=True):
        hidden = clip == 0
        rows, columns = hidden.all(1), hidden.all(0)
        assert np.array_equal(hidden, rows[:, None] | columns)
        assert np.array_equal(clip[~hidden], original[~hidden])
        for band, length in ((rows, height), (columns, width)):
            assert band.sum() <= length / 6
            assert (np.diff(band.astype(int)) == 1).sum() + band[0] <= 1  # in one piece


def test_masks_do_hide_something():
    assert (mask(np.ones((50, 1, 24, 24)), draws(0)) == 0).mean() > 0.05


@settings(max_examples=40, deadline=None)
@given(**BATCHES, classes=st.integers(1, 5))
def test_a_mix_blends_inputs_and_labels_in_the_same_shares(n, height, width, seed, classes):
    x, y = images(n, height, width, seed), draws(seed).integers(classes, size=n)
    labels = np.eye(classes, dtype=np.float32)[y]
    mixed, shares = mix(x, labels, draws(seed))
    assert mixed.min() >= 0 and mixed.max() <= 1
    assert shares.min() >= 0 and np.allclose(shares.sum(1), 1, atol=1e-6)
    assert (shares[np.arange(n), y] >= 0.6 - 1e-6).all()  # the own label leads
    again, same = mix(x, labels, draws(seed))
    assert np.array_equal(mixed, again) and np.array_equal(shares, same)


def test_a_mix_of_marked_clips_shows_its_shares_in_both():
    labels = np.eye(6, dtype=np.float32)
    mixed, shares = mix(labels[:, None, None, :], labels, draws(3))  # a clip is its own label
    assert np.allclose(mixed[:, 0, 0], shares)
    assert (shares > 0).sum(1).max() == 2
