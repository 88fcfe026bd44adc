"""The one place where bytes from outside become a picture, and text from outside becomes a caption.

A picture file is a program for its decoder, so everything is checked before and after it runs: only JPEG, PNG and WebP;
the number of its pieces and scans (`screening`), and the size in the header, before any pixel is decoded (a 10 kB PNG
can claim 81 million of them); a full decode, as a truncated file passes a mere check of the header. What comes out is
plain 8-bit RGB, upright, without metadata. For strangers' files `apart.decode_apart` does the same in a process of its
own, which ends when its time is over.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cmai_core.data.plain import plain_line
from cmai_core.data.screening import screen, screen_exif
from cmai_core.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 16_000_000
MAX_BYTES = 10 * 1024 * 1024
MAX_ASPECT = 20
"""Longest side over shortest: a 1×16,000,000 picture explodes once its short side is resized to a model's input."""

_WRITE = "Write a sentence that describes the picture."
_SAVE_AS = "Save it as JPEG, PNG or WebP and try again."
_SIGNATURES = (  # what a file that is none of the three most likely is: (offset, bytes, name)
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\x00", "a TIFF"),
    (0, b"MM\x00*", "a TIFF"),
    (0, b"%PDF", "a PDF"),
    (4, b"ftypavi", "an AVIF picture"),
    (4, b"ftyphei", "a HEIC picture (an iPhone's format)"),
    (4, b"ftypmif1", "a HEIC picture (an iPhone's format)"),
    (0, b"PK\x03\x04", "a ZIP archive"),
)


def decode_image(
    data: bytes | bytearray | memoryview | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    name: str = "",
) -> np.ndarray:
    """Decode a picture safely.

    Upright by its EXIF orientation, the first frame of an animation, transparency composited on white, 16 bits a
    channel rescaled (not clipped) to 8, all metadata dropped.

    Args:
        data: the bytes of a JPEG, PNG or WebP file, or the path of one.
        max_pixels: most pixels (width × height) accepted; read from the header, before decoding.
        max_bytes: largest file accepted.
        name: what to call the file in messages; a path names itself.

    Returns:
        uint8 H×W×3, RGB, contiguous and writable.

    Raises:
        DataError: the file is missing, empty, too large, of another format, damaged, extremely narrow, or made of more
            scans, pieces or metadata than a picture needs.
    """
    if isinstance(data, Path):
        name = name or str(data)
        data = _read(data, max_bytes, name)
    name = name or "The picture"
    if len(data) == 0:
        raise DataError(f"{name} is empty.", "Choose a JPEG, PNG or WebP file with a picture in it.")
    if len(data) > max_bytes:
        raise _too_many_bytes(name, len(data), max_bytes)
    data = bytes(data)
    screen(data, name, max_pixels)

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        what = _describe(data[:512])
        raise DataError(f"{name} is {what}, not a JPEG, PNG or WebP picture.", _SAVE_AS) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        claim = f"{name} claims more pixels than the limit of {max_pixels / 1e6:g} million."
        raise DataError(claim, _resize(max_pixels)) from None
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise _damaged(name, error) from None

    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise DataError(
                f"{name} has {width}×{height} pixels; the limit is {max_pixels / 1e6:g} million.", _resize(max_pixels)
            )
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise DataError(
                f"{name} has {width}×{height} pixels: one side is more than {MAX_ASPECT} times the other.",
                "Crop it to a more usual shape.",
            )
        screen_exif(_exif_size(image), name)
        try:
            image.seek(0)
            image.load()
            if image.format == "PNG":
                _scale_key(image, data[24])
            return _to_rgb(_upright(image))
        except Exception as error:  # as above
            raise _damaged(name, error) from None


def clean_caption(text: str, max_chars: int = 300) -> str:
    """Make one line of plain text of what a person typed or a file holds.

    Control characters, invisible marks and marks that reverse the reading direction go, runs of white space become one
    space, and letters are composed (Unicode NFC).

    Raises:
        DataError: not text, nothing left, or longer than `max_chars` characters.
    """
    if not isinstance(text, str):
        raise DataError(f"A caption must be text, not {type(text).__name__}.", _WRITE)
    if len(text) > 20 * max_chars:  # before any work is done on it
        raise _too_long(len(text), max_chars)
    cleaned = plain_line(text)
    if not cleaned.strip("\u200c\u200d\ufe0e\ufe0f "):
        raise DataError("The caption is empty.", _WRITE)
    if len(cleaned) > max_chars:
        raise _too_long(len(cleaned), max_chars)
    return cleaned


def _read(path: Path, max_bytes: int, name: str) -> bytes:
    try:
        if not path.is_file():
            raise DataError(f"{name} is not a file.", "Check the path.")
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
            size = path.stat().st_size
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} cannot be read: {_reason(error)}.", "Check the path and its permissions.") from None
    if len(data) > max_bytes:
        raise _too_many_bytes(name, size, max_bytes)
    return data


def _exif_size(image: Image.Image) -> int:
    """Bytes of EXIF metadata; of those that PNG holds as text, at most so many."""
    return max(len(image.info.get(key) or b"") for key in ("exif", "Raw profile type exif"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF in a sound picture: leave it as it lies
        return image


def _scale_key(image: Image.Image, depth: int) -> None:
    """Brings a PNG's transparent grey or colour to the scale of the decoded pixels: Pillow leaves it in the file's own.

    Args:
        depth: bits a sample in the file, the 25th byte of a PNG.
    """
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and depth in (2, 4, 8):
        image.info["transparency"] = (key & (2**depth - 1)) * (255 // (2**depth - 1))
    elif image.mode == "RGB" and isinstance(key, tuple):  # 16 bits have lost their lower half
        image.info["transparency"] = tuple(value >> 8 if depth == 16 else value & 255 for value in key)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16-bit grey: convert("RGB") would clip at 255
        deep = np.asarray(image).astype(np.int64)
        grey = ((np.clip(deep, 0, 65535) * 255 + 32767) // 65535).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[deep == transparent] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(page, layer)
    return np.array(image.convert("RGB"))


def _describe(head: bytes) -> str:
    for offset, signature, description in _SIGNATURES:
        if head[offset:].startswith(signature):
            return description
    if b"<svg" in head.lower():
        return "an SVG drawing"
    if b"<html" in head.lower() or b"<!doctype" in head.lower():
        return "a web page"
    return "of an unknown format"


def _resize(max_pixels: int) -> str:
    return f"Make it smaller (for example {int(max_pixels**0.5):,}×{int(max_pixels**0.5):,}) and try again."


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(
        f"{name} is damaged or cut off: {_reason(error)}.", "Open it in an image program and save it anew."
    )


def _too_many_bytes(name: str, size: int, limit: int) -> DataError:
    mega = 1024 * 1024
    return DataError(
        f"{name} has {size / mega:.1f} MB; the limit is {limit / mega:.3g} MB.", "Make it smaller, or save it as JPEG."
    )


def _too_long(length: int, limit: int) -> DataError:
    return DataError(
        f"The caption has {length:,} characters; the limit is {limit}.", "Shorten it to a sentence or two."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error) or type(error).__name__).rstrip(".")
