"""From a waveform to an image in [0, 1], one for each of the four representations.

Row 0 is the lowest frequency in every spectrogram; the tonnetz rows of `stft_tonnetz` and `dwt_tonnetz` come after
the highest.

A clip shorter than its data set's duration is filled with zeros at the end, and a longer one cut there. Repeating a
short clip instead would invent a rhythm, and its seams clicks, that the recording does not have; silence maps to 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import soxr

from advtrack.representations import morlet, stft, tonnetz
from advtrack.representations.pitch_shift import pitch_shift

TOP_DB = 80.0  # dynamic range in dB below the clip's maximum


def shape(representation: str, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of an image: `height` counts the spectrogram's rows, the tonnetz adds height // 4."""
    return (height + height // 4 if representation.endswith("_tonnetz") else height), width


def fit(waveform: np.ndarray, rate: int, duration: float) -> np.ndarray:
    """Cut a waveform [n] at `duration` seconds, or fill it with zeros at the end: float32 [rate * duration]."""
    length = round(rate * duration)
    return np.pad(waveform[:length].astype(np.float32, copy=False), (0, max(0, length - len(waveform))))


def at_rates(waveform: np.ndarray, rate: int, duration: float, scale: float = 1.0) -> Callable[[int], np.ndarray]:
    """Give a function of a sampling rate in Hz that returns the clip, float32 [rate * duration], at that rate.

    Parameters
    ----------
    waveform
        float32 [n], mono, at `rate` Hz.
    rate
        Its sampling rate.
    duration
        Seconds it is cut or filled to.
    scale
        Pitch shift: factor on every frequency, applied at 22.05 kHz.
    """
    if scale != 1:
        shifted_at = stft.RATE
        waveform = pitch_shift(fit(_resample(waveform, rate, shifted_at), shifted_at, duration), shifted_at, scale)
        rate = shifted_at
    return lambda new_rate: fit(_resample(waveform, rate, new_rate), new_rate, duration)


def _resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    return waveform if rate == new_rate else soxr.resample(waveform, rate, new_rate, quality="HQ")


def image(
    waveform_at: Callable[[int], np.ndarray], representation: str, *, height: int, width: int, wavelet_rate: int
) -> tuple[np.ndarray, float]:
    """Compute one clip's image.

    Parameters
    ----------
    waveform_at
        Function of a sampling rate in Hz that returns the clip, float32 [n], at that rate, as `at_rates` gives it.
    representation
        One of `advtrack.representations.REPRESENTATIONS`.
    height, width
        Rows of the spectrogram and columns of the image.
    wavelet_rate
        Sampling rate of the scalogram in Hz.

    Returns
    -------
    image
        float32 `shape(representation, height, width)` in [0, 1].
    reference
        The power that 1 stands for; 0 for silence.
    """
    spectrogram, _, appended = representation.partition("_")
    if spectrogram == "stft":
        decibels, reference = to_unit(stft.stft_power(waveform_at(stft.RATE)))
        rows = resize(decibels, height, width)
    else:
        rows, reference = to_unit(morlet.scalogram(waveform_at(wavelet_rate), wavelet_rate, height, width))
    if appended:
        centroids = resize(tonnetz.tonnetz(waveform_at(tonnetz.RATE)), height // 4, width)
        rows = np.concatenate([rows, centroids])
    return np.clip(rows, 0, 1), reference


def to_unit(power: np.ndarray, top_db: float = TOP_DB) -> tuple[np.ndarray, float]:
    """Map power to [0, 1], linear in dB.

    Parameters
    ----------
    power
        float [rows, columns], at least 0.
    top_db
        Dynamic range: the maximum maps to 1, what lies `top_db` or more below it to 0.

    Returns
    -------
    image
        float32 [rows, columns]; 0 everywhere for silence.
    reference
        The maximum.
    """
    reference = float(power.max())
    if not reference > np.finfo(np.float32).tiny:
        return np.zeros(power.shape, np.float32), 0.0
    relative = np.maximum(power / reference, 10 ** (-top_db / 10))
    return (1 + 10 * np.log10(relative) / top_db).astype(np.float32), reference


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image with a triangle filter that widens with the reduction, so that nothing is skipped over.

    Parameters
    ----------
    image
        float [rows, columns].
    height, width
        The new size.

    Returns
    -------
    image
        float32 [height, width], within the range of the input.
    """
    rows, columns = _weights(image.shape[0], height), _weights(image.shape[1], width)
    resized: np.ndarray = (rows @ image) @ columns.T
    return resized.astype(np.float32)


def _weights(old: int, new: int) -> np.ndarray:
    """Weight [new, old] of each old row in each new one; every new row's weights sum to 1."""
    ratio = old / new
    distance = np.abs((np.arange(new)[:, None] + 0.5) * ratio - (np.arange(old) + 0.5)) / max(ratio, 1)
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
