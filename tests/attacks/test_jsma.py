"""JSMA against a brute-force reading of Eq. 2 and 3, its limits, and the passes it makes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from art.attacks.evasion import SaliencyMapMethod
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advtrack.attacks.batches import in_batches
from advtrack.attacks.jsma import JSMA, jsma


@pytest.fixture
def attacked(mlp_victim, clips, predict, other_labels):
    """A nonlinear victim in training mode, inputs, and a wrong target for each."""
    network = mlp_victim()
    x = clips(12)
    return network, x, other_labels(predict(network, x))


def saliency_by_hand(network, x, t, theta):
    """Eq. 2 for one input, feature by feature, from the whole Jacobian of the logits."""
    jacobian = torch.autograd.functional.jacobian(lambda flat: network(flat.view(1, *x.shape))[0], x.flatten())
    saliency = []
    for i in range(x.numel()):
        alpha = jacobian[t, i].item()
        beta = sum(jacobian[j, i].item() for j in range(len(jacobian)) if j != t)
        value = x.flatten()[i].item()
        upwards = alpha > 0 and beta < 0 and value < 1
        downwards = alpha < 0 and beta > 0 and value > 0
        saliency.append(abs(alpha) * abs(beta) if (upwards if theta > 0 else downwards) else 0.0)
    return saliency


def jsma_by_hand(network, x, t, theta, gamma, features_per_step, max_iter):
    """The iterates of one input, the input first."""
    iterates, changed = [x], set()
    while len(iterates) <= max_iter and (len(changed) + 1) / x.numel() <= gamma:
        current = iterates[-1]
        if network(current[None]).argmax() == t:
            break
        saliency = saliency_by_hand(network, current, t, theta)
        ranked = sorted((i for i in range(x.numel()) if saliency[i] > 0), key=lambda i: -saliency[i])
        if not ranked:
            break
        stepped = current.flatten().clone()
        for i in ranked[:features_per_step]:
            if i in changed or (len(changed) + 1) / x.numel() <= gamma:
                stepped[i] = min(max(stepped[i].item() + theta, 0.0), 1.0)
                changed.add(i)
        iterates.append(stepped.view_as(x))
    return iterates


@pytest.mark.parametrize("theta", [1.0, 0.15, -0.3])
@pytest.mark.parametrize("features_per_step", [1, 2])
def test_every_iterate_is_that_of_equation_2(attacked, theta, features_per_step):
    network, x, t = attacked
    network.eval()
    params = {"theta": theta, "gamma": 0.8, "features_per_step": features_per_step}
    by_hand = [jsma_by_hand(network, x_i, t_i, max_iter=12, **params) for x_i, t_i in zip(x, t, strict=True)]
    for steps in range(1, 13):
        outcome = jsma(network, x, t, max_iter=steps, **params)
        expected = torch.stack([iterates[min(steps, len(iterates) - 1)] for iterates in by_hand])
        torch.testing.assert_close(outcome.x_adv, expected, rtol=0, atol=1e-12)
    solved = network(expected).argmax(1) == t
    assert solved.any()
    assert torch.equal(outcome.success, solved)
    lengths = torch.tensor([len(iterates) - 1 for iterates in by_hand])
    assert torch.equal(outcome.first_success[solved], lengths[solved])


@pytest.fixture
def two_ways(linear_victim):
    """Feature 0 and 1 raise the target, and another class still more; 2 raises the target alone."""
    network = linear_victim(classes=3, shape=(1, 1, 3), dtype=torch.float32)
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0, 0.0, -1.0], [4.0, 4.0, 0.0], [3.0, 3.0, 2.0]]))
        network[1].bias.copy_(torch.tensor([1.5, 0.0, 0.0]))
    return network


def test_art_follows_the_target_alone_and_away_from_success(two_ways, art_classifier):
    # ART ranks features by the target's gradient, without beta of Eq. 2, and so raises the rival with the target.
    x, t = torch.full((1, 1, 1, 3), 0.0), torch.tensor([2])
    classifier = art_classifier(two_ways, shape=(1, 1, 3), classes=3)
    art = SaliencyMapMethod(classifier, theta=1.0, gamma=1.0, verbose=False).generate(x.numpy(), np.eye(3)[[2]])
    assert art.flatten().tolist() == [1, 1, 1] and two_ways(torch.from_numpy(art)).argmax() == 1
    ours = JSMA(classifier, theta=1.0).generate(x.numpy(), t.numpy())
    assert ours.flatten().tolist() == [0, 0, 1] and two_ways(torch.from_numpy(ours)).argmax() == 2


def test_art_changes_more_features_than_gamma_allows(mlp_victim, clips, predict, other_labels, art_classifier):
    network = mlp_victim(dtype=torch.float32)
    x = clips(12, dtype=torch.float32)
    t = other_labels(predict(network, x))
    classifier, gamma = art_classifier(network), 3 / 16
    art = SaliencyMapMethod(classifier, theta=0.1, gamma=gamma, verbose=False).generate(x.numpy(), np.eye(4)[t.numpy()])
    assert (art != x.numpy()).reshape(12, -1).sum(1).max() > 3
    ours = JSMA(classifier, theta=0.1, gamma=gamma).generate(x.numpy(), t.numpy())
    assert (ours != x.numpy()).reshape(12, -1).sum(1).max() == 3


MEASURED = """
import resource, sys, torch
from torch import nn
from advtrack.attacks.jsma import jsma

network = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(64, 50))
x, t = torch.full((4, 1, 768, 1568), 0.5), torch.arange(4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
outcome = jsma(network, x, t, theta=0.1, max_iter=3)
assert outcome.backwards.max() == 6
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / x.nbytes)
"""


def test_memory_does_not_grow_with_the_classes():
    # 4 inputs of 768 x 1568: the Jacobian of 50 logits would be 50 times as large as they are.
    run = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 25


def test_gamma_bounds_the_features_that_change(attacked):
    network, x, t = attacked
    for gamma in (0.05, 0.1, 0.2, 0.5):
        outcome = jsma(network, x, t, theta=0.1, gamma=gamma, features_per_step=3)
        assert outcome.l0.max() / 16 <= gamma
    none = jsma(network, x, t, gamma=0.05)
    assert torch.equal(none.x_adv, x) and not none.backwards.any()


def test_a_small_theta_changes_a_feature_again_until_it_saturates(linear_victim):
    network = linear_victim(classes=2, shape=(1, 1, 3))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[-3.0, -1.0, 0.0], [3.0, 1.0, 0.0]]))
        network[1].bias.zero_()
    x, t = torch.zeros(1, 1, 1, 3, dtype=torch.float64), torch.tensor([1])
    # Z_1 - Z_0 = 6 a + 2 b - 4.6 turns positive with a at 1, in the fourth step.
    network[1].bias.data[0] = 4.6
    outcome = jsma(network, x, t, theta=0.25)
    assert outcome.x_adv.flatten().tolist() == [1.0, 0.0, 0.0]
    assert outcome.first_success.item() == 4
    # With 6.9 to make up for, a saturates first, and b goes on.
    network[1].bias.data[0] = 6.9
    outcome = jsma(network, x, t, theta=0.25)
    assert outcome.x_adv.flatten().tolist() == [1.0, 0.5, 0.0]
    assert outcome.first_success.item() == 6


def test_a_sample_without_a_salient_feature_leaves_as_a_failure(linear_victim):
    network = linear_victim(classes=2, shape=(1, 1, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 2.0]]))  # beta is positive everywhere
        network[1].bias.copy_(torch.tensor([5.0, 0.0]))
    x = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    outcome = jsma(network, x, torch.tensor([1]), max_iter=50)
    assert not outcome.success.item() and outcome.first_success.item() == -1
    assert torch.equal(outcome.x_adv, x)
    assert (outcome.forwards.item(), outcome.backwards.item()) == (1, 2)


def test_an_input_of_the_target_class_is_left_alone(attacked, predict):
    network, x, _ = attacked
    outcome = jsma(network, x, predict(network, x))
    assert outcome.success.all() and not outcome.first_success.any() and not outcome.backwards.any()
    assert torch.equal(outcome.x_adv, x)


@pytest.mark.parametrize("max_iter", [1, 7])
def test_passes_are_those_that_hooks_see(attacked, count_passes, max_iter):
    network, x, t = attacked
    with count_passes(network) as passes:
        outcome = jsma(network, x, t, max_iter=max_iter)
    assert (outcome.forwards.sum(), outcome.backwards.sum()) == (passes.forwards, passes.backwards)
    assert outcome.forwards.max() <= max_iter + 1 and outcome.backwards.max() <= 2 * max_iter


def test_the_victim_and_the_inputs_are_left_as_they_came(attacked):
    network, x, t = attacked
    before = x.clone()
    network[1].weight.requires_grad_(False)
    jsma(network, x, t, max_iter=3)
    assert torch.equal(x, before) and not x.requires_grad
    assert network.training and network[4].training
    assert not network[1].weight.requires_grad and network[5].weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("batch_size", [1, 5])
def test_results_do_not_depend_on_the_batch(attacked, batch_size):
    network, x, t = attacked
    whole, split = jsma(network, x, t), in_batches(jsma, network, x, t, batch_size, targeted=True)
    assert torch.equal(whole.x_adv, split.x_adv)
    assert torch.equal(whole.first_success, split.first_success)


def test_an_empty_batch(attacked):
    network, x, t = attacked
    outcome = jsma(network, x[:0], t[:0])
    assert outcome.x_adv.shape == (0, 1, 4, 4) and outcome.success.shape == (0,)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_sample_fails_alone(attacked, poison):
    network, x, t = attacked

    class Poisoned(nn.Module):
        def forward(self, batch):
            return network(batch) * torch.where(batch[:, 0, 0, 0] == 0.123, poison, 1.0)[:, None]

    x[3, 0, 0, 0] = 0.123
    network.eval()
    alone, mixed = jsma(network, x, t), jsma(Poisoned(), x, t)
    others = torch.arange(12) != 3
    assert not mixed.success[3] and torch.equal(mixed.x_adv[3], x[3])
    assert torch.equal(mixed.x_adv[others], alone.x_adv[others])


def test_only_targeted(attacked):
    network, x, t = attacked
    with pytest.raises(ValueError, match="targeted"):
        jsma(network, x, t, targeted=False)


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1e-7, 0.4, 0.99, 1.0]), min_size=16, max_size=16),
    theta=st.sampled_from([-1.0, -0.35, 0.05, 0.7, 1.0]),
    features_per_step=st.integers(1, 20),
)
def test_iterates_stay_in_the_box_and_move_one_way(values, theta, features_per_step):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.tensor(values).view(1, 1, 4, 4).repeat(3, 1, 1, 1)
    outcome = jsma(network, x, torch.arange(3), theta=theta, features_per_step=features_per_step, max_iter=10)
    assert outcome.x_adv.min() >= 0 and outcome.x_adv.max() <= 1
    assert ((outcome.x_adv - x) * theta >= 0).all()
    assert (outcome.l0 <= 10 * features_per_step).all()


def test_as_an_art_attack(mlp_victim, clips, predict, other_labels, art_classifier):
    network = mlp_victim(dtype=torch.float32)
    x = clips(6, dtype=torch.float32)
    t = other_labels(predict(network, x))
    classifier = art_classifier(network)
    x_adv = JSMA(classifier, theta=0.5, max_iter=9, batch_size=4).generate(x.numpy(), t.numpy())
    assert torch.equal(torch.from_numpy(x_adv), jsma(network, x, t, theta=0.5, max_iter=9).x_adv)
    for bad in (
        {"theta": 0.0},
        {"theta": 1.5},
        {"gamma": 0.0},
        {"gamma": 1.1},
        {"features_per_step": 0},
        {"max_iter": 0},
        {"targeted": False},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            JSMA(classifier, **bad)


def test_equal_saliencies_are_ranked_alike_in_every_batch():
    """The second half of the features mirrors the first: of each pair, rounding alone would tell the larger."""
    for seed in range(6):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 4)).double()
        with torch.no_grad():
            network[1].weight.mul_(6)
            network[1].weight[:, 8:] = network[1].weight[:, :8].flip(1)
            network[3].weight.mul_(3)
        x = torch.rand(23, 1, 1, 16, dtype=torch.float64)
        y = (network(x).argmax(1) + 1) % 4
        whole = jsma(network, x, y, max_iter=3)
        for i in range(len(x)):
            alone = jsma(network, x[i : i + 1], y[i : i + 1], max_iter=3)
            assert torch.equal(alone.x_adv[0], whole.x_adv[i]) and alone.first_success[0] == whole.first_success[i]


def test_a_theta_too_small_to_move_a_feature_ends_the_search(linear_victim, clips, predict, other_labels):
    network = linear_victim(dtype=torch.float32)
    x = clips(5, margin=0.3, dtype=torch.float32)  # 1e-9 is nothing to such numbers
    outcome = jsma(network, x, other_labels(predict(network, x)), theta=1e-9)
    assert torch.equal(outcome.x_adv, x) and (outcome.forwards == 1).all() and not outcome.success.any()
