"""Intervals and tests over recordings: clips that were cut from one recording are not independent of each other.

Everything is drawn from a fixed seed and depends on the recordings alone, so that two victims which were held against
the same recordings are compared in the same draws (paired), and no order of runs changes a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

from advtrack.intervals import CONFIDENCE

DRAWS = 4000
_SEED = 0
# Of Jeffreys' prior of a rate, Beta(1/2, 1/2).
_PRIOR = 0.5
# Sign flips, at least; more where many comparisons need smaller p-values.
_FLIPS = 9999
_FLIPS_AT_ONCE = 10_000


class Bootstrap:
    """Weights of recordings, drawn as often as they may be in the population (Bayesian bootstrap, Rubin 1981).

    A statistic is an array of 1 + `DRAWS` values: first that of the recordings as they are, then that under each draw.
    Totals over clips are such arrays; whatever is computed from them elementwise is one too.

    Parameters
    ----------
    recordings : iterable of str
        Those that all statistics here are about, in any order; repeats count once.
    """

    def __init__(self, recordings: Iterable[str]) -> None:
        self.recordings = tuple(sorted(set(recordings)))
        self._column = {recording: i for i, recording in enumerate(self.recordings)}

    def total(self, recordings: Sequence[str], values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Sum of clips' values.

        Parameters
        ----------
        recordings : sequence of str, length N
            What each clip was cut from.
        values : sequence of float, length N
            One for each clip.

        Returns
        -------
        ndarray, shape (1 + `DRAWS`,)
        """
        columns = [self._column[recording] for recording in recordings]
        sums = np.bincount(columns, np.asarray(values, float), minlength=len(self.recordings))
        return np.concatenate([[sums.sum()], _weights(len(self.recordings)) @ sums])

    def mean(self, recordings: Sequence[str], values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Mean of clips' values."""
        return self.total(recordings, values) / self.total(recordings, np.ones(len(recordings)))

    def rate(self, recordings: Sequence[str], values: Sequence[float] | np.ndarray, *, side: int = 0) -> np.ndarray:
        """Mean of clips' values in [0, 1], of which few that agree do not tell that all do.

        Every draw has two recordings more, one all 0 and one all 1, of half the weight of others: if each recording has
        one clip and each value is 0 or 1, that is the posterior of a rate under Jeffreys' prior.

        Parameters
        ----------
        recordings, values
            As for `total`.
        side : int
            The two sides of a difference have different ones, and so do not agree in what nobody has seen of them.

        Returns
        -------
        ndarray, shape (1 + `DRAWS`,)
        """
        ones, zeros = self.unseen(len(recordings) / len(set(recordings)), side=side)
        hits, counts = self.total(recordings, values), self.total(recordings, np.ones(len(recordings)))
        return (hits + ones) / (counts + ones + zeros)

    def unseen(self, weight: float, *, side: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """What `rate` adds to sums over clips, of values that are 1 and that are 0; ``weight`` is a recording's."""
        ones, zeros = weight * _prior(side)
        return ones, zeros

    def interval(self, statistic: np.ndarray, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Percentile interval of a statistic, widened for few recordings (Hesterberg 2015, section 5.3).

        Parameters
        ----------
        statistic : ndarray, shape (1 + `DRAWS`,)
            Of these recordings.
        confidence : float
            In (0, 1).

        Returns
        -------
        tuple of float or None
            It holds the statistic of the recordings as they are. None for fewer than two recordings, for a statistic
            that is not defined, and for one that no draw changes: they do not tell how far it may be off.
        """
        n, value = len(self.recordings), float(statistic[0])
        if n < 2 or not np.isfinite(statistic).all() or np.ptp(statistic[1:]) <= 1e-9 * abs(value):
            return None
        # A draw's variance is that of the recordings over n + 1, that of their mean is estimated as theirs over n - 1.
        tail = stats.norm.cdf(np.sqrt((n + 1) / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
        low, high = np.quantile(statistic[1:], (tail, 1 - tail))
        return min(float(low), value), max(float(high), value)


@lru_cache(maxsize=8)
def _weights(recordings: int) -> np.ndarray:
    """The weight of each recording in each draw, shape (`DRAWS`, recordings), 1 on average."""
    return np.random.default_rng(_SEED).standard_exponential((DRAWS, recordings))


@lru_cache(maxsize=8)
def _prior(side: int) -> np.ndarray:
    """The weights of the two recordings that nobody has seen, shape (2, 1 + `DRAWS`); 0 for those as they are."""
    drawn = np.random.default_rng((_SEED, 1, side)).gamma(_PRIOR, size=(2, DRAWS))
    return np.concatenate([np.zeros((2, 1)), drawn], axis=1)


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
