"""Whom attacks strike, and towards what."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advtrack.attacks import ATTACKS
from advtrack.errors import InputError
from advtrack.stages.fold import split_store
from advtrack.stages.samples import shown_list, strike_list, wrong_label

CLASSES = 4


# Targets


@given(clip=st.text(), classes=st.integers(2, 50), seed=st.integers(0, 2**31), data=st.data())
def test_a_target_is_another_class_and_always_the_same(clip, classes, seed, data):
    label = data.draw(st.integers(0, classes - 1))
    target = wrong_label(clip, label, classes, seed)
    assert 0 <= target < classes and target != label
    assert target == wrong_label(clip, label, classes, seed)


def test_targets_are_spread_evenly_over_the_wrong_classes():
    drawn = np.bincount([wrong_label(f"clip{i}.wav", 3, 10, 0) for i in range(9000)], minlength=10)
    assert drawn[3] == 0
    expected = np.full(9, 1000)
    assert ((np.delete(drawn, 3) - expected) ** 2 / expected).sum() < 26.1  # chi-squared with 8 degrees, 0.1%


def test_a_target_depends_on_clip_and_seed():
    by_seed = {tuple(wrong_label(f"clip{i}", 0, 10, seed) for i in range(20)) for seed in range(10)}
    assert len(by_seed) == 10
    # The value itself is kept: budgets of earlier runs belong to these targets.
    assert [wrong_label("1-100032-A-0.ogg", label, 10, 0) for label in (0, 9)] == [1, 0]


def test_one_class_leaves_nothing_to_be_fooled_into():
    with pytest.raises(InputError, match="one class only"):
        wrong_label("clip", 0, 1, 0)


# Samples


class Known(nn.Module):
    """Logits are the first values of the image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(9.0))

    def forward(self, x):
        return self.scale * x.flatten(1)[:, :CLASSES]


@pytest.fixture
def store():
    """80 clips of four classes whose images show their label, but for every fifth, which shows the next one."""
    n = 80
    y = np.arange(n) % CLASSES
    shown = np.where(np.arange(n) % 5 == 0, (y + 1) % CLASSES, y)
    images = np.zeros((n, 1, 3, 3), np.float32)
    images.reshape(n, 9)[np.arange(n), shown] = np.linspace(0.5, 1, n)
    return SimpleNamespace(
        y=y,
        name=np.array([f"clip{i}.wav" for i in range(n)]),
        source=np.array([f"source{i}" for i in range(n)]),
        scale=np.ones(n),
        classes=tuple("abcd"),
        images=lambda indices: images[indices],
    )


@pytest.fixture
def victim(store):
    training = {"protocol": "paper", "seed": 0, "fold": 1, "split_digest": split_store(store, "paper", 0, 1).digest}
    description = SimpleNamespace(model="alexnet", training=training)
    return SimpleNamespace(network=Known(), description=description, checkpoint_id="v1")


def struck(victim, store, attack="bim_a", limit=0, seed=0):
    return strike_list(victim, store, ATTACKS[attack], limit, seed, torch.device("cpu"))


def test_samples_are_the_correctly_classified_test_clips(victim, store):
    found = struck(victim, store)
    test = split_store(store, "paper", 0, 1).test
    assert sorted(found.indices) == sorted(i for i in test if i % 5)
    assert found.samples.y.tolist() == store.y[found.indices].tolist()
    assert np.array_equal(found.samples.x.numpy(), store.images(found.indices))
    targets = [wrong_label(store.name[i], int(store.y[i]), CLASSES, 0) for i in found.indices]
    assert found.samples.target.tolist() == targets


def test_a_victim_that_saw_other_clips_is_refused(victim, store):
    victim.description.training["fold"] = 2  # its digest is of fold 1
    for strike in (struck, lambda *of: shown_list(*of, ATTACKS["bim_a"], 0, torch.device("cpu"))):
        with pytest.raises(InputError, match=r"the alexnet was trained .* it has seen some .*; train it again"):
            strike(victim, store)


def test_fewer_samples_are_the_first_of_the_same_order(victim, store):
    every, some = struck(victim, store), struck(victim, store, limit=5)
    assert some.indices.tolist() == every.indices[:5].tolist()
    assert struck(victim, store, seed=1).indices.tolist() != every.indices.tolist()
    assert sorted(struck(victim, store, seed=1).indices) == sorted(every.indices)


def test_start_images_are_the_surest_training_clips_of_the_target(victim, store):
    found = struck(victim, store, "pia")
    train = split_store(store, "paper", 0, 1).train
    for target, start in zip(found.samples.target.tolist(), found.samples.start, strict=True):
        own = [i for i in train if store.y[i] == target]
        scores = victim.network(torch.from_numpy(store.images(np.array(own)))).softmax(1)[:, target]
        assert torch.equal(start, torch.from_numpy(store.images(np.array(own)))[scores.argmax()])
    assert not set(found.indices) & set(train)


def test_a_victim_that_is_always_wrong_is_refused(victim, store):
    store.y = (store.y + 2) % CLASSES
    with pytest.raises(InputError, match="no clip correctly"):
        struck(victim, store)


# Shown


def test_what_is_shown_is_the_same_for_all_victims_and_of_other_classes_each(victim, store):
    def shown(attack="bim_a", seed=0):
        return shown_list(victim, store, ATTACKS[attack], seed, torch.device("cpu"))

    found = shown()
    test = split_store(store, "paper", 0, 0).test
    assert len(found.indices) == 3 and set(found.indices) <= set(test)
    assert len(set(store.y[found.indices])) == 3
    assert {tuple(sorted(shown(seed=seed).indices)) for seed in range(9)} != {tuple(sorted(found.indices))}
    store.images = lambda indices: np.zeros((len(indices), 1, 3, 3), np.float32)  # nothing is told apart any more
    assert shown("pia").indices.tolist() == found.indices.tolist()
