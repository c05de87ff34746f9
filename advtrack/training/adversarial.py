"""Adversarial training on one-shot FGSM examples (Eq. 13; Goodfellow et al. 2014) in two passes, and what it taught."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from advtrack.attacks.bim import bim_a
from advtrack.attacks.fgsm import fgsm, fgsm_step

#: Enough to tell several steps from one.
_STEPS = 5


def adversarial_backward(
    network: nn.Module, loss: Callable[..., Tensor], x: Tensor, *, eps: float, alpha: float
) -> Tensor:
    """Accumulate the weights' gradient of alpha J(x, y) + (1 - alpha) J(x_adv, y).

    The clean term's backward pass yields two things at once: its share of the weights' gradient, and the gradient
    of the input from which FGSM makes ``x_adv``. That gradient is scaled by alpha > 0, which its sign ignores, so no
    third pass is needed. Both passes run in the mode the network is in; in training mode both update BatchNorm.

    Parameters
    ----------
    network : nn.Module
        In training mode.
    loss : callable
        ``loss(outputs) -> scalar``, J for the labels of this batch.
    x : Tensor, shape (N, C, H, W)
        Legitimate inputs in [0, 1].
    eps : float
        l-inf bound of the FGSM examples.
    alpha : float
        Weight of the clean term, in (0, 1].

    Returns
    -------
    Tensor, scalar
        The value of Eq. 13, detached.
    """
    x = x.detach().requires_grad_()
    clean = alpha * loss(network(x))
    clean.backward()
    assert x.grad is not None
    x_adv = fgsm_step(x.detach(), x.grad, eps)
    adversarial = (1 - alpha) * loss(network(x_adv))
    adversarial.backward()
    return (clean + adversarial).detach()


def accuracies_under_attack(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> tuple[float, float]:
    """Accuracy under FGSM and under BIM of five steps, both untargeted and bounded by ``eps``.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    x : Tensor, shape (N, C, H, W)
        Legitimate inputs in [0, 1].
    y : Tensor of int64, shape (N,)
        Their labels.
    eps : float
        l-inf bound, in [0, 1].
    """
    one = fgsm(network, x, y, eps=eps)
    several = bim_a(network, x, y, eps=eps, eps_step=eps / 3, max_iter=_STEPS, targeted=False)
    return 1 - float(one.success.double().mean()), 1 - float(several.success.double().mean())
