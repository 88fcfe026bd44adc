"""Plain text out of what strangers type, link or store: the one cleaning that every sentence goes through."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

JOINERS = "\u200c\u200d"
"""They shape letters in several scripts, and emoji; between plain Latin letters they only hide."""
_EMPTY = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks that show nothing, although Unicode does not count them as format characters."""


def plain_line(text: str) -> str:
    """Return one line of visible text, "" where nothing is left.

    Control characters, invisible marks, and marks that reverse the reading direction go; runs of white space become one
    space; letters are composed (Unicode NFC). Cleaning twice changes nothing.
    """
    kept = [" " if character.isspace() else character for character in text if _kept(character)]
    made: list[str] = []
    for place, character in enumerate(kept):
        if character not in JOINERS or _joins(made, kept[place + 1 : place + 2]):
            made.append(character)
    return " ".join(unicodedata.normalize("NFC", "".join(made)).split())


def _kept(character: str) -> bool:
    if character.isspace() or character in JOINERS:
        return True
    if character in _EMPTY or ord(character) & 0xFFFE == 0xFFFE:  # the latter are no characters at all
        return False
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")


def _joins(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether a joiner belongs there: between two characters beyond ASCII, of which neither is a joiner."""
    return bool(before and after) and not any(c.isascii() or c in JOINERS for c in (before[-1], after[0]))
