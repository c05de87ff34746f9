"""The short-time Fourier transform (paper, sections III and IV)."""

from __future__ import annotations

import librosa
import numpy as np

RATE = 22_050  # Hz, librosa's default and the paper's
N_FFT = 2048
HOP = 512


def stft_power(waveform: np.ndarray) -> np.ndarray:
    """Power spectrogram with a Hann window on padded, centred chunks.

    Parameters
    ----------
    waveform
        float32 [n], at least one sample, at `RATE`.

    Returns
    -------
    power
        float32 [`N_FFT` / 2 + 1, 1 + n // `HOP`]; row r is the frequency r * RATE / N_FFT, the lowest first, and column
        c the chunk centred on sample c * HOP.
    """
    # Zeros beyond both ends, since reflection needs more samples than a short clip has.
    return np.abs(librosa.stft(waveform, n_fft=N_FFT, hop_length=HOP, window="hann", pad_mode="constant")) ** 2
