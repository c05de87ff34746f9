"""The complex Morlet scalogram, which the paper calls DWT (Eq. 10-12), computed in the frequency domain.

The wavelet is PyWavelets' `cmor1.5-1.0`: psi(t) = exp(-t^2 / B) exp(2 pi i C t) / sqrt(pi B) with B = 1.5 and C = 1.
Its Fourier transform is known in closed form, Psi(f) = exp(-pi^2 B (f - C)^2): a Gaussian band. One row of the
scalogram is the clip's spectrum times that band, transformed back. Two savings cost no more than 1e-4 of a row's
maximum, in rows down to 90 dB below the loudest:

- Only as many time samples as the band needs are computed. Folding a spectrum of N bins to M is sampling its time
  signal at M points; M grows with the row's bandwidth, so that the squared magnitude is free of aliases too.
- A column's mean is the sum of its samples, corrected at its two ends for what lies between samples, as in numerical
  integration (Gregory's rule), with weights made for the power's known band. It is the mean over the whole column,
  whatever M is, so that no event falls between samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

BANDWIDTH = 1.5  # B of cmorB-C
CENTRE = 1.0  # C of cmorB-C
LOWEST = 20.0  # Hz, the lowest row's frequency: the lower end of hearing (ours; the paper gives none)

_SPREAD = 1 / (np.pi * np.sqrt(2 * BANDWIDTH) * CENTRE)  # the band's standard deviation over its centre frequency
_BAND = 7.0  # standard deviations kept on each side of a band: what is cut off lies 213 dB below its peak
# Standard deviations between aliases of the power. Two tones on either side of a band, x of its standard deviations
# away, beat at 2 x of them: up to x = 4.5 no beat is taken for a slower one.
_POWER_BAND, _POWER_BAND_NARROW = 18.0, 26.0
_NARROW = 64  # samples of a column
_ENDS = 9  # samples on each side of a column's end that correct its sum
_GROUP = 8  # rows transformed together: the FFT computes several at once in the time of two


@dataclass(frozen=True, eq=False)
class _Row:
    bins: slice  # of the clip's spectrum, which `_Plan.margin` bins of its own repetition surround
    band: np.ndarray  # float32, the wavelet's gain at those bins


@dataclass(frozen=True, eq=False)
class _Group:
    rows: list[_Row]  # neighbours, which share their number of time samples
    samples: int  # M, a multiple of the plan's period
    shift: np.ndarray  # complex64, for the bins of all rows: moves the samples to the middle of the time they stand for
    first: int  # of these bins
    ends: np.ndarray  # float32 [_ENDS] or fewer, weights of the samples at a column's ends


@dataclass(frozen=True, eq=False)
class _Plan:
    length: int  # N, the length of the padded clip
    margin: int
    period: int  # columns in the padded clip
    groups: list[_Group]


def frequencies(rate: int, rows: int) -> np.ndarray:
    """Centre frequency in Hz of each row, float64 [rows]: log-spaced from `LOWEST` (row 0) to Nyquist (last row)."""
    return np.geomspace(min(LOWEST, rate / 4), rate / 2, rows)


def scalogram(waveform: np.ndarray, rate: int, rows: int, columns: int) -> np.ndarray:
    """Power of the complex Morlet wavelet transform, averaged over the columns' intervals.

    Parameters
    ----------
    waveform
        float [n], at least one sample; zero outside.
    rate
        Its sampling rate in Hz.
    rows, columns
        Size of the image.

    Returns
    -------
    power
        float32 [rows, columns], at least 0. Row r is the scale whose centre is `frequencies(rate, rows)[r]`, the
        lowest first; column c is the mean over the samples from c * n / columns to (c + 1) * n / columns. If n is no
        multiple of columns, it is the mean over that time, in which a sample stands for half a sample before and after
        it and the power is that of the wavelet centred at any point. The wavelet is normalised as in PyWavelets:
        1 / sqrt(scale), scale in samples.
    """
    plan = _plan(len(waveform), rate, rows, columns)
    spectrum = _spectrum(waveform, plan)
    parts = []
    for group in plan.groups:
        shifted = spectrum[group.first : group.first + len(group.shift)] * group.shift
        transform = _transform(shifted, group.rows, group.samples, group.first)
        blocks = transform.reshape(len(group.rows), plan.period, -1)
        # What a column's end gives to the column behind it, and takes from the one before.
        ends = len(group.ends)
        moved = _power(blocks[:, :, :ends]) @ group.ends
        moved -= np.roll(_power(blocks[:, :, : -ends - 1 : -1]) @ group.ends, 1, axis=1)
        both = blocks.view(np.float32)  # real and imaginary parts
        sums = np.vecdot(both, both) + np.roll(moved, -1, axis=1) - moved
        parts.append(sums[:, :columns] * np.float32(group.samples * plan.period / plan.length**2))
    return np.maximum(np.concatenate(parts), 0)


def point_scalogram(waveform: np.ndarray, rate: int, rows: int, columns: int) -> np.ndarray:
    """Power of the transform at the first sample of each column: what a scalogram without pooling shows.

    Several times faster than `scalogram`, and blind to what happens between its samples. Parameters and result are
    those of `scalogram`.
    """
    plan = _plan(len(waveform), rate, rows, columns)
    spectrum = _spectrum(waveform, plan)
    parts = [_power(_transform(spectrum, group.rows, plan.period, 0)[:, :columns]) for group in plan.groups]
    return np.concatenate(parts) * np.float32(plan.period / plan.length) ** 2


def _spectrum(waveform: np.ndarray, plan: _Plan) -> np.ndarray:
    """The padded clip's spectrum, with a margin of its own repetition on both sides."""
    # In float64 until the bands part: single precision would spread a loud tone's rounding over quiet bands.
    spectrum = fft.fft(waveform.astype(np.float64), plan.length)
    return np.concatenate([spectrum[-plan.margin :], spectrum, spectrum[: plan.margin]]).astype(np.complex64)


