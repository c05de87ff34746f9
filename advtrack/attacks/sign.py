"""One sign of masked gradients, as records and reports know it: without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """One sign: whether it is there, and the numbers that say so, by name."""

    there: bool
    numbers: dict[str, float]

    def told(self) -> str:
        """The numbers in words, to three significant digits; an infinite one, which nothing reached, is 'none'."""
        shown = {name: f"{value:.3g}" if math.isfinite(value) else "none" for name, value in self.numbers.items()}
        return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in shown.items())
