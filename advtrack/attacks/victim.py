"""What an attack does with a victim, and reads from its logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Attack a network in evaluation mode without gradients for its weights, and leave it as it came.

    Inputs have gradients inside, also where the caller is under `torch.no_grad`.
    """
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


def is_adversarial(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """Success per sample, shape (N,): argmax is the target ``y``, or (untargeted) is not ``y``.

    Logits that are not finite decide nothing: such a sample is no success.
    """
    predicted = logits.argmax(1)
    fooled = predicted == y if targeted else predicted != y
    return fooled & logits.isfinite().all(1)


def margin(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """Logits missing to success (Eq. 6), shape (N,): negative once the target leads, or the true class lags."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return others - own if targeted else own - others


def lead(logits: Tensor, y: Tensor, other: Tensor) -> Tensor:
    """By how much the logit of ``y`` exceeds that of another class, shape (N,)."""
    return (logits.gather(1, y[:, None]) - logits.gather(1, other[:, None])).squeeze(1)


def boundary_distance(network: nn.Module, x: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """How far, in l-inf, success lies from inputs in [0, 1] along their gradient, shape (N,).

    That is `margin` over the l1 norm of its gradient (DeepFool's linearised boundary), without the features that stand
    at an end of [0, 1] and would have to leave it. Negative within; infinite where no feature leads on.
    """
    with frozen(network):
        x = x.detach().requires_grad_()
        missing = margin(network(x), y, targeted)
        gradient = slope(missing, x)
    slopes = gradient.masked_fill(outward(x, -gradient), 0.0).abs().flatten(1).sum(1)
    missing = missing.detach()
    return (missing / slopes).where((slopes != 0) | (missing != 0), torch.inf)


def outward(x: Tensor, direction: Tensor) -> Tensor:
    """Which features of ``x`` stand at an end of [0, 1] that ``direction`` points out of.

    They cannot be moved that way, and so bring no boundary closer.
    """
    return ((x <= 0) & (direction < 0)) | ((x >= 1) & (direction > 0))


def rivals(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The classes other than ``y`` with the largest logits, shape (N, min(count, classes - 1)), the largest first."""
    others = steady(logits, logits).scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, : min(count, logits.shape[1] - 1)]


def rounded(values: Tensor) -> Tensor:
    """Without gradient history; in float64 the first 16 bits: the last ones depend on the size of the batch."""
    values = values.detach()
    if values.dtype != torch.float64:
        return values
    bits = values.float().view(torch.int32)
    return ((bits + 0x80) & ~0xFF).view(torch.float32).double()


def steady(differences: Tensor, logits: Tensor) -> Tensor:
    """Differences, shape (N, ...), without gradient history; in float64 in steps of 2^-36 of the largest of ``logits``.

    What lies below depends on the size of the batch, and with it which of two equal ones would be the larger.
    """
    differences = differences.detach()
    if differences.dtype != torch.float64:
        return differences
    exponent = torch.frexp(logits.detach().abs().amax(1)).exponent
    grid = per_sample(torch.exp2((exponent - 36).double()), differences)
    return (differences / grid).round() * grid


def slope(values: Tensor, x: Tensor, *, again: bool = False) -> Tensor:
    """Gradient of each sample's value by its input, shape of ``x``; ``again`` if another one of this forward follows.

    Components that are not finite lead nowhere and are 0; so are in float64 those small enough for rounding alone,
    whose sign depends on the batch, and those of an output that does not depend on the input.
    """
    if not values.requires_grad:
        return torch.zeros_like(x)
    gradient = finite(torch.autograd.grad(values.sum(), x, retain_graph=again)[0])
    if gradient.dtype != torch.float64:
        return gradient
    largest = gradient.flatten(1).abs().amax(1)
    return gradient.masked_fill(gradient.abs() <= per_sample(1e-12 * largest, gradient), 0.0)


def finite(values: Tensor) -> Tensor:
    """0 in the place of what is not finite."""
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """One value per sample, shape (N,), as (N, 1, ...): it multiplies, or bounds, inputs like ``x``."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
