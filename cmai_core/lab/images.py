"""Pictures for people: encoding, round trips, the perturbation made visible, heat maps. uint8 RGB in, uint8 RGB out."""

from __future__ import annotations

import base64
import hashlib
import io
import math

import numpy as np
from PIL import Image


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def encode(image: np.ndarray, kind: str = "PNG", quality: int = 90) -> bytes:
    """Return the file bytes of an H×W×3 uint8 picture; PNG is lossless, JPEG and WEBP are not."""
    buffer = io.BytesIO()
    options = {} if kind == "PNG" else {"quality": quality}
    Image.fromarray(np.ascontiguousarray(image), "RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Return the picture in trusted file bytes (made by `encode`).

    Uploads go through cmai_core.data.uploads instead.
    """
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def data_url(image: np.ndarray, kind: str = "PNG", quality: int = 90) -> str:
    """Return a data: URL; PNG unless the picture is a thumbnail."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encode(image, kind, quality)).decode()}"


def thumbnail(image: np.ndarray, side: int = 96) -> np.ndarray:
    """Centre-cropped square of at most `side` pixels, for lists."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    picture = picture.crop((left, top, left + edge, top + edge))
    if edge > side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture.convert("RGB"))


def round_trip(image: np.ndarray, kind: str, quality: int = 90) -> np.ndarray:
    """Return the picture after being saved and opened again."""
    return decode(encode(image, kind, quality))


def perturbation_gain(clean: np.ndarray, adversarial: np.ndarray) -> int:
    """Return the power of two (1 to 64) that makes the largest change fill most of the grey scale."""
    largest = int(np.abs(adversarial.astype(np.int16) - clean.astype(np.int16)).max(initial=0))
    if largest == 0:
        return 1
    return int(2 ** min(6, max(0, math.floor(math.log2(127 / largest)))))


def perturbation_view(clean: np.ndarray, adversarial: np.ndarray, gain: int) -> np.ndarray:
    """128 + gain·(adversarial − clean), clipped: mid-grey where nothing changed."""
    change = adversarial.astype(np.int16) - clean.astype(np.int16)
    return np.clip(128 + gain * change, 0, 255).astype(np.uint8)


def perturbation_numbers(clean: np.ndarray, adversarial: np.ndarray) -> dict[str, float]:
    """Largest and root-mean-square change in 8-bit steps, share of values changed, PSNR in dB."""
    change = adversarial.astype(np.float64) - clean.astype(np.float64)
    rms = float(np.sqrt(np.mean(change**2)))
    return {
        "linf": float(np.abs(change).max(initial=0.0)),
        "rms": rms,
        "changed": float(np.mean(change != 0)),
        "psnr": float("inf") if rms == 0 else 20 * math.log10(255 / rms),
    }


# Anchors of the viridis and of a blue-white-orange diverging scale, evenly spaced, interpolated linearly.
_VIRIDIS = np.array(
    [
        (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37),
    ],
    dtype=float,
)  # fmt: skip
_DIVERGING = np.array(
    [(0, 68, 116), (0, 114, 178), (120, 178, 214), (245, 245, 245), (244, 170, 120), (213, 94, 0), (140, 52, 0)],
    dtype=float,
)


def colour_map(values: np.ndarray, low: float, high: float, signed: bool = False) -> np.ndarray:
    """uint8 colours of a map: viridis for magnitudes, blue–white–orange around zero for signed values."""
    table = _DIVERGING if signed else _VIRIDIS
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    span = high - low
    position = np.zeros_like(values, dtype=float) if span <= 0 else (values - low) / span
    position = np.clip(np.nan_to_num(position, nan=0.0), 0, 1) * (len(table) - 1)
    below = np.floor(position).astype(int).clip(0, len(table) - 2)
    share = (position - below)[..., None]
    return np.rint(table[below] * (1 - share) + table[below + 1] * share).astype(np.uint8)


def overlay(
    image: np.ndarray, values: np.ndarray, low: float, high: float, signed: bool = False, opacity: float = 0.6
) -> np.ndarray:
    """Return a heat map, resized bilinearly, laid over the grey picture.

    All maps that are compared share low and high.
    """
    height, width = image.shape[:2]
    map_image = Image.fromarray(np.asarray(values, dtype=np.float32))
    resized = np.asarray(map_image.resize((width, height), Image.Resampling.BILINEAR))
    grey = image.astype(float) @ np.array([0.299, 0.587, 0.114])
    base = np.repeat(grey[..., None], 3, axis=2)
    mixed = (1 - opacity) * base + opacity * colour_map(resized, low, high, signed)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