def _transform(spectrum: np.ndarray, rows: list[_Row], samples: int, first: int) -> np.ndarray:
    """The wavelet transform of each row at equidistant points of the padded clip, complex64 [rows, samples].

    ``spectrum`` begins at bin ``first`` of the plan's. The phase is not that of the transform: a band starts at bin 0
    here, not at its own frequency, and the power does not see that.
    """
    bands = np.zeros((len(rows), samples), np.complex64)
    for row, folded in zip(rows, bands, strict=True):
        own = spectrum[row.bins.start - first : row.bins.stop - first]
        if len(row.band) <= samples:
            np.multiply(own, row.band, out=folded[: len(row.band)])
        else:
            folded[:] = _fold((own * row.band)[None], samples)
    transform: np.ndarray = fft.ifft(bands, axis=1, overwrite_x=True)
    return transform


def _power(transform: np.ndarray) -> np.ndarray:
    return np.square(transform.real) + np.square(transform.imag)


def _fold(spectra: np.ndarray, bins: int) -> np.ndarray:
    """Sum spectra [n, N] modulo a number of bins: their time signals, sampled at that many points."""
    count, length = spectra.shape
    folded = np.zeros((count, -(-length // bins) * bins), spectra.dtype)
    folded[:, :length] = spectra
    return folded.reshape(count, -1, bins).sum(axis=1)


@lru_cache(maxsize=2)
def _plan(n: int, rate: int, rows: int, columns: int) -> _Plan:
    """All that does not depend on the samples."""
    centres = frequencies(rate, rows) / rate  # cycles per sample
    # Zeros between the clip's end and its repetition: the longest wavelet does not reach around.
    reach = 6 * np.sqrt(BANDWIDTH / 2) * CENTRE / centres[0]
    period, length = _padded(n, columns, reach)
    groups = [_group(centres[i : i + _GROUP], length, period) for i in range(0, rows, _GROUP)]
    return _Plan(length, _margin(length), period, groups)


def _margin(length: int) -> int:
    """Bins that the highest row's band may reach beyond the spectrum's ends."""
    return length // 4


def _padded(n: int, columns: int, reach: float) -> tuple[int, int]:
    """A number of columns and of samples, at the clip's samples per column, that an FFT is fast at."""
    common = math.gcd(n, columns)
    step, samples = columns // common, n // common  # so many columns are so many samples, both whole
    least = -(-(columns + math.ceil(reach * columns / n)) // step)
    sizes = [(step * count, samples * count) for count in range(least, least + least // 8 + 8)]
    return min(sizes, key=lambda size: size[1] * sum(_prime_factors(size[1])))


def _prime_factors(number: int) -> list[int]:
    factors, factor = [], 2
    while factor * factor <= number:
        while number % factor == 0:
            factors.append(factor)
            number //= factor
        factor += 1
    return [*factors, number]


def _group(centres: np.ndarray, length: int, period: int) -> _Group:
    """Bands of neighbouring scales, whose centres are in cycles per sample, and what their columns' means take."""
    widest = _SPREAD * centres[-1] * length  # in bins
    # What is wrong at a column's ends weighs the more the fewer samples it has.
    power_band = _POWER_BAND if length / period >= _NARROW else _POWER_BAND_NARROW
    least = max(2 * _ENDS, math.ceil(power_band * widest / period))
    count = min(range(least, least + least // 8 + 4), key=lambda count: count * sum(_prime_factors(count)))
    width, between = divmod(length, period)
    if not between:  # columns end at samples, and what lies between these does not count
        count = min(width, count)
    samples = count * period
    rows = [_row(centre, length) for centre in centres]
    first = min(row.bins.start for row in rows)
    bins = np.arange(first, max(row.bins.stop for row in rows)) - _margin(length)
    # A point of the clip stands for the time from half a sample before it; so must each of the fewer points here.
    shift = np.exp(2j * np.pi * bins * (length / samples - 1) / 2 / length).astype(np.complex64)
    return _Group(rows, samples, shift, first, _end_weights(widest, samples, 0 if between else length)[:count])


def _end_weights(widest: float, samples: int, length: int) -> np.ndarray:
    """Weights that make a sum over M samples the mean over the time they stand for, or over the clip's own samples.

    At j cycles per clip, the mean over all time is sinc(j / M) of the mean of the samples; over the clip's N own
    samples, sinc(j / M) / sinc(j / N) of it. A symmetric filter with this response, applied before the sum, changes
    it only at the ends: by the partial sums of its taps. They are fitted where the power has its band.
    """
    j = np.linspace(0, samples / 2, 400)
    wanted = np.sinc(j / samples) / (np.sinc(j / length) if length else 1)
    taps = np.arange(1, _ENDS + 1)
    # sqrt(2) wider than the wavelet's band, and weighed no less than what cannot be seen.
    weight = np.maximum(np.exp(-((j / (2 * widest)) ** 2)), 1e-6)[:, None]
    responses = 2 * (np.cos(2 * np.pi * taps * j[:, None] / samples) - 1)
    fitted = np.linalg.lstsq(weight * responses, weight[:, 0] * (wanted - 1), rcond=None)[0]
    weights: np.ndarray = fitted[::-1].cumsum()[::-1].astype(np.float32)
    return weights


def _row(centre: float, length: int) -> _Row:
    """The band of one scale, whose centre is in cycles per sample."""
    scale = CENTRE / centre
    spread = _SPREAD * centre * length  # in bins
    first = int(np.floor(centre * length - _BAND * spread))
    k = np.arange(first, int(np.ceil(centre * length + _BAND * spread)) + 1)
    # Bins above Nyquist are the mirror image of those below, as they are for a wavelet sampled at the clip's rate.
    band = np.sqrt(scale) * np.exp(-(np.pi**2) * BANDWIDTH * (scale * k / length - CENTRE) ** 2)
    first += _margin(length)
    return _Row(slice(first, first + len(k)), band.astype(np.float32))
