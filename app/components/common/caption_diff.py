"""A caption before and after an attack: its changed words marked, and whether it is still true."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from app.components.common.theme import escape


def caption_diff(before: str, after: str) -> str:
    """Return HTML of the attacked caption: new words underlined, words that are gone struck through."""
    old, new = (re.findall(r"\S+|\s+", text) for text in (before, after))
    parts = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, came = escape("".join(old[a:b])), escape("".join(new[c:d]))
        if kind == "equal":
            parts.append(came)
            continue
        parts += [
            f"<del>{gone}</del> " if gone.strip() else "",
            f'<ins class="cm-changed">{came}</ins>' if came else "",
        ]
    return "".join(parts)


def truth_words(before: str, after: str, true: bool | None) -> str:
    """Return a sentence about whether an attacked caption still holds."""
    if after == before:
        return "No allowed edit lowered S_c: the sentence stays as it is."
    if true is None:
        return "Whether the edited sentence is still true of the picture, nobody can say here."
    return "The edited sentence is still true of the scene." if true else "The edited sentence is false of the scene."
