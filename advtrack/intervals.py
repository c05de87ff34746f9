"""Intervals of rates of independent trials."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


def wilson(successes: ArrayLike, trials: int, confidence: float = CONFIDENCE) -> tuple[NDArray[Any], NDArray[Any]]:
    """Score interval of one rate or several (Wilson 1927, 10.1080/01621459.1927.10502953).

    Parameters
    ----------
    successes : array_like of int
        Of ``trials`` each.
    trials : int
        At least 1.
    confidence : float
        In (0, 1).

    Returns
    -------
    low, high : ndarray
        In [0, 1], of the shape of ``successes``.
    """
    weight = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / trials

    def low(count: NDArray[Any]) -> NDArray[Any]:
        rate = count / trials
        half = np.sqrt(rate * (1 - rate) * weight + weight**2 / 4)
        return np.maximum((rate + weight / 2 - half) / (1 + weight), 0.0)

    counts = np.asarray(successes)
    return low(counts), 1 - low(trials - counts)
