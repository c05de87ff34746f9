"""Sound for the report: a clip as the smallest file that every browser plays."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

# Ours: enough to recognise a sound by.
_RATE = 22_050


@dataclass(frozen=True)
class Sound:
    """A clip to be played.

    Attributes
    ----------
    mp3 : bytes
        The sound.
    credit : str
        Its author and licence.
    """

    mp3: bytes
    credit: str


def to_mp3(waveform: NDArray[np.floating], rate: int) -> bytes:
    """Compress a waveform.

    Parameters
    ----------
    waveform : ndarray, shape (N,)
        Samples in [-1, 1].
    rate : int
        Their sampling rate in Hz.

    Returns
    -------
    bytes
        MP3 of 22.05 kHz.
    """
    buffer = io.BytesIO()
    samples = np.clip(soxr.resample(np.asarray(waveform, np.float32), rate, _RATE), -1, 1)
    soundfile.write(buffer, samples, _RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.7)
    return buffer.getvalue()
