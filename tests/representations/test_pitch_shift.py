import numpy as np
import pytest

from advtrack.representations.pitch_shift import SCALES, pitch_shift


@pytest.mark.parametrize("scale", SCALES)
def test_frequencies_are_multiplied_and_the_length_is_kept(scale):
    rate = 22_050
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    shifted = pitch_shift(tone, rate, scale)
    assert shifted.shape == tone.shape
    assert np.abs(np.fft.rfft(shifted)).argmax() == pytest.approx(1000 * scale, rel=0.005)  # bins of 1 Hz
