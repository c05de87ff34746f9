"""The complex Morlet scalogram, which the paper calls DWT (Eq. 10-12), computed in the frequency domain.

The wavelet is PyWavelets' `cmor1.5-1.0`: psi(t) = exp(-t^2 / B) exp(2 pi i C t) / sqrt(pi B) with B = 1.5 and C = 1.
Its Fourier transform is known in closed form, Psi(f) = exp(-pi^2 B (f - C)^2): a Gaussian band. One row of the
scalogram is the clip's spectrum times that band, transformed back. Three savings cost no more than 1e-4 of a row's
maximum at the clip's own rate, however far the row is below the loudest:

- Only as many time samples as the band needs are computed. Folding a spectrum of N bins to M is sampling its time
  signal at M points; M grows with the row's bandwidth, so that the squared magnitude is free of aliases too.
- A column's mean is the sum of its samples, corrected at its two ends for what lies between samples, as in numerical
  integration (Gregory's rule), with weights made for the power's known band. It is the mean over the whole column,
  whatever M is, so that no event falls between samples.
- High rows, whose wavelets are short, are computed in overlapping frames of the clip: their transforms fit the cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft
from scipy.special import erfc

BANDWIDTH = 1.5  # B of cmorB-C
CENTRE = 1.0  # C of cmorB-C
LOWEST = 20.0  # Hz, the lowest row's frequency: the lower end of hearing (ours; the paper gives none)

_SPREAD = 1 / (np.pi * np.sqrt(2 * BANDWIDTH) * CENTRE)  # the band's standard deviation over its centre frequency
_DURATION = np.sqrt(BANDWIDTH / 2) * CENTRE  # the wavelet's standard deviation in time, in cycles of its centre
_BAND = 8.0  # standard deviations kept on each side of a band: what is cut off lies 278 dB below its peak
# Frames fade out beside what is their own: by half at so many standard deviations of a wavelet, with another as the
# slope's, to nothing where they end. An abrupt end would be a loud click, whose rounding drowns rows 90 dB down.
_FADE, _SLOPE, _REACH = 8.6, 0.8, 12.0
# Two tones on either side of a band, x of its standard deviations away, beat at 2 x of them. Beats of up to so many are
# measured as what they are: at x = 6 the tones are 156 dB down, which is below the rounding of any float32 waveform.
_BEAT = 12.0
_POWER_BAND = 28.0  # standard deviations between aliases of the power: room beyond the beats for the ends' weights
_ENDS = 14  # samples on each side of a column's end that correct its sum
_FRAME = 100_000  # samples of a frame, at most
_LARGEST = 2**23  # points of a frame at the least, 64 MB a row: a clip far shorter than its lowest wavelet needs more
# The FFT computes several transforms at once in the time of two: at least so many, and more while they have few points.
_TRANSFORMS, _ROWS, _POINTS = 4, 8, 300_000


@dataclass(frozen=True, eq=False)
class _Row:
    bins: slice  # of a frame's spectrum, which `_margin` bins of its own repetition surround
    band: np.ndarray  # float32, the wavelet's gain at those bins


@dataclass(frozen=True, eq=False)
class _Group:
    rows: list[_Row]  # neighbours, which share their number of time samples
    samples: int  # M of a frame, a multiple of its columns
    shift: np.ndarray  # complex64, for the bins of all rows: moves the samples to the middle of the time they stand for
    first: int  # of these bins
    ends: np.ndarray  # float32 [_ENDS] or fewer, weights of the samples at a column's ends


@dataclass(frozen=True, eq=False)
class _Frames:
    """The clip in frames of equal length, each taken to repeat itself. For the lowest rows it is one frame."""

    length: int  # N, samples of a frame
    columns: int  # of a frame
    own: slice  # those of them that are the frame's own; the others are there for what repeats
    taper: np.ndarray  # float64 [length], 1 for what is the frame's own and near to it
    starts: np.ndarray  # int [frames], the sample a frame starts with, relative to the clip's first
    late: np.ndarray  # complex64 [frames, bins]: moves the samples by what the frame's first column begins later
    groups: list[_Group]

    def spectra(self, waveform: np.ndarray) -> np.ndarray:
        """Spectrum of each frame, complex64 [frames, bins], with a margin of its own repetition on both sides."""
        before, behind = -self.starts[0], max(0, self.starts[-1] + self.length - len(waveform))
        # In float64 until the bands part: single precision would spread a loud tone's rounding over quiet bands.
        padded = np.pad(waveform.astype(np.float64), (before, behind))
        frames = sliding_window_view(padded, self.length)[self.starts + before] * self.taper
        spectra = fft.fft(frames).astype(np.complex64)
        margin = _margin(self.length)
        return np.concatenate([spectra[:, -margin:], spectra, spectra[:, :margin]], axis=1) * self.late


def frequencies(rate: int, rows: int) -> np.ndarray:
    """Centre frequency in Hz of each row, float64 [rows]: log-spaced from `LOWEST` (row 0) to Nyquist (last row)."""
    return np.geomspace(min(LOWEST, rate / 4), rate / 2, rows)


def scalogram(waveform: np.ndarray, rate: int, rows: int, columns: int) -> np.ndarray:
    """Power of the complex Morlet wavelet transform, averaged over the columns' intervals.

    Parameters
    ----------
    waveform
        float32 [n], at least one sample; zero outside.
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

    Raises
    ------
    ValueError
        If the clip is so short, below a thousandth of a second, that columns far narrower than a sample make the
        transform too large.
    """
    parts = []
    for frames in _plan(len(waveform), rate, rows, columns, whole=False):
        spectra = frames.spectra(waveform)
        parts += [_means(spectra, group, frames)[:, :columns] for group in frames.groups]
    return np.maximum(np.concatenate(parts), 0)


def point_scalogram(waveform: np.ndarray, rate: int, rows: int, columns: int) -> np.ndarray:
    """Power of the transform at the first sample of each column: what a scalogram without pooling shows.

    Several times faster than `scalogram`, and blind to what happens between its samples. Parameters and result are
    those of `scalogram`.
    """
    (frames,) = _plan(len(waveform), rate, rows, columns, whole=True)
    spectra = frames.spectra(waveform)
    parts = [_power(_transform(spectra, group.rows, frames.columns, 0)[:, 0, :columns]) for group in frames.groups]
    return np.concatenate(parts) * np.float32(frames.columns / frames.length) ** 2


def _means(spectra: np.ndarray, group: _Group, frames: _Frames) -> np.ndarray:
    """Mean power of each row in each column, float32 [rows, columns], in columns beyond the clip's last too."""
    shifted = spectra[:, group.first : group.first + len(group.shift)] * group.shift
    transform = _transform(shifted, group.rows, group.samples, group.first)
    blocks = transform.reshape(*transform.shape[:2], frames.columns, -1)
    # What a column's end gives to the column behind it, and takes from the one before.
    ends = len(group.ends)
    moved = _power(blocks[..., :ends]) @ group.ends
    moved -= np.roll(_power(blocks[..., : -ends - 1 : -1]) @ group.ends, 1, axis=-1)
    both = blocks.view(np.float32)  # real and imaginary parts
    sums = np.vecdot(both, both) + np.roll(moved, -1, axis=-1) - moved
    means: np.ndarray = sums[..., frames.own] * np.float32(group.samples * frames.columns / frames.length**2)
    return means.reshape(len(group.rows), -1)


