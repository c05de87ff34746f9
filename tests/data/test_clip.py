from dataclasses import replace

import numpy as np
import pytest
import soundfile

from advtrack.data import clip, esc50
from advtrack.errors import InputError

ROWS = [("a.wav", 1, 0, "dog", "a"), ("b.wav", 1, 1, "rain", "b"), ("c.wav", 2, 1, "rain", "c")]


def test_mono_is_the_mean_of_the_channels(tmp_path):
    left, right = np.full(100, 0.5), np.full(100, -0.25)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 11_025, "FLOAT")
    waveform, rate = clip.decode(tmp_path / "stereo.wav")
    assert rate == 11_025
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, 0.125)


def _not_audio(path):
    path.write_text("this is not a sound")


def _truncated(path):
    soundfile.write(path, np.zeros(1000), 8000)
    path.write_bytes(path.read_bytes()[:20])


def _with_nan(path):
    soundfile.write(path, np.array([0.0, np.nan, 0.0]), 8000, "FLOAT")


def _with_infinity(path):
    soundfile.write(path, np.array([0.0, np.inf, 0.0]), 8000, "FLOAT")


def _no_samples(path):
    soundfile.write(path, np.zeros(0), 8000)


@pytest.mark.parametrize(
    "spoil", [lambda path: path.touch(), _not_audio, _truncated, _with_nan, _with_infinity, _no_samples]
)
def test_a_bad_file_is_named(tmp_path, spoil):
    path = tmp_path / "spoilt.wav"
    spoil(path)
    with pytest.raises(InputError, match=r"spoilt\.wav"):
        clip.decode(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.wav"):
        clip.decode(tmp_path / "gone.wav")


def test_check_lists_all_bad_files_at_once(esc_folder):
    folder = esc_folder(ROWS)
    (folder / "audio" / "a.wav").write_bytes(b"")
    (folder / "audio" / "c.wav").write_text("text")
    with pytest.raises(InputError, match=r"2 of 3 clips.*a\.wav is empty.*c\.wav cannot be decoded") as caught:
        clip.check(esc50.load(folder))
    assert "\n" not in str(caught.value)


def test_check_counts_what_it_does_not_list(esc_folder):
    folder = esc_folder([(f"{i}.wav", 1, 0, "dog", i) for i in range(14)])
    for path in (folder / "audio").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"14 of 14.*and 4 more"):
        clip.check(esc50.load(folder))


def test_resampling_keeps_a_tone_below_both_nyquist_frequencies():
    time = np.arange(44_100) / 44_100
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    resampled = clip.resample(tone, 44_100, 16_000)
    assert len(resampled) == 16_000
    expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(resampled[500:-500], expected[500:-500], atol=1e-3)


def test_the_digest_depends_on_content_and_not_on_place_or_order(esc_folder, tmp_path):
    folder = esc_folder(ROWS)
    dataset = esc50.load(folder)
    before = clip.digest(dataset)
    assert len(before) == 16
    moved = tmp_path / "moved"
    folder.rename(moved)
    dataset = esc50.load(moved)
    assert clip.digest(replace(dataset, clips=dataset.clips[::-1])) == before
    assert clip.digest(replace(dataset, clips=(replace(dataset.clips[0], label=1), *dataset.clips[1:]))) != before
    assert clip.digest(replace(dataset, clips=dataset.clips[1:])) != before
    assert clip.digest(replace(dataset, classes=("cat", "rain"))) != before
    sound = dataset.clips[0].path
    changed = bytearray(sound.read_bytes())
    changed[-1] ^= 1
    sound.write_bytes(changed)
    assert clip.digest(dataset) != before
