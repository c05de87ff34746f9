import pytest

from advtrack import data
from advtrack.data import clip, esc50
from advtrack.errors import InputError

ROWS = [
    ("1-a.wav", 1, 40, "helicopter", "a"),
    ("2-b.wav", 2, 0, "dog", "b"),
    ("3-b.wav", 2, 0, "dog", "b"),
    ("4-c.wav", 3, 12, "crackling_fire", "c"),
]


def test_labels_count_from_zero_in_the_order_of_the_class_numbers(esc_folder):
    dataset = esc50.load(esc_folder(ROWS))
    assert dataset.classes == ("dog", "crackling_fire", "helicopter")
    assert [c.label for c in dataset.clips] == [2, 0, 0, 1]
    assert [c.fold for c in dataset.clips] == [1, 2, 2, 3]
    assert [c.source for c in dataset.clips] == ["a", "b", "b", "c"]
    assert (dataset.name, dataset.duration, dataset.wavelet_rate) == ("esc50", 5.0, 16_000)
    assert not clip.unusable(dataset)


def test_esc10(real_data):
    dataset = data.load("esc50", real_data / "ESC-10")
    assert len(dataset.clips) == 400
    assert len(dataset.classes) == 10
    waveform, rate = clip.decode(dataset.clips[0].path)
    assert rate == 44_100 and abs(len(waveform) - 5 * 44_100) < 50  # Ogg rounds up to its blocks


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        esc50.load(tmp_path / "nowhere")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"esc50\.csv is missing"):
        esc50.load(tmp_path)


@pytest.mark.parametrize("column", range(5))
def test_a_missing_column_is_named(esc_folder, column):
    columns = list(esc50.COLUMNS)
    columns[column] = "other"
    with pytest.raises(InputError, match=f"no column {esc50.COLUMNS[column]}"):
        esc50.load(esc_folder(ROWS, tuple(columns)))


def test_an_absent_file_is_found_with_the_other_bad_ones(esc_folder):
    folder = esc_folder(ROWS)
    (folder / "audio" / "2-b.wav").unlink()
    dataset = esc50.load(folder)
    assert clip.unusable(dataset) == {folder / "audio" / "2-b.wav": f"{folder}/audio/2-b.wav is not there: restore it"}
    assert clip.checksums(dataset).count("unreadable") == 1


def test_a_table_without_rows_is_refused(esc_folder):
    with pytest.raises(InputError, match="no clips"):
        esc50.load(esc_folder([]))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("5-d.wav", "one", 40, "helicopter", "d"), "line 6.*whole numbers"),
        (("5-d.wav", 1, 40, "chainsaw", "d"), "line 6.*both helicopter and chainsaw"),
        (("5-d.wav", 1, 40, "helicopter", ""), "line 6: src_file must not be empty"),
        (("5-d.wav", 1, 40, "helicopter", "d\0"), "line 6: src_file must not .*NUL"),
        (("1-a.wav", 1, 40, "helicopter", "a"), r"more than once.*1-a\.wav"),
    ],
)
def test_a_bad_line_is_named(esc_folder, row, complaint):
    with pytest.raises(InputError, match=complaint):
        esc50.load(esc_folder([*ROWS, row]))


@pytest.mark.parametrize("line", [",1,40,helicopter,d", "a\0.wav,1,40,helicopter,d", "5-d.wav,1,40", "5-d.wav,1"])
def test_a_line_without_a_usable_name_or_too_short_is_named(esc_folder, line):
    folder = esc_folder(ROWS)
    with (folder / "meta" / "esc50.csv").open("a") as table:
        table.write(line + "\n")
    with pytest.raises(InputError, match=r"esc50\.csv, line 6: "):
        esc50.load(folder)


def test_a_table_that_is_not_text_is_refused(esc_folder):
    folder = esc_folder(ROWS)
    (folder / "meta" / "esc50.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="csv"):
        esc50.load(folder)


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"esc51.*synthetic, esc50, urbansound8k"):
        data.load("esc51", tmp_path)