def _transform(spectra: np.ndarray, rows: list[_Row], samples: int, first: int) -> np.ndarray:
    """The wavelet transform of each row at equidistant points of each frame, complex64 [rows, frames, samples].

    ``spectra`` begin at bin ``first`` of the frames'. The phase is not that of the transform: a band starts at bin 0
    here, not at its own frequency, and the power does not see that.
    """
    bands = np.zeros((len(rows), len(spectra), samples), np.complex64)
    for row, folded in zip(rows, bands, strict=True):
        own = spectra[:, row.bins.start - first : row.bins.stop - first]
        if len(row.band) <= samples:
            np.multiply(own, row.band, out=folded[:, : len(row.band)])
        else:
            folded[:] = _folded_product(own, row.band, samples)
    transform: np.ndarray = fft.ifft(bands, axis=-1, overwrite_x=True)
    return transform


def _power(transform: np.ndarray) -> np.ndarray:
    return np.square(transform.real) + np.square(transform.imag)


def _folded_product(spectra: np.ndarray, band: np.ndarray, bins: int) -> np.ndarray:
    """Spectra [n, N] times a band, summed modulo a number of bins: their time signals, sampled at that many points."""
    length = len(band)
    product = np.empty((len(spectra), -(-length // bins) * bins), spectra.dtype)
    np.multiply(spectra, band, out=product[:, :length])
    product[:, length:] = 0
    folded: np.ndarray = product.reshape(len(spectra), -1, bins).sum(axis=1)
    return folded


@lru_cache(maxsize=4)
def _plan(n: int, rate: int, rows: int, columns: int, whole: bool) -> list[_Frames]:
    """All that does not depend on the samples: the lowest rows in the clip as a whole, the others in frames of it."""
    centres = frequencies(rate, rows) / rate  # cycles per sample
    reaches = np.ceil(_REACH * _DURATION / centres * columns / n).astype(int).tolist()  # in columns
    # Zeros between the clip's end and its repetition, half of what faded frames need: no wavelet reaches around.
    longest = _padded(n, columns, columns + -(-reaches[0] // 2))
    if longest * _ENDS > _LARGEST:
        raise ValueError(f"{n} samples at {rate} Hz are too short a clip for {columns} columns: fill it up with zeros")
    size, first = (longest, rows) if whole else _division(n, columns, longest, centres, reaches)
    plan = [_frames(n, columns, longest, 0, centres[:first])] if first else []
    if first < rows:
        plan.append(_frames(n, columns, size, reaches[first], centres[first:]))
    return plan


def _division(n: int, columns: int, longest: int, centres: np.ndarray, reaches: list[int]) -> tuple[int, int]:
    """Columns of a frame, and the first row that is computed in frames: the fastest of all."""
    rows = len(centres)
    below = [0.0, *centres.cumsum().tolist()]  # a row has as many points as its centre times its frames' lengths
    firsts = [row for row in range(rows) if row == 0 or reaches[row] < reaches[row - 1]]
    one = _cost(longest * n // columns)
    best, chosen = one * below[rows], (longest, rows)
    step = columns // math.gcd(n, columns)
    for size in range(step, min(_FRAME * columns // n, columns) + 1, step):
        each = _cost(size * n // columns)
        for first in firsts:
            kept = size - 2 * reaches[first]
            if kept > 0:
                cost = one * below[first] + each * -(-columns // kept) * (below[rows] - below[first])
                best, chosen = min((best, chosen), (cost, (size, first)))
    return chosen


def _frames(n: int, columns: int, size: int, reach: int, centres: np.ndarray) -> _Frames:
    """Frames of ``size`` columns, of which ``reach`` on each side are its neighbours'; one that holds all if 0."""
    length = size * n // columns
    kept = size - 2 * reach if reach else columns
    begins = [Fraction((first - reach) * n, columns) for first in range(0, columns, kept)]  # in samples
    starts = [math.floor(begin) for begin in begins]
    late = np.array([float(begin - start) for begin, start in zip(begins, starts, strict=True)])
    place = np.arange(length) * size / length  # in columns
    beside = np.maximum(np.maximum(reach - place, place - reach - kept), 0) * n / columns  # in samples
    taper = erfc((beside / (_DURATION / centres[0]) - _FADE) / (np.sqrt(2) * _SLOPE)) / 2
    bins = np.arange(-_margin(length), length + _margin(length))
    ramps = np.exp(2j * np.pi * late[:, None] * bins / length).astype(np.complex64)
    groups, first = [], 0
    while first < len(centres):
        points = _POWER_BAND * _SPREAD * centres[first] * length * len(begins)
        least = -(-_TRANSFORMS // len(begins))
        together = min(max(int(_POINTS / points), least), _ROWS)
        groups.append(_group(centres[first : first + together], length, size))
        first += together
    return _Frames(length, size, slice(reach, reach + kept), taper, np.array(starts), ramps, groups)


def _margin(length: int) -> int:
    """Bins that the highest row's band may reach beyond the spectrum's ends."""
    return length // 4 + 2


def _padded(n: int, columns: int, least: int) -> int:
    """At least so many columns, which are whole samples together, and a length that an FFT is fast at."""
    step = columns // math.gcd(n, columns)
    sizes = range(-(-least // step) * step, least + least // 8 + 8 * step, step)
    return min(sizes, key=lambda size: _cost(size * n // columns))


def _cost(points: int) -> int:
    """Of an FFT of so many points, in a unit of its own."""
    return points * sum(_prime_factors(points))


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
    least = max(_ENDS, math.ceil(_POWER_BAND * widest / period))
    count = min(range(least, least + least // 8 + 4), key=_cost)
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
    it only at the ends: by the partial sums of its taps. They are fitted up to the fastest beats.
    """
    j = np.linspace(0, _BEAT * widest, 400)
    wanted = np.sinc(j / samples) / (np.sinc(j / length) if length else 1)
    taps = np.arange(1, _ENDS + 1)
    responses = 2 * (np.cos(2 * np.pi * taps * j[:, None] / samples) - 1)
    fitted = np.linalg.lstsq(responses, wanted - 1, rcond=None)[0]
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
