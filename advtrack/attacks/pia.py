"""Partial-information attack, PIA (Ilyas et al. 2018, arXiv:1804.08598, Algorithm 1 and section 2.3): a black box.

The victim shows the scores of its ``top_k`` classes and nothing else. The attack starts from an input of the target
class and draws it towards the legitimate one, in an ever smaller l-inf box, without losing sight of the target.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from advtrack.attacks import checks
from advtrack.attacks.base import Attack, Range, Space
from advtrack.attacks.batches import halved
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import frozen, is_adversarial, per_sample

SPACE: Space = {"max_iter": Range(1, 500, "paper, section VI: 500 iterations")}

# All of these are ours: the paper's decay rate and learning rate are lost, and so is its range of the NES variance.
_SIGMAS = (1e-3, 3e-3, 1e-2)
_MOMENTUM = 0.95
# The box shrinks by a fraction of itself: by half at most and at first, by a hundredth at least.
_LARGEST_DECAY, _SMALLEST_DECAY, _GROWTH = 0.5, 0.01, 1.5
# Step sizes tried, each half of the one before, before the decay is halved.
_STEPS_TRIED = 3
# Iterations without an example at least 1% nearer: after half as many, back to the best example with half the step.
_PATIENCE = 60
# The score of a point whose logits are not finite: that of a class as good as impossible.
_NO_SCORE = -100.0
# Halvings of the box in which the projected start may save all gradients.
_BISECTIONS = 10


def pia(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    start: Tensor,
    eps: float = 0.0,
    sigma: float | None = None,
    learning_rate: float = 0.003,
    samples_per_draw: int = 50,
    top_k: int = 3,
    max_iter: int = 500,
    seed: int | torch.Generator = 0,
    query_batch: int = 256,
    targeted: bool = True,
) -> AttackOutcome:
    """Draw an input of the target class towards ``x``, led by natural evolution strategies on the scores shown.

    Parameters
    ----------
    network : nn.Module
        Victim, inputs (N, C, H, W) in [0, 1] to logits (N, classes). It is only ever called, under ``no_grad``.
    x : Tensor, shape (N, C, H, W)
        Legitimate inputs in [0, 1].
    y : Tensor of int64, shape (N,)
        Target classes.
    start : Tensor, shape (N, C, H, W)
        An input of the target class for each sample. One whose target is not among the ``top_k`` fails at once.
    eps : float
        l-inf distance within which an example is a success, and ends the search; 0 for as near as it gets, where any
        distance is one.
    sigma : float, optional
        Standard deviation of the draws. By default a line search takes, for each sample, the one of 0.001, 0.003 and
        0.01 whose gradient raises the target's score most in one step.
    learning_rate : float
        Largest step of a feature.
    samples_per_draw : int
        Queries of a gradient estimate, an even number: each draw is used with both signs.
    top_k : int
        How many classes the victim shows.
    max_iter : int
        Number of gradient estimates.
    seed : int or torch.Generator
        Seed of the draws, or a generator on the device of ``x`` that they continue; it stays as it is. All samples
        share the draws, so that a result does not depend on the samples beside it.
    query_batch : int
        Images that pass through the network at a time; half as many wherever the device's memory is too small.
    targeted : bool
        Only True: the attack starts from a target.

    Returns
    -------
    AttackOutcome
        The nearest example, in l-inf, that the victim takes for the target, also where ``eps`` makes it no success.
        ``first_success`` is 0 if the start (or x itself) leads to one without a gradient. ``forwards`` are the queries:
        about 20, the line search's 3 (``samples_per_draw`` + 1), and ``samples_per_draw`` and one or a few per
        iteration. ``backwards`` are 0.
    """
    _check(
        eps=eps, sigma=sigma, learning_rate=learning_rate, samples_per_draw=samples_per_draw, top_k=top_k,
        max_iter=max_iter, seed=seed, query_batch=query_batch, targeted=targeted,
    )  # fmt: skip
    if start.shape != x.shape:
        raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, not {tuple(start.shape)}")
    checks.inputs("start", start)
    checks.samples(x, y)
    x, x_adv = x.detach(), start.detach().to(x.dtype).clone()
    generator = torch.Generator(x.device)
    if isinstance(seed, torch.Generator):
        generator.set_state(seed.get_state())
    else:
        generator.manual_seed(seed)
    scores = _TopScores(network, y, top_k, query_batch)

    def draw() -> Tensor:
        shape = (samples_per_draw // 2, *x.shape[1:])
        return torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)

    with frozen(network), torch.no_grad():
        every = torch.arange(len(x), device=x.device)
        done = scores(x, every)[2]
        x_adv[done] = x[done]
        _, shown, leads = scores(x_adv, every)
        active = every[shown & ~done]

        # The box shrinks without gradients as long as the projection of the start is still an example.
        box = (x_adv - x).flatten(1).abs().amax(1)
        led, low = active[leads[active]], torch.zeros_like(box)
        for _ in range(_BISECTIONS):
            middle = (low[led] + box[led]) / 2
            projected = _project(x_adv[led], x[led], middle)
            holds = scores(projected, led)[2]
            x_adv[led[holds]] = projected[holds]
            box[led], low[led] = middle.where(holds, box[led]), low[led].where(holds, middle)
        nearest, best, enough = x_adv.clone(), box.where(leads, torch.inf), eps or math.inf
        first_success = torch.where(leads & (best <= enough), 0, -1)

        spread = torch.full_like(box, sigma or 0.0)
        if sigma is None:
            noise, highest = draw(), torch.full_like(box, -torch.inf)
            for candidate in _SIGMAS:
                tried = torch.full_like(box, candidate)[active]
                slope = _nes_gradient(scores, x_adv, active, tried, noise)
                moved = x_adv[active] + learning_rate * slope.sign()
                score = scores(_project(moved, x[active], box[active]), active)[0]
                raised = active[score > highest[active]]
                highest[active] = score.maximum(highest[active])
                spread[raised] = candidate

        # So much smaller that rounding does not lead out of the box of eps.
        innermost = max(eps - 2 * torch.finfo(x.dtype).eps, 0.0)
        velocity = torch.zeros_like(x)
        decay, rate = torch.full_like(box, _LARGEST_DECAY), torch.full_like(box, learning_rate)
        stale = torch.zeros_like(every)
        for iteration in range(1, max_iter + 1):
            active = active[(best[active] > eps) & (stale[active] < _PATIENCE)]
            if not len(active):
                break
            slope = _nes_gradient(scores, x_adv, active, spread[active], draw())
            velocity[active] = _MOMENTUM * velocity[active] + (1 - _MOMENTUM) * slope
            stale[active] += 1

            # Step and shrink. A proposal that loses the target from the top k is tried again with half the step, after
            # a few such halvings with the full step and half the decay, at last without decay. Only an iterate that is
            # an example shrinks; the others climb back in the box they have.
            step, shrinkage = rate.clone(), decay.where(leads, 0)
            tries = torch.zeros_like(every)
            decay[active] = 2 * _SMALLEST_DECAY
            seeking = active
            while len(seeking):
                smaller = (box[seeking] * (1 - shrinkage[seeking])).clamp(min=innermost)
                moved = x_adv[seeking] + per_sample(step[seeking], x) * velocity[seeking].sign()
                proposal = _project(moved, x[seeking], smaller)
                _, shown, leading = scores(proposal, seeking)

                taken = seeking[shown]
                x_adv[taken], box[taken], leads[taken] = proposal[shown], smaller[shown], leading[shown]
                shrunk = taken[shrinkage[taken] > 0]
                decay[shrunk] = (_GROWTH * shrinkage[shrunk]).clamp(max=_LARGEST_DECAY)

                distance = (proposal - x[seeking]).flatten(1).abs().amax(1)
                nearer = leading & (distance < best[seeking])
                found = seeking[nearer]
                stale[found[distance[nearer] < 0.99 * best[found]]] = 0
                nearest[found], best[found] = proposal[nearer], distance[nearer]
                first = found[(first_success[found] < 0) & (best[found] <= enough)]
                first_success[first] = iteration

                seeking = seeking[~shown]
                tries[seeking] += 1
                step[seeking] /= 2
                exhausted = seeking[tries[seeking] == _STEPS_TRIED]
                stuck = shrinkage[exhausted] == 0
                rate[exhausted[stuck]] /= 2
                tries[exhausted], step[exhausted] = 0, rate[exhausted]
                shrinkage[exhausted] /= 2
                shrinkage[exhausted[shrinkage[exhausted] < _SMALLEST_DECAY]] = 0
                seeking = seeking[~torch.isin(seeking, exhausted[stuck])]

            tired = active[(stale[active] == _PATIENCE // 2) & best[active].isfinite()]
            x_adv[tired], box[tired], leads[tired] = nearest[tired], best[tired], True
            rate[tired] /= 2

    return AttackOutcome.of(
        x,
        nearest.where(per_sample(best.isfinite(), x), x_adv),
        success=first_success >= 0,
        first_success=first_success,
        forwards=scores.queries,
        backwards=torch.zeros_like(scores.queries),
    )


class _TopScores:
    """A victim that shows the log-probabilities of its ``top_k`` classes, and how often each sample has asked it."""

    def __init__(self, network: nn.Module, y: Tensor, top_k: int, query_batch: int) -> None:
        self.network, self.y, self.top_k, self.query_batch = network, y, top_k, query_batch
        self.queries = torch.zeros_like(y)
        self.classes: int | None = None  # unknown until it has answered

    def __call__(self, points: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The target's score, whether it is among those shown, and whether it is the first, shape (len(points),) each.

        ``samples[i]`` tells whose target point i is about.
        """
        score = points.new_zeros(len(points))
        shown, leads = torch.zeros_like(score, dtype=torch.bool), torch.zeros_like(score, dtype=torch.bool)
        begin = 0
        while begin < len(points):
            batch = slice(begin, begin + self.query_batch)
            targets = self.y[samples[batch]]
            try:
                logits = self.network(points[batch].clone())  # which may change what it is given
            except RuntimeError as error:
                self.query_batch = halved(min(self.query_batch, len(points) - begin), error, points.device)
                continue
            if self.classes is None:
                self.classes = logits.shape[1]
                checks.labels(self.y, len(self.y), self.classes)
            begin += self.query_batch
            values, classes = logits.log_softmax(1).topk(min(self.top_k, self.classes), dim=1)
            hit = classes == targets[:, None]
            valid = logits.isfinite().all(1)
            seen = values.masked_fill(~hit, -torch.inf).amax(1)
            score[batch] = (
                seen.where(hit.any(1), _unshown(values, self.classes)).where(valid, _NO_SCORE).to(score.dtype)
            )
            shown[batch] = hit.any(1) & valid
            leads[batch] = is_adversarial(logits, targets, True)
        self.queries.index_add_(0, samples, torch.ones_like(samples))
        return score, shown, leads


