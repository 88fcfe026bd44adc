"""Hostile and unusual files: each either decodes to what a person sees, or is refused with a reason and a hint."""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cmai_core.data.uploads import clean_caption, decode_image
from cmai_core.errors import DataError


def encode(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    """Red grows to the right, green downwards; blue is constant."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 255 // (width - 1), rows * 255 // (height - 1), np.full_like(rows, 90)], 2).astype(
        np.uint8
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def refused(data, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        decode_image(data, **options)
    assert caught.value.hint, "a refusal says what to do"
    return caught.value


# --- what decodes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_lossless_formats_come_back_exactly(format):
    pixels = gradient()
    decoded = decode_image(encode(Image.fromarray(pixels), format, lossless=True))
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable and decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, pixels)


def test_a_path_and_its_bytes_decode_alike(tmp_path):
    data = encode(Image.fromarray(gradient()), "JPEG", quality=90)
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode_image(path), decode_image(data))
    np.testing.assert_array_equal(decode_image(bytearray(data)), decode_image(memoryview(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_metadata_dropped(orientation):
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20] = (250, 20, 20)  # top left red
    upright[12:, 20:] = (20, 20, 250)  # bottom right blue
    stored = {  # how a camera held that way stores the upright picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", quality=95, subsampling=0, exif=exif)
    decoded = decode_image(data)
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 4


def test_damaged_exif_does_not_spoil_a_sound_picture():
    data = encode(Image.fromarray(gradient()), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xff" * 40)
    assert decode_image(data).shape == (24, 40, 3)


def test_sixteen_bit_grey_is_rescaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(16, 0)
    decoded = decode_image(encode(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(decoded[0, :, 0], np.arange(256))
    assert (decoded[..., 0] == decoded[..., 1]).all() and (decoded[..., 0] == decoded[..., 2]).all()


def test_sixteen_bit_colour_keeps_its_range():
    row = b"\x00" + struct.pack(">6H", 0, 32768, 65535, 65535, 257 * 100, 0)
    np.testing.assert_array_equal(decode_image(png_of(2, 1, 16, 2, row)), [[[0, 128, 255], [255, 100, 0]]])


def test_sixteen_bit_grey_with_a_transparent_value_shows_white_there():
    row = b"\x00" + struct.pack(">2H", 1000, 65535 // 2)
    decoded = decode_image(png_of(2, 1, 16, 0, row, chunk(b"tRNS", struct.pack(">H", 1000))))
    np.testing.assert_array_equal(decoded[0, :, 0], [255, 127])


def png_with_key(depth: int, samples: list[int], key: list[int]) -> bytes:
    """One row of a PNG as it leaves an encoder: grey for a key of one sample, colour for one of three."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    bits = "".join(format(sample, f"0{depth}b") for sample in samples)
    bits += "0" * (-len(bits) % 8)
    colour = 2 if len(key) == 3 else 0
    header = struct.pack(">IIBBBBB", len(samples) // len(key), 1, depth, colour, 0, 0, 0)
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    parts = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_shows_white_whatever_its_depth(depth):
    top = 2**depth - 1
    samples = [0, top // 3, top // 2, top]
    for key in samples:
        row = decode_image(png_with_key(depth, samples, [key]))[0, :, 0]
        expected = [255 if s == key else round(s * 255 / top) for s in samples]
        np.testing.assert_allclose(row, expected, atol=1 if depth == 16 else 0)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_shows_white_whatever_its_depth(depth):
    top = 2**depth - 1
    teal, other = [0, top // 2, top // 3], [top // 3, 0, top // 2]
    picture = decode_image(png_with_key(depth, [*teal, *other], teal))[0]
    assert picture[0].tolist() == [255] * 3 and picture[1].tolist() == [85, 0, 127]


def test_transparency_is_composited_on_white():
    layer = np.zeros((4, 6, 4), np.uint8)
    layer[..., 0] = 200
    layer[:, :2, 3], layer[:, 2:4, 3], layer[:, 4:, 3] = 0, 128, 255
    decoded = decode_image(encode(Image.fromarray(layer), "PNG"))
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])
    np.testing.assert_allclose(decoded[0, 2].astype(int), [227, 127, 127], atol=1)
    np.testing.assert_array_equal(decoded[0, 5], [200, 0, 0])


def test_palette_with_transparency():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 3), 1)
    decoded = decode_image(encode(image, "PNG", transparency=0))
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(decoded[3, 3], [200, 100, 50])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_other_modes_become_rgb(mode):
    decoded = decode_image(encode(Image.fromarray(gradient()).convert(mode), "PNG"))
    assert decoded.shape == (24, 40, 3)
    assert decoded.std() > 10


