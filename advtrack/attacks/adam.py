"""Adam for a batch that shrinks: each sample's moments leave with it (Kingma and Ba 2015, arXiv:1412.6980)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advtrack.attacks.victim import finite

# As in the paper.
_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8


@dataclass
class Adam:
    """Adam's moments of the gradient and of its square, and the number of its steps."""

    mean: Tensor
    square: Tensor
    steps: int = 0

    def step(self, gradient: Tensor) -> Tensor:
        """Direction of the next step, to be descended at a learning rate."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - _BETA_1)
        self.square.lerp_(gradient.square(), 1 - _BETA_2)
        step = self.mean / (1 - _BETA_1**self.steps)
        step /= (self.square / (1 - _BETA_2**self.steps)).sqrt() + _EPS
        return finite(step)  # some moments overflow

    def rows(self, kept: Tensor) -> Adam:
        """That of some of the samples."""
        return Adam(self.mean[kept], self.square[kept], self.steps)
