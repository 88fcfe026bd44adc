"""What is looked at: a filter as plain values, and as a short text that fits in a link.

    shape=cube&shape=ring&A=fooled&B=held&A.adversarial=0.1..0.3&text=red&rows=<run>.<bits>

Links are hostile: whatever is not known to the run is left out, and a text is bounded before it is read.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, urlencode

import numpy as np

from cmai_core.data.plain import plain_line
from cmai_core.errors import OptionError
from cmai_core.lab.explore.attributes import values_of
from cmai_core.lab.explore.run import OUTCOMES, SIDES, ExploreRun

MOST_TEXT = 3000
"""Characters of a filter."""
MOST_WORDS = 100
MOST_SLICES = 8
MOST_NAME = 40
_WORDS, _ROWS = "text", "rows"
_RANGE = re.compile(r"(-?[0-9]{1,2}(?:\.[0-9]{1,6})?)\.\.(-?[0-9]{1,2}(?:\.[0-9]{1,6})?)")


@dataclass(frozen=True)
class Where:
    """A filter over a run's pairs; every part narrows it.

    Attributes:
        words: that the sentence must have, each of them. facets: attribute → values, of which a pair has at least one.
        outcomes: role → outcomes of which one came to pass. ranges: (role, side) → (low, high) of S_c, both included.
        rows: a set picked by hand; None: all. Outcomes and attacked scores are those of the ε that is looked at.
    """

    words: str = ""
    facets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outcomes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    rows: frozenset[int] | None = None

    def __bool__(self) -> bool:
        return bool(self.words or self.facets or self.outcomes or self.ranges or self.rows is not None)

    def mask(self, run: ExploreRun, level: int) -> np.ndarray:
        """Return which pairs it lets through: bool N."""
        kept = np.ones(len(run), bool)
        if words := self.words.casefold().split():
            kept &= np.array([all(word in caption.casefold() for word in words) for caption in run.captions], bool)
        for name, wanted in self.facets.items():
            some = set(wanted)
            kept &= np.array([not some.isdisjoint(its) for its in run.attributes[name]], bool)
        for role, wanted in self.outcomes.items():
            kept &= np.isin(run.part(role).outcome(level), [OUTCOMES.index(name) for name in wanted])
        for (role, side), (low, high) in self.ranges.items():
            score = run.part(role).reading(side, level).score
            kept &= (score >= np.float32(low)) & (score <= np.float32(high))
        if self.rows is not None:
            picked = np.zeros(len(run), bool)
            picked[[row for row in self.rows if 0 <= row < len(run)]] = True
            kept &= picked
        return kept

    def to_text(self, run: ExploreRun) -> str:
        """Write it; "" where it lets everything through.

        Raises:
            OptionError: it is too long for a link.
        """
        parts = [(_WORDS, self.words)] if self.words else []
        parts += [(name, value) for name, values in self.facets.items() for value in values]
        parts += [(role, value) for role, values in self.outcomes.items() for value in values]
        parts += [(f"{role}.{side}", f"{low:g}..{high:g}") for (role, side), (low, high) in self.ranges.items()]
        if self.rows is not None:
            parts.append((_ROWS, f"{run.key[:8]}.{_packed(self.rows, len(run))}"))
        text = urlencode(parts)
        if len(text) > MOST_TEXT:
            raise OptionError("This selection is too long for a link.", "Narrow it by an attribute or a word.")
        return text

    @staticmethod
    def from_text(text: str, run: ExploreRun) -> Where:
        """Read one; what the run does not know, and rows of another run, are left out."""
        if not isinstance(text, str) or len(text) > MOST_TEXT:
            return Where()
        try:
            pairs = parse_qsl(text, max_num_fields=200)
        except ValueError:
            return Where()
        found = Where()
        for name, value in pairs:
            found = _with(found, name, value, run)
        return found


def _with(where: Where, name: str, value: str, run: ExploreRun) -> Where:
    if name == _WORDS:
        return replace(where, words=plain_line(value)[:MOST_WORDS])
    if name == _ROWS:
        key, _, packed = value.partition(".")
        rows = _unpacked(packed, len(run)) if key == run.key[:8] else None
        return where if rows is None else replace(where, rows=rows)
    role, _, side = name.partition(".")
    if role in run.parts and not side and value in OUTCOMES:
        return replace(where, outcomes=_added(where.outcomes, role, value))
    if role in run.parts and side in SIDES and (read := _RANGE.fullmatch(value)):
        low, high = float(read[1]), float(read[2])
        return replace(where, ranges={**where.ranges, (role, side): (low, high)}) if low <= high else where
    if name in run.attributes and value in values_of(run.attributes[name]):
        return replace(where, facets=_added(where.facets, name, value))
    return where


def _added(values: Mapping[str, tuple[str, ...]], name: str, value: str) -> dict[str, tuple[str, ...]]:
    return {**values, name: tuple(dict.fromkeys((*values.get(name, ()), value)))}


def _packed(rows: Iterable[int], count: int) -> str:
    bits = np.zeros(count, bool)
    bits[list(rows)] = True
    return base64.urlsafe_b64encode(zlib.compress(np.packbits(bits).tobytes(), 9)).decode().rstrip("=")


def _unpacked(text: str, count: int) -> frozenset[int] | None:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        bits = zlib.decompressobj().decompress(data, count // 8 + 2)
    except (binascii.Error, ValueError, zlib.error):
        return None
    if len(bits) != -(-count // 8):
        return None
    found = np.unpackbits(np.frombuffer(bits, np.uint8))[:count]
    return frozenset(np.flatnonzero(found).tolist())


def slices_to_text(slices: Mapping[str, str]) -> str:
    """Write named filters (name → text) as one text."""
    return urlencode(list(slices.items())[:MOST_SLICES])


def slices_from_text(text: str) -> dict[str, str]:
    """Read named filters; at most MOST_SLICES, names become one visible line."""
    if not isinstance(text, str) or len(text) > 2 * MOST_SLICES * MOST_TEXT:
        return {}
    try:
        pairs = parse_qsl(text, max_num_fields=MOST_SLICES)
    except ValueError:
        return {}
    named = ((slice_name(name), value) for name, value in pairs if len(value) <= MOST_TEXT)
    return {name: value for name, value in named if name}


def slice_name(text: str) -> str:
    """Return what a slice is called when somebody calls it so: one visible line of at most MOST_NAME characters."""
    return plain_line(text).strip()[:MOST_NAME]
