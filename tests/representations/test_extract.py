"""Extraction: one pass, killed or not, over data that change."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from advtrack.data.clip import Clip, Dataset, decode
from advtrack.errors import InputError
from advtrack.representations import extract as module
from advtrack.representations import unfinished
from advtrack.representations.image import ImageSettings, images
from advtrack.representations.store import intact

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
    monkeypatch.setattr(module, "SHARD", 3)


SETTINGS = ImageSettings(height=16, width=12, duration=0.5, wavelet_rate=RATE)


def extract(dataset, root, representation="stft", **options):
    checksums = [clip.path.name for clip in dataset.clips]
    options = {"decode": decode, "checksums": checksums, "workers": 1, "settings": SETTINGS} | options
    options.setdefault("data_digest", "d1")
    return module.extract(dataset, [representation], root, **options)[representation]


def content(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def only(root):
    """The one store under a root."""
    (folder,) = root.iterdir()
    return folder


@pytest.mark.parametrize("representation", ["stft", "dwt"])
def test_items_are_the_clips_in_order_and_images_theirs(dataset, tmp_path, small_shards, representation):
    spectrograms = extract(dataset, tmp_path / "s", representation)
    assert spectrograms.shape == (1, 16, 12)
    assert spectrograms.settings == SETTINGS
    assert spectrograms.classes == ("a", "b", "c")
    assert spectrograms.representation == representation
    assert spectrograms.y.dtype == spectrograms.fold.dtype == np.int64
    assert list(spectrograms.y) == [clip.label for clip in dataset.clips]
    assert list(spectrograms.fold) == [clip.fold for clip in dataset.clips]
    assert list(spectrograms.source) == [clip.source for clip in dataset.clips]
    assert list(spectrograms.name) == [clip.path.name for clip in dataset.clips]
    assert (spectrograms.scale == 1).all()
    indices = [6, 0, 3, 0]
    stored = spectrograms.images(indices)
    assert stored.shape == (4, 1, 16, 12)
    assert stored.dtype == np.float32
    for computed, i in zip(stored[:, 0], indices, strict=True):
        expected, _ = images(*decode(dataset.clips[i].path), [representation], SETTINGS)[representation]
        np.testing.assert_allclose(computed, expected, atol=2**-11)
    assert spectrograms.images([]).shape == (0, 1, 16, 12)
    with pytest.raises(IndexError):
        spectrograms.images([7])


def test_moments_are_those_of_all_values(dataset, tmp_path):
    spectrograms = extract(dataset, tmp_path)
    chosen = spectrograms.images([1, 4, 5]).astype(float)
    assert spectrograms.moments(np.array([1, 4, 5])) == pytest.approx((chosen.mean(), chosen.std()))


def test_augmented_copies_follow_their_clip(dataset, tmp_path):
    spectrograms = extract(dataset, tmp_path / "s", augment=True)
    assert list(spectrograms.scale) == [1.0, 0.75, 0.9, 1.15, 1.5] * 7
    assert list(spectrograms.name[:6]) == ["clip-0.wav"] * 5 + ["clip-1.wav"]
    plain = extract(dataset, tmp_path / "plain")
    np.testing.assert_array_equal(spectrograms.images(np.arange(0, 35, 5)), plain.images(np.arange(7)))


def test_the_manifest_says_what_the_images_are(dataset, tmp_path):
    extract(dataset, tmp_path / "s", "dwt")
    manifest = json.loads((only(tmp_path / "s") / "manifest.json").read_text())
    assert manifest["data_digest"] == "d1"
    assert manifest["parameters"]["settings"]["top_db"] == 80
    assert manifest["parameters"]["frequencies"][-1] == RATE / 2
    assert manifest["items"][1].keys() == {
        "name", "label", "fold", "source", "file", "scale", "reference", "seconds", "checksum",
    }  # fmt: skip
    assert manifest["items"][1]["file"] == "clip-1.wav"  # the checksum that was given
    assert manifest["items"][1]["seconds"] == 0.5


def test_the_manifest_says_which_frequency_and_time_a_pixel_stands_for(tmp_path):
    """A tone's brightest row, and the column of its beginning, by the manifest alone."""
    rate, hertz, begins = 22_050, 3000.0, 0.3
    time = np.arange(rate) / rate
    soundfile.write(tmp_path / "tone.wav", np.where(time > begins, np.sin(2 * np.pi * hertz * time), 0) / 2, rate)
    dataset = Dataset("tones", ("a",), (Clip(tmp_path / "tone.wav", 0, 1, "r"),), duration=1.0, wavelet_rate=8000)
    settings = ImageSettings(height=128, width=100, duration=1.0, wavelet_rate=8000)
    for representation, nearness in (("stft", 0.5 * 11_025 / 128), ("dwt", 0.025 * hertz)):
        store = extract(dataset, tmp_path / representation, representation, settings=settings)
        parameters = json.loads((store.path / "manifest.json").read_text())["parameters"]
        image = store.images([0])[0, 0]
        assert abs(parameters["frequencies"][image.mean(axis=1).argmax()] - hertz) <= nearness
        column = (image.max(axis=0) > 0.9 * image.max()).argmax()
        assert abs(column * parameters["seconds_per_column"] - begins) < 0.05


