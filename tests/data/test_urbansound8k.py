import pytest

from advtrack import data
from advtrack.data import clip, urbansound8k
from advtrack.errors import InputError


def test_the_sample(real_data):
    dataset = data.load("urbansound8k", real_data / "UrbanSound8K-sample")
    assert len(dataset.clips) == 311
    assert len(dataset.classes) == 10
    assert {c.fold for c in dataset.clips} == {1, 2, 3, 10}
    for c in dataset.clips:  # file names are {fsID}-{classID}-{occurrence}-{slice}.wav
        source, label, *_ = c.path.stem.split("-")
        assert (c.source, c.label) == (source, int(label))
    assert (dataset.duration, dataset.wavelet_rate) == (4.0, 8_000)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"UrbanSound8K\.csv is missing"):
        urbansound8k.load(tmp_path)


def test_an_absent_file_is_unusable(tmp_path):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "UrbanSound8K.csv").write_text(
        "slice_file_name,fsID,fold,classID,class\n7-3-0-0.wav,7,2,3,dog_bark\n"
    )
    assert list(clip.unusable(urbansound8k.load(tmp_path))) == [tmp_path / "audio" / "fold2" / "7-3-0-0.wav"]
