"""A thousand hostile pictures: each is decoded to a proper picture or refused in words, at a bounded cost."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from cmai_core.data import apart
from cmai_core.data.apart import decode_apart, shrunk
from cmai_core.data.screening import MAX_EXIF, MAX_PIECES, MAX_SCANNED, MAX_SCANS
from cmai_core.data.uploads import MAX_BYTES, MAX_PIXELS, decode_image
from cmai_core.errors import DataError

COUNT = 1000
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what is damaged


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def drawn(rng: np.random.Generator, width: int, height: int, mode: str = "RGB") -> Image.Image:
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def sound() -> list[bytes]:
    """Proper files of every kind the decoder knows, small."""
    rng = np.random.default_rng(7)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for mode in ("RGB", "L", "CMYK"):
        files += [saved(drawn(rng, 40, 30, mode), "JPEG", progressive=p, exif=exif) for p in (False, True)]
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        picture = drawn(rng, 33, 17, "L" if mode == "I;16" else mode)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
        files.append(saved(picture, "PNG"))
    files.append(saved(drawn(rng, 20, 20), "PNG", exif=exif, icc_profile=bytes(600)))
    several = [drawn(rng, 24, 24, "RGBA") for _ in range(4)]
    for kind in ("PNG", "WEBP"):
        files.append(saved(several[0], kind, save_all=True, append_images=several[1:], duration=20))
    files += [saved(drawn(rng, 31, 47, mode), "WEBP", lossless=True) for mode in ("RGB", "RGBA")]
    files.append(saved(drawn(rng, 31, 47), "WEBP", quality=60, exif=exif))
    return files


def hostile(seed: int = 0, count: int = COUNT) -> Iterator[bytes]:
    """Files broken in every way that a few random numbers can think of."""
    random_ = random.Random(seed)
    whole = sound()
    yield from whole
    for _ in range(count - len(whole)):
        data = bytearray(random_.choice(whole))
        for _ in range(random_.choice((1, 1, 2, 5))):
            way, place = random_.randrange(9), random_.randrange(len(data))
            if way == 0:
                del data[place:]
            elif way == 1:
                data[place] = random_.randrange(256)
            elif way == 2:
                data[place : place + 4] = random_.choice((bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\x40\0"))
            elif way == 3:  # the header: sizes, depths, kinds
                data[random_.randrange(min(48, len(data)))] = random_.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif way == 4:
                end = place + random_.randrange(1, 64)
                data[place:place] = data[place:end] * random_.choice((1, 3, 50))
            elif way == 5:
                other = random_.choice(whole)
                data[place:] = other[random_.randrange(len(other)) :]
            elif way == 6:
                data[place:place] = random_.choice(
                    (b"\xff\xda", b"\xff\xd9", b"\xff\xe1\xff\xff", b"IEND", b"fdAT", b"VP8X")
                )
            elif way == 7:
                del data[place : place + random_.randrange(1, 32)]
            else:
                data[:place] = random_.randbytes(place % 40)
            if not data:
                data = bytearray(b"\x89")
        yield bytes(data)


def test_a_thousand_hostile_files_are_pictures_or_refused():
    decoded = refused = 0
    for data in hostile():
        try:
            picture = decode_image(data)
        except DataError as error:
            assert error.hint and "\n" not in error.message
            refused += 1
            continue
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert picture.shape[0] * picture.shape[1] <= MAX_PIXELS and picture.flags.writeable
        decoded += 1
    assert decoded + refused == COUNT
    assert decoded >= COUNT // 10 and refused >= COUNT // 10  # neither all nor nothing gets through


# --- files whose cost does not show in their size ---------------------------------------------------------------------


def flat(side: int = 64) -> bytes:
    return saved(Image.new("RGB", (side, side), (128, 64, 32)), "JPEG", progressive=True)


def with_scans(data: bytes, count: int) -> bytes:
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def exif_of(size: int) -> bytes:
    """A directory whose entries, 12 bytes each, all point to the same rest of the block."""
    entries = size // 24
    start = 8 + 2 + 12 * entries
    rest = size - start
    body = b"".join(struct.pack("<HHII", 1000 + k, 7, rest, start) for k in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + body + bytes(rest)


def bombs() -> dict[str, bytes]:
    picture = Image.new("RGB", (40, 40), "green")
    png, jpeg, webp = saved(picture, "PNG"), saved(picture, "JPEG"), saved(picture, "WEBP")
    exif = exif_of(1_000_000)
    segments = b"".join(
        b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part
        for part in (exif[k : k + 60_000] for k in range(0, len(exif), 60_000))
    )
    canvas = bytearray(saved(picture, "WEBP", exif=exif_of(100)))
    canvas[24:30] = b"\xff\x3f\0" * 2
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))
    return {
        "scans to the last byte": with_scans(flat(), 300_000)[: MAX_BYTES - 2] + b"\xff\xd9",
        "one scan too many": with_scans(flat(), MAX_SCANS),
        "empty scans of a large picture": with_scans(flat(4000), MAX_SCANNED // 16_000_000),
        "scans behind rubbish": with_scans(flat(), MAX_SCANS).replace(b"\xff\xda", b"\0\0\xff\xff\xda"),
        "segments": jpeg[:2] + b"\xff\xfe\0\2" * (MAX_PIECES + 1) + jpeg[2:],
        "chunks": png[:33] + chunk(b"vpAg") * (MAX_PIECES + 1) + png[33:],
        "texts": png[:33] + text * 80 + png[33:],
        "riff chunks": webp + b"XXXX\0\0\0\0" * (MAX_PIECES + 1),
        "canvas": bytes(canvas),
        "directory in PNG": saved(picture, "PNG", exif=exif),
        "directory in WebP": saved(picture, "WEBP", exif=exif),
        "directory in JPEG": jpeg[:2] + segments + jpeg[2:],
        "pixels": png[:16] + struct.pack(">II", 9000, 9000) + png[24:],
        "needle": saved(Image.new("L", (30_000, 10)), "PNG"),
        "bytes": png + bytes(MAX_BYTES),
    }  # fmt: skip


@pytest.mark.parametrize("kind", bombs())
def test_a_bomb_is_refused(kind):
    with pytest.raises(DataError) as caught:
        decode_image(bombs()[kind])
    assert caught.value.hint


def test_what_programs_write_is_not_taken_for_a_bomb():
    camera = Image.Exif()
    camera[0x0112], camera[0x010F] = 3, "x" * 60_000
    for data in (
        with_scans(flat(), MAX_SCANS // 2),
        saved(
            drawn(np.random.default_rng(0), 600, 400), "JPEG", progressive=True, exif=camera, icc_profile=bytes(200_000)
        ),
        saved(Image.new("RGB", (50, 50)), "PNG", exif=camera, icc_profile=bytes(200_000)),
        flat()[:-2] + b"\xff\xd9" + b"\xff\xda" * 500,  # after the end of the picture nobody reads
    ):
        assert decode_image(data).ndim == 3
    thumbnail = with_scans(flat(), 5) * 60  # a picture inside the metadata is no scan of the picture
    inside = b"".join(
        b"\xff\xe2" + struct.pack(">H", len(p) + 2) + p for p in (thumbnail[:60_000], thumbnail[60_000:120_000]) if p
    )
    assert decode_image(flat()[:2] + inside + flat()[2:]).shape == (64, 64, 3)


def test_metadata_as_large_as_it_may_be_costs_little():
    """Some versions of Pillow read the rest again for every entry: bounded by the square of the limit."""
    exif = exif_of(MAX_EXIF - 1000)
    assert decode_image(saved(Image.new("RGB", (30, 20)), "WEBP", exif=exif)).shape == (20, 30, 3)


# --- in a process of its own ------------------------------------------------------------------------------------------


def test_apart_is_the_same_picture():
    data = sound()[0]
    np.testing.assert_array_equal(decode_apart(data), decode_image(data))
    large = drawn(np.random.default_rng(1), 1500, 300)
    small = decode_apart(saved(large, "PNG"), side=500)
    assert small.shape == (100, 500, 3)
    np.testing.assert_array_equal(small, shrunk(np.asarray(large), 500))


def test_apart_refuses_with_the_same_words():
    for data in (b"", b"GIF89a....", bombs()["one scan too many"]):
        with pytest.raises(DataError) as here:
            decode_image(data, name="cat.jpg")
        with pytest.raises(DataError) as there:
            decode_apart(data, name="cat.jpg")
        assert (here.value.message, here.value.hint) == (there.value.message, there.value.hint)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of processes")
def test_a_process_that_uses_too_much_is_ended(monkeypatch):
    """Stand-ins for a decoder that somebody found a new way to keep busy: they burn time, or take memory."""
    for work in ("while True: pass", "x = bytearray(3 * 1024**3)"):
        code = f"from cmai_core.data import apart; apart._limit(1)\n{work}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, cwd=apart._ROOT)
        assert done.returncode != 0
    monkeypatch.setattr(apart, "PATIENCE", 0.01)
    with pytest.raises(DataError):
        decode_apart(sound()[0])
