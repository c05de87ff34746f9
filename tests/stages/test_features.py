"""Finding stores in a real MLflow store, and the runs of an extraction that is repeated, damaged or forced."""

import pytest

from advtrack.data import synthetic
from advtrack.errors import InputError
from advtrack.stages.features import Features, features_command, find_store, run
from advtrack.tracking import lookup


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return synthetic.generate(tmp_path_factory.mktemp("clips") / "synthetic")


@pytest.fixture
def extract(store, clips):
    """Extract at a small size; the runs by representation."""

    def call(*representations, height=8, **changes):
        options = {"dataset": "synthetic", "data_dir": str(clips), "width": 8, "augment": False, "top_db": 80.0}
        options |= {"reference_db": None, "skip_bad": False, "seed": 0, "work_dir": "work"}
        return run(Features(representations=representations, height=height, **{**options, **changes}))

    return call


def test_one_call_makes_a_run_and_a_store_of_each_kind(extract):
    found = extract("stft", "dwt")
    assert set(found) == {"stft", "dwt"} and len(set(found.values())) == 2
    for representation, run_id in found.items():
        spectrograms, made_by = find_store("synthetic", representation)
        assert made_by == run_id and spectrograms.representation == representation
        assert {"manifest.json", "classes.png"} <= set(lookup.files(run_id))
    again = extract("stft", "dwt")
    assert again == found


def test_a_forced_or_mended_store_is_found_by_its_older_run_too(extract, caplog):
    first = extract("stft")["stft"]
    forced = extract("stft", force=True)["stft"]
    assert forced != first
    assert find_store("synthetic", "stft")[1] == forced
    spectrograms, made_by = find_store("synthetic", "stft", features_run=first)
    assert made_by == forced  # an equal one

    shard = next(spectrograms.path.glob("*.npy"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    assert extract("stft")["stft"] not in (first, forced)
    assert f"{shard.name} is damaged" in caplog.text
    assert find_store("synthetic", "stft")[0].digest == spectrograms.digest


def test_several_stores_are_listed_and_chosen_from(extract):
    small, large = extract("stft")["stft"], extract("stft", height=12)["stft"]
    with pytest.raises(InputError, match="choose one with --features-run") as caught:
        find_store("synthetic", "stft")
    assert small in str(caught.value) and large in str(caught.value)
    assert find_store("synthetic", "stft", features_run=large)[0].shape == (1, 12, 8)
    assert find_store("synthetic", "stft", features_run="newest")[1] == large
    with pytest.raises(InputError, match="of run nowhere; run first: advtrack features"):
        find_store("synthetic", "stft", features_run="nowhere")


def test_equal_stores_in_two_folders_are_one(extract):
    extract("stft")
    newest = extract("stft", work_dir="elsewhere")["stft"]
    store, made_by = find_store("synthetic", "stft")
    assert made_by == newest and "elsewhere" in str(store.path)


def test_the_same_clips_under_another_name_are_another_data_set(extract):
    """Generated clips lie in the ESC-50 layout: what is found for one name must not pass for the other."""
    extract("stft")
    (run_id,) = extract("stft", dataset="esc50").values()
    assert find_store("esc50", "stft")[1] == run_id


def test_an_empty_shard_is_found_and_made_again(extract, caplog):
    extract("stft")
    store, _ = find_store("synthetic", "stft")
    shard = next(store.path.glob("*.npy"))
    whole = shard.read_bytes()
    shard.write_bytes(b"")
    extract("stft")
    assert f"{shard.name} is damaged" in caplog.text and shard.read_bytes() == whole


def test_commands_quote_what_a_shell_would_split(extract, clips, tmp_path):
    spaced = tmp_path / "my clips"
    spaced.symlink_to(clips)
    extract("stft", data_dir=str(spaced))
    assert f"--data-dir '{spaced}'" in features_command("synthetic", "dwt")
