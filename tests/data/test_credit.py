"""Whose clips they are is said as the publishers say it."""

import pytest

from advtrack.data.credit import credit, find_clip


@pytest.fixture
def esc50(tmp_path):
    """A folder laid out as the release is, with two clips, one of them in ESC-10."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    rows = "1-100-A-0.wav,1,0,dog,True,100,A\n1-100-B-7.wav,1,7,rain,False,100,B\n"
    (tmp_path / "meta" / "esc50.csv").write_text("filename,fold,target,category,esc10,src_file,take\n" + rows)
    for name in ("1-100-A-0.wav", "1-100-B-7.wav"):
        (tmp_path / "audio" / name).touch()
    return tmp_path


def test_esc50_names_authors_where_the_list_is_there(esc50):
    clip = esc50 / "audio" / "1-100-A-0.wav"
    without = credit("esc50", clip)
    assert "CC BY 3.0 (subset ESC-10)" in without and "freesound.org/s/100" in without
    lines = (
        "- [1-100-AB.ogg]: clip derived from x by nobody [CC0]\n- [1-100-A.ogg]: clip derived from a.wav by ann [CC0]\n"
    )
    (esc50 / "LICENSE").write_text(lines)
    assert credit("esc50", clip).endswith("; clip derived from a.wav by ann [CC0].")
    other = credit("esc50", esc50 / "audio" / "1-100-B-7.wav")
    assert "CC BY-NC 3.0" in other and "freesound.org/s/100" in other


def test_other_data_sets(tmp_path):
    assert "CC BY-NC 3.0; from freesound.org/s/7061" in credit("urbansound8k", tmp_path / "fold1" / "7061-6-0-0.wav")
    assert credit("synthetic", tmp_path / "a.wav") == "Generated; free of rights."


@pytest.mark.parametrize(("dataset", "name"), [("esc50", "audio/0.wav"), ("urbansound8k", "fold1/siren-2.wav")])
def test_of_clips_that_the_release_has_not_nothing_is_said(tmp_path, dataset, name):
    assert "author and licence are not known" in credit(dataset, tmp_path / name)


def test_a_clip_is_found_in_the_folders_of_other_folds(tmp_path):
    for fold in ("fold1", "fold2"):
        (tmp_path / fold).mkdir()
    (tmp_path / "fold2" / "b.wav").touch()
    assert find_clip(tmp_path / "fold1", "b.wav") == tmp_path / "fold2" / "b.wav"
    assert find_clip(tmp_path / "fold1", "c.wav") is None
