"""The words and patches of a pair that disagree: marked in the caption, as a heat map, and told in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from app.components.common.theme import ROLES, escape
from cmai_core.lab.images import overlay

if TYPE_CHECKING:
    from cmai_core.defenses.disagreement import Disagreement

VERIFIER = "verifier"
LEAST_GAIN = 0.01
"""Of a score without a part, for the part to be named: smaller gains are noise."""
FULL_GAIN = 0.1
"""Of S_c without a word, for the word to be shaded fully."""
LEAST_SCALE = {True: 0.1, False: LEAST_GAIN}
"""Least end of a map's colour scale, by the verifier and left out: a map of next to nothing stays pale."""
MAP_SIDE = 288


def disagreeing(parts: Disagreement) -> tuple[int, ...]:
    """Return the indices of the words that are named, those that disagree most first."""
    if parts.words_by == VERIFIER:
        return parts.disagreeing
    return tuple(k for k in parts.disagreeing if parts.word_values[k] >= LEAST_GAIN)


def spans(text: str, words: Sequence[str]) -> list[tuple[int, int]] | None:
    """Return (start, end) of each word in its text; None if they are not found one after another."""
    found, place, folded = [], 0, text.lower()
    if len(folded) != len(text):  # a letter whose lower case is longer
        return None
    for word in words:
        start = folded.find(word.lower(), place)
        if start < 0:
            return None
        place = start + len(word)
        found.append((start, place))
    return found


def marked_words(text: str, parts: Disagreement, accepted: bool = False) -> str:
    """Return HTML of the caption: words shaded by how far they disagree, those that disagree also underlined and bold.

    In an accepted pair nothing is underlined: some word always fits least.
    """
    named = set() if accepted else set(disagreeing(parts))
    places = spans(text, parts.words)
    if places is None:
        text = " ".join(parts.words)
        places = spans(text, parts.words) or []
    out, done = [], 0
    for k, (start, end) in enumerate(places):
        out.append(escape(text[done:start]))
        out.append(_marked(text[start:end], float(parts.word_values[k]), parts.words_by == VERIFIER, k in named))
        done = end
    return "".join(out) + escape(text[done:])


def _marked(word: str, value: float, by_verifier: bool, named: bool) -> str:
    strength = min(1.0, max(0.0, value if by_verifier else value / FULL_GAIN))
    if strength < 0.1 and not named:
        return escape(word)
    colour = ROLES["adversarial"].colour
    shade = f"background:color-mix(in srgb, {colour} {40 * strength:.0f}%, transparent)"
    kind = "cm-disagree cm-disagree-named" if named else "cm-disagree"
    return f'<mark class="{kind}" style="{shade}">{escape(word)}</mark>'


def words_line(parts: Disagreement) -> str:
    """Return the words that disagree, with their numbers, as HTML."""
    named = disagreeing(parts)
    if parts.words_by == VERIFIER:
        if not named:
            return "No word disagrees."
        listed = ", ".join(f"<b>{escape(parts.words[k])}</b> ({parts.word_values[k]:.0%})" for k in named)
        return f"Words that disagree: {listed}."
    if not named:
        return "No single word disagrees: S<sub>c</sub> gains nothing from leaving one out."
    listed = ", ".join(f"<b>{escape(parts.words[k])}</b> (+{parts.word_values[k]:.3f})" for k in named)
    return f"S<sub>c</sub> is higher without: {listed}."


def patch_values(parts: Disagreement) -> np.ndarray:
    """Return H×W values as drawn: the disagreement that looked at each patch, else what the score gains without it."""
    return parts.patches * float(parts.word_values.sum()) if parts.patches_by == VERIFIER else parts.patches


def patch_scale(both: Sequence[Disagreement]) -> float:
    """Return the end of the one colour scale of a model's maps."""
    largest = max(float(np.abs(patch_values(parts)).max(initial=0.0)) for parts in both)
    return max(largest, LEAST_SCALE[both[0].patches_by == VERIFIER])


def patch_map(picture: np.ndarray, parts: Disagreement, scale: float) -> np.ndarray:
    """Return the uint8 picture with its map over it: amounts of disagreement, or gains (orange) and losses (blue)."""
    signed = parts.patches_by != VERIFIER
    height, width = picture.shape[:2]
    share = MAP_SIDE / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    large = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    return overlay(large, patch_values(parts), -scale if signed else 0.0, scale, signed)


def place_line(parts: Disagreement) -> str:
    """Return where the patches lie that disagree most, in words."""
    values = patch_values(parts)
    if parts.patches_by == VERIFIER and not disagreeing(parts):
        return "No word disagrees, so no patch does."
    if parts.patches_by != VERIFIER and values.max(initial=0.0) < LEAST_GAIN:
        return "No single patch disagrees."
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    where = _third(row, values.shape[0], "upper", "", "lower"), _third(column, values.shape[1], "left", "", "right")
    words = " ".join(word for word in where if word) or "middle"
    if parts.patches_by == VERIFIER:
        return f"The words that disagree look mostly at the {words} part."
    return f"The score gains most without the {words} part (+{values.max():.3f})."


def _third(place: int, count: int, first: str, middle: str, last: str) -> str:
    share = (place + 0.5) / count
    return first if share < 1 / 3 else last if share > 2 / 3 else middle
