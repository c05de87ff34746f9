"""Searches from end to end on linear victims: whatever the samples, target and seed, the budget is the closed form."""

import numpy as np
import optuna
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from advtrack.search.criterion import Criterion
from advtrack.search.space import Samples, Search
from advtrack.search.study import search_budget

SHAPE, FEATURES = (1, 4, 4), 16
LOW, HIGH, TOLERANCE = 1e-4, 0.3, 0.05
# What float32 makes of a closed form.
ROUNDING = 2e-3


class Line(nn.Module):
    """Logits (-m, m) with m = w (x - 0.5), on inputs ``0.5 + side * distance * sign(w)``: they lie exactly ``distance``
    from the boundary in l-inf, and no box is in the way."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = 0.3 + torch.rand(FEATURES, generator=generator)
        self.w = nn.Parameter(size * torch.randn(FEATURES, generator=generator).sign(), requires_grad=False)

    def forward(self, x):
        margin = (x - 0.5).flatten(1) @ self.w
        return torch.stack([-margin, margin], 1)

    def samples(self, distances, seed):
        generator = torch.Generator().manual_seed(seed + 1)
        self.side = torch.randn(len(distances), generator=generator).sign()
        away = (self.side * torch.tensor(distances, dtype=torch.float32))[:, None] * self.w.sign()
        x = (0.5 + away).reshape(-1, *SHAPE)
        y = (self.side > 0).long()
        return Samples(x, y, 1 - y, x)

    def linf(self, distances):
        return [np.array(distances)]

    def l2(self, distances):
        return [np.array(distances) * float(self.w.abs().sum() / self.w.norm())]

    def l0(self, distances):
        """With each theta: the heaviest features that it can move towards the boundary go to the end of the box."""
        w, found = self.w.numpy().astype(float), []
        for end in (1, -1):
            needed = []
            for distance, side in zip(distances, self.side.numpy(), strict=True):
                movable = w * side * end < 0
                # Those lie on the other side of the middle from where they are to go, or on the same one.
                room = 0.5 - end * side * np.sign(w) * distance
                gain = np.cumsum(np.sort((np.abs(w) * room)[movable])[::-1])
                crossing = np.flatnonzero(gain > distance * np.abs(w).sum())
                needed.append(crossing[0] + 1 if len(crossing) else np.inf)
            found.append(np.array(needed))
        return found


# Rounding alone decides of one that is the largest bound.
DISTANCE = st.floats(2e-5, 0.45).filter(lambda distance: abs(distance / HIGH - 1) > ROUNDING)
DISTANCES = st.lists(DISTANCE, min_size=1, max_size=20)
TARGET = st.floats(1e-6, 1)  # below, rounding alone decides of an area
SEED = st.integers(0, 10_000)


def searched(attack, distances, target, seed, criterion="fooling_rate", max_iter=0):
    victim = Line(seed)
    samples = victim.samples(distances, seed)
    search = Search(attack, Criterion(criterion, target), 24, seed, max_iter, TOLERANCE)
    result = search_budget(victim, samples, search, optuna.storages.InMemoryStorage(), "study", "title")
    return victim, search, result


def examples(number):
    return settings(max_examples=number, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("attack", ["bim_a", "bim_b"])
@examples(25)
@given(distances=DISTANCES, target=TARGET, seed=SEED)
def test_a_bounded_attack_is_given_the_smallest_eps(attack, distances, target, seed):
    victim, search, result = searched(attack, distances, target, seed, max_iter=10)
    (minimal,) = victim.linf(distances)
    smallest = search.criterion.smallest_bound(np.maximum(minimal, LOW))
    assert result.reached == (smallest <= HIGH) and result.settled and result.contradictions == 0
    fooled = minimal <= result.budget.bound * (1 + ROUNDING)
    if result.reached:
        assert smallest * (1 - ROUNDING) <= result.budget.bound <= smallest * (1 + TOLERANCE) * (1 + ROUNDING)
        assert result.fooling_rate >= target and not (result.success & ~fooled).any()
    else:
        assert result.budget.bound == HIGH and result.success.tolist() == fooled.tolist()
    assert (result.resisted_at <= minimal * (1 + ROUNDING)).all() and (
        result.fooled_at >= minimal * (1 - ROUNDING)
    ).all()


@examples(15)
@given(distances=DISTANCES, target=TARGET, seed=SEED)
def test_a_bounded_attack_is_given_the_smallest_area(distances, target, seed):
    victim, search, result = searched("bim_a", distances, target, seed, "auc", max_iter=10)
    smallest = search.criterion.smallest_bound(np.maximum(*victim.linf(distances), LOW))
    assert result.reached == (smallest <= HIGH)
    if result.reached:
        assert smallest * (1 - ROUNDING) <= result.budget.bound <= smallest * (1 + TOLERANCE) * (1 + ROUNDING)


@pytest.mark.parametrize("criterion", ["fooling_rate", "auc"])
@pytest.mark.parametrize(
    ("attack", "norm", "above"),
    [
        ("deepfool", "linf", 0.02),
        ("jsma", "l0", 0.0),
        pytest.param("carlini_wagner", "l2", 0.03, marks=pytest.mark.slow),
    ],
)
@examples(15)
@given(distances=DISTANCES, target=TARGET, seed=SEED)
def test_an_attack_that_minimises_is_given_the_smallest_norm(attack, norm, above, criterion, distances, target, seed):
    """``above``: the attack's overshoot, or what its optimiser leaves."""
    victim, search, result = searched(attack, distances, target, seed, criterion)
    smallest = min(map(search.criterion.smallest_bound, getattr(victim, norm)(distances)))
    assert result.reached == (smallest <= result.largest)
    if result.reached:
        most = (1 + above) * (1 + TOLERANCE) * (1 + ROUNDING)
        assert smallest * (1 - ROUNDING) <= result.budget.bound <= smallest * most
        assert criterion == "auc" or result.fooling_rate >= target
