"""Downloads from a server on loopback that behaves, cuts the connection, or serves something else."""

import errno
import gzip
import hashlib
import http.server
import io
import os
import resource
import tarfile
import threading
import zipfile
from dataclasses import replace

import pytest
from click.testing import CliRunner

from advtrack.data import download as module
from advtrack.data import load
from advtrack.data.download import Release, download
from advtrack.errors import InputError

ROWS = [(f"{i}.wav", 1 + i % 5, i % 2, ("dog", "rain")[i % 2], f"r{i}") for i in range(6)]


@pytest.fixture
def release(esc_folder):
    """Make an archive of a small data set in the layout of ESC-50; its bytes."""
    folder = esc_folder(ROWS)
    files = {f"ESC-50-master/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.*")}

    def pack(kind="zip", **more):
        packed = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(packed, "w") as archive:
                for name, content in {**files, **more}.items():
                    archive.writestr(name, content)
        else:
            with tarfile.open(fileobj=packed, mode="w:gz") as archive:
                for name, content in {**files, **more}.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return packed.getvalue()

    return pack


@pytest.fixture
def server():
    """Serve bytes, all of them or only the first; the release that points there, and the paths asked for."""
    served = {"content": b"", "cut": None}
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(served["content"])))
            self.end_headers()
            self.wfile.write(served["content"][: served["cut"]])

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()

        def serve(content, kind="zip", cut=None, checksum=None):
            served.update(content=content, cut=cut)
            return Release(f"http://127.0.0.1:{running.server_port}/set.{kind}", checksum, "ESC-50-master", len(ROWS))

        yield serve, asked
        running.shutdown()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_release_is_fetched_checked_and_unpacked(release, server, tmp_path, kind):
    content = release(kind)
    offered = server[0](content, kind, checksum=f"md5:{hashlib.md5(content).hexdigest()}")
    target = tmp_path / "deep" / "ESC-50"
    assert download("esc50", target, offered) == target
    assert len(load("esc50", target).clips) == len(ROWS)
    assert [path.name for path in target.parent.iterdir()] == ["ESC-50"]  # nothing is left beside it
    download("esc50", target, offered)
    assert len(server[1]) == 1  # it is there: nothing is asked for


