"""Any audio that real collections hold: every kind is read as the same sound, every broken one is refused."""

import shutil

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from advtrack.data.clip import decode
from advtrack.errors import InputError

RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000)
#: File types with the widths they hold and how exactly they keep a sample (None: not sample by sample).
WIDTHS = [
    ("wav", "PCM_U8", 2**-6),
    ("wav", "PCM_16", 2**-14),
    ("wav", "PCM_24", 2**-22),
    ("wav", "PCM_32", 2**-22),
    ("wav", "FLOAT", 1e-6),
    ("wav", "DOUBLE", 1e-6),
    ("wav", "ULAW", 0.04),
    ("wav", "IMA_ADPCM", None),
    ("flac", "PCM_S8", 2**-6),
    ("flac", "PCM_16", 2**-14),
    ("flac", "PCM_24", 2**-22),
    ("ogg", "VORBIS", None),
    ("ogg", "OPUS", None),
    ("mp3", "MPEG_LAYER_III", None),
    ("aiff", "PCM_16", 2**-14),
]


def sound(seconds, rate, channels=1):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(tone[:, None], channels, axis=1)


@pytest.mark.parametrize(("kind", "width", "exact"), WIDTHS)
def test_every_width_is_the_same_sound(tmp_path, kind, width, exact):
    rate = 48_000 if width == "OPUS" else 44_100
    soundfile.write(tmp_path / f"clip.{kind}", sound(1, rate), rate, width)
    waveform, found = decode(tmp_path / f"clip.{kind}")
    assert found == rate and waveform.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(waveform[:rate]))
    assert spectrum.argmax() == 440
    if exact is not None:
        np.testing.assert_allclose(waveform[:rate], sound(1, rate)[:, 0], atol=exact)


@settings(deadline=None, max_examples=40)
@given(rate=st.sampled_from(RATES), channels=st.integers(1, 8), seconds=st.floats(0.05, 2.0), seed=st.integers(0, 99))
def test_any_rate_length_and_number_of_channels(tmp_path_factory, rate, channels, seconds, seed):
    file = tmp_path_factory.mktemp("clips") / "clip.wav"
    samples = np.random.default_rng(seed).uniform(-1, 1, (round(seconds * rate), channels))
    soundfile.write(file, samples, rate, "FLOAT")
    waveform, found = decode(file)
    assert found == rate
    np.testing.assert_allclose(waveform, samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(8000), id="silence"),
        pytest.param(np.full(8000, 0.7), id="offset"),
        pytest.param(np.sign(np.sin(np.arange(8000))), id="clipped"),
        pytest.param(np.tile(sound(1, 8000)[:, 0], 180), id="three minutes"),
        pytest.param(np.array([0.5]), id="one sample"),
    ],
)
def test_odd_but_whole_sounds_are_kept(tmp_path, samples):
    soundfile.write(tmp_path / "clip.wav", samples, 8000, "FLOAT")
    np.testing.assert_array_equal(decode(tmp_path / "clip.wav")[0], samples.astype(np.float32))


@pytest.mark.parametrize("name", ["Regen und Wind.wav", "雨と風.wav", 'clip\'s "rain".wav', "дождь.flac"])
def test_any_name_and_links(tmp_path, name):
    soundfile.write(tmp_path / name, sound(0.1, 8000), 8000)
    link = tmp_path / f"link{(tmp_path / name).suffix}"
    link.symlink_to(tmp_path / name)
    np.testing.assert_array_equal(decode(link)[0], decode(tmp_path / name)[0])


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "link.wav").symlink_to(tmp_path / "gone.wav")
    with pytest.raises(InputError, match=r"link\.wav"):
        decode(tmp_path / "link.wav")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize(
    ("kind", "width", "options"),
    [
        ("wav", "PCM_16", {}),
        ("wav", "FLOAT", {}),
        ("wav", "PCM_16", {"endian": "BIG"}),
        ("flac", "PCM_16", {}),
        ("ogg", "VORBIS", {}),
        ("mp3", "MPEG_LAYER_III", {}),
        ("aiff", "PCM_16", {}),
        ("au", "PCM_16", {}),
        ("caf", "PCM_16", {}),
        ("w64", "PCM_16", {}),
        ("rf64", "PCM_16", {}),
    ],
)
def test_a_file_that_ends_too_early_is_refused(tmp_path, kind, width, options, share):
    whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100)
    soundfile.write(whole, noise, 44_100, width, **options)
    decode(whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=rf"cut\.{kind}"):
        decode(cut)


