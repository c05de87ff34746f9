import hashlib
import shutil

import numpy as np
import pytest

from advtrack import data
from advtrack.data import clip, synthetic
from advtrack.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.generate(tmp_path_factory.mktemp("data") / "synthetic")


def test_it_is_a_data_set_in_the_esc50_layout(folder):
    dataset = data.load("synthetic", folder)
    assert dataset.name == "synthetic"
    assert dataset.classes == tuple(synthetic.SOUNDS)
    assert (np.bincount([c.label for c in dataset.clips]) == 12).all()
    assert {c.fold for c in dataset.clips} == {1, 2, 3, 4, 5}
    sources = {}
    for c in dataset.clips:
        sources.setdefault(c.source, set()).add((c.label, c.fold))
    assert len(sources) == 60
    assert all(len(homes) == 1 for homes in sources.values())


def test_clips_are_5_s_of_mono_at_22_kHz_neither_silent_nor_clipped(folder):
    for c in data.load("synthetic", folder).clips:
        waveform, rate = clip.decode(c.path)
        assert (rate, waveform.shape) == (22_050, (110_250,))
        assert 0.2 < np.abs(waveform).max() < 1


def test_the_seed_decides_every_byte(folder):
    first = clip.decode(sorted((folder / "audio").iterdir())[0])[0]
    np.testing.assert_allclose(synthetic._clip(0, 0, 0, 0), first, atol=2**-15)
    assert not np.allclose(synthetic._clip(1, 0, 0, 0), first, atol=0.01)
    assert not np.allclose(synthetic._clip(0, 0, 0, 1), first, atol=0.01)


def test_a_finished_folder_is_reused_and_nothing_else_is_left(folder):
    table = folder / "meta" / "esc50.csv"
    before = table.stat().st_mtime_ns, hashlib.sha256(table.read_bytes()).digest()
    assert synthetic.generate(folder) == folder
    assert (table.stat().st_mtime_ns, hashlib.sha256(table.read_bytes()).digest()) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_another_folder_is_not_touched(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not the synthetic data set"):
        synthetic.generate(tmp_path)
    with pytest.raises(InputError, match="of seed 1"):
        synthetic.generate(folder, seed=1)
    with pytest.raises(InputError, match=r"mine\.txt"):
        synthetic.generate(tmp_path / "mine.txt" / "below")


def test_other_clips_do_not_pass_for_it(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "meta" / "synthetic.json").unlink()
    with pytest.raises(InputError, match=r"not the generated data set; name yours, as --dataset esc50"):
        data.load("synthetic", other)
