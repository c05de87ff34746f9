"""Attacks on more samples than fit into the memory: batches, and precision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advtrack.attacks import checks
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import frozen, is_adversarial, margin
from advtrack.errors import InputError

logger = logging.getLogger("advtrack")

Precision = Literal["fp32", "bf16"]
Result = TypeVar("Result")


def in_batches(
    attack: Callable[..., AttackOutcome],
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    *,
    targeted: bool,
    precision: Precision = "fp32",
    verbose: bool = False,
    **params: Any,
) -> AttackOutcome:
    """Run ``attack`` on consecutive batches of ``x``.

    Parameters
    ----------
    attack : callable
        A native attack.
    network, x, y, targeted, **params
        Its arguments. A tensor in ``params`` has one row, or as many as ``x`` and is split like it.
    batch_size : int
        Samples at a time. A batch for which the device's memory is too small is tried again with half as many, which
        is logged; the samples after it come in the smaller batches too.
    precision : {'fp32', 'bf16'}
        With bf16 the attack sees the victim through bfloat16 autocast. One more forward in float32 tells which of its
        successes are successes; all other samples are attacked again in float32. So it saves time where it succeeds,
        and loses no example. ``success_at`` of the successes remains what bfloat16 showed.
    verbose : bool
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        If ``x`` is not within [0, 1], ``y`` not a label for each sample, another parameter out of range, or a tensor
        neither for all samples nor for each.
    InputError
        If the device's memory is too small for a single sample.
    """
    check_running(batch_size, precision, verbose)
    for name, value in params.items():
        if isinstance(value, Tensor) and value.ndim and len(value) not in (1, len(x)):
            raise ValueError(f"{name} must have one row, or one for each of {len(x)} samples, not {len(value)}")
    run = partial(_in_bfloat16, attack) if precision == "bf16" else attack
    return AttackOutcome.concatenate(
        batchwise(
            lambda batch: run(network, x[batch], y[batch], targeted=targeted, **_rows(params, batch, len(x))),
            x,
            batch_size,
            attack.__name__ if verbose else None,
        )
    )


def batchwise(run: Callable[[slice], Result], x: Tensor, batch_size: int, title: str | None = None) -> list[Result]:
    """What ``run`` returns for consecutive batches of ``x``, at least one; smaller ones for want of memory.

    With a title there is a progress bar.
    """
    results: list[Result] = []
    start = 0
    with tqdm(total=len(x), desc=title, unit="sample", leave=False, disable=title is None) as progress:
        while not results or start < len(x):
            try:
                results.append(run(slice(start, start + batch_size)))
            except RuntimeError as error:
                batch_size = halved(min(batch_size, len(x) - start), error, x.device)
            else:
                start += batch_size
                progress.update(min(start, len(x)) - progress.n)
    return results


def check_running(batch_size: int, precision: str, verbose: bool) -> None:
    """Refuse what `in_batches` cannot run with."""
    checks.whole_number("batch_size", batch_size)
    checks.flag("verbose", verbose)
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be fp32 or bf16, not {precision!r}")


def halved(batch_size: int, error: RuntimeError, device: torch.device) -> int:
    """A smaller batch than the one that ``error`` ended, if it did for want of memory, which is logged.

    Raises
    ------
    RuntimeError
        ``error``, if it is another one.
    InputError
        If the batch was a single sample.
    """
    # PyTorch has a type of its own for some of these errors only.
    known = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
    if not (isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in known)):
        raise error
    if batch_size == 1:
        raise InputError(
            f"{device} has too little memory for one sample: free some, or choose another --device"
        ) from error
    logger.warning("%s is out of memory: going on with %d samples at a time", device, batch_size // 2)
    return batch_size // 2


def _rows(params: Mapping[str, Any], rows: slice | Tensor, samples: int) -> dict[str, Any]:
    """The parameters for some of the samples: tensors with a row for each sample are split."""
    return {k: v[rows] if isinstance(v, Tensor) and v.ndim and len(v) == samples else v for k, v in params.items()}


class _InBFloat16(nn.Module):
    """A network in bfloat16 autocast, with float32 logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x).float()


def _in_bfloat16(
    attack: Callable[..., AttackOutcome], network: nn.Module, x: Tensor, y: Tensor, *, targeted: bool, **params: Any
) -> AttackOutcome:
    """Attack in bfloat16, and in the network's own precision where that does not confirm a success."""
    outcome = attack(_InBFloat16(network), x, y, targeted=targeted, **params)
    if not len(x):  # which not every victim can take
        return outcome
    with frozen(network), torch.no_grad():
        logits = network(outcome.x_adv.clone())  # which it may change
    # An attack may have promised more than to cross the boundary.
    missing = margin(logits, y, targeted) + params.get("confidence", 0.0)
    left = ~(outcome.success & is_adversarial(logits, y, targeted) & (missing <= 0))
    outcome = replace(outcome, forwards=outcome.forwards + 1)
    if not left.any():
        return outcome
    again = attack(network, x[left], y[left], targeted=targeted, **_rows(params, left, len(x)))
    spent = {name: getattr(outcome, name)[left] + getattr(again, name) for name in ("forwards", "backwards")}
    return outcome.with_rows(left, replace(again, **spent))
