"""FGSM, the fast gradient sign method (Goodfellow et al. 2014, arXiv:1412.6572): one step of size eps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from advtrack.attacks import checks
from advtrack.attacks.base import Attack, Range, Space
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import finite, frozen, is_adversarial, per_sample, slope

SPACE: Space = {"eps": Range(1e-4, 0.3, "ours", log=True)}


def ascent_direction(logits: Tensor, x: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """The direction, at ``x``, of the gradient of the cross-entropy that the attack raises, shape of ``x``.

    Away from the true label ``y`` the loss itself is raised; towards a target ``y``, its negative. With the log-odds
    ``L = log sum_{i != y} exp(Z_i) - Z_y`` the loss is ``log(1 + exp(L))``: its gradient is that of L times the
    probability of the other classes, which a float rounds to 0 where the victim is sure. So it is that of L.
    """
    # What all logits have in common would cost the weights of the classes their last digits.
    logits = logits - logits.detach().amax(1, keepdim=True)
    own = logits.gather(1, y[:, None]).squeeze(1)
    odds = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1) - own
    return slope(-odds if targeted else odds, x)


def fgsm_step(x: Tensor, gradient: Tensor, eps: float | Tensor) -> Tensor:
    """Move every feature by ``eps`` along the sign of the gradient, within [0, 1].

    Parameters
    ----------
    x : Tensor, shape (N, ...)
        Inputs in [0, 1].
    gradient : Tensor, shape (N, ...)
        Gradient of the loss to raise. A component that is not finite has no sign: its feature stays.
    eps : float or Tensor of shape (N, 1, ...)
        Size of the step, at least 0.

    Returns
    -------
    Tensor, shape (N, ...)
        A new tensor, without gradient history if neither argument has one.
    """
    direction = finite(gradient).sign()
    return (x + eps * direction).clamp(0.0, 1.0)


def fgsm(network: nn.Module, x: Tensor, y: Tensor, *, eps: float | Tensor, targeted: bool = False) -> AttackOutcome:
    """Attack with one signed step: ``x + eps * sign(dJ/dx)``.

    Parameters
    ----------
    network : Module
        Victim, from (N, C, H, W) to logits (N, classes).
    x : Tensor, shape (N, C, H, W)
        Inputs in [0, 1].
    y : Tensor of int64, shape (N,)
        True labels, or target labels when ``targeted``.
    eps : float or Tensor of shape (N,)
        Size of the step, and so the l-inf bound; one for all or one each.
    targeted : bool
        Descend towards ``y`` rather than ascend away from it.

    Returns
    -------
    AttackOutcome
        Every input takes the step, also one that is adversarial as it is (``first_success`` 0).
    """
    _check(eps=eps, targeted=targeted)
    checks.samples(x, y)
    x = x.detach()
    x_adv = x.clone()
    passes = torch.ones_like(y)
    first_success = torch.full_like(y, -1)
    success = torch.zeros_like(y, dtype=torch.bool)

    if len(x):
        with frozen(network):
            clean = x_adv.requires_grad_()
            logits = network(clean)
            checks.labels(y, len(x), logits.shape[1])
            bounds = for_each(eps, x)
            stepped = fgsm_step(x, ascent_direction(logits, clean, y, targeted), bounds)
            x_adv = stepped.clamp(*ball(x, bounds))
            with torch.no_grad():
                success = is_adversarial(network(x_adv), y, targeted)
        first_success[success] = 1
        first_success[is_adversarial(logits, y, targeted)] = 0

    return AttackOutcome.of(
        x, x_adv, success=success, first_success=first_success, forwards=2 * passes, backwards=passes
    )


def check_eps(eps: float | Tensor | np.ndarray, name: str = "eps") -> None:
    """Refuse a bound, or a step, outside the range of the inputs; it may be one for each sample."""
    for one in each(eps):
        checks.number(name, one, 0, 1)


def each(value: float | Tensor | np.ndarray) -> list[float]:
    """A number, or those for the samples, as a list."""
    return value.ravel().tolist() if isinstance(value, np.ndarray | Tensor) else [value]


def for_each(value: float | Tensor, x: Tensor) -> Tensor:
    """A number for all samples or one for each, shape (N, 1, ...), in the precision of ``x``, and not above it."""
    exact = torch.as_tensor(value, dtype=torch.float64, device=x.device).detach()
    values = exact.to(x.dtype)
    values = torch.where(values > exact, values.nextafter(torch.zeros_like(values)), values)
    if values.numel() not in (1, len(x)):
        raise ValueError(f"eps and eps_step must be a number, or one for each of {len(x)} samples")
    return per_sample(values.flatten().expand(len(x)), x)


def ball(x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of [x - eps, x + eps], so that no difference from ``x`` exceeds ``eps`` when it is rounded."""
    low, high = x - eps, x + eps
    return low.nextafter(x).where(x - low > eps, low), high.nextafter(x).where(high - x > eps, high)


def _check(*, eps: float | Tensor | np.ndarray, targeted: bool) -> None:
    check_eps(eps)
    checks.flag("targeted", targeted)


class FGSM(Attack):
    """FGSM as an ART attack."""

    native = staticmethod(fgsm)
    norm = "linf"
    minimises = False
    shorter_runs = "none"
    space = SPACE
    check = staticmethod(_check)
