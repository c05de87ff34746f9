"""Carlini and Wagner's l2 attack, CWA (the paper's Eq. 5 to 8; Carlini and Wagner 2017, arXiv:1608.04644)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from advtrack.attacks import checks
from advtrack.attacks.adam import Adam
from advtrack.attacks.base import Attack, Choices, Space
from advtrack.attacks.linearised import way_within_box
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.tanh_box import TanhBox
from advtrack.attacks.victim import frozen, is_adversarial, lead, margin, outward, per_sample, rivals, rounded, slope

SPACE: Space = {
    "max_iter": Choices((50, 100), "ours: the paper ties the iterations to c, and its numbers are lost"),
    "binary_search_steps": Choices((3, 6), "ours: the paper's search step is lost", nested=True),
}

# Ours: within one constant the learning rate falls geometrically to this fraction of itself, which ends the zigzag
# across the decision boundary that a constant rate keeps up.
_LAST_RATE = 0.1
# Ours: once there is an example, the next constants start from the nearest one, at this part of the learning rate that
# the sample set out with, and so have less to do. Until then each goes on from where the last one ended, at that rate.
_WARM_RATE = 0.2
# Ours: the fall of the lowest loss, relative, that is worth going on for.
_WORTHWHILE = 0.03
# Ours: the first constant, in units of the one that just reaches the boundary of the linearised victim.
_HEADROOM = 3.0
# Ours: what a tie is taken to be away from the boundary, and the range of first constants.
_TIE, _CONSTANTS = 1e-6, (1e-36, 1e28)
# Ours: how many classes, the highest by logit, are looked at for the boundary that is nearest to an untargeted attack.
_RIVALS = 9
# Ours: how many constants come before the one that looks whether another boundary is nearer.
_LOOK_AROUND = 3
# In the place of a rival: whichever class is the strongest other one at each iterate, as in Eq. 6.
_STRONGEST = -1


def carlini_wagner(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    confidence: float = 0.0,
    learning_rate: float = 0.1,
    max_iter: int = 100,
    binary_search_steps: int = 5,
    initial_const: float | None = None,
    targeted: bool = True,
    abort_early: bool = True,
) -> AttackOutcome:
    """Minimise ``|x_adv - x|^2 + c f(x_adv)`` (Eq. 5) with the smallest c that succeeds, for each sample its own.

    ``f = max(margin, -confidence)`` (Eq. 6), where the margin of the logits Z is ``max_{i != y} Z_i - Z_y`` for a
    target y. For a true class y it is ``Z_y - Z_i`` (ours), where i is the class whose boundary would be the nearest if
    the victim were linear, within [0, 1]: the runner-up in logits, which Eq. 6 would take, often is not. Any other
    class is a success.
    A sample that a constant has not led across that boundary is tried again with Eq. 6 itself. The fourth constant
    leads those that have an example from x once more, with Eq. 6; they keep to it if that brings them nearer.
    Adam moves w, where ``x_adv = x + (tanh(w) - tanh(w_0)) / 1.9``, within [0, 1] (Eq. 7 and 8), so that x_adv is x
    itself, exactly, as long as w is where it started.

    Parameters
    ----------
    network : nn.Module
        Victim, inputs (N, C, H, W) in [0, 1] to logits (N, classes).
    x : Tensor, shape (N, C, H, W)
        Legitimate inputs in [0, 1].
    y : Tensor of int64, shape (N,)
        Target classes; true classes if not ``targeted``.
    confidence : float
        Kappa of Eq. 6, at least 0: the margin, in logits, that a success must have.
    learning_rate : float
        Adam's step size in w, at most; it falls to a tenth within each constant, and is smaller from the start for a
        sample whose first step would overshoot.
    max_iter : int
        Iterations with each constant.
    binary_search_steps : int
        Number of constants tried. One that succeeds bounds the search above, one that fails bounds it below; until one
        has succeeded, c grows tenfold.
    initial_const : float, optional
        First constant. By default each sample has its own: three times ``2 margin / |gradient of the margin|^2``, the
        constant with which Eq. 5 would just reach the boundary if the victim were linear.
    targeted : bool
        Whether ``y`` is to be reached or to be left.
    abort_early : bool
        Leave a constant when the lowest loss has fallen by less than 3% in a tenth of ``max_iter`` (at least 5).

    Returns
    -------
    AttackOutcome
        The example with the smallest l2 norm over all constants. ``first_success`` counts a sample's iterations through
        all of them. Each constant costs at most ``max_iter`` forward and backward passes and one forward more. Not
        targeted, up to nine backward passes find i, and a constant that is tried with Eq. 6 too costs twice as much.
    """
    _check(
        confidence=confidence, learning_rate=learning_rate, max_iter=max_iter, binary_search_steps=binary_search_steps,
        initial_const=initial_const, targeted=targeted, abort_early=abort_early,
    )  # fmt: skip
    checks.samples(x, y)
    found = _Found(x.detach(), y, learning_rate)
    const = torch.full_like(found.best, torch.nan if initial_const is None else initial_const)
    lower, upper = torch.zeros_like(const), torch.full_like(const, torch.inf)
    minimise = partial(
        _minimise, network, y, found, targeted=targeted, confidence=confidence, learning_rate=learning_rate,
        max_iter=max_iter, abort_early=abort_early,
    )  # fmt: skip

    with frozen(network):
        for step in range(binary_search_steps):
            # Of a victim that is not linear, another boundary may be nearer than that of the rival. Its constants are
            # others; if it is not, those of the rival go on.
            explores = found.best.isfinite() & (found.rival != _STRONGEST) & (step == _LOOK_AROUND)
            before, nearest = (const, lower, upper, found.outset.clone()), found.best.clone()
            lower = lower.masked_fill(explores, 0)
            if initial_const is None:
                const = const.masked_fill(explores, torch.nan)
            # An input that is an example already, at distance 0, needs no constant.
            solved = minimise(found.best > 0, const, lower, explores)
            in_vain = explores & (rounded(found.best) == rounded(nearest))
            found.rival[explores & ~in_vain] = _STRONGEST
            lost = found.astray & found.best.isinf()
            if lost.any():
                # Their rival led to no example: Eq. 6 itself, with a constant of its own, not below that which failed.
                lower[lost] = const[lost]
                if initial_const is None:
                    const[lost] = torch.nan
                solved |= minimise(lost, const, lower, lost)
                found.rival[lost & found.best.isfinite()] = _STRONGEST
                lower[lost] = 0
            after = (*_next_constants(const, lower, upper, solved), found.outset)
            const, lower, upper, found.outset = (
                old.where(in_vain, new) for old, new in zip(before, after, strict=True)
            )

    return AttackOutcome.of(
        found.x,
        found.x_adv,
        success=found.first_success >= 0,
        first_success=found.first_success,
        forwards=found.forwards,
        backwards=found.backwards,
    )


class _Found:
    """What has come of each sample so far."""

    def __init__(self, x: Tensor, y: Tensor, learning_rate: float) -> None:
        self.x, self.x_adv = x, x.clone()
        self.best = x.new_full((len(x),), torch.inf)  # distance of the nearest example
        self.first_success = torch.full_like(y, -1)
        self.iterations, self.forwards, self.backwards = (torch.zeros_like(y) for _ in range(3))
        self.outset = torch.full_like(self.best, learning_rate)  # the rate that a sample set out with
        self.classes: int | None = None  # unknown until the victim has answered
        self.rival = torch.full_like(y, _STRONGEST)  # the class that an untargeted attack makes for
        self.astray = torch.zeros_like(y, dtype=torch.bool)  # whether another one was nearer to success at some iterate

    def keep(self, active: Tensor, x_k: Tensor, l2: Tensor, fooled: Tensor) -> None:
        """Keep the examples among iterates that are nearer than those before; until there is one, the last iterate."""
        kept = torch.where(fooled, l2 < self.best[active], self.best[active].isinf())
        self.x_adv[active[kept]] = x_k[kept]
        self.best[active[fooled & kept]] = l2[fooled & kept]
        first = active[fooled & (self.first_success[active] < 0)]
        self.first_success[first] = self.iterations[first]


def _minimise(
    network: nn.Module,
    y: Tensor,
    found: _Found,
    rows: Tensor,
    const: Tensor,
    least: Tensor,
    afresh: Tensor,
    *,
    targeted: bool,
    confidence: float,
    learning_rate: float,
    max_iter: int,
    abort_early: bool,
) -> Tensor:
    """Minimise Eq. 5 for the samples that a mask, bool (N,), selects, each with its constant; True where that succeeds.

    What it meets is kept in ``found``. A constant that is NaN is replaced by a guess, not below ``least``. Samples that
    begin ``afresh``, bool (N,), start from x and make for the strongest other class of each iterate, not the rival.
    """
    best, window = found.best, max(max_iter // 10, 5)
    active = rows.nonzero().squeeze(1)
    solved, outside = (torch.zeros_like(rows) for _ in range(2))
    recent = torch.full_like(y, -window)  # the last iteration that counts for the constant
    lowest, earlier = (torch.full_like(best, torch.inf) for _ in range(2))
    rate = torch.zeros_like(best)
    box = TanhBox(found.x[active])
    cold = best.isinf() | afresh
    w = box.variable((found.x_adv[active] - box.x) * per_sample(~afresh[active], box.x))
    adam = Adam(torch.zeros_like(w), torch.zeros_like(w))

    for iteration in range(max_iter + 1):
        if not len(active):
            break
        x_k = box.inputs(w).requires_grad_()
        logits = network(x_k).to(x_k.dtype)
        found.forwards[active] += 1
        if found.classes is None:  # at the very first forward, of all samples
            found.classes = logits.shape[1]
            checks.labels(y, len(y), found.classes)
            if not targeted and found.classes > 2:
                found.rival, passes = _nearest_rivals(logits, x_k, y, confidence)
                found.backwards += passes
        missing = f = margin(logits, y[active], targeted)
        if found.classes > 1:
            # Of classes that are equally strong every batch takes the same.
            rival = rivals(logits, y[active], 1).squeeze(1)
            if targeted:
                f = -lead(logits, y[active], rival)
            else:
                strongest = (found.rival[active] == _STRONGEST) | afresh[active]
                f = lead(logits, y[active], rival.where(strongest, found.rival[active]))
                found.astray[active] |= f > missing
        delta = x_k.detach() - box.x
        l2 = delta.flatten(1).norm(dim=1)
        # The forward that made an example is the one that proves it.
        fooled = is_adversarial(logits, y[active], targeted) & (missing <= -confidence)
        found.keep(active, x_k.detach(), l2, fooled)

        hinge = rounded(f).clamp(min=-confidence)
        going = (best[active] > 0) & hinge.isfinite() & missing.isfinite()
        if abort_early and iteration > 0:
            # The sum that Eq. 5 minimises.
            loss = l2.square() + const[active] * hinge
            lowest[active] = lowest[active].minimum(loss)
            if iteration % window == 0:
                going &= lowest[active] < earlier[active] - _WORTHWHILE * lowest[active].abs()
                earlier[active] = lowest[active]
        # A constant succeeds if its run ends with an example, or came back to one shortly before. Those on the way from
        # its start do not count: neither from another example, nor from x, where the first steps may overshoot into
        # examples that a constant too small then leaves for good.
        stays = going & bool(iteration < max_iter)
        outside[active] |= ~fooled
        recent[active[fooled & (outside[active] | ~stays)]] = iteration
        solved[active] = recent[active] > iteration - window
        if not stays.any():
            break

        # The slope of f, which is flat beyond the boundary (a tie is not beyond). A batch goes backwards as a whole:
        # samples that leave here get a row of zeros, and are charged for it.
        gradient, missed = torch.zeros_like(delta), going & ~fooled
        if missed.any():
            gradient = rounded(slope(f[missed], x_k))
            found.backwards[active] += 1
        if not going.all():
            active, box, adam, w = active[going], box.rows(going), adam.rows(going), w[going]
            delta, gradient, hinge = delta[going], gradient[going], hinge[going]
        if iteration == 0:
            needed, distance = _to_boundary(hinge + confidence, gradient, box.x + delta)
            guess = (_HEADROOM * needed).clamp(*_CONSTANTS).maximum(least[active])
            const[active] = const[active].where(const[active].isfinite(), guess)

        # The chain rule through Eq. 5 and Eq. 7, then one step of Adam.
        reach = box.slope(w)
        step = adam.step((2 * delta + per_sample(const[active], delta) * gradient) * reach)
        found.iterations[active] += 1
        if iteration == 0:
            # Ours: the first step, which moves every feature, goes no further than the linearised boundary.
            length = (learning_rate * step * reach).flatten(1).norm(dim=1)
            slowed = learning_rate * (distance / length).nan_to_num(nan=1.0).clamp(max=1)
            found.outset[active] = slowed.where(cold[active], found.outset[active])
            rate[active] = found.outset[active] * torch.where(cold[active], 1, _WARM_RATE)
        w -= per_sample(rate[active], w) * _LAST_RATE ** (iteration / max_iter) * step
    return solved


def _to_boundary(missing: Tensor, gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The constant with which Eq. 5 would just reach the boundary, and how far it is, if the victim were linear.

    Within [0, 1]: features at an end of it, as the floors of spectrograms are, do not help. Where all of [0, 1] does
    not lead to the linearised boundary, those that are free count as if they went on.

    Parameters
    ----------
    missing : Tensor, shape (N,)
        Logits to the boundary, at least 0.
    gradient, x : Tensor, shape (N, C, H, W)
        Slope of what is missing, and where it was taken.

    Returns
    -------
    const, distance : Tensor, shape (N,)
    """
    # In units of the largest derivative: the squares of others may leave the range of numbers.
    unit = gradient.flatten(1).abs().amax(1).clamp(min=torch.finfo(x.dtype).tiny)
    w, f = (-gradient / per_sample(unit, x)).flatten(1), (missing / unit)[:, None]
    free = w.masked_fill(outward(x, -gradient).flatten(1), 0.0).norm(dim=1, keepdim=True)
    length = free.where(free > 0, 1.0)
    t, distance = way_within_box(f, w, x.flatten(1), "l2")
    t, distance = (f / length**2).where(t.isinf(), t), (f / length).where(t.isinf(), distance)
    # A tie lacks nothing, and yet has to move.
    t, distance = t.maximum(_TIE / length), distance.clamp(min=_TIE)
    return rounded(2 * t.squeeze(1) / unit), rounded(distance.squeeze(1))


