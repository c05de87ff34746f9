"""Pitch shift in the time domain, the paper's augmentation (section V)."""

from __future__ import annotations

import librosa
import numpy as np

SCALES = (0.75, 0.9, 1.15, 1.5)  # factors on every frequency


def pitch_shift(waveform: np.ndarray, rate: int, scale: float) -> np.ndarray:
    """Multiply every frequency by a factor and keep the duration.

    Parameters
    ----------
    waveform
        float32 [n].
    rate
        Its sampling rate in Hz.
    scale
        The factor, above 0.

    Returns
    -------
    waveform
        float32 [n].
    """
    shifted: np.ndarray = librosa.effects.pitch_shift(waveform, sr=rate, n_steps=12 * np.log2(scale))
    return shifted
