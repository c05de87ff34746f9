"""Eq. 13 in two passes against the plain form in three, in double precision."""

import copy

import pytest
import torch
from torch import nn

from advtrack.attacks.bim import bim_a
from advtrack.models.zoo import build
from advtrack.training.adversarial import accuracies_under_attack, adversarial_backward
from advtrack.training.fit import classification_loss


class Victim(nn.Module):
    """Convolution, BatchNorm and dropout, and the classes at the end."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(4 * 16, 3)
        )

    def forward(self, x):
        return self.body(x)


@pytest.fixture
def batch():
    """A network in training mode, a loss and inputs, some of them at the ends of [0, 1]."""
    torch.manual_seed(0)
    network = Victim().double().train()
    x = torch.rand(5, 1, 6, 6, dtype=torch.float64).mul(1.2).sub(0.1).clamp(0, 1)
    labels = torch.rand(5, 3, dtype=torch.float64).softmax(1)
    return network, lambda outputs: classification_loss(outputs, labels), x


def three_passes(network, loss, x, eps, alpha):
    """Input gradient, clean term, adversarial term: gradients of the weights and the value of Eq. 13."""
    buffers, dropout = copy.deepcopy(dict(network.named_buffers())), torch.get_rng_state()
    probe = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(network(probe)), probe)
    x_adv = (x + eps * gradient.sign()).clamp(0, 1)
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    torch.set_rng_state(dropout)
    value = alpha * loss(network(x)) + (1 - alpha) * loss(network(x_adv))
    return torch.autograd.grad(value, list(network.parameters())), value.detach()


@pytest.mark.parametrize(("eps", "alpha"), [(8 / 255, 0.5), (0.2, 0.3), (0.0, 0.7), (0.1, 1.0)])
def test_equals_the_plain_form(batch, eps, alpha):
    network, loss, x = batch
    plain = copy.deepcopy(network)
    torch.manual_seed(7)
    gradients, expected = three_passes(plain, loss, x, eps, alpha)
    torch.manual_seed(7)
    value = adversarial_backward(network, loss, x, eps=eps, alpha=alpha)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert (parameter.grad - gradient).norm() <= 1e-5 * gradient.norm() + 1e-12
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    for own, other in zip(network.buffers(), plain.buffers(), strict=True):  # both passes update BatchNorm
        assert torch.allclose(own, other, rtol=1e-9)


@pytest.mark.parametrize(("model", "side"), [("resnet56", 12), ("googlenet", 48)])
def test_equals_the_plain_form_on_networks_of_the_paper(model, side):
    """BatchNorm in every block; GoogLeNet with auxiliary heads, whose dropout draws too."""
    torch.manual_seed(0)
    network = build(model, 3).double().train()
    plain, labels = copy.deepcopy(network), torch.rand(3, 3, dtype=torch.float64).softmax(1)
    x = torch.rand(3, 1, side, side, dtype=torch.float64)

    def loss(outputs):
        return classification_loss(outputs, labels)

    torch.manual_seed(7)
    gradients, expected = three_passes(plain, loss, x, 8 / 255, 0.5)
    torch.manual_seed(7)
    value = adversarial_backward(network, loss, x, eps=8 / 255, alpha=0.5)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    ours = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    theirs = torch.cat([gradient.flatten() for gradient in gradients])
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    for own, other in zip(network.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(own.double(), other.double(), rtol=1e-9)


def test_accuracies_under_attack_are_those_of_the_attacks(batch):
    network, _, x = batch
    network.eval()
    y = network(x).argmax(1)
    assert accuracies_under_attack(network, x, y, 0.0) == (1, 1)
    eps = 0.05
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(x.requires_grad_()), y, reduction="sum"), x)
    one = (network((x + eps * gradient.sign()).clamp(0, 1)).argmax(1) == y).double().mean().item()
    several = bim_a(network, x.detach(), y, eps=eps, eps_step=eps / 3, max_iter=5, targeted=False)
    assert accuracies_under_attack(network, x.detach(), y, eps) == (one, 1 - several.success.double().mean().item())


def test_a_network_that_bends_its_loss_withstands_one_step_alone():
    """Catastrophic overfitting in closed form: the margin falls, rises again beyond one step, and several get out."""

    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            moved = (x - 0.5).flatten(1).mean(1)
            margin = self.scale * torch.cos(moved * torch.pi / 0.05 + 0.3)  # crosses zero at half the step
            return torch.stack([margin, -margin], 1)

    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.long)
    assert accuracies_under_attack(Bent(), x, y, 0.08) == (1, 0)


def test_alpha_one_is_plain_training(batch):
    network, loss, x = batch
    torch.manual_seed(7)
    expected = loss(network(x))
    gradients = torch.autograd.grad(expected, list(network.parameters()))
    torch.manual_seed(7)
    value = adversarial_backward(network, loss, x, eps=0.1, alpha=1.0)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)


def test_gradients_accumulate(batch):
    network, loss, x = batch
    network.eval()  # no dropout: both calls are the same
    adversarial_backward(network, loss, x, eps=0.1, alpha=0.5)
    once = [p.grad.clone() for p in network.parameters()]
    adversarial_backward(network, loss, x, eps=0.1, alpha=0.5)
    for parameter, gradient in zip(network.parameters(), once, strict=True):
        assert torch.allclose(parameter.grad, 2 * gradient)


def test_inputs_stay_and_the_adversarial_ones_lie_in_the_box(batch):
    network, loss, x = batch
    before, seen = x.clone(), []
    network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach().clone()))
    value = adversarial_backward(network, loss, x, eps=0.15, alpha=0.5)
    assert torch.equal(x, before) and not x.requires_grad and x.grad is None
    assert not value.requires_grad
    clean, x_adv = seen
    assert torch.equal(clean, x)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (x_adv - x).abs().max().item() == pytest.approx(0.15)


def test_the_adversarial_term_is_harder(batch):
    network, loss, x = batch
    network.eval()
    clean = loss(network(x)).item()
    value = adversarial_backward(network, loss, x, eps=0.1, alpha=0.5).item()
    assert value > clean
