"""What a picture file is made of, read before any decoder sees it.

A decoder's work need not follow from a file's size and its number of pixels: a progressive JPEG may repeat a scan of
sixty bytes as often as its size allows, and each time all of the picture is gone through; a directory of metadata may
point 65,535 times to the same megabytes. So the pieces of a file are counted here, without decoding anything.
"""

from __future__ import annotations

import re
import struct

from cmai_core.errors import DataError

MAX_SCANS = 100
"""Scans of a JPEG. Programs that optimise them write about ten; each one costs a pass over the whole picture."""
MAX_SCANNED = 400_000_000
"""Scans times pixels: 25 scans of the largest picture."""
MAX_PIECES = 10_000
"""Segments or chunks of a file. Ten megabytes in pieces of 4 kB are 2,500."""
MAX_EXIF = 65_535
"""Bytes of EXIF metadata: what one segment of a JPEG can hold."""

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_MARKER_IN_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_ALONE = frozenset([0x01, *range(0xD0, 0xD9)])
"""Markers without a length: TEM, restarts, start of image."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Starts of a frame: its size in pixels."""
_APP1, _SOS, _EOI = 0xE1, 0xDA, 0xD9
_ANEW = "Open it in an image program and save it anew."


def screen(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse a file whose pieces would cost its decoder more than its pixels do.

    Args:
        data: a whole file; one that is neither JPEG, PNG nor WebP passes, as does a damaged one.
        name: what to call it in messages.
        max_pixels: most pixels of a WebP canvas, which its decoder sets aside memory for when it opens the file.

    Raises:
        DataError: too many scans, pieces, pixels or bytes of EXIF.
    """
    if data.startswith(b"\xff\xd8"):
        _screen_jpeg(data, name)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _screen_chunks(data, name, 8, ">", tail=4)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _screen_canvas(data, name, max_pixels)
        _screen_chunks(data, name, 12, "<", tail=0)


def screen_exif(size: int, name: str) -> None:
    """Refuse more EXIF metadata than a picture has use for.

    Raises:
        DataError: more than `MAX_EXIF` bytes.
    """
    if size > MAX_EXIF:
        raise DataError(f"{name} carries {size:,} bytes of EXIF metadata; the limit is {MAX_EXIF:,}.", _ANEW)


def _screen_jpeg(data: bytes, name: str) -> None:
    """Follows the markers as the decoder does: over anything between segments, and from scan to scan."""
    place, pieces, scans, pixels, exif, pattern = 2, 0, 0, 0, 0, _MARKER
    while (found := pattern.search(data, place)) is not None:
        marker, place = found.group(1)[0], found.end()
        if marker == _EOI:
            return
        pieces += 1
        if pieces > MAX_PIECES:
            raise _pieces(name)
        if marker in _ALONE:
            continue
        if place + 2 > len(data):
            return
        length = struct.unpack_from(">H", data, place)[0]
        if marker == _SOS:
            scans += 1
            if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
                raise DataError(f"{name} has {scans} scans or more, each of which costs as much as a picture.", _ANEW)
        elif marker in _FRAMES and place + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, place + 3)
            pixels = max(pixels, height * width)
        elif marker == _APP1 and data[place + 2 : place + 6] == b"Exif":
            exif += length  # segments of it are put together when they are read
            screen_exif(exif, name)
        place += max(2, length)
        pattern = _MARKER_IN_SCAN if marker == _SOS else _MARKER


def _screen_chunks(data: bytes, name: str, place: int, order: str, tail: int) -> None:
    """Count the chunks of a PNG (length, name, data, checksum) or a RIFF file (name, length, data to an even byte)."""
    pieces = 0
    while place + 8 <= len(data):
        pieces += 1
        if pieces > MAX_PIECES:
            raise _pieces(name)
        length = struct.unpack_from(f"{order}I", data, place + (0 if tail else 4))[0]
        place += 8 + length + tail + (0 if tail else length % 2)


def _screen_canvas(data: bytes, name: str, max_pixels: int) -> None:
    if data[12:16] != b"VP8X" or len(data) < 30:
        return
    width, height = (int.from_bytes(data[start : start + 3], "little") + 1 for start in (24, 27))
    if width * height > max_pixels:
        raise DataError(
            f"{name} has {width}×{height} pixels; the limit is {max_pixels / 1e6:g} million.", "Make it smaller."
        )


def _pieces(name: str) -> DataError:
    return DataError(f"{name} is made of more than {MAX_PIECES:,} pieces.", _ANEW)
