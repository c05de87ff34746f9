"""The complex Morlet scalogram, which the paper calls DWT (Eq. 10-12), computed in the frequency domain.

The wavelet is PyWavelets' `cmor1.5-1.0`: psi(t) = exp(-t^2 / B) exp(2 pi i C t) / sqrt(pi B) with B = 1.5 and C = 1.
Its Fourier transform is known in closed form, Psi(f) = exp(-pi^2 B (f - C)^2): a Gaussian band. One row of the
scalogram is the clip's spectrum times that band, transformed back. Two savings keep it exact:

- Only as many time samples as the band needs are computed. Folding a spectrum of N bins to M is sampling its time
  signal at M points; M grows with the row's bandwidth, so that the squared magnitude is free of aliases too.
- The mean power over a column's interval is taken on the Fourier series of the power, not on the M samples. It is the
  mean over every sample of the clip, whatever M is, so that no event falls between samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

BANDWIDTH = 1.5  # B of cmorB-C
CENTRE = 1.0  # C of cmorB-C
LOWEST = 20.0  # Hz, the lowest row's frequency: the lower end of hearing (ours; the paper gives none)

_SPREAD = 1 / (np.pi * np.sqrt(2 * BANDWIDTH) * CENTRE)  # the band's standard deviation over its centre frequency
_BAND = 7.0  # standard deviations kept on each side of a band: what is cut off lies below 3e-11 of its peak
_POWER_BAND = 17.0  # standard deviations between aliases of the power, which is sqrt(2) wider: they meet below 2e-8


@dataclass(frozen=True, eq=False)
class _Row:
    bins: slice  # of the clip's spectrum, which `_Plan.margin` bins of its own repetition surround
    band: np.ndarray  # float32, the wavelet's gain at those bins
    samples: int  # M, the number of time samples
    column_mean: np.ndarray  # complex64 [M // 2 + 1], from the power's Fourier transform to that of the column means


@dataclass(frozen=True, eq=False)
class _Plan:
    length: int  # N, the length of the padded clip
    margin: int
    period: int  # columns in the padded clip
    rows: list[_Row]


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
        lowest first; column c is the mean over the samples from c * n / columns to (c + 1) * n / columns. The wavelet
        is normalised as in PyWavelets: 1 / sqrt(scale), scale in samples.
    """
    plan = _plan(len(waveform), rate, rows, columns)
    # In float64 until the bands part: single precision would spread a loud tone's rounding over quiet bands.
    spectrum = fft.fft(waveform.astype(np.float64), plan.length)
    spectrum = np.concatenate([spectrum[-plan.margin :], spectrum, spectrum[: plan.margin]]).astype(np.complex64)
    power = np.empty((rows, columns), np.float32)
    for r, row in enumerate(plan.rows):
        # The band starts at bin 0 here, not at its own frequency: that turns the phase, which the power does not see.
        wavelet = fft.ifft(_fold(spectrum[row.bins] * row.band, row.samples), overwrite_x=True)
        series = fft.rfft(wavelet.real**2 + wavelet.imag**2) * row.column_mean
        power[r] = fft.ifft(_fold(series, plan.period)).real[:columns]
    return np.maximum(power, 0, out=power)


def _fold(spectrum: np.ndarray, bins: int) -> np.ndarray:
    """Sum a spectrum modulo a number of bins: its time signal, sampled at that many points."""
    whole = len(spectrum) // bins * bins
    folded = np.zeros(bins, spectrum.dtype)
    folded[: len(spectrum) - whole] = spectrum[whole:]
    return folded + spectrum[:whole].reshape(-1, bins).sum(axis=0) if whole else folded


@lru_cache(maxsize=2)
def _plan(n: int, rate: int, rows: int, columns: int) -> _Plan:
    """All that does not depend on the samples."""
    centres = frequencies(rate, rows) / rate  # cycles per sample
    # Zeros between the clip's end and its repetition: the longest wavelet does not reach around.
    reach = 6 * np.sqrt(BANDWIDTH / 2) * CENTRE / centres[0]
    period, length = _padded(n, columns, reach)
    return _Plan(length, length // 4, period, [_row(centre, length, period) for centre in centres])


def _padded(n: int, columns: int, reach: float) -> tuple[int, int]:
    """A number of columns and of samples, at the clip's samples per column, that an FFT is fast at."""
    least = columns + int(np.ceil(reach * columns / n))
    sizes = [(period, round(period * n / columns)) for period in range(least, least + least // 8 + 8)]
    return min(sizes, key=lambda size: size[1] * sum(_prime_factors(size[1])))


def _prime_factors(number: int) -> list[int]:
    factors, factor = [], 2
    while factor * factor <= number:
        while number % factor == 0:
            factors.append(factor)
            number //= factor
        factor += 1
    return [*factors, number]


def _row(centre: float, length: int, period: int) -> _Row:
    """The band of one scale, whose centre is in cycles per sample."""
    scale = CENTRE / centre
    spread = _SPREAD * centre * length  # in bins
    first = int(np.floor(centre * length - _BAND * spread))
    k = np.arange(first, int(np.ceil(centre * length + _BAND * spread)) + 1)
    # Bins above Nyquist are the mirror image of those below, as they are for a wavelet sampled at the clip's rate.
    band = np.sqrt(scale) * np.exp(-(np.pi**2) * BANDWIDTH * (scale * k / length - CENTRE) ** 2)
    samples = min(length, fft.next_fast_len(int(np.ceil(_POWER_BAND * spread)) + 8))

    # Mean of exp(2 pi i j t / length) over the samples t of the first column, a Dirichlet kernel.
    j = np.arange(samples // 2 + 1)
    width = length / period
    kernel = np.ones(len(j))
    kernel[1:] = np.sin(np.pi * j[1:] / period) / (width * np.sin(np.pi * j[1:] / length))
    kernel[1 : (samples + 1) // 2] *= 2  # negative frequencies, which a real signal's transform leaves out
    phase = np.exp(1j * np.pi * j * (width - 1) / length)
    gain = samples / length**2 * period  # of the transforms' own 1 / M and 1 / period
    margin = length // 4
    return _Row(
        slice(first + margin, first + margin + len(k)),
        band.astype(np.float32),
        samples,
        (gain * kernel * phase).astype(np.complex64),
    )