@pytest.fixture
def decoded():
    """Names of decoded clips, and the decoder that keeps them."""
    names = []

    def decoder(path):
        names.append(path.name)
        return decode(path)

    return names, decoder


def test_an_interrupted_extraction_redoes_what_is_missing_only(dataset, tmp_path, small_shards, decoded):
    extract(dataset, tmp_path)
    before, folder = content(tmp_path), only(tmp_path)
    (folder / "manifest.json").unlink()
    _, second, third = sorted(folder.glob("*.npy"))
    second.unlink()
    third.with_suffix(".json").unlink()
    (folder / f".{second.name}.left-over").write_bytes(b"half a shard")
    extract(dataset, tmp_path, decode=decoded[1])
    assert decoded[0] == ["clip-3.wav", "clip-4.wav", "clip-5.wav", "clip-6.wav"]
    (folder / f".{second.name}.left-over").unlink()
    assert content(tmp_path) == before
    extract(dataset, tmp_path, decode=None)  # all there: nothing is decoded


def test_a_damaged_image_is_found_named_and_rebuilt(dataset, tmp_path, small_shards, caplog, decoded):
    extract(dataset, tmp_path)
    before = content(tmp_path)
    assert intact(only(tmp_path)) and not caplog.text
    shard = sorted(only(tmp_path).glob("*.npy"))[1]
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    assert not intact(only(tmp_path)) and shard.name in caplog.text
    caplog.clear()
    extract(dataset, tmp_path, decode=decoded[1])
    assert shard.name in caplog.text and decoded[0] == ["clip-3.wav", "clip-4.wav", "clip-5.wav"]
    assert content(tmp_path) == before


@pytest.mark.parametrize("spoilt", ["manifest.json", "shard"])
def test_a_changed_label_is_found_and_put_right(dataset, tmp_path, small_shards, caplog, spoilt):
    folder = extract(dataset, tmp_path).path
    before = content(tmp_path)
    path = folder / spoilt if spoilt.endswith("json") else sorted(folder.glob("*-00001.json"))[0]
    assert '"label": 2' in path.read_text()
    path.write_text(path.read_text().replace('"label": 2', '"label": 1', 1))
    assert not intact(folder) and "is damaged" in caplog.text
    extract(dataset, tmp_path)
    assert content(tmp_path) == before


def test_what_an_interrupted_extraction_finished_serves_a_changed_data_set(dataset, tmp_path, small_shards, decoded):
    folder = extract(dataset, tmp_path).path
    (folder / "manifest.json").unlink()
    sorted(folder.glob("*.npy"))[2].unlink()  # clip 6 alone
    checksums = ["changed", *(clip.path.name for clip in dataset.clips[1:])]
    extract(dataset, tmp_path, decode=decoded[1], checksums=checksums)
    assert decoded[0] == ["clip-0.wav", "clip-6.wav"]


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"parameters": {}, "items": 3}', b"[1, 2]"])
def test_a_damaged_store_beside_it_does_not_disturb(dataset, tmp_path, damage):
    beside = extract(dataset, tmp_path).path
    for path in beside.iterdir():
        path.write_bytes(damage)
    other = extract(dataset, tmp_path, checksums=list("abcdefg"))
    assert intact(other.path)


