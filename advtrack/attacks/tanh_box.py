"""The change of variable that keeps the inputs of an attack within [0, 1] (the paper's Eq. 7), with its slope."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

# Ours: [0, 1] fills this part of tanh's range. Carlini and Wagner's 0.999999 nearly freezes features at 0 and 1, where
# tanh is flat, and half of a spectrogram may lie on its floor.
_SPREAD = 0.95


class TanhBox:
    """The variable w of ``x_adv = x + (tanh(w) - tanh(w_0)) / 1.9`` around legitimate inputs ``x`` (N, C, H, W)."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._w = torch.atanh(_SPREAD * (2 * x - 1))
        self._tanh = _tanh(self._w)

    def inputs(self, w: Tensor) -> Tensor:
        """The inputs that a variable stands for.

        The clamp takes back what the spread leaves outside the box. The gradient passes it, so that a feature pushed
        out comes back when it is pulled.
        """
        return (self.x + (_tanh(w) - self._tanh) / (2 * _SPREAD)).clamp(0, 1)

    def slope(self, w: Tensor) -> Tensor:
        """Derivative of the inputs by the variable, but for the clamp."""
        return (1 - _tanh(w).square()) / (2 * _SPREAD)

    def variable(self, delta: Tensor) -> Tensor:
        """The variable of the legitimate inputs with a perturbation."""
        return torch.atanh(self._tanh + 2 * _SPREAD * delta).where(delta != 0, self._w)

    def rows(self, kept: Tensor) -> TanhBox:
        """That of some of the samples."""
        box = copy(self)
        box.x, box._w, box._tanh = self.x[kept], self._w[kept], self._tanh[kept]
        return box


def _tanh(w: Tensor) -> Tensor:
    """tanh, which in float64 depends in its last bit on the place in the batch, in the precision of float32."""
    return w.tanh().float().to(w.dtype)
