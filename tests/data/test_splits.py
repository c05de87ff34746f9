from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advtrack.data import esc50
from advtrack.data.splits import Split, folds_of, official_split, paper_split, refuse_leaks
from advtrack.errors import InputError


@st.composite
def clips(draw):
    """Labels and sources: per class, recordings of one to four clips each; some recordings hold two classes."""
    labels, sources = [], []
    for label in range(draw(st.integers(2, 6))):
        for recording, size in enumerate(draw(st.lists(st.integers(1, 4), min_size=8, max_size=20))):
            shared = recording == 0 and label % 2 == 1
            labels += [label] * size
            sources += [f"{label - 1 if shared else label}-{recording}"] * size
    return np.array(labels), np.array(sources)


def check(part, labels, sources):
    """Disjoint, complete, grouped."""
    parts = (part.train, part.stop, part.test)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert sum(len(set(sources[one])) for one in parts) == len(set(sources))
    refuse_leaks(sources, part)


@settings(deadline=None, max_examples=60)
@given(clips(), st.integers(0, 1000))
def test_the_papers_parts_are_disjoint_complete_grouped_and_stratified(clips, seed):
    labels, sources = clips
    folds = [paper_split(labels, sources, seed=seed, fold=k) for k in range(5)]
    for fold in folds:
        check(fold, labels, sources)
        assert np.array_equal(fold.test, folds[0].test)
    # Off by at most the largest recordings, one of the class's own and one that two classes share.
    for label in np.unique(labels):
        share = 0.3 * (labels == label).sum()
        assert abs((labels[folds[0].test] == label).sum() - share) <= 8
        assert (labels[folds[0].test] == label).any()
        assert (labels[folds[0].train] == label).any()
    assert sorted(np.concatenate([fold.stop for fold in folds])) == sorted([*folds[0].train, *folds[0].stop])
    again = paper_split(labels, sources, seed=seed, fold=2)
    assert all(np.array_equal(getattr(again, side), getattr(folds[2], side)) for side in ("train", "stop", "test"))


@settings(deadline=None, max_examples=60)
@given(clips(), st.integers(0, 1000), st.integers(2, 10))
def test_the_publishers_folds_are_test_sets_as_they_are(clips, seed, folds):
    labels, sources = clips
    published = np.unique(sources, return_inverse=True)[1] % folds + 1
    for fold in folds_of("official", published):
        own = published == fold
        if set(labels[own]) - set(labels[~own]):
            continue
        part = official_split(labels, sources, published, seed=seed, fold=fold)
        check(part, labels, sources)
        assert np.array_equal(part.test, np.flatnonzero(own))
        assert abs(len(part.stop) - 0.15 * (~own).sum()) <= 8


def test_folds_are_numbered_as_by_who_made_them():
    assert folds_of("paper", np.array([1, 2])) == (0, 1, 2, 3, 4)
    assert folds_of("official", np.array([7, 3, 3, 10])) == (3, 7, 10)


def test_one_clip_per_recording_is_shared_out_to_the_clip():
    labels = np.repeat(np.arange(10), 40)
    sources = [str(i) for i in range(400)]
    part = paper_split(labels, sources, seed=3, fold=0)
    assert (np.bincount(labels[part.test]) == 12).all()
    assert set(np.bincount(labels[part.stop])) <= {5, 6}
    part = official_split(labels, sources, np.arange(400) % 5, seed=3, fold=4)
    assert (np.bincount(labels[part.test]) == 8).all()
    assert set(np.bincount(labels[part.stop])) <= {4, 5}  # 15% of 32


def test_another_seed_is_another_split_but_the_same_official_test_set():
    labels, sources, published = np.repeat([0, 1], 50), np.arange(100).astype(str), np.arange(100) % 5
    one, two = (paper_split(labels, sources, seed=seed, fold=0) for seed in (0, 1))
    assert set(one.test) != set(two.test)
    one, two = (official_split(labels, sources, published, seed=seed, fold=0) for seed in (0, 1))
    assert set(one.test) == set(two.test) and set(one.stop) != set(two.stop)


