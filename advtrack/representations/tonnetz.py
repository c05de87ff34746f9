"""Tonal centroids (paper, section IV): the six-dimensional tonnetz, as an addition to a spectrogram."""

from __future__ import annotations

import warnings

import librosa
import numpy as np

RATE = 22_050  # Hz, librosa's default and the paper's


def tonnetz(waveform: np.ndarray) -> np.ndarray:
    """Tonal centroids by librosa's defaults, mapped from [-1, 1] to [0, 1] by (t + 1) / 2.

    Parameters
    ----------
    waveform
        float32 [n] at `RATE`.

    Returns
    -------
    centroids
        float32 [6, 1 + n // 512] in [0, 1]: x and y on the circles of fifths, minor thirds and major thirds. Silence
        has no tonal centre: it lies in the middle of the circles, at 0.5.
    """
    with warnings.catch_warnings():
        # Where it finds no pitch, librosa takes A4 for 440 Hz, which is what is wanted.
        warnings.filterwarnings("ignore", "Trying to estimate tuning")
        centroids = librosa.feature.tonnetz(y=waveform, sr=RATE)
    return np.clip((centroids + 1) / 2, 0, 1).astype(np.float32)