def test_cmyk_jpeg_keeps_its_colours():
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:, 8:, 1:3] = 255  # left white paper, right magenta + yellow = red
    decoded = decode_image(encode(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=95)).astype(int)
    assert decoded[8, 2].min() > 240
    assert decoded[8, 13, 0] > 200 and decoded[8, 13, 1:].max() < 60


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (decode_image(data) == [255, 0, 0]).all()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    rows = b"\x00" * (9000 * (9000 // 8 + 1))
    data = png_of(9000, 9000, 1, 0, rows)
    assert len(data) < 20_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded a picture that is too large"))
    error = refused(data)
    assert "9000×9000" in error.message and "16 million" in error.message


@pytest.mark.parametrize("side", [60_000, 2**31 - 1])
def test_an_absurd_size_in_the_header_is_refused(side):
    refused(png_of(side, side, 8, 2, b"\x00"))


def test_extremely_narrow_pictures_are_refused():
    data = encode(Image.new("L", (1000, 2)), "PNG")
    assert "20 times" in refused(data).message
    assert decode_image(encode(Image.new("L", (40, 2)), "PNG")).shape == (2, 40, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_truncated_files_are_refused(format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), format)
    decode_image(data)
    for share in (0.3, 0.6, 0.9):
        refused(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (encode(Image.new("RGB", (8, 8)), "GIF"), "GIF"),
        (encode(Image.new("RGB", (8, 8)), "BMP"), "BMP"),
        (encode(Image.new("RGB", (8, 8)), "TIFF"), "TIFF"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "SVG"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC"),
        (b"just some words", "unknown format"),
        (b"\x00" * 64, "unknown format"),
    ],
)
def test_other_formats_are_named_whatever_the_file_is_called(tmp_path, content, word):
    path = tmp_path / "holiday.png"
    path.write_bytes(content)
    error = refused(path)
    assert word in error.message and "holiday.png" in error.message
    assert "JPEG, PNG or WebP" in error.hint


def test_empty_missing_and_folder(tmp_path):
    assert "empty" in refused(b"").message
    (tmp_path / "nothing.jpg").touch()
    assert "nothing.jpg is empty" in refused(tmp_path / "nothing.jpg").message
    assert "absent.jpg" in refused(tmp_path / "absent.jpg").message
    refused(tmp_path)


def test_large_files_are_refused_unread(tmp_path):
    path = tmp_path / "large.jpg"
    with path.open("wb") as stream:
        stream.truncate(200 * 1024 * 1024)  # sparse
    assert "200.0 MB" in refused(path).message
    assert "10 MB" in refused(b"\xff" * (10 * 1024 * 1024 + 1)).message
    assert "limit is 0.5 MB" in refused(b"\xff" * 600_000, max_bytes=512 * 1024).message


def test_limits_are_arguments():
    data = encode(Image.fromarray(gradient(20, 20)), "PNG")
    assert "20×20" in refused(data, max_pixels=399).message
    assert decode_image(data, max_pixels=400).shape == (20, 20, 3)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_either_survived_or_refused(data):
    """Flipped bytes never end in anything but a picture or a DataError."""
    format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    content = bytearray(encode(Image.fromarray(gradient()), format))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_image(bytes(content))
    except DataError as error:
        assert error.hint
    else:
        assert decoded.dtype == np.uint8 and decoded.ndim == 3 and decoded.shape[2] == 3


# --- captions ---------------------------------------------------------------------------------------------------------


def test_captions_are_cleaned():
    assert clean_caption("  a  cat\n\ton a\u00a0mat \x00\x1b[31m") == "a cat on a mat [31m"
    assert clean_caption("cafe\u0301") == "café"
    assert clean_caption("a\u202ecat\u200b") == "acat"
    assert (
        clean_caption("a family \U0001f468\u200d\U0001f469\u200d\U0001f467")
        == "a family \U0001f468\u200d\U0001f469\u200d\U0001f467"
    )
    assert clean_caption("<b>bold</b>") == "<b>bold</b>"  # text stays text: whoever shows it escapes it


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\x00\x07", "\u200b\u200d\ufeff", "\ud800"])
def test_captions_without_a_visible_character_are_refused(text):
    with pytest.raises(DataError):
        clean_caption(text)


def test_long_captions_are_refused_with_their_length():
    assert clean_caption("a" * 300) == "a" * 300
    with pytest.raises(DataError, match="301"):
        clean_caption("a" * 301)
    with pytest.raises(DataError, match="1,000,000"):
        clean_caption(" " * 1_000_000)
    with pytest.raises(DataError, match=r"6.*5"):
        clean_caption("abcdef", max_chars=5)


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a cat"]])
def test_captions_must_be_text(value):
    with pytest.raises(DataError, match=type(value).__name__):
        clean_caption(value)


@settings(deadline=None)
@given(st.text(max_size=80))
@example("A\u030a\u0300")
def test_cleaning_twice_changes_nothing(text):
    try:
        once = clean_caption(text)
    except DataError:
        return
    assert clean_caption(once) == once
    assert not {unicodedata.category(character) for character in once} & {"Cc", "Cs", "Zl", "Zp"}
    once.encode("utf-8")
