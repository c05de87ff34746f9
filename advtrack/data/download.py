"""Data sets from their publishers: downloaded, checked, and laid out as their loaders read them."""

from __future__ import annotations

import errno
import fcntl
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from advtrack import data
from advtrack.errors import InputError, reason

#: What the disk says if it is at fault; all else that goes wrong while unpacking is the archive's.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_LOCK = ".lock"


@dataclass(frozen=True)
class Release:
    """What a publisher offers.

    Attributes
    ----------
    url
        Of a zip or tar archive.
    checksum
        The publisher's, as 'md5:...'; None where there is none (ESC-50 is an archive that GitHub makes on demand).
    folder
        The archive's folder that holds the data set.
    clips
        How many the whole data set has.
    """

    url: str
    checksum: str | None
    folder: str
    clips: int


RELEASES = {
    "esc50": Release(
        "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip", None, "ESC-50-master", 2000
    ),
    "urbansound8k": Release(
        "https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz",
        "md5:9aa69802bbf37fb986f71ec1483a196e",
        "UrbanSound8K",
        8732,
    ),
}


def download(dataset: str, destination: Path | str, release: Release | None = None) -> Path:
    """Fetch a data set and unpack it; what is there already is left as it is.

    The archive arrives and is unpacked in a hidden folder beside ``destination``; the data set appears under its name
    when its table and files have been found complete. So whatever interrupts a download, the next call starts it again,
    or goes on with the archive that has arrived, and removes what the interrupted one left.

    Parameters
    ----------
    dataset
        'esc50' or 'urbansound8k'.
    destination
        The data set's folder, to be made.
    release
        Where it comes from; the publisher's by default.

    Returns
    -------
    Path
        ``destination``.

    Raises
    ------
    InputError
        The archive cannot be fetched, is not what its publisher states, or would write outside of ``destination``;
        or the folder exists and is another.
    """
    release, destination = release or RELEASES[dataset], Path(destination)
    if destination.exists():
        try:
            _check(dataset, destination, release)
        except InputError as error:
            raise InputError(f"{destination} is there and not whole ({error}): move it away and run again") from error
        return destination
    staging = destination.with_name(f".{destination.name}.download")
    archive, unpacked = staging / Path(release.url).name, staging / "unpacked"
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with _alone(staging):
            for left in staging.iterdir():  # by a download that was killed
                if left.is_dir():
                    shutil.rmtree(left)
                elif left not in (archive, staging / _LOCK):
                    left.unlink()
            _fetch(release, archive)
            try:
                _unpack(archive, unpacked)
                _check(dataset, unpacked / release.folder, release)
                (unpacked / release.folder).rename(destination)
            except InputError as error:
                archive.unlink()  # it would fail the same way again
                found = f"what came from {release.url} is not {dataset}: {error}"
                raise InputError(f"{found}; run the command again") from error
            finally:
                shutil.rmtree(unpacked, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{destination} cannot be written ({error.strerror or error}): make room or choose another folder"
        ) from error
    shutil.rmtree(staging, ignore_errors=True)
    return destination


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; a process that is killed lets go of it."""
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is downloading into {folder}: wait for it") from None
        yield


def _fetch(release: Release, archive: Path) -> None:
    """See to it that the archive is there."""
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=True)
    try:
        pooch.retrieve(release.url, release.checksum, fname=archive.name, path=archive.parent, downloader=downloader)
    except requests.RequestException as error:
        raise InputError(f"cannot download {release.url} ({reason(error)}): run the command again") from error
    except ValueError as error:  # pooch's word for a wrong checksum
        raise InputError(
            f"{release.url} is not the archive that its publisher states ({release.checksum}): run the command again, "
            "and if that does not help, fetch it by hand"
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack; nothing may lie outside of ``folder``, nor be a link or a device."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                if not all((folder / name).resolve().is_relative_to(folder.resolve()) for name in packed.namelist()):
                    raise InputError("it would write outside of its folder")
                packed.extractall(folder)
        else:
            with tarfile.open(archive) as packed_tar:
                for member in packed_tar:
                    _write(packed_tar, member, folder)
                while packed_tar.fileobj.read(1 << 20):  # the checksum stands behind the last file
                    pass
    except InputError:
        raise
    except Exception as error:  # readers of damaged archives raise whatever they trip over
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        raise InputError(f"it is no whole archive ({reason(error)})") from error


def _write(packed: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Unpack a file or folder; nothing else, and nowhere else. tarfile's own filters came with Python 3.11.4."""
    target = folder / member.name
    if not target.resolve().is_relative_to(folder.resolve()) or not (member.isfile() or member.isdir()):
        raise InputError("it would write outside of its folder")
    if content := packed.extractfile(member):
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file)


def _check(dataset: str, folder: Path, release: Release) -> None:
    """Hold a folder against its own table, whose every file must be there, and against the number of clips."""
    clips = data.load(dataset, folder).clips
    absent = [clip.path.name for clip in clips if not clip.path.is_file()]
    if absent:
        raise InputError(f"{folder.name} lacks {len(absent)} files that its table names, {absent[0]} among them")
    if len(clips) != release.clips:
        raise InputError(f"{folder.name} has {len(clips)} clips, {dataset} has {release.clips}")