@pytest.mark.parametrize("width", ["VORBIS", "OPUS"])
def test_an_ogg_file_damaged_anywhere_is_refused(tmp_path, width):
    whole, spoilt = tmp_path / "whole.ogg", tmp_path / "spoilt.ogg"
    rng = np.random.default_rng(0)
    soundfile.write(whole, rng.uniform(-0.5, 0.5, 5 * 48_000), 48_000, width)
    assert len(decode(whole)[0]) >= 5 * 48_000
    content = whole.read_bytes()
    pages = content.split(b"OggS")[1:]
    assert len(pages) > 5
    damaged = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in rng.integers(0, len(content), 40)]
    lost = [b"".join(b"OggS" + page for page in pages[:n] + pages[n + 1 :]) for n in range(1, len(pages))]
    for bad in damaged + lost:
        spoilt.write_bytes(bad)
        with pytest.raises(InputError, match=r"spoilt\.ogg"):
            decode(spoilt)


def test_ogg_files_in_a_row_are_refused_and_tags_behind_one_are_not(tmp_path):
    first, row, tagged = (tmp_path / name for name in ("first.ogg", "row.ogg", "tagged.ogg"))
    soundfile.write(first, sound(1, 8000), 8000, "VORBIS")
    tagged.write_bytes(first.read_bytes() + b"TAG" + bytes(125))
    np.testing.assert_array_equal(decode(tagged)[0], decode(first)[0])
    row.write_bytes(2 * first.read_bytes())
    with pytest.raises(InputError, match=r"row\.ogg is several Ogg files in a row"):
        decode(row)
    row.write_bytes(first.read_bytes() + bytes(10) + first.read_bytes())
    with pytest.raises(InputError, match=r"row\.ogg is damaged"):
        decode(row)


@pytest.mark.parametrize("kind", ["NIST", "VOC", "PAF", "MAT5"])
def test_formats_that_cannot_be_checked_are_refused(tmp_path, kind):
    soundfile.write(tmp_path / "clip.x", sound(1, 8000), 8000, "PCM_16", format=kind)
    with pytest.raises(InputError, match=rf"clip\.x is of the format {kind}: convert it"):
        decode(tmp_path / "clip.x")


def test_chunks_after_the_sound_and_unknown_lengths_are_no_damage(tmp_path):
    soundfile.write(tmp_path / "clip.wav", sound(1, 8000), 8000)
    content = (tmp_path / "clip.wav").read_bytes()
    (tmp_path / "more.wav").write_bytes(content + b"LIST\x04\x00\x00\x00abcd")
    at = content.index(b"data") + 4
    for i, length in enumerate((b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f", b"\xdb\xff\xff\x7f")):
        (tmp_path / f"piped{i}.wav").write_bytes(content[:at] + length + content[at + 4 :])
    for name in ("more.wav", "piped0.wav", "piped1.wav", "piped2.wav"):
        np.testing.assert_array_equal(decode(tmp_path / name)[0], decode(tmp_path / "clip.wav")[0])


@pytest.mark.parametrize("announced", [0, 2**36 - 1])
def test_a_flac_stream_of_unknown_or_absurd_length_is_refused(tmp_path, announced):
    """libsndfile cannot read it to its end."""
    soundfile.write(tmp_path / "clip.flac", sound(1, 8000), 8000)
    content = bytearray((tmp_path / "clip.flac").read_bytes())
    content[21:26] = ((content[21] & 0xF0) << 32 | announced).to_bytes(5, "big")  # 36 bits of STREAMINFO
    (tmp_path / "streamed.flac").write_bytes(content)
    with pytest.raises(InputError, match=r"streamed\.flac"):
        decode(tmp_path / "streamed.flac")


def test_an_mp3_that_would_be_read_in_part_is_refused(tmp_path):
    """Without the Xing header its length is a guess from the first frame, which is loud noise here, then silence."""
    samples = np.concatenate(
        [np.random.default_rng(0).normal(size=44_100) / 5, np.zeros(44_100), sound(1, 44_100)[:, 0]]
    )
    options = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.3}
    soundfile.write(tmp_path / "clip.mp3", samples, 44_100, "MPEG_LAYER_III", **options)
    assert len(decode(tmp_path / "clip.mp3")[0]) == len(samples)
    content = (tmp_path / "clip.mp3").read_bytes()
    (tmp_path / "guessed.mp3").write_bytes(content.replace(b"Xing", bytes(4), 1))
    with pytest.raises(InputError, match=r"guessed\.mp3 holds more sound than it announces"):
        decode(tmp_path / "guessed.mp3")


@pytest.mark.parametrize("seconds", [0.3, 1])
def test_a_short_mp3_that_would_be_read_in_part_is_refused(tmp_path, seconds):
    samples = np.concatenate([np.random.default_rng(0).normal(size=4000) / 5, np.zeros(round(seconds * 44_100))])
    options = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.3}
    soundfile.write(tmp_path / "clip.mp3", samples, 44_100, "MPEG_LAYER_III", **options)
    content = (tmp_path / "clip.mp3").read_bytes()
    (tmp_path / "guessed.mp3").write_bytes(content.replace(b"Xing", bytes(4), 1))
    try:
        found, _ = decode(tmp_path / "guessed.mp3")
    except InputError as error:
        assert "holds more sound" in str(error)
    else:
        assert len(found) > 0.9 * len(samples)