def _nearest_rivals(logits: Tensor, x: Tensor, y: Tensor, confidence: float) -> tuple[Tensor, int]:
    """The class, shape (N,), whose boundary would be each sample's nearest within [0, 1] if the victim were linear.

    With it, how many backward passes that took: none if all samples are beyond a boundary.
    """
    others = rivals(logits, y, _RIVALS)
    wanted = (logits.argmax(1) == y).nonzero().squeeze(1)
    distances = torch.zeros_like(others, dtype=x.dtype)
    count = others.shape[1] if len(wanted) else 0
    for k in range(count):
        over = lead(logits, y, others[:, k])
        gradient = slope(over[wanted], x, again=True).flatten(1)
        unit = gradient.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        missing = ((rounded(over) + confidence)[:, None] / unit).clamp(min=0)
        distances[:, k] = rounded(way_within_box(missing, -gradient / unit, x.detach().flatten(1), "l2")[1].squeeze(1))
    nearest = distances.nan_to_num(nan=torch.inf).argmin(1, keepdim=True)
    return others.gather(1, nearest).squeeze(1), count


def _next_constants(const: Tensor, lower: Tensor, upper: Tensor, solved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each sample's next constant, and the largest that failed and the smallest that succeeded, shape (N,) each."""
    upper = const.where(solved, upper)
    lower = lower.where(solved, const)
    return torch.where(upper.isinf(), const * 10, (lower + upper) / 2), lower, upper


def _check(
    *,
    confidence: float,
    learning_rate: float,
    max_iter: int,
    binary_search_steps: int,
    initial_const: float | None,
    targeted: bool,
    abort_early: bool,
) -> None:
    checks.number("confidence", confidence, 0)
    checks.number("learning_rate", learning_rate, 0, without_low=True)
    checks.whole_number("max_iter", max_iter)
    checks.whole_number("binary_search_steps", binary_search_steps)
    if initial_const is not None:
        checks.number("initial_const", initial_const, 0, 1e10, without_low=True)
    checks.flag("targeted", targeted)
    checks.flag("abort_early", abort_early)


class CarliniWagner(Attack):
    """Carlini and Wagner's attack as an ART evasion attack. See `carlini_wagner` for the parameters."""

    native = staticmethod(carlini_wagner)
    norm = "l2"
    minimises = True
    shorter_runs = "none"
    space = SPACE
    check = staticmethod(_check)
