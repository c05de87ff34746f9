"""How attacks refuse what they cannot run with: a `ValueError` that names the parameter and its range."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

_LARGEST = torch.finfo(torch.float32).max


def whole_number(name: str, value: object, least: int = 1, most: float = math.inf) -> None:
    """Refuse anything but a whole number between two bounds, both allowed."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        above = "" if math.isinf(most) else f" and at most {most}"
        raise ValueError(f"{name} must be a whole number of at least {least}{above}, not {value!r}")


def number(name: str, value: object, low: float, high: float = math.inf, *, without_low: bool = False) -> None:
    """Refuse anything but a number of float32 between two bounds, both allowed, the lower one unless told otherwise."""
    found = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (low <= found <= min(high, _LARGEST)) or (without_low and found == low):
        interval = f"{'(' if without_low else '['}{low:g}, {min(high, _LARGEST):g}]"
        raise ValueError(f"{name} must be a number in {interval}, not {value!r}")


def flag(name: str, value: object) -> None:
    """Refuse anything but True and False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")


def inputs(name: str, x: Tensor) -> None:
    """Refuse inputs outside of [0, 1], or that are not finite; half precision has too few bits for perturbations."""
    if x.dtype not in (torch.float32, torch.float64) or not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"{name} must be float32 or float64 in [0, 1], without NaN")


def samples(x: Tensor, y: Tensor) -> None:
    """Refuse inputs and labels that no attack can run with, and a mode that has no gradients to give."""
    if torch.is_inference_mode_enabled() or x.is_inference() or y.is_inference():
        raise ValueError("attacks do not work under torch.inference_mode, nor on tensors made there: use torch.no_grad")
    inputs("x", x)
    labels(y, len(x))


def labels(y: Tensor, count: int, classes: float = math.inf) -> None:
    """Refuse labels that are not a class for each sample."""
    if y.shape != (count,) or y.dtype != torch.int64:
        raise ValueError(f"y must be {count} labels, int64, not {y.dtype} of shape {tuple(y.shape)}")
    if not ((y >= 0) & (y < classes)).all():
        raise ValueError(f"y must be labels from 0 to {classes - 1:g}")
