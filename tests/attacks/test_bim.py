"""BIM against the closed form on a linear victim, ART, an independent count of passes, and the eps-ball."""

import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import BasicIterativeMethod
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advtrack.attacks.batches import in_batches
from advtrack.attacks.bim import BIMa, BIMb, bim_a, bim_b
from advtrack.attacks.victim import margin

BOTH = pytest.mark.parametrize("bim", [bim_a, bim_b])


@pytest.fixture
def attacked(mlp_victim, clips, predict, other_labels):
    """A nonlinear victim, inputs that it sees as ``y``, and wrong labels to aim at."""
    network = mlp_victim()
    x = clips(12)
    y = predict(network, x)
    return network, x, y, other_labels(y)


@BOTH
@pytest.mark.parametrize("targeted", [True, False])
def test_two_class_linear_victim_falls_at_the_first_iterate_beyond_its_margin(
    linear_victim, clips, predict, bim, targeted
):
    network = linear_victim(classes=2)
    x = clips(1, margin=0.3)
    y = predict(network, x)
    w = network[1].weight[1] - network[1].weight[0]
    logits = network(x)[0]
    margin = ((logits[0] - logits[1]).abs() / w.abs().sum()).item()  # the minimal l-inf perturbation
    assert margin < 0.29

    labels = 1 - y if targeted else y
    outcome = bim(network, x, labels, eps=0.3, eps_step=margin / 2.5, max_iter=10, targeted=targeted)
    assert outcome.success.item() and outcome.first_success.item() == 3
    missed = bim(network, x, labels, eps=0.99 * margin, max_iter=20, targeted=targeted)
    assert not missed.success.item() and missed.first_success.item() == -1
    assert missed.linf.item() == pytest.approx(0.99 * margin)


def test_a_keeps_the_first_adversarial_iterate_and_b_the_last(linear_victim, clips, predict):
    network = linear_victim(classes=2)
    x = clips(1, margin=0.3)
    y = predict(network, x)
    w = network[1].weight[1] - network[1].weight[0]
    logits = network(x)[0]
    step = ((logits[0] - logits[1]).abs() / w.abs().sum()).item() / 2.5
    a = bim_a(network, x, 1 - y, eps=0.3, eps_step=step, max_iter=5)
    b = bim_b(network, x, 1 - y, eps=0.3, eps_step=step, max_iter=5)
    assert a.linf.item() == pytest.approx(3 * step)
    assert b.linf.item() == pytest.approx(min(5 * step, 0.3))
    assert b.success_at.tolist() == [[False, False, True, True, True]]
    assert a.success_at is None


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("max_iter", [1, 12])
def test_b_equals_art(mlp_victim, clips, predict, other_labels, art_classifier, targeted, max_iter):
    network = mlp_victim(dtype=torch.float32)
    x = clips(9, dtype=torch.float32)
    y = predict(network, x)
    labels = (other_labels(y) if targeted else y).numpy()
    classifier = art_classifier(network)
    params = {"eps": 0.1, "eps_step": 0.0125, "max_iter": max_iter, "targeted": targeted}
    ours = BIMb(classifier, **params).generate(x.numpy(), labels)
    art = BasicIterativeMethod(classifier, verbose=False, **params).generate(x.numpy(), np.eye(4)[labels])
    np.testing.assert_allclose(ours, art, atol=1e-6)


def test_a_saturated_victim_stops_art_and_not_ours(linear_victim, clips, predict, art_classifier):
    """ART differentiates the cross-entropy in float32: where softmax is 1 to the last bit, it has no gradient left."""
    network, x = linear_victim(dtype=torch.float32), clips(20, dtype=torch.float32)
    with torch.no_grad():
        network[1].weight.mul_(300)
        network[1].bias.mul_(300)
    y = predict(network, x)
    params = {"eps": 0.1, "eps_step": 0.0125, "max_iter": 20, "targeted": False}
    art = BasicIterativeMethod(art_classifier(network), verbose=False, **params).generate(x.numpy(), np.eye(4)[y])
    ours = torch.from_numpy(BIMb(art_classifier(network), **params).generate(x.numpy(), y.numpy()))
    stuck = torch.from_numpy(art == x.numpy()).flatten(1).all(1)
    assert stuck.any()

    def margins(inputs):
        return margin(network(inputs), y, targeted=False)

    assert (margins(ours) < margins(x)).all()
    assert (predict(network, ours)[stuck] != y[stuck]).any()


