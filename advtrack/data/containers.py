"""Whether a sound file's container is whole. libsndfile reads many a damaged or shortened one without complaint."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

_OGG_HEADER = 27  # bytes of a page before the lengths of its segments (RFC 3533, section 6)
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


#: What `fault` can check; libsndfile reads more, and of those whatever a file that is cut off still holds.
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")
CUT_OFF = "is damaged or cut off: replace or remove it"


def fault(stream: BinaryIO, size: int) -> str:
    """What is wrong with a file that ends before its header says it does, or whose Ogg pages are not in order.

    Parameters
    ----------
    stream
        The file, at its beginning.
    size
        Its length in bytes.

    Returns
    -------
    str
        The fault and the way out, empty if there is none. An Ogg stream that was broken off while it was recorded, and
        so has no last page, counts as cut off.
    """
    head = stream.read(40)
    if head[:4] == b"OggS":
        stream.seek(0)
        return _ogg_fault(stream.read())
    return CUT_OFF if _announced_end(stream, head) > size else ""


def _announced_end(stream: BinaryIO, head: bytes) -> int:
    """Where a file ends by its own account; 0 if it gives none."""
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return _chunk_end(stream, 12, "little" if head[3:4] == b"F" else "big", 4, padded=True)
    if head[:4] == b"caff":
        return _chunk_end(stream, 8, "big", 8, padded=False)
    announced = 0
    if head[:4] == b"FORM":  # AIFF
        announced = 8 + int.from_bytes(head[4:8], "big")
    elif head[:4] == b"RF64":
        announced = 8 + int.from_bytes(head[20:28], "little")
    elif head[:16] == b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00":  # W64
        announced = int.from_bytes(head[16:24], "little")
    elif head[:4] == b".snd" and head[8:12] != b"\xff" * 4:  # AU; all ones where the length was not known
        announced = int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
    unknown = announced >> 24 in range(0x7F, 0x101) or announced >> 56 in range(0x7F, 0x101)  # written to a pipe
    return 0 if unknown else announced


def frames_behind(path: Path, position: int) -> bool:
    """Whether frames like the first of an MP3 file lie behind a position; tags that end it are no frames."""
    content = path.read_bytes()
    size = [byte & 0x7F for byte in content[6:10]]  # of an ID3v2 tag, seven bits each
    first = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) if content[:3] == b"ID3" else 0
    header, rate = content[first : first + 2], content[first + 2] & 0x0C
    alike = [at.end() for at in re.finditer(re.escape(header), content[:-1]) if at.start() >= position]
    return len(header) == 2 and sum(content[end] & 0x0C == rate for end in alike) >= 3


def _ogg_fault(content: bytes) -> str:
    """Page must follow page, each of its checksum, up to one that bears the flag that it is its stream's last."""
    following: dict[bytes, int] = {}  # the number of each stream's next page
    at = 0
    while content[at : at + 4] == b"OggS":
        if at and not following:
            return "is several Ogg files in a row, of which only the first would be heard: split it"
        header = content[at : at + _OGG_HEADER]
        segments = content[at + _OGG_HEADER : at + _OGG_HEADER + header[-1]]
        end = at + _OGG_HEADER + len(segments) + sum(segments)
        if end > len(content) or header[22:26] != _ogg_checksum(header[:22] + bytes(4) + content[at + 26 : end]):
            return CUT_OFF
        serial, number = header[14:18], int.from_bytes(header[18:22], "little")
        first, last = header[5] & 2, header[5] & 4
        if number != following.pop(serial, number if first else -1):
            return CUT_OFF
        if not last:
            following[serial] = number + 1
        at = end
    return CUT_OFF if following or b"OggS" in content[at:] else ""


def _ogg_checksum(page: bytes) -> bytes:
    """Ogg's CRC has zlib's polynomial, with the bits of every byte and of the result in the other order."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_REVERSED)


def _chunk_end(stream: BinaryIO, first: int, order: Literal["little", "big"], width: int, padded: bool) -> int:
    """Where the chunk named 'data' ends, 0 if there is none or its length was not known when it was written."""
    stream.seek(first)
    while len(header := stream.read(4 + width)) == 4 + width:
        length = int.from_bytes(header[4:], order)
        if header[:4] == b"data":
            # Writers to a pipe leave 0, all ones, or about half of that.
            streamed = length == 0 or length >> (8 * width - 8) >= 0x7F
            return 0 if streamed else stream.tell() + length
        stream.seek(length + (length % 2 if padded else 0), os.SEEK_CUR)
    return 0
