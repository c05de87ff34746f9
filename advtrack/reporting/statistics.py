"""Intervals and tests over recordings: clips that were cut from one recording are not independent of each other.

Everything is drawn from a fixed seed and depends on the recordings alone, so that two victims which were held against
the same recordings are compared in the same resamples (paired), and no order of runs changes a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

from advtrack.intervals import CONFIDENCE, wilson

RESAMPLES = 4000
_SEED = 0
# Sign flips, at least; more where many comparisons need smaller p-values.
_FLIPS = 9999
_FLIPS_AT_ONCE = 10_000


class Bootstrap:
    """Resamples of recordings, drawn with replacement.

    A statistic is an array of 1 + `RESAMPLES` values: first that of the recordings as they are, then that of each
    resample. Totals over clips are such arrays; whatever is computed from them elementwise is one too.

    Parameters
    ----------
    recordings : iterable of str
        Those that all statistics here are about, in any order; repeats count once.
    """

    def __init__(self, recordings: Iterable[str]) -> None:
        self.recordings = tuple(sorted(set(recordings)))
        self._column = {recording: i for i, recording in enumerate(self.recordings)}

    def total(self, recordings: Sequence[str], values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Sum of clips' values in each resample.

        Parameters
        ----------
        recordings : sequence of str, length N
            What each clip was cut from.
        values : sequence of float, length N
            One for each clip.

        Returns
        -------
        ndarray, shape (1 + `RESAMPLES`,)
        """
        columns = [self._column[recording] for recording in recordings]
        sums = np.bincount(columns, np.asarray(values, float), minlength=len(self.recordings))
        return np.concatenate([[sums.sum()], _weights(len(self.recordings)) @ sums])

    def mean(self, recordings: Sequence[str], values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Mean of clips' values in each resample; NaN where a resample has none of the clips."""
        with np.errstate(invalid="ignore"):
            return self.total(recordings, values) / self.total(recordings, np.ones(len(recordings)))

    def interval(
        self, statistic: np.ndarray, *, confidence: float = CONFIDENCE, rate: bool = False
    ) -> tuple[float, float] | None:
        """Percentile interval of a statistic, widened for few recordings (Hesterberg 2015, section 5.3).

        Parameters
        ----------
        statistic : ndarray, shape (1 + `RESAMPLES`,)
            Of these recordings.
        confidence : float
            In (0, 1).
        rate : bool
            The statistic is a share in [0, 1], or a mean of shares. Where it is 0 or 1 in all resamples these tell
            nothing, and the interval is Wilson's, of as many trials as there are recordings.

        Returns
        -------
        tuple of float or None
            None for fewer than two recordings, or a statistic that is not defined.
        """
        n, resampled = len(self.recordings), statistic[1:][np.isfinite(statistic[1:])]
        if n < 2 or not np.isfinite(statistic[0]) or not len(resampled):
            return None
        if rate and statistic[0] in (0, 1) and (resampled == statistic[0]).all():
            low, high = wilson(round(n * statistic[0]), n, confidence)
            return float(low), float(high)
        tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
        low, high = np.quantile(resampled, (tail, 1 - tail))
        return float(low), float(high)


@lru_cache(maxsize=8)
def _weights(recordings: int) -> np.ndarray:
    """How often each resample has each recording, shape (`RESAMPLES`, recordings)."""
    shares = np.full(recordings, 1 / recordings)
    return np.random.default_rng(_SEED).multinomial(recordings, shares, size=RESAMPLES).astype(float)


def sign_flip(differences: np.ndarray) -> np.ndarray:
    """Two-sided p-values of paired comparisons: a difference is as likely as its negative if nothing differs.

    Parameters
    ----------
    differences : ndarray, shape (R, P)
        For each recording, what the one side has over the other in each of P comparisons.

    Returns
    -------
    ndarray, shape (P,)
        Of the sum over recordings, by random flips of the recordings' signs; never 0.
    """
    recordings, comparisons = differences.shape
    flips = max(_FLIPS, 100 * comparisons)
    # Sums that are equal but for rounding count as equal.
    observed = np.abs(differences.sum(0)) * (1 - 1e-12)
    rng = np.random.default_rng(_SEED)
    extreme = np.zeros(comparisons)
    for start in range(0, flips, _FLIPS_AT_ONCE):
        signs = rng.choice((-1.0, 1.0), size=(min(_FLIPS_AT_ONCE, flips - start), recordings))
        extreme += (np.abs(signs @ differences) >= observed).sum(0)
    return (extreme + 1) / (flips + 1)


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values corrected for their number (Holm 1979): any of them below alpha is wrong with probability alpha at most.

    Parameters
    ----------
    p_values : ndarray, shape (P,)
        In any order.

    Returns
    -------
    ndarray, shape (P,)
        In the same order, at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
