"""The map's canvas: points packed for the browser, and what was picked on it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from app.components.common.static_files import component
from app.components.common.theme import ROLES, number

_MARKUP = (
    '<div class="map"><div class="tools" role="toolbar" aria-label="Map"></div>'
    '<canvas tabindex="0" role="img"></canvas><div class="tip"></div><div class="legend"></div></div>'
)
_map = component("map", _MARKUP)

GREY = "#888888"
MANY = 8
"""Categories of more than this are drawn as the most frequent ones and "other": each has a shape of its own."""
HINT = "filled: clean · hollow: attacked · small: texts"


@dataclass(frozen=True, eq=False)
class Layer:
    """One kind of point: "clean", "adversarial" or "text", its words, and N×2 or N×3 places."""

    kind: str
    words: str
    points: np.ndarray


def packed(layers: Sequence[Layer], values: np.ndarray | None, texts: Sequence[str]) -> dict[str, Any]:
    """Return what does not change with a selection.

    Args:
        values: what colours the points: N numbers, N words, or None: what they are. texts: N, shown beside the pointer.
    """
    together = np.concatenate([layer.points for layer in layers]).astype(np.float32)
    low, high = together.min(axis=0), together.max(axis=0)
    places = np.round((together - low) / np.maximum(high - low, 1e-9) * 65535).astype("<u2")
    sizes = {"text": 2.2, "clean": 3.4, "adversarial": 3.4}
    return {
        "points": _text(places), "depth": together.shape[1], "rows": len(texts), "texts": [t[:90] for t in texts],
        "layers": [
            {"words": one.words, "size": sizes[one.kind], "hollow": one.kind == "adversarial" and len(layers) > 1}
            for one in layers
        ],
        "hint": HINT, **_colours(layers, values, len(texts)),
    }  # fmt: skip


def _colours(layers: Sequence[Layer], values: np.ndarray | None, count: int) -> dict[str, Any]:
    """Return each point's place in a palette, with names, and a shape for each of its colours."""
    if values is None:
        looks = {
            "clean": (ROLES["clean"].colour, 0),
            "adversarial": (ROLES["adversarial"].colour, 2),
            "text": (GREY, 4),
        }
        of = np.repeat(np.arange(len(layers), dtype=np.uint8), count)
        return {
            "colours": _text(of), "perLayer": True, "smooth": False, "names": [one.words for one in layers],
            "palette": [looks[one.kind][0] for one in layers], "shapes": [looks[one.kind][1] for one in layers],
        }  # fmt: skip
    if values.dtype.kind == "f":
        return _ramp(values, len(layers))
    names, counts = np.unique(values, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")]
    if len(names) > MANY:
        values = np.where(np.isin(values, names[: MANY - 1]), values, "other")
        names = np.append(names[: MANY - 1], "other")
    place = {name: k for k, name in enumerate(names.tolist())}
    palette = st.get_option("theme.light.chartCategoricalColors") or [GREY]
    return {
        "colours": _text(np.array([place[v] for v in values.tolist()], np.uint8)), "perLayer": False, "smooth": False,
        "names": names.tolist(), "palette": [palette[k % len(palette)] for k in range(len(names))],
        "shapes": list(range(len(names))),
    }  # fmt: skip


def _ramp(values: np.ndarray, layers: int) -> dict[str, Any]:
    """Return magnitudes in viridis, signed values zero-centred."""
    signed = bool(values.min() < 0)
    palette = st.get_option("theme.chartDivergingColors" if signed else "theme.chartSequentialColors") or [GREY]
    high = float(np.abs(values).max())
    low = -high if signed else float(values.min())
    of = np.clip((values - low) / max(high - low, 1e-9) * len(palette), 0, len(palette) - 1).astype(np.uint8)
    return {
        "colours": _text(of), "perLayer": False, "smooth": True, "names": [number(low), number(high)],
        "palette": list(palette), "shapes": list(range(0, 2 * layers, 2)),
    }  # fmt: skip


def canvas(
    base: dict[str, Any], *, key: str, of: str, mask: np.ndarray, moved: np.ndarray, arrows: bool, chosen: int,
    alt: str, on_picked: Callable[[], None],
) -> None:  # fmt: skip
    """Draw the map.

    Args:
        base: of `packed`. of: names what is drawn; the view returns to the whole map when it changes. mask: which pairs
            are not faint. moved: whose line is longer than the drift control's. chosen: the ringed pair, −1: none.
        on_picked: called when something was picked; `picked(key)` says what.
    """
    own = {
        "of": of, "mask": _text(np.packbits(mask)), "moved": _text(np.packbits(moved)), "arrows": arrows,
        "chosen": chosen, "alt": alt,
    }  # fmt: skip
    _map(key=key, data=base | own, on_picked_change=on_picked)


def picked(key: str, count: int) -> tuple[bool, list[int]] | None:
    """Return (whether by a lasso, indices of pairs), as far as they can be; None where nothing was picked."""
    value = getattr(st.session_state.get(key), "picked", None)
    if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
        return None
    rows = {row for row in value["rows"][:count] if isinstance(row, int) and 0 <= row < count}
    return bool(value.get("lasso")), sorted(rows)


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
