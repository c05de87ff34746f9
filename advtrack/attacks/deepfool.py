"""DeepFool (Eq. 4; Moosavi-Dezfooli et al. 2016, arXiv:1511.04599): the nearest linearised decision boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from advtrack.attacks import checks
from advtrack.attacks.base import Attack, Choices, Space
from advtrack.attacks.linearised import way_within_box
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import (
    frozen,
    is_adversarial,
    margin,
    outward,
    per_sample,
    rivals,
    rounded,
    slope,
    steady,
)

SPACE: Space = {"max_iter": Choices((100, 200, 300, 400, 500, 600), "paper, section VI: 100 to 600 in steps of 100")}

#: Ours (the authors' code adds 1e-4 to every step): on a tie the distance is 0, and no overshoot crosses it. It doubles
#: while the tie lasts, for logits so large, or so coarse, that they do not tell such steps apart.
SHORTEST_STEP = 1e-6
#: Ours: by how much the slope towards a boundary is taken to grow at most from one iteration to the next. Where slopes
#: grow faster, a sample may go to another boundary, which on steep random networks is up to 5% farther on average.
_GROWTH = 2.0
#: Ours: forwards that look for the point where the last step comes out beyond the boundary; how deep, as a share of
#: the overshoot and of the margin at the start (closer by, rounding decides); how much of what is left behind a guess
#: is added to it, so that the guess lies on the far side; and how many times the last step it is away at most.
_LINE_SEARCH, _DEPTH, _SAFETY, _FARTHEST = 3, 0.02, 0.1, 10.0
#: Ours: if a step that counts on all of a slope would come less than this part of the way, it counts on what is free.
_FREE_ENOUGH = 0.5


def deepfool(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Literal["linf", "l2"] = "linf",
    overshoot: float = 0.02,
    max_iter: int = 100,
    candidates: int = 10,
    targeted: bool = False,
) -> AttackOutcome:
    """Step to the nearest linearised boundary of the true class until it is crossed.

    Parameters
    ----------
    network : Module
        Victim, from (N, C, H, W) to logits (N, classes).
    x : Tensor, shape (N, C, H, W)
        Inputs in [0, 1].
    y : Tensor of int64, shape (N,)
        True labels.
    norm : {'linf', 'l2'}
        Norm of the distance to a boundary. The paper uses l-inf.
    overshoot : float
        Share, at least 0, by which the perturbation is lengthened on the way, to come out beyond the boundary. The
        example returned is brought back to a fiftieth of it, or near that where it is above a tenth. With 0, examples
        lie so close to the boundary that rounding may take them back.
    max_iter : int
        Number of iterations, at least 1.
    candidates : int
        How many classes are tried per sample: those with the largest logits at the start, without ``y``.
    targeted : bool
        False: DeepFool has no target.

    Returns
    -------
    AttackOutcome
        ``x_adv`` of a success is lengthened and clipped to [0, 1] before the forward that shows it adversarial. An
        iteration costs that forward, another one if samples of the batch leave, and a backward for each candidate class
        whose boundary may be the nearest: all of them at first, few of them later. Three forwards at the end shorten
        the last step, which leads beyond a curved boundary by much more than the overshoot.
    """
    _check(norm=norm, overshoot=overshoot, max_iter=max_iter, candidates=candidates, targeted=targeted)
    checks.samples(x, y)
    x = x.detach()
    x_adv = x.clone()
    # Kept apart from x_adv: steps too short to change x_adv in its own precision still add up here.
    perturbation = torch.zeros_like(x)
    first_success = torch.full_like(y, -1)
    forwards, backwards = torch.zeros_like(y), torch.zeros_like(y)
    active = torch.arange(len(x), device=x.device)
    ties = torch.zeros_like(y)
    # Where each sample's last step starts and ends, before both are clipped to [0, 1], and the logits there.
    near, far = x.clone(), x.clone()
    near_logits = far_logits = x.new_empty(len(x), 0)

    with frozen(network):
        for iteration in range(max_iter + 1):
            if not len(active):
                break
            x_k = x_adv[active].requires_grad_(bool(iteration < max_iter))
            logits = network(x_k).to(x.dtype)
            forwards[active] += 1
            if iteration == 0:
                checks.labels(y, len(x), logits.shape[1])
                depth = overshoot * _DEPTH * steady(margin(logits, y, targeted=False), logits)
                nearby = rivals(logits, y, candidates)
                slopes = torch.full_like(nearby, torch.inf, dtype=x.dtype)  # unknown: every boundary may be near
                near_logits, far_logits = (torch.empty_like(logits) for _ in range(2))

            fooled = is_adversarial(logits, y[active], targeted=False)
            near_logits[active], far_logits[active] = far_logits[active], logits.detach()
            missing = steady(margin(logits, y[active], targeted=False), logits)
            ties[active] = (ties[active] + 1).where(missing == 0, 0)
            first_success[active[fooled]] = iteration
            active = active[~fooled]
            if iteration == max_iter or not len(active):
                break
            if fooled.any():
                # Another forward, for the rest, is cheaper than taking finished samples through every backward.
                x_k = x_adv[active].requires_grad_()
                logits = network(x_k).to(x.dtype)
                forwards[active] += 1

            step, in_sight, slopes[active], passes = _step_to_boundary(
                logits, x_k, y[active], nearby[active], _GROWTH * slopes[active], norm, ties[active]
            )
            backwards[active] += passes

            # Without a boundary in sight (zero or undefined gradients everywhere) a sample leaves as it is.
            active = active[in_sight]
            origin = x[active]
            perturbation[active] = (perturbation[active] + step[in_sight]).clamp(-origin, 1 - origin)
            near[active], far[active] = far[active], origin + (1 + overshoot) * perturbation[active]
            x_adv[active] = far[active].clamp(0.0, 1.0)

        stepped = (first_success > 0).nonzero().squeeze(1)
        if len(stepped):
            order = torch.inf if norm == "linf" else 2
            whole, last = ((far[stepped] - end[stepped]).flatten(1).norm(p=order, dim=1) for end in (x, near))
            # Where a steep slope ends just beyond the boundary, getting deeper may take far more than the overshoot.
            reach = (1 + overshoot * whole / last).nan_to_num(nan=1.0).clamp(max=_FARTHEST)
            ends = near[stepped], far[stepped], near_logits[stepped], far_logits[stepped]
            x_adv[stepped] = _crossing(network, y[stepped], *ends, depth[stepped], reach)
            forwards[stepped] += _LINE_SEARCH

    return AttackOutcome.of(
        x, x_adv, success=first_success >= 0, first_success=first_success, forwards=forwards, backwards=backwards
    )


def _crossing(
    network: nn.Module,
    y: Tensor,
    near: Tensor,
    far: Tensor,
    near_logits: Tensor,
    far_logits: Tensor,
    depth: Tensor,
    reach: Tensor,
) -> Tensor:
    """An example on the way from ``near``, which is none, to ``far``, which is one, or a little farther.

    Both are clipped to [0, 1] here only: the way to where ``far`` is clipped would be another one.

    Regula falsi looks for the point where the lead of ``y`` over a class, known from the logits at both ends, has
    fallen to ``-depth``, shape (N,): over the first class for which it has. If it has for none at ``far``, the line of
    the strongest there is followed on, up to ``reach`` times the way. (The lead over whichever other class is the
    strongest has kinks, where one overtakes another.)
    """
    low, high = torch.zeros_like(depth), torch.ones_like(depth)
    low_logits, high_logits = near_logits, far_logits
    x_adv = far.clamp(0.0, 1.0)
    with torch.no_grad():
        for _ in range(_LINE_SEARCH):
            low_leads, high_leads = (steady(_leads(z, y), z) + depth[:, None] for z in (low_logits, high_logits))
            shares = (low_leads / (low_leads - high_leads)).nan_to_num(nan=0.5).clamp(min=0)
            high_f, strongest = high_leads.min(1)
            first = shares.masked_fill(high_leads > 0, torch.inf).amin(1)
            share = first.where(first.isfinite(), shares.gather(1, strongest[:, None]).squeeze(1))
            tried = (low + (share + _SAFETY * (1 - share).abs()) * (high - low)).nan_to_num(nan=1.0).minimum(reach)
            x_t = (near + per_sample(tried, near) * (far - near)).clamp(0.0, 1.0)
            logits = network(x_t).to(near.dtype)
            f = steady(margin(logits, y, targeted=False), logits) + depth
            fooled, deep, between = is_adversarial(logits, y, targeted=False), f <= 0, high_f <= 0
            better = fooled & (deep | (~between & (f < high_f)))
            x_adv[better] = x_t[better]
            # Between two ends one of them moves up; beyond, both do.
            low_moves, high_moves = ~between | ~(fooled & deep), ~between | (fooled & deep)
            new_low, new_low_logits = tried.where(between, high), logits.where(between[:, None], high_logits)
            low, low_logits = new_low.where(low_moves, low), new_low_logits.where(low_moves[:, None], low_logits)
            high, high_logits = tried.where(high_moves, high), logits.where(high_moves[:, None], high_logits)
    return x_adv


def _leads(logits: Tensor, y: Tensor) -> Tensor:
    """By how much the logit of ``y`` exceeds that of each other class, shape (N, classes); its own is infinite."""
    return (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], torch.inf)


def _step_to_boundary(
    logits: Tensor,
    x_adv: Tensor,
    y: Tensor,
    others: Tensor,
    slopes: Tensor,
    norm: Literal["linf", "l2"],
    ties: Tensor,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Linearise the boundary between ``y`` and each rival at ``x_adv``, and step to the nearest one.

    With ``f = Z_rival - Z_y`` and ``w = df/dx``, a boundary is ``|f| / ||w||_1`` away along ``sign(w)`` in l-inf, and
    ``|f| / ||w||_2`` along ``w / ||w||_2`` in l2, as far as w can be followed within [0, 1]. Rivals take their turns by
    the distance that they have at least if no slope is steeper than ``slopes``; one that could be no nearer than the
    nearest so far is not looked at.

    Parameters
    ----------
    logits, x_adv : Tensor
        The network's output, shape (N, classes), and the input, shape (N, C, H, W), that it was computed from.
    y, others : Tensor of int64, shapes (N,) and (N, K)
        True labels, and the classes whose boundaries are tried.
    slopes : Tensor, shape (N, K)
        What ``||w||`` is taken to be at most; infinite if nothing is known.
    ties : Tensor of int64, shape (N,)
        For how many iterations a boundary has been met without crossing it.

    Returns
    -------
    step : Tensor, shape of ``x_adv``
    in_sight : Tensor of bool, shape (N,)
        False where no rival has a gradient that leads anywhere in [0, 1]; ``step`` means nothing there.
    slopes : Tensor, shape (N, K)
        Those given, or ``||w||`` where it was looked at.
    backwards : int
        Backward passes of the batch.
    """
    margins = logits.gather(1, others) - logits.gather(1, y.unsqueeze(1))
    least = (steady(margins, logits).abs() / slopes).nan_to_num(nan=0.0, posinf=torch.inf)
    nearest = x_adv.new_full((len(x_adv), 1), torch.inf)
    step = torch.zeros_like(x_adv).flatten(1)
    order, backwards = 1 if norm == "linf" else 2, 0
    shortest = SHORTEST_STEP * torch.exp2(ties.clamp(max=20).to(step.dtype)).unsqueeze(1)
    for rival in least.argsort(dim=1, stable=True).unbind(1):
        rival = rival.unsqueeze(1)
        # On a GPU the question costs less than the pass that it may save.
        looked_at = least.gather(1, rival) < nearest
        if not looked_at.any():
            continue
        f = margins.gather(1, rival)
        w = slope(f, x_adv, again=True)
        backwards += 1
        blocked = outward(x_adv, w)
        # In units of the largest derivative: squares of very steep or very flat ones leave the range of numbers.
        unit = w.flatten(1).abs().amax(1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
        f, w = steady(f, logits).abs() / unit, w.flatten(1) / unit
        in_reach = w.masked_fill(blocked.flatten(1), 0.0).norm(p=order, dim=1, keepdim=True)
        within, distance = way_within_box(f, w, x_adv.flatten(1), norm)
        # Of two boundaries equally near the first counts. One that all of [0, 1] does not lead to comes last.
        beyond = w.shape[1] + f / in_reach
        distance = rounded(distance.where(distance.isfinite(), beyond))
        steepness = w.norm(p=order, dim=1, keepdim=True)
        # Steps that count on all of the slope fall short, and by that follow a curved boundary more closely. Where much
        # of it is blocked, they would take too many to arrive.
        free_enough = in_reach**order >= _FREE_ENOUGH * steepness**order
        length = steepness.where(free_enough, in_reach)
        stride = (
            (f / length**order).where(free_enough | within.isinf(), within).maximum(shortest / length ** (order - 1))
        )
        # No slope at all tells nothing of the next one.
        known = rounded(unit * steepness).where(steepness > 0, torch.inf).where(looked_at, slopes.gather(1, rival))
        slopes = slopes.scatter(1, rival, known)
        closer = looked_at & (distance < nearest)
        nearest = torch.where(closer, distance, nearest)
        step = torch.where(closer, stride * (w.sign() if norm == "linf" else w), step)

    return rounded(step.view_as(x_adv)), nearest.isfinite().squeeze(1), slopes, backwards


def _check(*, norm: str, overshoot: float, max_iter: int, candidates: int, targeted: bool) -> None:
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2', not {norm!r}")
    checks.number("overshoot", overshoot, 0)
    checks.whole_number("max_iter", max_iter)
    checks.whole_number("candidates", candidates)
    if targeted is not False:
        raise ValueError("DeepFool is untargeted: targeted must be False")


class DeepFool(Attack):
    """DeepFool as an ART attack: ART calls the overshoot ``epsilon`` and the candidate classes ``nb_grads``."""

    native = staticmethod(deepfool)
    norm = "linf"
    targets = False
    minimises = True
    shorter_runs = "first_success"
    space = SPACE
    check = staticmethod(_check)
    art_names: ClassVar[Mapping[str, str]] = {"overshoot": "epsilon", "candidates": "nb_grads"}
