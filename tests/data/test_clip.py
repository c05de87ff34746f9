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


def test_all_bad_files_are_found_at_once(esc_folder):
    folder = esc_folder(ROWS)
    (folder / "audio" / "a.wav").write_bytes(b"")
    (folder / "audio" / "c.wav").write_text("text")
    bad = clip.unusable(esc50.load(folder))
    assert [path.name for path in bad] == ["a.wav", "c.wav"]
    assert "is empty" in bad[folder / "audio" / "a.wav"] and "cannot be decoded" in bad[folder / "audio" / "c.wav"]
    assert not any("\n" in reason for reason in bad.values())


def test_a_long_list_is_cut_and_counted():
    assert clip.listed([f"f{i}" for i in range(14)]).endswith("f9; and 4 more")
    assert clip.listed(["a", "b"]) == "a; b"


def test_what_would_leak_is_reported(esc_folder):
    rows = [
        ("a.wav", 1, 0, "dog", "a"),
        ("b.wav", 2, 1, "rain", "b"),
        ("cc.wav", 3, 1, "rain", "b"),
        ("ee.wav", 3, 0, "dog", "e"),
    ]
    folder = esc_folder(rows)  # files whose names are as long have the same noise
    dataset = esc50.load(folder)
    found = clip.leaks(dataset, clip.checksums(dataset))
    assert found == [
        "recording b is filed under folds 2, 3",
        "a.wav, b.wav are the same bytes",
        "cc.wav, ee.wav are the same bytes",
    ]


def test_the_digest_depends_on_content_and_not_on_place_or_order(esc_folder, tmp_path):
    folder = esc_folder(ROWS)
    dataset = esc50.load(folder)

    def digest(dataset):
        return clip.digest(dataset, clip.checksums(dataset))

    before = digest(dataset)
    assert len(before) == 16
    moved = tmp_path / "moved"
    folder.rename(moved)
    dataset = esc50.load(moved)
    assert digest(replace(dataset, clips=dataset.clips[::-1])) == before
    assert digest(replace(dataset, clips=(replace(dataset.clips[0], label=1), *dataset.clips[1:]))) != before
    assert digest(replace(dataset, clips=dataset.clips[1:])) != before
    assert digest(replace(dataset, classes=("cat", "rain"))) != before
    sound = dataset.clips[0].path
    changed = bytearray(sound.read_bytes())
    changed[-1] ^= 1
    sound.write_bytes(changed)
    assert digest(dataset) != before
