import numpy as np
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve
from scipy.signal.windows import blackmanharris
from scipy.special import erf

from advtrack.representations import morlet


def direct(waveform, rate, rows, finer=1, before=0):
    """The definition in float64: power of the convolution with the wavelet, at the samples or ``finer`` times as often.

    The first ``before`` of these times lie before the first sample.
    """
    power = []
    for centre in morlet.frequencies(rate, rows):
        scale = rate * morlet.CENTRE / centre  # in samples
        reach = (int(8 * scale) + 1) * finer
        time = np.arange(-reach, reach + 1) / (scale * finer)
        wavelet = np.exp(-(time**2) / morlet.BANDWIDTH + 2j * np.pi * morlet.CENTRE * time)
        wavelet /= np.sqrt(np.pi * morlet.BANDWIDTH * scale)
        spread = np.zeros(len(waveform) * finer)
        spread[::finer] = waveform
        transform = fftconvolve(spread, np.conj(wavelet[::-1]))[reach - before : reach - before + len(spread)]
        power.append(np.abs(transform) ** 2)
    return np.array(power)


def signals(n, rate):
    time = np.arange(n) / rate
    click = np.zeros(n)
    click[n // 3 + 7] = 1
    return {
        "noise": np.random.default_rng(0).normal(size=n),
        "click": click,
        "tone": np.sin(2 * np.pi * rate / 16 * time),
        "tone at Nyquist's edge": np.sin(2 * np.pi * 0.499 * rate * time),
        "sweep": np.sin(2 * np.pi * (40 + rate / 20 * time) * time),
        "offset": np.ones(n),
        # On either side of rows in between, 4 standard deviations of their bands away: there they beat, 70 dB lower.
        "two faded tones": np.hanning(n) * np.sin(2 * np.pi * rate / 20 * time * np.array([[0.264], [1.736]])).sum(0),
        "loud click in a quiet tone": click + 0.001 * np.sin(2 * np.pi * 440 * time),
    }


@pytest.mark.parametrize("signal", signals(64, 64))
@pytest.mark.parametrize(("rate", "n", "rows", "columns"), [(16_000, 40_000, 32, 100), (8_000, 16_000, 24, 400)])
def test_equal_to_direct_convolution_at_every_scale(signal, rate, n, rows, columns):
    waveform = signals(n, rate)[signal].astype(np.float32)
    full = direct(waveform, rate, rows)
    pooled = full.reshape(rows, columns, -1).mean(axis=2)
    error = np.abs(morlet.scalogram(waveform, rate, rows, columns) - pooled).max(axis=1)
    assert (error <= 1e-4 * pooled.max(axis=1)).all()
    error = np.abs(morlet.point_scalogram(waveform, rate, rows, columns) - full[:, :: n // columns]).max(axis=1)
    assert (error <= 1e-4 * full.max(axis=1)).all()


@pytest.mark.parametrize("signal", ["noise", "click", "sweep", "two faded tones"])
@pytest.mark.parametrize("columns", [224, 96])
def test_equal_to_direct_convolution_where_columns_end_between_samples(signal, columns):
    """The paper's UrbanSound8K: 32,000 samples in 224 columns of 142.86 each. Every edge is a multiple of 1 / 7."""
    rate, n, rows = 8_000, 32_000, 5
    waveform = signals(n, rate)[signal].astype(np.float32)
    finer = 8 * columns // np.gcd(n, columns)
    # A sample stands for the time from half a sample before it to half a sample after: so do its four parts' middles.
    parts = direct(waveform, rate, rows, finer, before=finer // 2 - 1)[:, ::2]
    pooled = parts.reshape(rows, columns, -1).mean(axis=2)
    error = np.abs(morlet.scalogram(waveform, rate, rows, columns) - pooled).max(axis=1)
    assert (error <= 1e-4 * pooled.max(axis=1)).all()
    full = direct(waveform, rate, rows, finer)
    points = full[:, :: n * finer // columns]
    error = np.abs(morlet.point_scalogram(waveform, rate, rows, columns) - points).max(axis=1)
    assert (error <= 1e-4 * full.max(axis=1)).all()


def beating(n, rate, centre, beside):
    """Two faded tones, each so many standard deviations of the band at ``centre`` away from it: there they beat."""
    away = beside * morlet._SPREAD * centre
    tones = np.sin(2 * np.pi / rate * np.array([[centre - away], [centre + away]]) * np.arange(n)).sum(axis=0)
    return tones * blackmanharris(n)


@pytest.mark.parametrize("beside", [4.5, 5.0, 5.5, 5.8])
@pytest.mark.parametrize(("columns", "row"), [(100, 9), (100, 16), (100, 19), (1600, 9), (1600, 17), (32, 14)])
def test_rows_far_below_the_loudest_are_as_exact(columns, row, beside):
    """From 85 to 140 dB below. Low rows see the clip as one frame, high ones in several, whose ends must be silent."""
    rate, n, rows = 8_000, 16_000, 24
    centre = morlet.frequencies(rate, rows)[row]
    waveform = beating(n, rate, centre, beside).astype(np.float32)
    pooled = direct(waveform, rate, rows)[row].reshape(columns, -1).mean(axis=1)
    power = morlet.scalogram(waveform, rate, rows, columns)
    assert pooled.max() < 1e-8 * power.max()
    assert np.abs(power[row] - pooled).max() <= 1e-4 * pooled.max()


@pytest.mark.parametrize("beside", [4.8, 5.3, 5.8])
def test_so_they_are_where_columns_end_between_samples(beside):
    rate, n, rows, columns, row = 8_000, 32_000, 5, 224, 3
    waveform = beating(n, rate, morlet.frequencies(rate, rows)[row], beside).astype(np.float32)
    parts = direct(waveform, rate, rows, 112, before=55)[row, ::2]
    pooled = parts.reshape(columns, -1).mean(axis=1)
    power = morlet.scalogram(waveform, rate, rows, columns)
    assert pooled.max() < 1e-8  # tones at the row's own frequency would have about 1
    assert np.abs(power[row] - pooled).max() <= 1e-4 * pooled.max()


@pytest.mark.parametrize("beside", [3.5, 4.0, 4.3, 5.0])
def test_narrow_columns_at_the_nyquist_edge(beside):
    """A tone below Nyquist beats with its own mirror image in the top rows, nearly twice in each sample."""
    rate, n, columns, rows = 8_000, 3_200, 224, 24
    tone = np.sin(np.pi * (1 - beside * morlet._SPREAD) * np.arange(n) + 0.4)
    waveform = (tone * np.hanning(n)).astype(np.float32)
    parts = direct(waveform, rate, rows, 112, before=55)[-3:, ::2]
    pooled = parts.reshape(3, columns, -1).mean(axis=2)
    error = np.abs(morlet.scalogram(waveform, rate, rows, columns)[-3:] - pooled).max(axis=1)
    assert (error <= 1e-4 * pooled.max(axis=1)).all()


@pytest.mark.parametrize(
    ("n", "rate", "rows", "columns", "position"),
    [
        (80_000, 16_000, 224, 224, 1070),
        (32_000, 8_000, 24, 300, 534),
        (5000, 16_000, 40, 24, 1042),
        (1001, 1000, 9, 8, 0),
    ],
)
def test_a_click_in_closed_form(n, rate, rows, columns, position):
    """Its power is the wavelet's squared envelope, a Gaussian, whose mean over a column is a difference of erf."""
    click = np.zeros(n, np.float32)
    click[position] = 1
    power = morlet.scalogram(click, rate, rows, columns)
    ends = np.arange(columns + 1) * n / columns - 0.5 - position
    for row, centre in enumerate(morlet.frequencies(rate, rows)):
        scale = rate * morlet.CENTRE / centre
        share = np.diff(erf(np.sqrt(2 / morlet.BANDWIDTH) / scale * ends)) / 2
        expected = share / np.sqrt(2 * np.pi * morlet.BANDWIDTH) * columns / n
        assert np.abs(power[row] - expected).max() <= 1e-5 * expected.max()


def test_silence_beside_a_loud_sound_stays_silent():
    """What a short clip is filled with is 0 in an image of 120 dB."""
    rate, n = 16_000, 80_000
    waveform = np.zeros(n, np.float32)
    waveform[: n // 10] = np.random.default_rng(0).normal(size=n // 10)
    power = morlet.scalogram(waveform, rate, 64, 224)
    assert power[32:, 112:].max() < 1e-12 * power.max()


def test_close_to_pywavelets():
    # pywt.cwt does not convolve with the wavelet: it convolves with the differences of its integral, sampled at 2 **
    # precision points from -8 to 8 and looked up by index without interpolation. The error of that look-up falls with
    # precision. What remains is that a difference of the integral is the wavelet's mean over one sample: a factor
    # sinc(f / rate) on its spectrum, negligible well below Nyquist and 0.64 (in amplitude) there.
    rate, n, columns = 8_000, 8_000, 50
    waveform = np.random.default_rng(1).normal(size=n).astype(np.float32)
    centres = morlet.frequencies(rate, 24)
    coefficients, _ = pywt.cwt(waveform.astype(float), rate / centres, "cmor1.5-1.0", method="fft", precision=16)
    expected = (np.abs(coefficients) ** 2).reshape(24, columns, -1).mean(axis=2)
    power = morlet.scalogram(waveform, rate, 24, columns)
    below = centres < rate / 40
    np.testing.assert_allclose(power[below], expected[below], atol=0.02 * expected.max())
    ratio = (expected / power).mean(axis=1)[~below]
    np.testing.assert_allclose(ratio, np.sinc(centres[~below] / rate) ** 2, rtol=0.1)


@pytest.mark.parametrize("frequency", [50, 440, 1000, 3000, 5000])
def test_a_tone_lands_on_its_row(frequency):
    rate, rows = 16_000, 96
    tone = np.sin(2 * np.pi * frequency * np.arange(2 * rate) / rate).astype(np.float32)
    row = morlet.scalogram(tone, rate, rows, 20).mean(axis=1).argmax()
    # The factor scale in the power draws the maximum 1.6% below the tone; rows are 7% apart.
    assert row == np.abs(np.log(morlet.frequencies(rate, rows) / (frequency / 1.016))).argmin()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 31_999))
def test_a_click_anywhere_lands_on_its_column(position):
    click = np.zeros(32_000, np.float32)
    click[position] = 1
    power = morlet.scalogram(click, 8_000, 16, 224)[-4:].sum(axis=0)
    inside = position * 224 / 32_000
    assert power.argmax() == int(inside) or min(inside % 1, 1 - inside % 1) < 0.03  # between two columns: either
    assert power[int(inside)] > 0.2 * power.sum()


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 6000),
    rate=st.integers(100, 192_000),
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_any_length_and_rate(n, rate, rows, columns, seed):
    n = max(n, rate * columns // 400_000)  # at most 33: shorter ones are refused, as the next test shows
    waveform = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    power = morlet.scalogram(waveform, rate, rows, columns)
    assert power.shape == (rows, columns)
    assert power.dtype == np.float32
    assert np.isfinite(power).all() and (power >= 0).all()


@pytest.mark.parametrize("of", [morlet.scalogram, morlet.point_scalogram])
def test_a_clip_too_short_for_its_columns_is_refused(of):
    with pytest.raises(ValueError, match="1 samples at 192000 Hz are too short a clip for 70 columns"):
        of(np.ones(1, np.float32), 192_000, 40, 70)


def test_silence_has_no_power():
    assert not morlet.scalogram(np.zeros(8000, np.float32), 8000, 32, 32).any()
