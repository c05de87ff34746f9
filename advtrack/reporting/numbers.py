"""How numbers are printed, the same in every table and sentence."""

from __future__ import annotations


def clean(value: float) -> float:
    """Drop the noise of floating-point sums, so that every format rounds the same number the same way."""
    return float(f"{value:.10g}")


def fixed(value: float, digits: int) -> str:
    """A number with so many digits behind the point."""
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def significant(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def bracket(interval: tuple[float, float] | None, digits: int) -> str:
    """An interval as it stands behind its value, with a space before it; nothing where there is none."""
    return f" [{fixed(interval[0], digits)}, {fixed(interval[1], digits)}]" if interval else ""


def scaled(interval: tuple[float, float] | None, factor: float = 1.0) -> tuple[float, float] | None:
    """An interval in another unit, clean."""
    return (clean(factor * interval[0]), clean(factor * interval[1])) if interval else None
