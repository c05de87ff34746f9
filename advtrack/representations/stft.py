"""The short-time Fourier transform (paper, sections III and IV)."""

from __future__ import annotations

import librosa
import numpy as np

RATE = 22_050  # Hz, librosa's default and the paper's
N_FFT = 2048
HOP = 512


def stft_power(waveform: np.ndarray, n_fft: int = N_FFT, hop: int = HOP) -> np.ndarray:
    """Power spectrogram with a Hann window on padded, centred chunks.

    Parameters
    ----------
    waveform
        float32 [n], at least one sample, at `RATE`.
    n_fft, hop
        Window length and step in samples.

    Returns
    -------
    power
        float32 [n_fft / 2 + 1, 1 + n // hop]; row r is the frequency r * RATE / n_fft, the lowest first, and column c
        the chunk centred on sample c * hop.
    """
    # Zeros beyond both ends, since reflection needs more samples than a short clip has.
    return np.abs(librosa.stft(waveform, n_fft=n_fft, hop_length=hop, window="hann", pad_mode="constant")) ** 2
