import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advtrack.data import esc50
from advtrack.data.splits import split
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


@settings(deadline=None, max_examples=60)
@given(clips(), st.integers(0, 1000), st.integers(2, 5))
def test_parts_are_disjoint_complete_grouped_and_stratified(clips, seed, folds):
    labels, sources = clips
    parts = split(labels, sources, seed=seed, folds=folds)
    everything = np.concatenate([parts.test, *parts.development])
    assert sorted(everything) == list(range(len(labels)))
    homes = [set(sources[part]) for part in (parts.test, *parts.development)]
    assert sum(map(len, homes)) == len(set(sources))
    # Off by at most the largest recordings, one of the class's own and one that two classes share.
    for label in np.unique(labels):
        share = 0.3 * (labels == label).sum()
        assert abs((labels[parts.test] == label).sum() - share) <= 8
        assert (labels[parts.test] == label).any()
        assert (labels[parts.train(0)] == label).any()
    for k in range(folds):
        both = np.concatenate([parts.train(k), parts.early_stopping(k)])
        assert sorted([*both, *parts.test]) == list(range(len(labels)))
    again = split(labels, sources, seed=seed, folds=folds)
    np.testing.assert_array_equal(again.test, parts.test)


def test_one_clip_per_recording_is_shared_out_to_the_clip():
    labels = np.repeat(np.arange(10), 40)
    parts = split(labels, [str(i) for i in range(400)], seed=3)
    assert (np.bincount(labels[parts.test]) == 12).all()
    for part in parts.development:
        assert set(np.bincount(labels[part])) <= {5, 6}


def test_another_seed_is_another_split():
    labels, sources = np.repeat([0, 1], 50), np.arange(100).astype(str)
    assert set(split(labels, sources, seed=0).test) != set(split(labels, sources, seed=1).test)


def test_esc10(real_data):
    dataset = esc50.load(real_data / "ESC-10")
    labels = np.array([clip.label for clip in dataset.clips])
    parts = split(labels, [clip.source for clip in dataset.clips], seed=0)
    assert set(np.bincount(labels[parts.test])) <= {11, 12, 13}
    for part in parts.development:
        assert min(np.bincount(labels[part])) >= 4 and max(np.bincount(labels[part])) <= 8


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"labels": [0, 0, 1, 1], "sources": ["a", "b", "c", "c"]}, "class 1 has clips of one recording"),
        ({"labels": [0, 0, 1, 1], "sources": ["a", "b", "c", "d"]}, "too few"),
        ({"labels": [0, 0], "sources": ["a", "b"], "folds": 0}, "folds is 0"),
        ({"labels": [0, 0], "sources": ["a", "b"], "test_fraction": 1.0}, "test_fraction"),
    ],
)
def test_bad_input_is_refused(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        split(**arguments, seed=0)