def test_one_pass_fills_all_stores_and_only_what_they_lack(dataset, tmp_path, small_shards, decoded):
    checksums = [clip.path.name for clip in dataset.clips]
    extract(dataset, tmp_path, "dwt")
    both = module.extract(
        dataset,
        ["stft", "dwt"],
        tmp_path,
        SETTINGS,
        decode=decoded[1],
        checksums=checksums,
        data_digest="d1",
        workers=1,
    )
    assert decoded[0] == [clip.path.name for clip in dataset.clips]
    for representation in ("stft", "dwt"):
        alone = extract(dataset, tmp_path / "alone", representation)
        np.testing.assert_array_equal(both[representation].images(range(7)), alone.images(range(7)))


@pytest.mark.parametrize("augment", [False, True])
def test_a_changed_data_set_costs_the_clips_that_changed(
    dataset, tmp_path, small_shards, decoded, augment, monkeypatch
):
    monkeypatch.setattr(module, "SHARD", 15 if augment else 3)
    extract(dataset, tmp_path / "grown", augment=augment)
    changed = replace(dataset, clips=(*dataset.clips[1:4], dataset.clips[0], *dataset.clips[5:]))  # clip 4 is gone
    checksums = [clip.path.name for clip in changed.clips]
    checksums[1] = "clip 2 has other bytes now"
    options = {"checksums": checksums, "augment": augment}
    grown = extract(changed, tmp_path / "grown", decode=decoded[1], **options)
    assert decoded[0] == ["clip-2.wav"]
    extract(changed, tmp_path / "new", **options)
    (folder,) = (path for path in (tmp_path / "grown").iterdir() if path == grown.path)
    assert content(folder) == content(only(tmp_path / "new"))


def test_two_at_once_do_no_harm(dataset, tmp_path, small_shards):
    extract(dataset, tmp_path / "alone", "dwt")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: extract(dataset, tmp_path / "together", "dwt"), range(2)))
    assert both[0].digest == both[1].digest and intact(both[0].path)
    assert content(tmp_path / "together") == content(tmp_path / "alone")


def test_other_parameters_are_never_copied(dataset, tmp_path, decoded):
    extract(dataset, tmp_path)
    extract(dataset, tmp_path, settings=replace(SETTINGS, top_db=60), decode=decoded[1])
    assert len(decoded[0]) == 7


def test_fresh_computes_everything_anew(dataset, tmp_path, decoded):
    extract(dataset, tmp_path)
    before = content(tmp_path)
    extract(dataset, tmp_path, decode=decoded[1], fresh=True)
    assert len(decoded[0]) == 7 and content(tmp_path) == before


def test_the_bytes_do_not_depend_on_the_number_of_workers(dataset, tmp_path, small_shards):
    extract(dataset, tmp_path / "one", "dwt", workers=1)
    extract(dataset, tmp_path / "two", "dwt", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_digest_changes_with_data_and_parameters(dataset, tmp_path):
    changes = [
        {},
        {"representation": "dwt"},
        {"settings": replace(SETTINGS, height=20)},
        {"settings": replace(SETTINGS, reference_db=10.0)},
        {"checksums": list("abcdefg")},
        {"augment": True},
    ]
    stores = [extract(dataset, tmp_path, **change) for change in changes]
    assert len({store.digest for store in stores}) == len({store.path for store in stores}) == len(changes)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"representation": "mfcc"}, "mfcc.*stft, dwt"),
        ({"settings": replace(SETTINGS, height=0)}, "0 x 12"),
        ({"settings": replace(SETTINGS, width=0)}, "16 x 0"),
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


