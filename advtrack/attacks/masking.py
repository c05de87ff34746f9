"""Signs that a victim hides its gradients rather than withstands attacks (Athalye et al. 2018, arXiv:1802.00420).

A victim whose gradients lead nowhere resists every attack that follows them, and is no more robust for it. The signs
are those of section 3.1 there, and of the checklist of Carlini et al. 2019 (arXiv:1902.06705).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advtrack.attacks.bim import bim_a, bim_b
from advtrack.attacks.fgsm import fgsm
from advtrack.attacks.sign import Sign
from advtrack.attacks.victim import frozen, margin, slope

# Ours: iterations of the long runs.
_LONG = 40
# Ours: a float32 rounds a probability to 1 from about this distance on, and the loss has no slope any more.
_VANISHED = 1e-6
# Ours: the share of samples that may behave as if gradients were masked before that is a sign.
_TOLERATED = 0.1


@dataclass(frozen=True)
class MaskingSigns:
    """What was measured, as shares of the samples in [0, 1], and losses as means over them.

    Attributes
    ----------
    eps : float
        The l-inf bound of all but ``unbounded``.
    one_step, many_steps : float
        Fooling rates of FGSM and of BIM-a within the same bound.
    unbounded : float
        Fooling rate of BIM-a with nothing but [0, 1] to bound it.
    loss_short, loss_long : float
        Mean margin by which the true class loses, in logits, where BIM-b ends after a quarter of its iterations, and
        after all of them.
    vanishing : float
        Share of samples where the slope of the loss is less than a millionth of that of the logits, or undefined.
    """

    eps: float
    one_step: float
    many_steps: float
    unbounded: float
    loss_short: float
    loss_long: float
    vanishing: float

    def signs(self) -> dict[str, Sign]:
        """Each sign that was looked for, by name."""

        def shown(there: bool, *names: str) -> Sign:
            return Sign(there, {name: float(getattr(self, name)) for name in names})

        return {
            "one_step_beats_many": shown(self.one_step > self.many_steps, "one_step", "many_steps", "eps"),
            "unbounded_fails": shown(self.unbounded < 1, "unbounded"),
            "more_iterations_do_not_help": shown(self.loss_long < self.loss_short, "loss_short", "loss_long", "eps"),
            "gradients_vanish": shown(self.vanishing > _TOLERATED, "vanishing"),
        }


def masking_signs(network: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> MaskingSigns:
    """Look for signs of masked gradients, untargeted.

    Parameters
    ----------
    network : nn.Module
        Victim, inputs (N, C, H, W) in [0, 1] to logits (N, classes).
    x : Tensor, shape (N, C, H, W)
        Legitimate inputs, at least one.
    y : Tensor of int64, shape (N,)
        True labels.
    eps : float
        l-inf bound of the comparisons, best one that fools some of the samples and not all.
    """
    one = fgsm(network, x, y, eps=eps)
    many = bim_a(network, x, y, eps=eps, max_iter=_LONG, targeted=False)
    unbounded = bim_a(network, x, y, eps=1.0, max_iter=_LONG, targeted=False)
    ends = [bim_b(network, x, y, eps=eps, max_iter=n, targeted=False).x_adv for n in (_LONG // 4, _LONG)]
    with frozen(network), torch.no_grad():
        short, long = (float(-margin(network(end), y, targeted=False).mean()) for end in ends)
    return MaskingSigns(
        eps=eps,
        one_step=float(one.success.double().mean()),
        many_steps=float(many.success.double().mean()),
        unbounded=float(unbounded.success.double().mean()),
        loss_short=short,
        loss_long=long,
        vanishing=float(_vanishing(network, x, y).double().mean()),
    )


def black_box_sign(network: nn.Module, x: Tensor, target: Tensor, eps: Tensor, *, max_iter: int) -> Sign:
    """Hold BIM-a against a black box: within the eps of its examples, BIM-a has to find some too.

    Parameters
    ----------
    network : nn.Module
        Victim, inputs (N, C, H, W) in [0, 1] to logits (N, classes).
    x : Tensor, shape (N, C, H, W)
        Legitimate inputs, at least one.
    target : Tensor of int64, shape (N,)
        What both lead them to.
    eps : Tensor, shape (N,)
        How far the black box's examples are, l-inf; infinite where it found none.
    max_iter : int
        Iterations of BIM-a.
    """
    found = eps.isfinite().nonzero().squeeze(1)
    resisted = ~bim_a(network, x[found], target[found], eps=eps[found], max_iter=max_iter).success
    nearer = float(resisted.sum()) / len(x)
    median = float(eps.double().quantile(0.5, interpolation="higher"))
    return Sign(nearer > _TOLERATED, {"black_box_nearer": nearer, "pia_median_eps": median, "clips": len(x)})


def _vanishing(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the loss is flat where the logits are not, or both are, shape (N,)."""
    with frozen(network):
        given = x.detach().clone().requires_grad_()
        logits = network(given)
        of_loss = slope(F.cross_entropy(logits, y, reduction="none"), given, again=True)
        of_margin = slope(margin(logits, y, targeted=False), given)
    steepness, reference = (gradient.flatten(1).abs().amax(1) for gradient in (of_loss, of_margin))
    return ~(steepness > _VANISHED * reference)
