from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advtrack.representations import REPRESENTATIONS, morlet
from advtrack.representations import image as module
from advtrack.representations.image import ImageSettings, fit, images, resize, to_unit

# Two seconds are short for the lowest octaves of librosa's tuning estimate; no data set has such clips.
pytestmark = pytest.mark.filterwarnings("ignore:n_fft")


SETTINGS = ImageSettings(height=64, width=48, duration=2.0, wavelet_rate=8000)


def picture(waveform, rate, representation, scale=1.0, **changes):
    return images(waveform, rate, [representation], replace(SETTINGS, **changes), scale)[representation]


def tone(frequency, rate=22_050, duration=2.0):
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * duration)) / rate).astype(np.float32)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_size_range_and_reference(representation):
    noise = np.random.default_rng(0).normal(size=44_100).astype(np.float32)
    pixels, reference = picture(noise, 22_050, representation)
    assert pixels.shape == SETTINGS.shape(representation) == (80 if "tonnetz" in representation else 64, 48)
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0 and 0.8 < pixels.max() <= 1
    assert reference > 0


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_silence_is_black(representation):
    pixels, reference = picture(np.zeros(44_100, np.float32), 22_050, representation)
    assert reference == 0
    assert (pixels[:64] == 0).all()
    np.testing.assert_allclose(pixels[64:], 0.5, atol=1e-6)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_a_gain_changes_only_the_reference(representation):
    sound = tone(600) + 0.1 * np.random.default_rng(0).normal(size=44_100).astype(np.float32)
    loud, quiet = picture(sound, 22_050, representation), picture(sound / 8, 22_050, representation)
    np.testing.assert_allclose(loud[0], quiet[0], atol=1e-4)
    assert loud[1] / quiet[1] == pytest.approx(64, rel=1e-4)


@pytest.mark.parametrize(("rate", "new_rate"), [(48_000, 22_050), (8_000, 22_050), (44_100, 16_000), (192_000, 8_000)])
def test_a_resampled_tone_is_the_tone_and_what_does_not_fit_is_gone(rate, new_rate):
    """To -80 dB, away from the ends: the images show no more."""
    inner = slice(new_rate // 10, -new_rate // 10)
    kept = module._resample(tone(1000, rate), rate, new_rate)
    np.testing.assert_allclose(kept[inner], tone(1000, new_rate)[inner], atol=1e-4)
    if rate > new_rate:
        gone = module._resample(tone(0.6 * new_rate, rate), rate, new_rate)
        assert np.abs(gone[inner]).max() < 1e-4


def test_a_tone_lands_on_its_row_of_the_stft():
    pixels, _ = picture(tone(3000), 22_050, "stft", height=128)
    assert pixels.mean(axis=1).argmax() == int(3000 / 11_025 * 128)


def test_a_tone_lands_on_its_row_of_the_scalogram():
    pixels, _ = picture(tone(600), 22_050, "dwt")
    assert pixels.mean(axis=1).argmax() == np.abs(np.log(morlet.frequencies(8000, 64) / 600)).argmin()


@pytest.mark.parametrize("representation", ["stft", "dwt"])
@pytest.mark.parametrize("second", [0.3, 1.02, 1.9])
def test_a_click_lands_on_its_column(representation, second):
    click = np.zeros(44_100, np.float32)
    click[int(second * 22_050)] = 1
    pixels, _ = picture(click, 22_050, representation)
    assert abs(pixels[32:].mean(axis=0).argmax() - int(second / 2 * 48)) <= 1


def test_a_short_clip_is_followed_by_silence_and_a_long_one_cut():
    short = fit(np.ones(10, np.float32), 10, 2.0)
    np.testing.assert_array_equal(short, [1] * 10 + [0] * 10)
    np.testing.assert_array_equal(fit(np.arange(30), 10, 2.0), np.arange(20))


def test_a_shifted_clip_is_as_long_and_as_high_as_asked():
    pixels, _ = picture(tone(1000), 22_050, "stft", scale=1.5, height=128)
    assert pixels.mean(axis=1).argmax() == int(1500 / 11_025 * 128)


def test_decibels():
    power = np.array([[1.0, 10.0, 1e-3], [1e-7, 1e-9, 0.0]])
    pixels, reference = to_unit(power, SETTINGS)
    assert reference == 10
    np.testing.assert_allclose(pixels, [[7 / 8, 1, 4 / 8], [0, 0, 0]], atol=1e-6)
    pixels, _ = to_unit(power, replace(SETTINGS, top_db=100))
    np.testing.assert_allclose(pixels, [[9 / 10, 1, 6 / 10], [2 / 10, 0, 0]], atol=1e-6)
    pixels, reference = to_unit(power, replace(SETTINGS, reference_db=0))
    assert reference == 1
    np.testing.assert_allclose(pixels, [[1, 1, 5 / 8], [1 / 8, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("representation", ["stft", "dwt"])
def test_under_a_common_reference_a_quiet_clip_stays_darker(representation):
    noise = np.random.default_rng(0).normal(size=44_100).astype(np.float32)
    loud, reference = picture(noise, 22_050, representation, reference_db=70, top_db=200)
    quiet, same = picture(noise / 10, 22_050, representation, reference_db=70, top_db=200)
    assert reference == same == pytest.approx(1e7)
    np.testing.assert_allclose(loud - quiet, 20 / 200, atol=1e-4)


def test_images_of_one_pass_are_those_of_single_passes(monkeypatch):
    noise, calls = np.random.default_rng(0).normal(size=40_000).astype(np.float32), []
    original = module.tonnetz.tonnetz
    monkeypatch.setattr(module.tonnetz, "tonnetz", lambda waveform: calls.append(1) or original(waveform))
    together = images(noise, 22_050, REPRESENTATIONS, SETTINGS, 1.15)
    assert len(calls) == 1
    for representation in REPRESENTATIONS:
        alone = picture(noise, 22_050, representation, 1.15)
        np.testing.assert_array_equal(together[representation][0], alone[0])
        assert together[representation][1] == alone[1]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_resizing_keeps_range_and_constants_and_misses_no_pixel(rows, columns, height, width, seed):
    pixels = np.random.default_rng(seed).random((rows, columns), np.float32)
    resized = resize(pixels, height, width)
    assert resized.shape == (height, width)
    assert pixels.min() - 1e-6 <= resized.min() and resized.max() <= pixels.max() + 1e-6
    np.testing.assert_allclose(resize(np.full((rows, columns), 0.3), height, width), 0.3, atol=1e-6)
    point = np.zeros((rows, columns))
    point[seed % rows, seed % columns] = 1
    if height <= rows and width <= columns:
        assert resize(point, height, width).any()
    np.testing.assert_allclose(resize(pixels, rows, columns), pixels, atol=1e-6)


@settings(deadline=None, max_examples=12)
@given(
    n=st.integers(1, 50_000),
    rate=st.sampled_from([8_000, 11_025, 22_050, 44_100, 96_000, 192_000]),
    representation=st.sampled_from(["stft", "dwt"]),
    seed=st.integers(0, 9),
)
def test_any_length_and_rate(n, rate, representation, seed):
    noise = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    pixels, _ = picture(noise, rate, representation, height=32, width=20)
    assert pixels.shape == (32, 20)
    assert np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1
