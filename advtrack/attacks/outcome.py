"""What an attack did to each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from advtrack.attacks.norms import perturbation_norms


@dataclass(frozen=True)
class AttackOutcome:
    """Per-sample result of one attack on N samples.

    Attributes
    ----------
    x_adv : Tensor, shape (N, C, H, W)
        Adversarial inputs in [0, 1]: of a success its adversarial example, of a failure the last iterate.
    success : Tensor of bool, shape (N,)
        Whether the victim takes ``x_adv`` for the target (untargeted: for anything but ``y``), where an attack asks for
        it by the confidence that was asked for.
    first_success : Tensor of int64, shape (N,)
        The iteration that produced the first adversarial example, 0 if the input itself is one, -1 for none.
    forwards, backwards : Tensor of int64, shape (N,)
        Forward and backward passes this sample took part in. Samples that left the batch are not charged; those that
        leave it at a pass which the others need may be, so that the counts depend a little on the batch.
    l0, l2, linf : Tensor, shape (N,)
        Norms of ``x_adv - x``.
    success_at : Tensor of bool, shape (N, max_iter), or None
        Whether iterate k + 1 is adversarial, for attacks whose success may be lost again (BIM-b).
    l0_at, l2_at, linf_at : Tensor, shape (N, max_iter), or None
        Norms of the perturbation at iterate k + 1, for the same attacks.
    """

    x_adv: Tensor
    success: Tensor
    first_success: Tensor
    forwards: Tensor
    backwards: Tensor
    l0: Tensor
    l2: Tensor
    linf: Tensor
    success_at: Tensor | None = None
    l0_at: Tensor | None = None
    l2_at: Tensor | None = None
    linf_at: Tensor | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        x_adv: Tensor,
        *,
        success: Tensor,
        first_success: Tensor,
        forwards: Tensor,
        backwards: Tensor,
        **per_iterate: Tensor,
    ) -> AttackOutcome:
        """Build an outcome, measuring the perturbation of ``x_adv`` against ``x``."""
        return cls(
            x_adv=x_adv,
            success=success,
            first_success=first_success,
            forwards=forwards,
            backwards=backwards,
            **per_iterate,
            **perturbation_norms(x_adv, x),
        )

    def with_rows(self, rows: Tensor, others: AttackOutcome) -> AttackOutcome:
        """This outcome with the rows that a mask, bool (N,), selects taken from another, which has only those."""
        merged: dict[str, Any] = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(others, field.name)
            merged[field.name] = None if mine is None else mine.index_put((rows,), theirs)
        return AttackOutcome(**merged)

    @classmethod
    def concatenate(cls, outcomes: Sequence[AttackOutcome]) -> AttackOutcome:
        """Join the outcomes of consecutive batches in order."""
        joined: dict[str, Any] = {}
        for field in fields(cls):
            parts = [getattr(outcome, field.name) for outcome in outcomes]
            joined[field.name] = None if parts[0] is None else torch.cat(parts)
        return cls(**joined)