def test_a_cut_connection_leaves_nothing_and_the_next_call_succeeds(release, server, tmp_path):
    content = release()
    with pytest.raises(InputError, match=r"cannot download http://127.*run the command again"):
        download("esc50", tmp_path / "ESC-50", server[0](content, cut=len(content) // 2))
    assert not (tmp_path / "ESC-50").exists()
    download("esc50", tmp_path / "ESC-50", server[0](content))
    assert len(load("esc50", tmp_path / "ESC-50").clips) == len(ROWS)


def test_wrong_bytes_are_refused(release, server, tmp_path):
    offered = server[0](release(), checksum="md5:" + "0" * 32)
    with pytest.raises(InputError, match="not the archive that its publisher states"):
        download("esc50", tmp_path / "ESC-50", offered)
    with pytest.raises(InputError, match="no whole archive"):
        download("esc50", tmp_path / "ESC-50", server[0](b"<html>moved</html>" * 100))
    download("esc50", tmp_path / "ESC-50", server[0](release()))  # what was wrong does not stay in the way


def test_a_server_that_is_not_there_is_named(tmp_path):
    offered = Release("http://127.0.0.1:9/set.zip", None, "x", 1)
    with pytest.raises(InputError, match=r"cannot download http://127\.0\.0\.1:9/set\.zip"):
        download("esc50", tmp_path / "ESC-50", offered)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/advtrack-escaped.txt", "ESC-50-master/../../escaped.txt"])
def test_an_archive_may_not_write_outside(release, server, tmp_path, kind, name):
    target = tmp_path / "deep" / "ESC-50"
    with pytest.raises(InputError, match="outside of its folder"):
        download("esc50", target, server[0](release(kind, **{name: b"escaped"}), kind))
    assert not list(tmp_path.rglob("*escaped*")) and not target.exists()


def test_a_release_that_lacks_clips_is_refused(release, server, tmp_path):
    offered = replace(server[0](release()), clips=7)
    with pytest.raises(InputError, match="has 6 clips, esc50 has 7"):
        download("esc50", tmp_path / "ESC-50", offered)
    assert not (tmp_path / "ESC-50").exists()


def damaged_zip(release):
    """A zip whose table is there, compressed, with bytes of it changed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ESC-50-master/meta/esc50.csv", "filename,fold\n" * 500)
    content = bytearray(packed.getvalue())
    content[60:70] = b"\xff" * 10
    return bytes(content)


def another_zip(release):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("README", "moved")
    return packed.getvalue()


def without_a_clip(release):
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(release())) as whole, zipfile.ZipFile(packed, "w") as archive:
        for name in whole.namelist():
            if not name.endswith("3.wav"):
                archive.writestr(name, whole.read(name))
    return packed.getvalue()


def of_an_unknown_kind(release):
    content = release()
    return content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00")


def encrypted(release):
    """The flag of encryption in the header and in the directory of each file."""
    content = release()
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = content.split(magic)
        content = magic.join([parts[0], *(part[: at - 4] + b"\x01" + part[at - 3 :] for part in parts[1:])])
    return content


def directory_elsewhere(release):
    content = bytearray(release())
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = b"\xff\xff\xff\x0f"
    return bytes(content)


def a_name_too_long(release):
    return release(**{"ESC-50-master/" + "x" * 300: b""})


def a_file_and_a_folder_of_one_name(release):
    return release(**{"ESC-50-master/audio/0.wav/more": b""})


SPOILT = [
    damaged_zip, another_zip, without_a_clip, of_an_unknown_kind, encrypted, directory_elsewhere, a_name_too_long,
    a_file_and_a_folder_of_one_name,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_bad_archive_is_fetched_anew_by_the_next_call(release, server, tmp_path, spoil):
    offered = server[0](spoil(release))
    with pytest.raises(InputError, match=r"what came from http://127.*set\.zip is not esc50"):
        download("esc50", tmp_path / "ESC-50", offered)
    assert [path.name for path in tmp_path.rglob(".ESC*/*")] == [".lock"] and not (tmp_path / "ESC-50").exists()
    download("esc50", tmp_path / "ESC-50", server[0](release()))
    assert len(server[1]) == 2


def test_a_byte_changed_on_the_way_is_found_without_a_checksum(release, server, tmp_path):
    content = bytearray(gzip.compress(gzip.decompress(release("tar.gz")), compresslevel=0))  # stored as it is
    content[len(content) // 2] ^= 1
    with pytest.raises(InputError, match="no whole archive"):
        download("esc50", tmp_path / "ESC-50", server[0](bytes(content), "tar.gz"))


def test_a_full_disk_keeps_the_archive(release, server, tmp_path):
    offered = server[0](release("tar.gz", **{"ESC-50-master/large": bytes(10_000_000)}), "tar.gz")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, limits[1]))  # stands for a disk with this much room
    try:
        with pytest.raises(InputError, match=rf"ESC-50 cannot be written \({os.strerror(errno.EFBIG)}\): make room"):
            download("esc50", tmp_path / "ESC-50", offered)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    download("esc50", tmp_path / "ESC-50", offered)
    assert len(server[1]) == 1 and not list(tmp_path.glob(".*"))


def test_links_are_refused(release, server, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("ESC-50-master/link")
        link.type, link.linkname = tarfile.SYMTYPE, "meta"
        archive.addfile(link)
    with pytest.raises(InputError, match="outside of its folder"):
        download("esc50", tmp_path / "ESC-50", server[0](packed.getvalue(), "tar.gz"))


def test_what_a_killed_download_left_goes_with_the_next_one(release, server, tmp_path):
    staging = tmp_path / ".ESC-50.download"
    (staging / "unpacked" / "ESC-50-master").mkdir(parents=True)
    (staging / "tmp123").write_bytes(b"half an archive")
    with pytest.raises(InputError, match="no whole archive"):
        download("esc50", tmp_path / "ESC-50", server[0](b"<html>moved</html>"))
    assert [path.name for path in staging.iterdir()] == [".lock"]
    (staging / "unpacked").mkdir()
    download("esc50", tmp_path / "ESC-50", server[0](release()))
    assert [path.name for path in tmp_path.glob("*ESC*")] == ["ESC-50"]


def test_two_downloads_into_one_folder_do_not_meet(release, server, tmp_path):
    offered = server[0](release())
    (tmp_path / ".ESC-50.download").mkdir()
    with (
        module._alone(tmp_path / ".ESC-50.download"),
        pytest.raises(InputError, match="another process is downloading"),
    ):
        download("esc50", tmp_path / "ESC-50", offered)
    download("esc50", tmp_path / "ESC-50", offered)


def test_another_folder_in_its_place_is_left_alone(server, tmp_path):
    (tmp_path / "ESC-50").mkdir()
    with pytest.raises(InputError, match=r"is there and not whole .*esc50\.csv is missing"):
        download("esc50", tmp_path / "ESC-50", server[0](b""))
    assert not server[1]


def test_the_command_says_what_comes_next(release, server, tmp_path, monkeypatch):
    from advtrack.cli import cli

    monkeypatch.setitem(module.RELEASES, "esc50", server[0](release()))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["download", "esc50"])
    assert result.exit_code == 0 and "advtrack features --dataset esc50 --data-dir data/esc50" in result.output
    monkeypatch.setitem(module.RELEASES, "esc50", Release("http://127.0.0.1:9/set.zip", None, "x", 1))
    result = CliRunner().invoke(cli, ["download", "esc50", "--data-dir", "elsewhere"])
    assert result.exit_code == 2 and len(result.output.strip().splitlines()) == 1