def _unshown(values: Tensor, classes: int) -> Tensor:
    """What a target scores, shape (N,), that is not among the classes shown, with ``values``, shape (N, top_k).

    As much as the last one shown, which bounds it. Where that is the winner, whose score rises as the target's falls:
    an even share of what the winner leaves to the others, which is less than any winner has.
    """
    if values.shape[1] > 1:
        return values[:, -1]
    left = -torch.expm1(values[:, 0])
    return (left.clamp(min=torch.finfo(left.dtype).eps) / max(classes - 1, 1)).log()


def _nes_gradient(scores: _TopScores, x_adv: Tensor, samples: Tensor, spread: Tensor, noise: Tensor) -> Tensor:
    """NES estimate of the target score's gradient at ``x_adv[samples]`` by antithetic draws, of unit mean magnitude.

    ``spread`` is each sample's sigma, ``noise`` the draws of all, shape (draws / 2, C, H, W). Samples and draws share
    batches of queries.
    """
    both = torch.cat([noise, -noise])
    differences = []
    for part in torch.arange(len(samples), device=x_adv.device).split(max(scores.query_batch // len(both), 1)):
        points = x_adv[samples[part], None] + spread[part].reshape(-1, *[1] * noise.ndim) * both
        asked = samples[part].repeat_interleave(len(both))
        score = scores(points.clamp(0, 1).flatten(0, 1), asked)[0].view(len(part), 2, len(noise))
        differences.append(score[:, 0] - score[:, 1])
    slope = torch.cat(differences) @ noise.flatten(1)
    slope /= slope.abs().mean(1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    return slope.view(len(samples), *noise.shape[1:])


def _project(points: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """The nearest points within ``eps`` (one per sample) of ``x`` and within [0, 1]."""
    return points.clamp(x - per_sample(eps, x), x + per_sample(eps, x)).clamp(0, 1)


def _check(
    *,
    eps: float,
    sigma: float | None,
    learning_rate: float,
    samples_per_draw: int,
    top_k: int,
    max_iter: int,
    seed: int | torch.Generator,
    query_batch: int,
    targeted: bool,
) -> None:
    if targeted is not True:
        raise ValueError("targeted must be True: PIA starts from an input of the target class")
    checks.number("eps", eps, 0, 1)
    if sigma is not None:
        checks.number("sigma", sigma, 0, without_low=True)
    checks.number("learning_rate", learning_rate, 0, without_low=True)
    checks.whole_number("samples_per_draw", samples_per_draw, least=2)
    if samples_per_draw % 2:
        raise ValueError(f"samples_per_draw must be even, not {samples_per_draw}: each draw is used with both signs")
    checks.whole_number("top_k", top_k)
    checks.whole_number("max_iter", max_iter)
    if not isinstance(seed, torch.Generator):
        checks.whole_number("seed", seed, least=0, most=2**63 - 1)
    checks.whole_number("query_batch", query_batch)


class PIA(Attack):
    """PIA as an ART evasion attack. See `pia` for the parameters."""

    native = staticmethod(pia)
    norm = "linf"
    minimises = True
    starts = True
    shorter_runs = "none"
    space = SPACE
    check = staticmethod(_check)
    sample_limit: ClassVar[int | None] = 10
