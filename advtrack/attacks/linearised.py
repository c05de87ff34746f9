"""The way to a linearised boundary within [0, 1], where features come to an end of it before they arrive."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# Ours: later steps of Newton's method change the order of boundaries by nothing.
_STEPS = 6


def way_within_box(f: Tensor, w: Tensor, x: Tensor, norm: Literal["linf", "l2"]) -> tuple[Tensor, Tensor]:
    """How far to follow ``sign(w)``, or ``w`` in l2, clipped to [0, 1], until f is made up for.

    A multiple t of it brings ``sum |w_i| min(t |w_i|^(p-1), room_i)``, p 1 or 2, where ``room_i`` is what feature i has
    before it. That is concave in t and linear in pieces, so that Newton's method comes to f from below.

    Parameters
    ----------
    f : Tensor, shape (N, 1)
        What is missing to the boundary, at least 0.
    w, x : Tensor, shape (N, d)
        Slope towards the boundary, best scaled to 1 at most, and the features where it was taken, in [0, 1].
    norm : {'linf', 'l2'}
        Norm of the distance.

    Returns
    -------
    t, distance : Tensor, shape (N, 1)
        Infinite both if all of [0, 1] does not lead there.
    """
    steepness, room = w.abs(), torch.where(w > 0, 1 - x, x)
    pace = (steepness > 0).to(w.dtype) if norm == "linf" else steepness
    end, most, gain = room / pace, steepness * room, steepness * pace
    t = torch.zeros_like(f)
    for _ in range(_STEPS):
        moves = end > t
        earlier, left = t, f - most.masked_fill(moves, 0.0).sum(1, keepdim=True)
        t = left / gain.where(moves, 0.0).sum(1, keepdim=True)
        if not (t > earlier).any():
            break
    t = t.nan_to_num(nan=torch.inf, posinf=torch.inf)
    distance = (t * pace).minimum(room).norm(p=torch.inf if norm == "linf" else 2, dim=1, keepdim=True)
    return t, distance.where(t.isfinite(), torch.inf)