def test_a_digest_tells_who_is_on_which_side():
    one = Split(np.array([0, 1]), np.array([2]), np.array([3]))
    assert one.digest == Split(np.array([0, 1], np.int32), np.array([2]), np.array([3])).digest
    others = [([0], [1, 2], [3]), ([0, 1], [3], [2]), ([0, 1], [], [2, 3])]
    assert len({one.digest, *(Split(*map(np.array, parts)).digest for parts in others)}) == 4


def test_esc10(real_data):
    dataset = esc50.load(real_data / "ESC-10")
    labels, sources, published = (
        np.array([getattr(clip, name) for clip in dataset.clips]) for name in ("label", "source", "fold")
    )
    for k in range(5):
        part = paper_split(labels, sources, seed=0, fold=k)
        assert set(np.bincount(labels[part.test])) <= {11, 12, 13}
        assert min(np.bincount(labels[part.stop])) >= 4 and max(np.bincount(labels[part.stop])) <= 8
    assert folds_of("official", published) == (1, 2, 3, 4, 5)
    for k in range(1, 6):
        part = official_split(labels, sources, published, seed=0, fold=k)
        check(part, labels, sources)
        assert len(part.test) == 80 and 40 <= len(part.stop) <= 56


@pytest.mark.parametrize(
    ("labels", "sources", "complaint"),
    [
        ([0, 0, 1, 1], ["a", "b", "c", "c"], "class 1 has clips of one recording"),
        ([0, 0, 1, 1], ["a", "b", "c", "d"], "too few"),
        (
            [0] * 2 + [1] * 20,
            list("abcdefghijklmnopqrstuv"),
            r"class 0 has too few recordings: fold \d would train on none",
        ),
    ],
)
def test_recordings_that_cannot_be_divided_are_refused(labels, sources, complaint):
    with pytest.raises(InputError, match=complaint):
        paper_split(labels, sources, seed=0, fold=0)


@pytest.mark.parametrize("recordings", [1, 2, 3, 4])
def test_a_class_is_trained_on_in_every_fold_or_refused(recordings):
    rng = np.random.default_rng(recordings)
    for seed in range(25):
        sizes = [rng.integers(1, 4, recordings if label == 0 else 12) for label in range(4)]
        labels = np.repeat(np.arange(4), [size.sum() for size in sizes])
        sources = np.concatenate([np.repeat([f"{k}-{i}" for i in range(len(s))], s) for k, s in enumerate(sizes)])
        folds = []
        for fold in range(5):
            with suppress(InputError):
                folds.append(paper_split(labels, sources, seed=seed, fold=fold))
        assert len(folds) in ((0,) if recordings < 3 else (0, 5))
        assert all(set(labels[part.train]) == set(labels[part.test]) == set(range(4)) for part in folds)


@pytest.mark.parametrize(
    ("labels", "published", "complaint"),
    [
        ([0, 1, 0, 1], [1, 1, 1, 1], "under fold 1, so that there is none to train on; use --protocol paper"),
        ([0, 0, 1, 1], [1, 1, 1, 2], "class 0 has clips in fold 1 alone"),
        ([0, 0, 0, 0], [1, 2, 2, 1], "too few"),
    ],
)
def test_a_data_set_without_usable_folds_is_refused(labels, published, complaint):
    with pytest.raises(InputError, match=complaint):
        official_split(labels, ["a", "b", "b", "d"], published, seed=0, fold=1)


@pytest.mark.parametrize(
    ("straddling", "complaint"),
    [(0, "in training and test"), (2, "in training and early stopping"), (4, "in early stopping and test")],
)
def test_a_planted_leak_is_refused_by_name(straddling, complaint):
    part = Split(np.array([0, 1, 2]), np.array([3, 4]), np.array([5, 6]))
    sources = np.array(list("abcdefg"))
    refuse_leaks(sources, part)
    sources[straddling], sources[{0: 5, 2: 3, 4: 6}[straddling]] = "x", "x"
    with pytest.raises(InputError, match=f"leak: recording x {complaint}; file each"):
        refuse_leaks(sources, part)
