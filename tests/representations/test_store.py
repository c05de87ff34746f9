"""Stores that are not as they were written."""

import numpy as np
import pytest
import soundfile

from advtrack.data.clip import Clip, Dataset, decode
from advtrack.errors import InputError
from advtrack.representations.extract import extract
from advtrack.representations.image import ImageSettings
from advtrack.representations.store import VERSION, intact, open_store


@pytest.fixture
def folder(tmp_path):
    """The folder of a small store."""
    sound = tmp_path / "clip.wav"
    soundfile.write(sound, np.random.default_rng(0).normal(size=4000) / 10, 8000)
    dataset = Dataset("sounds", ("a",), (Clip(sound, 0, 1, "recording"),), duration=0.5, wavelet_rate=8000)
    settings = ImageSettings(height=16, width=12, duration=0.5, wavelet_rate=8000)
    stores = extract(
        dataset, ["stft"], tmp_path / "stores", settings, decode=decode, checksums=["c"], data_digest="d", workers=1
    )
    return stores["stft"].path


def test_a_bad_store_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="nothing-here holds no spectrogram store"):
        open_store(tmp_path / "nothing-here")
    assert not intact(tmp_path / "nothing-here")
    manifest = (folder / "manifest.json").read_text()
    (shard,) = folder.glob("*.npy")
    whole = shard.read_bytes()
    for damaged in (whole[:200], b"", b"no numbers" * 100):
        shard.write_bytes(damaged)
        with pytest.raises(InputError, match=shard.name):
            open_store(folder)
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        open_store(folder)
    shard.write_bytes(whole)
    for damaged in (manifest[:100], "[]", "{}", manifest.replace('"label"', '"lebal"', 1)):
        (folder / "manifest.json").write_text(damaged)
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            open_store(folder)
    (folder / "manifest.json").write_text(manifest.replace(f'"version": {VERSION}', '"version": 99', 1))
    with pytest.raises(InputError, match="version 99"):
        open_store(folder)