@pytest.mark.parametrize("targeted", [True, False])
def test_a_stops_where_b_was_first_adversarial(attacked, targeted):
    network, x, y, wrong = attacked
    labels = wrong if targeted else y
    settings = {"eps": 0.2, "max_iter": 15, "targeted": targeted}
    a, b = bim_a(network, x, labels, **settings), bim_b(network, x, labels, **settings)
    assert a.success.any()
    assert torch.equal(a.first_success, b.first_success)
    assert torch.equal(a.success, b.success_at.any(1))
    assert torch.equal(b.success, b.success_at[:, -1])


def test_success_at_k_is_the_success_of_a_run_of_k_iterations(attacked):
    network, x, _, wrong = attacked
    long = bim_b(network, x, wrong, eps=0.15, eps_step=0.05, max_iter=6)
    for k in range(1, 7):
        short = bim_b(network, x, wrong, eps=0.15, eps_step=0.05, max_iter=k)
        assert torch.equal(long.success_at[:, k - 1], short.success)
        for norm in ("l0", "l2", "linf"):
            assert torch.equal(getattr(long, f"{norm}_at")[:, k - 1], getattr(short, norm))


@pytest.mark.parametrize("stop", [1, 3, 8])
def test_first_success_of_a_tells_of_shorter_runs(attacked, stop):
    network, x, _, wrong = attacked
    long = bim_a(network, x, wrong, eps=0.2, max_iter=12)
    short = bim_a(network, x, wrong, eps=0.2, max_iter=stop)
    assert torch.equal(short.success, (long.first_success >= 0) & (long.first_success <= stop))


@BOTH
def test_success_is_what_the_victim_says(attacked, predict, bim):
    network, x, _, wrong = attacked
    outcome = bim(network, x, wrong, eps=0.2, max_iter=10)
    assert torch.equal(outcome.success, predict(network, outcome.x_adv) == wrong)


@BOTH
@pytest.mark.parametrize("eps", [0.02, 0.3])
def test_counts_its_passes(attacked, count_passes, bim, eps):
    network, x, _, wrong = attacked
    with count_passes(network) as passes:
        outcome = bim(network, x, wrong, eps=eps, max_iter=10)
    assert passes.forwards == outcome.forwards.sum()
    assert passes.backwards == outcome.backwards.sum()
    if bim is bim_b:
        assert set(outcome.forwards.tolist()) == {11} and set(outcome.backwards.tolist()) == {10}


def test_a_charges_no_sample_after_its_success(attacked):
    network, x, _, wrong = attacked
    outcome = bim_a(network, x, wrong, eps=0.2, max_iter=15)
    done = outcome.success
    assert torch.equal(outcome.forwards[done], outcome.first_success[done] + 1)
    assert (outcome.forwards[~done] == 16).all() and (outcome.backwards[~done] == 15).all()


@BOTH
def test_leaves_victim_and_input_alone(attacked, bim):
    network, x, _, wrong = attacked
    network.train()
    statistics = {name: value.clone() for name, value in network.state_dict().items()}
    before = x.clone()
    bim(network, x, wrong, eps=0.2, max_iter=5)
    assert torch.equal(x, before) and not x.requires_grad
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, statistics[name]) for name, value in network.state_dict().items())