def test_a_full_disk_is_one_line_and_what_is_finished_stays(dataset, tmp_path, small_shards, capfd):
    settings = replace(SETTINGS, height=64)
    folder = extract(dataset, tmp_path, settings=settings).path
    (folder / "manifest.json").unlink()
    first, second, third = sorted(folder.glob("*.npy"))
    size = second.stat().st_size
    second.unlink()
    capfd.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))  # stands for a disk with too little room
    try:
        with pytest.raises(InputError, match=rf"cannot be written \({os.strerror(errno.EFBIG)}\): make room"):
            extract(dataset, tmp_path, settings=settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr().err.endswith("\n")  # the message will not stand behind the progress bar
    assert sorted(folder.glob("*.npy")) == [first, third] and not list(folder.glob(".*"))


def test_images_of_another_version_are_not_reused(dataset, tmp_path, decoded, monkeypatch):
    extract(replace(dataset, clips=dataset.clips[:5]), tmp_path)
    extract(dataset, tmp_path, decode=decoded[1])
    assert len(decoded[0]) == 2  # those of its own version are
    monkeypatch.setattr(unfinished, "VERSION", unfinished.VERSION + 1)
    decoded[0].clear()
    with pytest.raises(InputError, match="version"):  # the reader, for its part, knows the version in use only
        extract(dataset, tmp_path, decode=decoded[1])
    assert len(decoded[0]) == 7


def test_shards_of_large_images_hold_fewer(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 2 * SETTINGS.height * SETTINGS.width * 3)
    assert [len(np.load(path)) for path in sorted(extract(dataset, tmp_path).path.glob("*.npy"))] == [3, 3, 1]


def test_files_that_a_kill_left_half_written_go_once_they_are_old(dataset, tmp_path):
    folder = extract(dataset, tmp_path).path
    (folder / "manifest.json").unlink()
    old, young = folder / ".old.npy.1", folder / ".young.npy.2"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    extract(dataset, tmp_path)
    assert not old.exists() and young.exists()  # another process may be writing the young one


def test_a_bad_clip_is_named_and_leaves_no_manifest(dataset, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    spoilt = replace(dataset, clips=(*dataset.clips, Clip(bad, 0, 1, "x")))
    with pytest.raises(InputError, match=r"bad\.wav"):
        extract(spoilt, tmp_path / "s")
    assert not list((tmp_path / "s").rglob("manifest.json"))


EXTRACTION = """
import sys
from pathlib import Path
from advtrack.data import clip, esc50
from advtrack.representations import extract as module
from advtrack.representations.image import ImageSettings

def run():
    module.SHARD = 3
    dataset = esc50.load(sys.argv[1])
    checksums = clip.checksums(dataset)
    settings = ImageSettings(height=32, width=24, duration=1.0, wavelet_rate=8000)
    module.extract(dataset, ["stft", "dwt"], sys.argv[2], settings, decode=clip.decode, checksums=checksums,
                   data_digest="d", workers=2)

if __name__ == "__main__":
    run()
"""


def small_esc50(folder, clips):
    """Clips of noise in the ESC-50 layout."""
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    rows = ["filename,fold,target,category,src_file"]
    for i in range(clips):
        soundfile.write(folder / "audio" / f"{i}.wav", np.random.default_rng(i).normal(size=RATE) / 10, RATE)
        rows.append(f"{i}.wav,1,0,noise,{i}")
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows))
    return folder


def start_extraction(clips, root, script):
    """Extract in a process group of its own."""
    script.write_text(EXTRACTION)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(clips), str(root)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    process = start_extraction(small_esc50(tmp_path / "esc", 400), tmp_path / "stores", tmp_path / "extraction.py")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "stores").rglob("*.npy")) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(children) >= 2  # the workers, and Python's tracker of resources
    assert not psutil.wait_procs(children, timeout=30)[1]


@pytest.mark.slow
def test_killed_at_twenty_moments_the_store_ends_byte_for_byte_the_same(tmp_path):
    """Each kill strikes the same extraction anew, at a random moment of what an undisturbed one takes."""
    folder = small_esc50(tmp_path / "esc", 60)

    def start(root):
        return start_extraction(folder, tmp_path / root, tmp_path / "extraction.py")

    begun = time.monotonic()
    assert start("undisturbed").wait() == 0
    taken = time.monotonic() - begun
    moments, unfinished = np.random.default_rng(0), 0
    for _ in range(20):
        process = start("killed")
        time.sleep(moments.uniform(0.3, 1) * taken)
        process.kill()
        unfinished += process.wait() != 0
        if len(list((tmp_path / "killed").rglob("manifest.json"))) == 2:
            shutil.rmtree(tmp_path / "killed")  # it was done: the next kill strikes another one
    assert unfinished >= 10
    for half_written in (tmp_path / "killed").rglob(".*"):
        os.utime(half_written, (0, 0))
    assert start("killed").wait() == 0
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
