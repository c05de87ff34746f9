"""From a waveform to an image in [0, 1], one for each of the four representations.

Row 0 is the lowest frequency in every spectrogram; the tonnetz rows of `stft_tonnetz` and `dwt_tonnetz` come after
the highest.

A clip shorter than its data set's duration is filled with zeros at the end, and a longer one cut there. Repeating a
short clip instead would invent a rhythm, and its seams clicks, that the recording does not have; silence maps to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr

from advtrack.representations import morlet, stft, tonnetz
from advtrack.representations.pitch_shift import pitch_shift


@dataclass(frozen=True)
class ImageSettings:
    """What an image depends on beside its clip; kept with every store and every victim.

    Attributes
    ----------
    height, width
        Rows of the spectrogram (the tonnetz adds ``height // 4``) and columns of the image.
    duration
        Seconds the clip is cut or filled to.
    wavelet_rate
        Sampling rate of the scalogram in Hz.
    top_db
        Dynamic range: what lies so many decibels or more below the reference is 0.
    reference_db
        The power, in decibels, that is 1; None for each clip's own maximum. Power above it is 1 too.
    """

    height: int
    width: int
    duration: float
    wavelet_rate: int
    top_db: float = 80.0
    reference_db: float | None = None

    def shape(self, representation: str) -> tuple[int, int]:
        """Rows and columns of an image."""
        rows = self.height + self.height // 4 if representation.endswith("_tonnetz") else self.height
        return rows, self.width


def images(
    waveform: np.ndarray, rate: int, representations: Sequence[str], settings: ImageSettings, scale: float = 1.0
) -> dict[str, tuple[np.ndarray, float]]:
    """Compute one clip's images; what representations have in common is computed once.

    Parameters
    ----------
    waveform
        float32 [n], mono, at `rate` Hz.
    rate
        Its sampling rate.
    representations
        Of `advtrack.representations.REPRESENTATIONS`.
    settings
        How.
    scale
        Pitch shift: factor on every frequency, applied at 22.05 kHz.

    Returns
    -------
    dict
        For each representation its image, float32 `settings.shape(representation)` in [0, 1], and the power that 1
        stands for, 0 for silence under a reference of its own.
    """
    if scale != 1:
        at_stft_rate = fit(_resample(waveform, rate, stft.RATE), stft.RATE, settings.duration)
        waveform, rate = pitch_shift(at_stft_rate, stft.RATE, scale), stft.RATE

    @cache
    def at(new_rate: int) -> np.ndarray:
        return fit(_resample(waveform, rate, new_rate), new_rate, settings.duration)

    @cache
    def spectrogram(kind: str) -> tuple[np.ndarray, float]:
        if kind == "stft":
            decibels, reference = to_unit(stft.stft_power(at(stft.RATE)), settings)
            return resize(decibels, settings.height, settings.width), reference
        power = morlet.scalogram(at(settings.wavelet_rate), settings.wavelet_rate, settings.height, settings.width)
        return to_unit(power, settings)

    @cache
    def centroids() -> np.ndarray:
        return resize(tonnetz.tonnetz(at(tonnetz.RATE)), settings.height // 4, settings.width)

    found = {}
    for representation in representations:
        kind, _, appended = representation.partition("_")
        rows, reference = spectrogram(kind)
        if appended:
            rows = np.concatenate([rows, centroids()])
        found[representation] = np.clip(rows, 0, 1), reference
    return found


def fit(waveform: np.ndarray, rate: int, duration: float) -> np.ndarray:
    """Cut a waveform [n] at `duration` seconds, or fill it with zeros at the end: float32 [rate * duration]."""
    length = round(rate * duration)
    return np.pad(waveform[:length].astype(np.float32, copy=False), (0, max(0, length - len(waveform))))


def _resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Band-limited to the lower of the two Nyquist frequencies (soxr HQ)."""
    return waveform if rate == new_rate else soxr.resample(waveform, rate, new_rate, quality="HQ")


def to_unit(power: np.ndarray, settings: ImageSettings) -> tuple[np.ndarray, float]:
    """Map power to [0, 1], linear in dB.

    Parameters
    ----------
    power
        float [rows, columns], at least 0.
    settings
        Its `top_db` and `reference_db` count.

    Returns
    -------
    image
        float32 [rows, columns]; 0 everywhere for silence.
    reference
        The power that 1 stands for.
    """
    fixed = settings.reference_db
    reference = float(power.max()) if fixed is None else 10 ** (fixed / 10)
    if not reference > np.finfo(np.float32).tiny:
        return np.zeros(power.shape, np.float32), 0.0
    relative = np.clip(power / reference, 10 ** (-settings.top_db / 10), 1)
    return (1 + 10 * np.log10(relative) / settings.top_db).astype(np.float32), reference


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
