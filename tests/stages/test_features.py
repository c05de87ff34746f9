"""Finding stores in a real MLflow store, and the runs of an extraction that is repeated, damaged or forced."""

import pytest

from advtrack.data import synthetic
from advtrack.errors import InputError
from advtrack.stages.features import Features, find_store, run
from advtrack.tracking import runs


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
        assert {"manifest.json", "classes.png"} <= runs.artifacts(run_id, "")
    again = extract("stft", "dwt")
    assert again == found


def test_a_forced_or_mended_store_is_found_by_its_older_run_too(extract, caplog):
    first = extract("stft")["stft"]
    forced = extract("stft", force=True)["stft"]
    assert forced != first
    assert find_store("synthetic", "stft")[1] == forced
    spectrograms, made_by = find_store("synthetic", "stft", features_run=first)
    assert made_by == first

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
    with pytest.raises(InputError, match="of run nowhere; run first: advtrack features"):
        find_store("synthetic", "stft", features_run="nowhere")
