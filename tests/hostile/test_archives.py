"""Archives of pairs as strangers make them: read, or refused in words, within bounds; a wrong row hides no other."""

from __future__ import annotations

import csv
import io
import json
import random
import stat
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from cmai_core.errors import CmaiError, DataError
from cmai_core.lab import session
from cmai_core.lab.session import MAX_ENTRIES, MAX_PAIRS, read_batch
from cmai_core.progress import CancelToken

resource = pytest.importorskip("resource")
HEADS = ("image", "caption")


def picture(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (20, 16)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def table(*rows: tuple, heads: tuple[str, ...] = HEADS) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([heads, *rows])
    return text.getvalue().encode()


def packed(files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return data.getvalue()


def refused(data: bytes, names: bytes | None = None) -> CmaiError:
    with pytest.raises(CmaiError) as caught:
        read_batch(data, names)
    assert caught.value.hint and len(str(caught.value)) < 800 and "\n" not in caught.value.message
    return caught.value


# --- what is read -----------------------------------------------------------------------------------------------------


def test_an_archive_becomes_a_dataset():
    rows = (("a.png", "a red cube", "cube"), ("b.jpg", "a ring", "ring"), ("a.png", "one cube", "cube"))
    files = {"x/a.png": picture(1), "x/b.jpg": picture(2, "JPEG"), "pairs.csv": table(*rows, heads=(*HEADS, "label"))}
    found = read_batch(packed(files))
    pairs = found.pairs
    assert len(pairs) == 2 and not found.rejected and found.rows == 3
    assert pairs[0].captions == ("a red cube", "one cube") and pairs.classes == ("cube", "ring")
    np.testing.assert_array_equal(pairs[0].image, np.asarray(Image.open(io.BytesIO(files["x/a.png"]))))
    assert pairs[1].label == "ring" and pairs.item_id(1) == pairs[1].id and pairs.item_captions(1) == ("a ring",)
    again = read_batch(packed(files)).pairs
    assert again.split == pairs.split  # the same pairs have the same name
    assert read_batch(packed(files | {"pairs.csv": table(("a.png", "other"))})).pairs.split != pairs.split


@pytest.mark.parametrize(
    "names",
    [
        table(("a.png", "a cube")),
        b"\xef\xbb\xbf" + table(("a.png", "a cube")),
        b"image;caption\na.png;a cube\n",
        b"file_name\ttext\na.png\ta cube\n",
        b'[{"image": "a.png", "caption": "a cube"}]',
        b'{"a.png": "a cube"}',
        b'{"file": "./a.png", "captions": ["a cube"]}\n{"file": "none.png", "captions": "x"}',
    ],
)
def test_tables_of_every_kind_beside_the_archive(names):
    found = read_batch(packed({"a.png": picture()}), names)
    assert found.pairs[0].captions == ("a cube",)


def test_wrong_rows_are_told_with_their_number():
    rows = (
        ("a.png", "a cube"), ("none.png", "x"), ("", "x"), ("a.png", ""), ("bad.png", "broken"), ("a.png", "y" * 900),
        ("../a.png", "out"), ("note.txt", "a text"),
    )  # fmt: skip
    files = {"a.png": picture(), "bad.png": b"\x89PNG\r\n\x1a\n" + bytes(60), "note.txt": b"x", "t.csv": table(*rows)}
    found = read_batch(packed(files))
    assert len(found.pairs) == 1 and [one.row for one in found.rejected] == [3, 4, 5, 6, 7, 8, 9]
    assert all(one.reason and "\n" not in one.reason for one in found.rejected)


def test_large_pictures_are_kept_small_and_the_batch_can_be_cancelled():
    data = packed({"a.png": picture(size=(900, 300)), "t.csv": table(("a.png", "wide"))})
    assert read_batch(data).pairs[0].image.shape == (128, 384, 3)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Exception, match=r"[Cc]ancel"):
        read_batch(data, cancel=cancel)


def test_more_than_there_is_room_for_is_left_out(monkeypatch):
    monkeypatch.setattr(session, "MAX_PAIRS", 3)
    monkeypatch.setattr(session, "MAX_KEPT", 2 * len(picture(0)) + 300)
    files = {f"{k}.png": picture(k) for k in range(5)}
    found = read_batch(packed(files | {"t.csv": table(*((name, "x") for name in files))}))
    assert len(found.pairs) == 2 and len(found.rejected) == 3 and MAX_PAIRS > 3


# --- what is refused --------------------------------------------------------------------------------------------------


def test_bombs_are_refused_before_they_unfold(monkeypatch):
    names = table(("a.png", "x"))
    refused(packed({"a.png": bytes(70 * 2**20), "t.csv": names}))
    refused(packed({f"{k}.png": b"" for k in range(MAX_ENTRIES + 1)}, zipfile.ZIP_STORED), names)
    refused(bytes(session.MAX_ARCHIVE + 1))
    lying = bytearray(packed({"a.png": bytes(40 * 2**20)}))  # says that it unpacks to nothing
    place = lying.rfind(b"PK\x01\x02")
    lying[place + 24 : place + 28] = struct.pack("<I", 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(bytes(lying), names)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # kB
    refused(packed({"a.png": picture()}), table(*(("a.png", "x") for _ in range(session.MAX_ROWS + 1))))
    refused(packed({"a.png": picture(), "t.csv": b"image,caption\n" + b"a," * 10**6}))


def test_paths_links_and_locked_files_are_no_pictures():
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        for name in ("../out.png", "/abs.png", "C:\\win.png", "a\\..\\..\\b.png", ".hidden.png", "__MACOSX/m.png"):
            archive.writestr(name, picture())
        archive.writestr("good.png", picture())
    names = ("link.png", "out.png", "abs.png", "win.png", "b.png", ".hidden.png", "m.png", "/etc/passwd", "good.png")
    found = read_batch(data.getvalue(), table(*((name, "x") for name in names)))
    assert [pair.meta["file"] for pair in found.pairs] == ["good.png"] and len(found.rejected) == len(names) - 1
    locked = bytearray(packed({"a.png": picture()}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.find(mark) + offset] |= 1
    refused(bytes(locked), table(("a.png", "x")))
    refused(packed({"a.png": picture()}, zipfile.ZIP_LZMA), table(("a.png", "x")))


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"not a zip", picture(), packed({}), packed({"a.png": picture()}), packed({"t.csv": b"\xff\xfe\0"}),
     packed({"a.csv": table(), "b.csv": table()}), packed({"t.json": b"[" * 100_000}), packed({"t.json": b"[1, null]"}),
     packed({"inner.zip": packed({"a.png": picture()}), "t.csv": table(("a.png", "x"))})],
)  # fmt: skip
def test_what_is_no_batch_is_refused(data):
    refused(data)


def test_a_seeded_mutator_of_archives_and_tables_finds_no_traceback(monkeypatch):
    """A thousand, their pictures decoded here: what decoding apart adds is tested with the pictures themselves."""
    from cmai_core.data.uploads import decode_image

    def here(files, names, *, side, seconds):
        found = []
        for data in files:
            try:
                found.append(decode_image(data))
            except DataError as error:
                found.append(error)
        return found

    monkeypatch.setattr(session, "decode_all_apart", here)
    rng = random.Random(11)
    names = table(("a.png", "a red cube"), ("b.jpg", "a ring"))
    rows = json.dumps([{"image": "a.png", "caption": "x"}, {"image": "b.jpg", "caption": ["y", "z"]}]).encode()
    pictures = {"a.png": picture(1), "b.jpg": picture(2, "JPEG")}
    sound = [
        packed(pictures | {"t.csv": names}), packed(pictures | {"t.json": rows}, zipfile.ZIP_STORED),
        packed({f"deep/{k}/{k}.png": picture(k) for k in range(4)} | {"t.csv": table(("2.png", "x"))}),
    ]  # fmt: skip
    read = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1000):
        data, beside = bytearray(rng.choice(sound)), bytearray(rng.choice((names, rows)))
        for victim in (data,) if rng.random() < 0.6 else (beside,):
            for _ in range(rng.choice((1, 2, 6))):
                place = rng.randrange(len(victim))
                way = rng.randrange(5)
                if way == 0:
                    victim[place] = rng.randrange(256)
                elif way == 1:
                    del victim[place : place + rng.randrange(1, 40)]
                elif way == 2:
                    victim[place:place] = victim[place : place + 50] * rng.choice((1, 5))
                elif way == 3:
                    victim[place : place + 4] = rng.choice((b"\xff" * 4, bytes(4), b"PK\x01\x02", b'"\0,\n', b"../x"))
                else:
                    data[-22 + rng.randrange(min(20, len(data))) :][:1] = bytes([rng.randrange(256)])
                if not victim:
                    victim += b"x"
        try:
            found = read_batch(bytes(data), bytes(beside) if rng.random() < 0.7 else None)
        except CmaiError as error:
            assert error.message and len(str(error)) < 1500
            continue
        read += 1
        assert 0 < len(found.pairs) <= MAX_PAIRS and all(pair.captions for pair in found.pairs)
    assert 50 <= read <= 950
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
