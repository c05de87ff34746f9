import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from advtrack.data.clip import Clip, Dataset, decode
from advtrack.errors import InputError
from advtrack.representations import store
from advtrack.representations.image import at_rates, image

RATE = 8000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    clips = []
    for i in range(7):
        path = folder / f"clip-{i}.wav"
        soundfile.write(path, rng.normal(size=RATE // 2) / 10, RATE)
        clips.append(Clip(path, i % 3, i % 5 + 1, f"recording-{i // 2}"))
    return Dataset("sounds", ("a", "b", "c"), tuple(clips), duration=0.5, wavelet_rate=RATE)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SHARD", 3)


def extract(dataset, folder, representation="stft", **options):
    options = {"height": 16, "width": 12, "decode": decode, "digest": "d1", "workers": 1} | options
    return store.extract(dataset, representation, folder, **options)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("representation", ["stft", "dwt"])
def test_items_are_the_clips_in_order_and_images_theirs(dataset, tmp_path, small_shards, representation):
    spectrograms = extract(dataset, tmp_path / "s", representation)
    assert spectrograms.shape == (1, 16, 12)
    assert spectrograms.clip["duration"] == 0.5
    assert (spectrograms.clip["height"], spectrograms.clip["width"]) == (16, 12)
    assert spectrograms.classes == ("a", "b", "c")
    assert spectrograms.representation == representation
    assert spectrograms.y.dtype == spectrograms.fold.dtype == np.int64
    assert list(spectrograms.y) == [clip.label for clip in dataset.clips]
    assert list(spectrograms.fold) == [clip.fold for clip in dataset.clips]
    assert list(spectrograms.source) == [clip.source for clip in dataset.clips]
    assert list(spectrograms.name) == [clip.path.name for clip in dataset.clips]
    assert (spectrograms.scale == 1).all()
    indices = [6, 0, 3, 0]
    images = spectrograms.images(indices)
    assert images.shape == (4, 1, 16, 12)
    assert images.dtype == np.float32
    for computed, i in zip(images[:, 0], indices, strict=True):
        expected, _ = image(
            at_rates(*decode(dataset.clips[i].path), 0.5), representation, height=16, width=12, wavelet_rate=RATE
        )
        np.testing.assert_allclose(computed, expected, atol=2**-11)
    assert spectrograms.images([]).shape == (0, 1, 16, 12)
    with pytest.raises(IndexError):
        spectrograms.images([7])


def test_augmented_copies_follow_their_clip(dataset, tmp_path):
    spectrograms = extract(dataset, tmp_path / "s", augment=True)
    assert list(spectrograms.scale) == [1.0, 0.75, 0.9, 1.15, 1.5] * 7
    assert list(spectrograms.name[:6]) == ["clip-0.wav"] * 5 + ["clip-1.wav"]
    plain = extract(dataset, tmp_path / "plain")
    np.testing.assert_array_equal(spectrograms.images(np.arange(0, 35, 5)), plain.images(np.arange(7)))


def test_the_manifest_says_what_the_images_are(dataset, tmp_path):
    extract(dataset, tmp_path / "s", "dwt")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["data_digest"] == "d1"
    assert manifest["parameters"]["top_db"] == 80
    assert manifest["parameters"]["frequencies"][-1] == RATE / 2
    assert manifest["items"][1].keys() == {"name", "label", "fold", "source", "scale", "reference", "checksum"}


def test_an_interrupted_extraction_redoes_what_is_missing_only(dataset, tmp_path, small_shards):
    folder = tmp_path / "s"
    extract(dataset, folder)
    before = content(folder)
    (folder / "manifest.json").unlink()
    _, second, third = sorted(folder.glob("*.npy"))
    second.unlink()
    third.with_suffix(".json").unlink()
    (folder / f".{second.name}.left-over").write_bytes(b"half a shard")
    decoded = []
    extract(dataset, folder, decode=lambda path: decoded.append(path.name) or decode(path))
    assert decoded == ["clip-3.wav", "clip-4.wav", "clip-5.wav", "clip-6.wav"]
    after = content(folder)
    after.pop(f".{second.name}.left-over")
    assert after == before
    extract(dataset, folder, decode=None)  # all there: nothing is decoded


def test_a_damaged_image_is_found_and_rebuilt(dataset, tmp_path, small_shards):
    folder = tmp_path / "s"
    extract(dataset, folder)
    before = content(folder)
    shard = sorted(folder.glob("*.npy"))[1]
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    extract(dataset, folder)
    assert content(folder) == before


def test_the_bytes_do_not_depend_on_the_number_of_workers(dataset, tmp_path, small_shards):
    extract(dataset, tmp_path / "one", "dwt", workers=1)
    extract(dataset, tmp_path / "two", "dwt", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_digest_changes_with_data_and_parameters(dataset, tmp_path):
    digests = [
        extract(dataset, tmp_path / str(i), representation, **options).digest
        for i, (representation, options) in enumerate(
            [
                ("stft", {}),
                ("dwt", {}),
                ("stft", {"height": 20}),
                ("stft", {"digest": "d2"}),
                ("stft", {"augment": True}),
            ]
        )
    ]
    assert len(set(digests)) == 5
    with pytest.raises(InputError, match="other data or parameters"):
        extract(dataset, tmp_path / "0", digest="d2")


def test_a_bad_store_is_named(dataset, tmp_path):
    with pytest.raises(InputError, match="nothing-here holds no spectrogram store"):
        store.open_store(tmp_path / "nothing-here")
    folder = tmp_path / "s"
    extract(dataset, folder)
    manifest = (folder / "manifest.json").read_text()
    (shard,) = folder.glob("*.npy")
    whole = shard.read_bytes()
    for damaged in (whole[:200], b"", b"no numbers" * 100):
        shard.write_bytes(damaged)
        with pytest.raises(InputError, match=shard.name):
            store.open_store(folder)
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        store.open_store(folder)
    shard.write_bytes(whole)
    for damaged in (manifest[:100], "[]", "{}", manifest.replace('"label"', '"lebal"', 1)):
        (folder / "manifest.json").write_text(damaged)
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            store.open_store(folder)
    (folder / "manifest.json").write_text(manifest.replace('"version": 1', '"version": 99', 1))
    with pytest.raises(InputError, match="version 99"):
        store.open_store(folder)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"representation": "mfcc"}, "mfcc.*stft, dwt"),
        ({"height": 0}, "0 x 12"),
        ({"width": 0}, "16 x 0"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_bad_options_are_refused(dataset, tmp_path, options, complaint):
    with pytest.raises(InputError, match=complaint):
        extract(dataset, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_folder_that_cannot_be_made_is_named(dataset, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        extract(dataset, tmp_path / "file" / "s")


def test_a_bad_clip_is_named_and_leaves_no_manifest(dataset, tmp_path):
    @dataclass
    class Broken:
        clips: tuple
        name: str = "broken"
        classes: tuple = ("a", "b", "c")
        duration: float = 0.5
        wavelet_rate: int = RATE

    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"bad\.wav"):
        extract(Broken((*dataset.clips, Clip(Path(bad), 0, 1, "x"))), tmp_path / "s")
    assert not (tmp_path / "s" / "manifest.json").exists()
