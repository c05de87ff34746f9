"""FGSM against the closed form on a linear victim, ART, and inputs that go wrong."""

import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advtrack.attacks.batches import in_batches
from advtrack.attacks.fgsm import FGSM, fgsm, fgsm_step


class Square(torch.autograd.Function):
    """Its gradient is undefined where the input lies above one half."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.flatten(1) ** 2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient.view_as(x) * torch.where(x > 0.5, math.nan, 2 * x)


def test_step_by_hand():
    x = torch.tensor([[0.5, 0.05, 0.95, 0.5, 0.5]])
    gradient = torch.tensor([[3.0, -1.0, 1e-30, 0.0, -2.0]])
    torch.testing.assert_close(fgsm_step(x, gradient, 0.1), torch.tensor([[0.6, 0.0, 1.0, 0.5, 0.4]]))


@given(
    x=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    gradient=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=6, max_size=6),
    eps=st.floats(0, 1),
)
def test_step_stays_in_the_box_and_in_the_ball(x, gradient, eps):
    x, gradient = torch.tensor([x], dtype=torch.float64), torch.tensor([gradient], dtype=torch.float64)
    before = x.clone()
    stepped = fgsm_step(x, gradient, eps)
    assert torch.equal(x, before)
    assert ((stepped >= 0) & (stepped <= 1)).all()
    assert ((stepped - x).abs() <= eps + 1e-15).all()
    assert torch.equal(stepped[~gradient.isfinite()], x[~gradient.isfinite()])


@pytest.mark.parametrize("targeted", [True, False])
def test_two_class_linear_victim_falls_beyond_its_margin(linear_victim, clips, predict, targeted):
    network = linear_victim(classes=2)
    x = clips(1, margin=0.3)
    y = predict(network, x)
    w = network[1].weight[1] - network[1].weight[0]
    logits = network(x)[0]
    margin = ((logits[0] - logits[1]).abs() / w.abs().sum()).item()  # the minimal l-inf perturbation
    assert margin < 0.3

    labels = 1 - y if targeted else y
    below = fgsm(network, x, labels, eps=0.99 * margin, targeted=targeted)
    beyond = fgsm(network, x, labels, eps=1.01 * margin, targeted=targeted)
    assert not below.success.item() and below.first_success.item() == -1
    assert beyond.success.item() and beyond.first_success.item() == 1
    assert beyond.linf.item() == pytest.approx(1.01 * margin)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e30])
@pytest.mark.parametrize("targeted", [True, False])
def test_a_victim_falls_however_sure_it_is(linear_victim, clips, predict, targeted, scale):
    """The probability of the other classes is 0 in float32, and so would be the gradient of the loss as it stands."""
    network, x = linear_victim(classes=2, dtype=torch.float32), clips(8, dtype=torch.float32)
    y = predict(network, x)
    expected = fgsm(network, x, 1 - y if targeted else y, eps=0.3, targeted=targeted)
    with torch.no_grad():
        network[1].weight.mul_(scale)
        network[1].bias.mul_(scale)
    outcome = fgsm(network, x, 1 - y if targeted else y, eps=0.3, targeted=targeted)
    assert outcome.success.all() and torch.equal(outcome.x_adv, expected.x_adv)


def test_where_the_slope_is_nought_but_for_rounding_a_feature_stays(linear_victim, clips):
    """A feature that all logits share moves none of them apart; rounding gives its slope a sign, the batch's own."""
    network, x = linear_victim(), clips(40)
    with torch.no_grad():
        network[1].weight[:, 3] = 0.7
    outcome = fgsm(network, x, network(x).argmax(1), eps=0.1)
    assert torch.equal(outcome.x_adv.flatten(1)[:, 3], x.flatten(1)[:, 3]) and outcome.l0.eq(15).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("slope", [torch.inf, -torch.inf, torch.nan])