@pytest.mark.parametrize(
    "tag",
    [
        pytest.param(bytes(5000) + b"APETAGEX" + bytes(24), id="APE"),
        pytest.param(np.random.default_rng(0).bytes(60_000), id="a picture"),
        pytest.param(b"TAG" + bytes(125), id="ID3v1"),
    ],
)
def test_tags_behind_an_mp3_are_no_sound(tmp_path, tag):
    soundfile.write(tmp_path / "clip.mp3", sound(1, 44_100), 44_100, "MPEG_LAYER_III")
    whole = decode(tmp_path / "clip.mp3")[0]
    (tmp_path / "tagged.mp3").write_bytes((tmp_path / "clip.mp3").read_bytes() + tag)
    np.testing.assert_array_equal(decode(tmp_path / "tagged.mp3")[0], whole)


@pytest.mark.parametrize("size", [b"\x7f\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"])
def test_an_aiff_stream_of_unknown_length_is_no_damage(tmp_path, size):
    soundfile.write(tmp_path / "clip.aiff", sound(1, 8000), 8000)
    content = (tmp_path / "clip.aiff").read_bytes()
    (tmp_path / "piped.aiff").write_bytes(content[:4] + size + content[8:])
    np.testing.assert_array_equal(decode(tmp_path / "piped.aiff")[0], decode(tmp_path / "clip.aiff")[0])


@pytest.mark.parametrize("level", [np.nan, np.inf, 5e19])
def test_samples_whose_power_is_no_number_are_refused(tmp_path, level):
    samples = sound(1, 8000)[:, 0]
    samples[100] = level
    soundfile.write(tmp_path / "clip.wav", samples, 8000, "FLOAT")
    with pytest.raises(InputError, match="NaN, infinite or absurd"):
        decode(tmp_path / "clip.wav")


def test_headerless_samples_are_refused(tmp_path):
    (tmp_path / "clip.raw").write_bytes(bytes(1000))
    with pytest.raises(InputError, match=r"clip\.raw"):
        decode(tmp_path / "clip.raw")


@pytest.mark.parametrize("content", [b"\x00" * 5000, b"<html>not found</html>", b"RIFF" + b"\x00" * 100, b"OggS" * 50])
@pytest.mark.parametrize("kind", ["wav", "ogg", "mp3", "flac"])
def test_what_is_no_audio_is_refused(tmp_path, content, kind):
    (tmp_path / f"page.{kind}").write_bytes(content)
    with pytest.raises(InputError, match="page"):
        decode(tmp_path / f"page.{kind}")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "clip.wav").mkdir()
    with pytest.raises(InputError, match=r"clip\.wav"):
        decode(tmp_path / "clip.wav")


def test_real_clips_are_whole(real_data, tmp_path):
    clips = sorted((real_data / "ESC-10" / "audio").iterdir())[:40]
    for clip in clips:
        waveform, rate = decode(clip)
        assert len(waveform) >= 4.99 * rate
        cut = tmp_path / clip.name
        shutil.copy(clip, cut)
        cut.write_bytes(cut.read_bytes()[:-200])
        with pytest.raises(InputError, match="cut off"):
            decode(cut)
