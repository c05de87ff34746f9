"""BIM, the basic iterative method (Eq. 1; Kurakin et al. 2016, arXiv:1607.02533), in the l-inf norm.

BIM-a stops at a sample's first adversarial example, BIM-b runs a fixed number of iterations.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advtrack.attacks import checks
from advtrack.attacks.base import Attack, Range, Space
from advtrack.attacks.fgsm import ascent_direction, ball, check_eps, each, fgsm_step, for_each
from advtrack.attacks.norms import perturbation_norms
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import frozen, is_adversarial

#: The paper leaves both to an allocation "as much as it takes".
SPACE: Space = {"eps": Range(1e-4, 0.3, "ours", log=True), "max_iter": Range(1, 100, "ours")}


def bim_a(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    eps_step: float | Tensor | None = None,
    max_iter: int = 100,
    start: Tensor | None = None,
    targeted: bool = True,
) -> AttackOutcome:
    """BIM-a: step until the iterate is adversarial, keep it, and drop the sample from the batch.

    Parameters
    ----------
    network : Module
        Victim, from (N, C, H, W) to logits (N, classes).
    x : Tensor, shape (N, C, H, W)
        Inputs in [0, 1].
    y : Tensor of int64, shape (N,)
        Target labels, or true labels when not ``targeted``.
    eps : float or Tensor of shape (N,)
        Bound of the perturbation, l-inf; one for all or one each.
    eps_step : float or Tensor of shape (N,), optional
        Size of a step, at most ``eps``. Default eps / 8 (ours).
    max_iter : int
        Number of iterations, at least 1.
    start : Tensor, shape (N, C, H, W), optional
        Where each sample sets out, within ``eps`` of ``x``: an iterate of an earlier run, which thereby goes on as if
        it had not ended, or a random point. Default ``x``. Iterations count from here.
    targeted : bool
        Descend towards ``y`` rather than ascend away from it.

    Returns
    -------
    AttackOutcome
        The forward that shows an iterate adversarial is also the one that its step would start from, and a batch goes
        backwards as a whole: a sample is charged for that backward unless it was the last of its batch to succeed.
    """
    return _iterate(network, x, y, eps, eps_step, max_iter, start, targeted, stop_at_first=True)


def bim_b(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    eps_step: float | Tensor | None = None,
    max_iter: int = 100,
    start: Tensor | None = None,
    targeted: bool = True,
) -> AttackOutcome:
    """BIM-b: run all iterations; the last iterate decides.

    Parameters
    ----------
    network, x, y, eps, eps_step, max_iter, start, targeted
        As for `bim_a`.

    Returns
    -------
    AttackOutcome
        ``success_at`` tells which iterates were adversarial, ``l2_at`` and the like how far they lay; ``success`` is
        that of the last one, whatever became of the others. Costs ``max_iter`` backwards and one forward more, the
        proof of the last iterate.
    """
    return _iterate(network, x, y, eps, eps_step, max_iter, start, targeted, stop_at_first=False)


def _iterate(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    eps_step: float | Tensor | None,
    max_iter: int,
    start: Tensor | None,
    targeted: bool,
    stop_at_first: bool,
) -> AttackOutcome:
    """Eq. 1, ``x_0 = x, x_(k+1) = clip_(x, eps)(x_k + eps_step sign(dJ/dx_k))``, for both variants."""
    _check(eps=eps, eps_step=eps_step, max_iter=max_iter, targeted=targeted)
    checks.samples(x, y)
    x = x.detach()
    bounds = for_each(eps, x)
    steps = bounds / 8 if eps_step is None else for_each(eps_step, x)
    low, high = ball(x, bounds)
    x_adv = x.clone() if start is None else _within(low, high, start)
    adversarial = torch.zeros((len(x), max_iter + 1), dtype=torch.bool, device=x.device)  # column k: iterate k
    forwards, backwards = torch.zeros_like(y), torch.zeros_like(y)
    active = torch.arange(len(x), device=x.device)
    norms_at = {f"{name}_at": x.new_zeros(len(x), max_iter) for name in ("l0", "l2", "linf")}  # column k: iterate k + 1

    with frozen(network):
        for k in range(max_iter + 1):
            if not len(active):
                break
            iterate = x_adv[active].requires_grad_(bool(k < max_iter))  # numpy compares to a bool of its own
            logits = network(iterate)
            if k == 0:
                checks.labels(y, len(x), logits.shape[1])
            forwards[active] += 1
            adversarial[active, k] = is_adversarial(logits, y[active], targeted)

            going_on = ~adversarial[active, k] if stop_at_first else torch.ones_like(active, dtype=torch.bool)
            if k == max_iter or not going_on.any():
                break
            gradient = ascent_direction(logits, iterate, y[active], targeted)
            backwards[active] += 1

            stepped = fgsm_step(iterate.detach(), gradient, steps[active])[going_on]
            active = active[going_on]
            # Input and step both lie in [0, 1], so the eps-ball around the input cannot lead out of it.
            x_adv[active] = stepped.clamp(low[active], high[active])
            if not stop_at_first:
                for name, values in perturbation_norms(x_adv, x).items():
                    norms_at[f"{name}_at"][:, k] = values

    ever = adversarial.any(1)
    return AttackOutcome.of(
        x,
        x_adv,
        success=ever if stop_at_first else adversarial[:, -1],
        first_success=torch.where(ever, adversarial.long().argmax(1), -1),
        forwards=forwards,
        backwards=backwards,
        **({} if stop_at_first else {"success_at": adversarial[:, 1:], **norms_at}),
    )


def _within(low: Tensor, high: Tensor, start: Tensor) -> Tensor:
    """A copy of the points to set out from.

    Raises
    ------
    ValueError
        If they are not as many, or not within [0, 1] and ``low`` and ``high``.
    """
    if start.shape != low.shape:
        raise ValueError(f"start must have the shape of x, {tuple(low.shape)}, not {tuple(start.shape)}")
    checks.inputs("start", start)
    start = start.detach().to(low.dtype)
    inside = start.clamp(low, high)
    if not torch.allclose(start, inside, rtol=0, atol=1e-6):  # what rounding alone may do is taken back
        raise ValueError("start must lie within eps of x")
    return inside


def _check(
    *, eps: float | Tensor | np.ndarray, eps_step: float | Tensor | np.ndarray | None, max_iter: int, targeted: bool
) -> None:
    check_eps(eps)
    if eps_step is not None:
        check_eps(eps_step, "eps_step")
        steps, bounds = np.array(each(eps_step)), np.array(each(eps))
        # A longer step than eps would be cut by the clipping without a word. What is longer in float32 only is not.
        if len({len(steps), len(bounds)} - {1}) > 1 or not (steps <= bounds * (1 + 1e-6)).all():
            raise ValueError(f"eps_step must lie in [0, eps], here [0, {eps}], not {eps_step}")
    checks.whole_number("max_iter", max_iter)
    checks.flag("targeted", targeted)


class BIMa(Attack):
    """BIM-a as an ART attack."""

    native = staticmethod(bim_a)
    norm = "linf"
    minimises = False
    shorter_runs: ClassVar[Literal["first_success", "iterates", "none"]] = "first_success"
    space = SPACE
    check = staticmethod(_check)


class BIMb(BIMa):
    """BIM-b as an ART attack."""

    native = staticmethod(bim_b)
    shorter_runs = "iterates"
    until_success = BIMa