def test_a_feature_whose_slope_is_not_finite_stays_alone(linear_victim, clips, dtype, slope):
    network, x = linear_victim(dtype=dtype), clips(4, dtype=dtype)

    class Steep(nn.Module):
        def forward(self, x):
            if x.requires_grad:
                x.register_hook(lambda gradient: gradient.flatten(1).index_fill(1, torch.tensor(5), slope).view_as(x))
            return network(x)

    y = network(x).argmax(1)
    expected = fgsm(network, x, y, eps=0.1).x_adv.flatten(1)
    expected[:, 5] = x.flatten(1)[:, 5]
    assert torch.equal(fgsm(Steep(), x, y, eps=0.1).x_adv.flatten(1), expected)


@pytest.mark.parametrize("targeted", [True, False])
def test_equals_art(mlp_victim, clips, predict, other_labels, art_classifier, targeted):
    network = mlp_victim(dtype=torch.float32)
    x = clips(9, dtype=torch.float32)
    y = predict(network, x)
    labels = other_labels(y) if targeted else y
    classifier = art_classifier(network)
    ours = FGSM(classifier, eps=0.07, targeted=targeted, batch_size=4).generate(x.numpy(), labels.numpy())
    art = FastGradientMethod(classifier, eps=0.07, targeted=targeted).generate(x.numpy(), np.eye(4)[labels.numpy()])
    np.testing.assert_allclose(ours, art, atol=1e-6)


def test_counts_its_passes_and_leaves_victim_and_input_alone(mlp_victim, clips, count_passes):
    network = mlp_victim().train()
    statistics = {name: value.clone() for name, value in network.state_dict().items()}
    x, y = clips(5), torch.arange(5) % 4
    before = x.clone()
    with count_passes(network) as passes:
        outcome = fgsm(network, x, y, eps=0.1)
    assert passes.forwards == outcome.forwards.sum() == 10
    assert passes.backwards == outcome.backwards.sum() == 5
    assert torch.equal(x, before) and not x.requires_grad
    assert network.training and all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(value, statistics[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_does_not_depend_on_the_batch(mlp_victim, clips, predict, batch_size):
    network = mlp_victim()
    x = clips(8)
    y = predict(network, x)
    whole, split = fgsm(network, x, y, eps=0.05), in_batches(fgsm, network, x, y, batch_size, targeted=False, eps=0.05)
    assert torch.equal(whole.x_adv, split.x_adv) and torch.equal(whole.success, split.success)


def test_eps_zero_changes_nothing(linear_victim, clips, predict):
    network = linear_victim()
    x = clips(4)
    y = predict(network, x)
    outcome = fgsm(network, x, y, eps=0.0)
    assert torch.equal(outcome.x_adv, x) and not outcome.success.any()
    assert fgsm(network, x, y, eps=0.0, targeted=True).first_success.tolist() == [0] * 4


def test_empty_batch(linear_victim, clips):
    outcome = fgsm(linear_victim(), clips(0), torch.zeros(0, dtype=torch.int64), eps=0.1)
    assert outcome.x_adv.shape == (0, 1, 4, 4) and len(outcome.success) == 0


def test_undefined_gradients_move_nothing():
    class Broken(nn.Module):
        def forward(self, x):
            return Square.apply(x)

    x = torch.tensor([[[[0.2, 0.9]]]])
    outcome = fgsm(Broken(), x, torch.tensor([1]), eps=0.1)
    torch.testing.assert_close(outcome.x_adv, torch.tensor([[[[0.3, 0.9]]]]))


@pytest.mark.parametrize("common", [1e3, 1e6])
def test_what_all_logits_have_in_common_moves_nothing(common):
    """Neither a feature with the same weight in all classes, nor, in float64, a sample by the company it is in."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 5)).double()
    with torch.no_grad():
        network[1].weight[:, 0] = 1.0
        network[1].bias += common
    x = torch.rand(7, 1, 2, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 5, (7,), generator=generator)
    together = fgsm(network, x, y, eps=0.1)
    assert torch.equal(together.x_adv[:, 0, 0, 0], x[:, 0, 0, 0]) and not torch.equal(together.x_adv, x)
    assert torch.equal(in_batches(fgsm, network, x, y, 1, eps=0.1, targeted=False).x_adv, together.x_adv)