@BOTH
@pytest.mark.parametrize("batch_size", [1, 5])
def test_does_not_depend_on_the_batch_or_its_order(attacked, bim, batch_size):
    network, x, _, wrong = attacked
    whole = bim(network, x, wrong, eps=0.2, max_iter=10)
    split = in_batches(bim, network, x, wrong, batch_size, targeted=True, eps=0.2, max_iter=10)
    turned = bim(network, x.flip(0), wrong.flip(0), eps=0.2, max_iter=10)
    for name in ("x_adv", "success", "first_success", "forwards", "l2", "linf"):
        assert torch.equal(getattr(whole, name), getattr(split, name))
        assert torch.equal(getattr(whole, name), getattr(turned, name).flip(0))


@BOTH
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_stays_in_the_box_and_in_the_ball(bim, data):
    eps = data.draw(st.floats(0, 1))
    eps_step = data.draw(st.none() | st.floats(0, 1).map(lambda share: share * eps))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    x = torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=8, max_size=8)), dtype=dtype).view(2, 1, 2, 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(dtype)
    outcome = bim(network, x, torch.tensor([0, 2]), eps=eps, eps_step=eps_step, max_iter=4)
    assert ((outcome.x_adv >= 0) & (outcome.x_adv <= 1)).all()
    assert (outcome.linf <= eps + torch.finfo(dtype).eps).all()


def test_an_input_that_is_adversarial_already_is_kept_by_a(attacked):
    network, x, y, _ = attacked
    outcome = bim_a(network, x, y, eps=0.2, max_iter=5)
    assert outcome.first_success.eq(0).all() and outcome.success.all()
    assert torch.equal(outcome.x_adv, x)
    assert outcome.forwards.eq(1).all() and outcome.backwards.eq(0).all()


@BOTH
def test_each_sample_may_have_its_own_eps(attacked, bim):
    network, x, _, wrong = attacked
    eps = torch.linspace(0.01, 0.3, 12, dtype=torch.float64)
    together = bim(network, x, wrong, eps=eps, max_iter=8)
    split = in_batches(bim, network, x, wrong, 5, targeted=True, eps=eps, max_iter=8)
    assert torch.equal(together.x_adv, split.x_adv)
    for i in range(12):
        alone = bim(network, x[i : i + 1], wrong[i : i + 1], eps=eps[i].item(), max_iter=8)
        torch.testing.assert_close(together.x_adv[i : i + 1], alone.x_adv)
    with pytest.raises(ValueError, match="eps"):
        bim(network, x, wrong, eps=eps - 0.02)
    with pytest.raises(ValueError, match="eps_step"):
        bim(network, x, wrong, eps=eps, eps_step=0.05)


@BOTH
def test_eps_zero_changes_nothing(attacked, bim):
    network, x, _, wrong = attacked
    outcome = bim(network, x, wrong, eps=0.0, max_iter=3)
    assert torch.equal(outcome.x_adv, x) and not outcome.success.any()


@BOTH
def test_empty_batch(bim, linear_victim, clips):
    outcome = bim(linear_victim(), clips(0), torch.zeros(0, dtype=torch.int64), eps=0.1, max_iter=3)
    assert outcome.x_adv.shape == (0, 1, 4, 4) and len(outcome.success) == 0
    assert bim is bim_a or outcome.success_at.shape == (0, 3)


@BOTH
def test_a_victim_with_one_class_is_never_fooled(bim, linear_victim, clips):
    outcome = bim(
        linear_victim(classes=1), clips(3), torch.zeros(3, dtype=torch.int64), eps=0.1, max_iter=2, targeted=False
    )
    assert not outcome.success.any()


@BOTH
def test_one_sick_sample_stays_put_and_harms_no_other(bim, linear_victim, clips, predict):
    class Sick(nn.Module):
        """Overflows on inputs whose first feature is 1."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            blown = torch.where(x[:, 0, 0, :1] == 1, math.inf, 1.0)
            return self.network(x) * blown

    healthy = linear_victim()
    x = clips(4, margin=0.1)
    x[2, 0, 0, 0] = 1
    y = predict(healthy, x)
    outcome = bim(Sick(healthy), x, y, eps=0.05, max_iter=4, targeted=False)
    alone = bim(healthy, x, y, eps=0.05, max_iter=4, targeted=False)
    others = torch.tensor([0, 1, 3])
    assert torch.equal(outcome.x_adv[2], x[2]) and not outcome.success[2]
    assert torch.equal(outcome.x_adv[others], alone.x_adv[others])


@BOTH
@pytest.mark.parametrize(("eps", "eps_step"), [(0.1, 0.2), (0.1, -0.01), (-0.1, None), (2.0, None), (math.nan, None)])
def test_impossible_steps_are_refused(bim, linear_victim, clips, art_classifier, eps, eps_step):
    with pytest.raises(ValueError, match="eps"):
        bim(linear_victim(), clips(2), torch.tensor([0, 1]), eps=eps, eps_step=eps_step)
    with pytest.raises(ValueError, match="eps"):
        (BIMa if bim is bim_a else BIMb)(art_classifier(linear_victim(dtype=torch.float32)), eps=eps, eps_step=eps_step)


def test_max_iter_must_be_positive(art_classifier, linear_victim):
    with pytest.raises(ValueError, match="max_iter"):
        BIMa(art_classifier(linear_victim(dtype=torch.float32)), max_iter=0)


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_run_taken_further_is_the_longer_run(attacked, stop):
    network, x, _, target = attacked
    whole = bim_b(network, x, target, eps=0.05, max_iter=10)
    begun = bim_b(network, x, target, eps=0.05, max_iter=stop)
    ended = bim_b(network, x, target, eps=0.05, max_iter=10 - stop, start=begun.x_adv)
    assert torch.equal(ended.x_adv, whole.x_adv) and 0 < whole.success.sum() < len(x)
    assert torch.equal(torch.cat([begun.success_at, ended.success_at], 1), whole.success_at)
    for name in ("l0_at", "l2_at", "linf_at"):
        assert torch.equal(torch.cat([getattr(begun, name), getattr(ended, name)], 1), getattr(whole, name))


def test_a_sets_out_again_with_those_not_fooled_yet(attacked):
    network, x, _, target = attacked
    whole = bim_a(network, x, target, eps=0.05, max_iter=10)
    begun = bim_a(network, x, target, eps=0.05, max_iter=3)
    left = ~begun.success
    ended = bim_a(network, x[left], target[left], eps=0.05, max_iter=7, start=begun.x_adv[left])
    assert (whole.first_success > 3).any()
    assert torch.equal(ended.success, whole.success[left]) and torch.equal(ended.x_adv, whole.x_adv[left])
    found = ended.success
    assert torch.equal(3 + ended.first_success[found], whole.first_success[left][found])


@BOTH
def test_a_start_lies_within_eps_and_stays_as_it_is(attacked, bim):
    network, x, _, target = attacked
    start = (x + 0.04 * torch.rand_like(x)).clamp(0, 1)
    before = start.clone()
    outcome = bim(network, x, target, eps=0.05, max_iter=3, start=start)
    assert torch.equal(start, before) and outcome.linf.max() <= 0.05 + 1e-6
    rounded = (x + 0.05 * torch.rand_like(x).round()).clamp(0, 1).float()
    assert bim(network.double(), x.double(), target, eps=0.05, max_iter=3, start=rounded).linf.max() <= 0.05 + 1e-12
    network.to(x.dtype)
    with pytest.raises(ValueError, match="start must lie within eps"):
        bim(network, x, target, eps=0.03, max_iter=3, start=start)
    with pytest.raises(ValueError, match="shape of x"):
        bim(network, x, target, eps=0.05, max_iter=3, start=start[:1])
    with pytest.raises(ValueError, match="start must be float"):
        bim(network, x, target, eps=1.0, max_iter=3, start=start + 1)
