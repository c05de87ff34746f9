"""Eq. 13 in two passes against the plain form in three, in double precision."""

import copy

import pytest
import torch
from torch import nn

from advtrack.training.adversarial import adversarial_backward
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
