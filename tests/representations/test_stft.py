import numpy as np
import pytest

from advtrack.representations.stft import RATE, stft_power


@pytest.mark.parametrize("frequency", [100, 440, 3000, 10_000])
def test_a_tone_lands_on_its_row_with_its_power(frequency):
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE).astype(np.float32)
    power = stft_power(tone)
    assert power.shape == (1025, 1 + RATE // 512)
    middle = power[:, 10:-10].mean(axis=1)
    assert middle.argmax() == round(frequency * 2048 / RATE)
    # Parseval, one-sided: half of sum(window ** 2) * mean square * n_fft, a Hann window's squares summing to 3/8 n_fft.
    assert middle.sum() == pytest.approx(0.5 * 3 / 8 * 2048**2 * 0.125, rel=0.01)


@pytest.mark.parametrize("position", [0, 5_000, 22_049])
def test_a_click_lands_on_its_column(position):
    click = np.zeros(RATE, np.float32)
    click[position] = 1
    assert stft_power(click).sum(axis=0).argmax() == round(position / 512)


@pytest.mark.filterwarnings("ignore:n_fft")
@pytest.mark.parametrize("n", [1, 511, 512, 2047, 2049, 30_000])
def test_any_length(n):
    power = stft_power(np.ones(n, np.float32))
    assert power.shape == (1025, 1 + n // 512)
    assert np.isfinite(power).all()
