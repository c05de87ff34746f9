"""Jacobian-based saliency map attack, JSMA (the paper's Eq. 2 and 3; Papernot et al. 2016, arXiv:1511.07528)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from advtrack.attacks import checks
from advtrack.attacks.base import Attack, Choices, Range, Space
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import frozen, is_adversarial, slope, steady

SPACE: Space = {
    "theta": Choices((1.0, -1.0), "ours: the paper's range of the scaling factor is lost"),
    "max_iter": Range(1, 1000, "paper, section VI: at most 1,000 iterations"),
}


def jsma(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    theta: float = 1.0,
    gamma: float = 1.0,
    features_per_step: int = 1,
    max_iter: int = 1000,
    targeted: bool = True,
) -> AttackOutcome:
    """Change the most salient features, a few at a time, until the victim sees the target.

    The saliency of feature i towards target t is, with the forward derivatives of Eq. 3 taken on the logits Z,
    ``alpha_i |beta_i|`` where ``alpha_i = dZ_t/dx_i > 0`` and ``beta_i = sum_{j != t} dZ_j/dx_i < 0``, and 0 elsewhere
    (Eq. 2; both signs are mirrored for a negative ``theta``). On probabilities ``beta = -alpha``, and the map would say
    nothing that the gradient does not. Two backward passes give alpha and beta, whatever the number of classes.

    Parameters
    ----------
    network : nn.Module
        Victim, inputs (N, C, H, W) in [0, 1] to logits (N, classes).
    x : Tensor, shape (N, C, H, W)
        Legitimate inputs in [0, 1].
    y : Tensor of int64, shape (N,)
        Target classes.
    theta : float
        What a step adds to a feature, in [-1, 1], not 0. Features are clipped to [0, 1], and one that has reached the
        bound which ``theta`` points to leaves the search; until then it may be changed again.
    gamma : float
        Largest fraction of the features that may be changed, in (0, 1].
    features_per_step : int
        Features changed in each iteration; 1 is the paper's.
    max_iter : int
        Iterations per sample, at most 1,000 (the paper's section VI).
    targeted : bool
        Only True: the saliency map leads towards a class.

    Returns
    -------
    AttackOutcome
        A sample stops at its first success, without a salient feature left, with ``gamma`` of its features changed, or
        after ``max_iter`` iterations. It costs one forward and two backward passes an iteration, and a last forward.
    """
    _check(theta=theta, gamma=gamma, features_per_step=features_per_step, max_iter=max_iter, targeted=targeted)
    checks.samples(x, y)
    x = x.detach()
    x_adv = x.clone()
    features = x.shape[1:].numel()
    most_changed = int(round(gamma * features, 6))  # 0.29 of 100 features are 29, whatever rounding says
    direction = 1 if theta > 0 else -1
    first_success = torch.full_like(y, -1, dtype=torch.int64)
    forwards, backwards = torch.zeros_like(first_success), torch.zeros_like(first_success)
    active = torch.arange(len(x), device=x.device)

    with frozen(network):
        for iteration in range(max_iter + 1):
            if not len(active):
                break
            x_k = x_adv[active].requires_grad_()
            logits = network(x_k)
            if iteration == 0:
                checks.labels(y, len(x), logits.shape[1])
            forwards[active] += 1
            fooled = is_adversarial(logits, y[active], targeted)
            first_success[active[fooled]] = iteration
            changed = (x_k != x[active]).flatten(1)
            going = ~fooled & (changed.sum(1) < most_changed)
            if iteration == max_iter or not going.any():
                break

            # Eq. 3. A batch goes backwards as a whole: samples that leave here get rows of zeros, and are charged.
            target = logits[going].gather(1, y[active[going], None])
            others = logits[going].sum() - target.sum()
            alpha = direction * slope(target, x_k, again=True)[going].flatten(1)
            beta = direction * slope(others, x_k)[going].flatten(1)
            backwards[active] += 2
            active, changed, x_k = active[going], changed[going], x_k.detach()[going].flatten(1)

            # Eq. 2 over the features that can still move; theta may be too small for that in the numbers of x.
            movable = (x_k + theta).clamp(0, 1) != x_k
            salient = (alpha > 0) & (beta < 0) & movable
            saliency = _near_one(alpha.where(salient, 0)) * _near_one(beta.where(salient, 0)).abs()
            value, feature = steady(saliency, saliency).topk(min(features_per_step, features), dim=1)

            # The most salient features first, until gamma allows no further new one.
            new = ~changed.gather(1, feature)
            allowed = most_changed - changed.sum(1, keepdim=True)
            chosen = (value > 0) & (~new | (new.cumsum(1) <= allowed))
            step = torch.zeros_like(x_k).scatter(1, feature, theta * chosen.to(x.dtype))
            x_adv[active] = (x_k + step).clamp(0, 1).reshape(-1, *x.shape[1:])
            active = active[chosen.any(1)]

    return AttackOutcome.of(
        x,
        x_adv,
        success=first_success >= 0,
        first_success=first_success,
        forwards=forwards,
        backwards=backwards,
    )


def _near_one(derivatives: Tensor) -> Tensor:
    """Derivatives, shape (N, features), times a power of 2 for each sample: products stay in the range of numbers."""
    exponent = torch.frexp(derivatives.abs().amax(1, keepdim=True)).exponent
    return derivatives * torch.exp2(-exponent.clamp(-120, 120).to(derivatives.dtype))


def _check(*, theta: float, gamma: float, features_per_step: int, max_iter: int, targeted: bool) -> None:
    checks.number("theta", theta, -1, 1)
    if theta == 0:
        raise ValueError("theta must not be 0: nothing would change")
    checks.number("gamma", gamma, 0, 1, without_low=True)
    checks.whole_number("features_per_step", features_per_step)
    checks.whole_number("max_iter", max_iter, most=1000)
    if targeted is not True:
        raise ValueError("targeted must be True: JSMA's saliency map leads towards a class")


class JSMA(Attack):
    """JSMA as an ART evasion attack. See `jsma` for the parameters."""

    native = staticmethod(jsma)
    norm = "l0"
    minimises = True
    shorter_runs = "first_success"
    space = SPACE
    check = staticmethod(_check)
    sample_limit: ClassVar[int | None] = 30
