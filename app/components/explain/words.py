"""What each word of a caption adds to S_c: bars to the left lower it, bars to the right raise it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.fold import fold_table
from app.components.common.theme import ROLES, escape, label, mark, number, show

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation, RoleExplanation

SIDES = ("clean", "adversarial")


def words(made: LabExplanation) -> None:
    """Draw the words of all models on one scale, and the same as a table."""
    show('<div class="cm-h">Words: what each adds to S<sub>c</sub></div>')
    attacked = any(explained.attacked for explained in made.roles.values())
    st.caption(
        "Integrated gradients of the token embeddings, summed over each word, on one scale for all."
        + (" Underlined: words that the attack put in. Struck through: words that it took out." if attacked else "")
    )
    found = {role: e for role, e in made.roles.items() if e.words is not None}
    for role, explained in made.roles.items():
        if explained.words is None:
            st.caption(f"{role}: not available. {explained.missing.get('words', '')}")
    if not found:
        return
    top = max(float(abs(v).max()) for e in found.values() for v in e.words.values if len(v)) or 1.0
    columns = iter(st.columns(2 * len(found), gap="small"))
    for role, explained in found.items():
        for side in range(2):
            with next(columns):
                _bars(role, explained, side, top)
    fold_table("As a table", lambda: words_table(made), key="fold_words")


def _bars(role: str, explained: RoleExplanation, side: int, top: float) -> None:
    """Draw one bar a word of one caption."""
    error = float(explained.words.checks["completeness_error"][side])
    bars = "".join(
        _bar(word, value, top, ("del", "ins")[side] if changed else "")
        for word, value, changed in _values(explained, side)
    )
    show(
        f'<div class="cm-small">{label(role)} · {mark(SIDES[side])}{SIDES[side]}, S<sub>c</sub> '
        f"{number(float(explained.words.score[side]))}</div>{bars}"
        f'<div class="cm-small cm-muted">completeness error {error:.1e}</div>'
    )


def words_table(made: LabExplanation) -> list[dict[str, object]]:
    """Return every word of all models with what it adds to S_c, as rows."""
    return [
        {
            "model": explained.name,
            "side": SIDES[side],
            "word": word,
            "changed": changed,
            "contribution to S_c": round(value, 5),
        }
        for explained in made.roles.values()
        if explained.words is not None
        for side in range(2)
        for word, value, changed in _values(explained, side)
    ]


def _values(explained: RoleExplanation, side: int) -> Iterator[tuple[str, float, bool]]:
    """Yield (word, what it adds, whether the attack changed it)."""
    changed = changed_words(*explained.words.words[:2])[side]
    pairs = zip(explained.words.words[side], explained.words.values[side], strict=True)
    for position, (word, value) in enumerate(pairs):
        yield word, float(value), position in changed


def changed_words(before: Sequence[str], after: Sequence[str]) -> tuple[set[int], set[int]]:
    """Return the positions of the words that are gone from the first caption, and of those new in the second."""
    gone, new = set(), set()
    for kind, a, b, c, d in SequenceMatcher(None, list(before), list(after), autojunk=False).get_opcodes():
        if kind != "equal":
            gone |= set(range(a, b))
            new |= set(range(c, d))
    return gone, new


def _bar(word: str, value: float, top: float, changed: str = "") -> str:
    """Return a word with its bar; `changed` is the element that marks it, "del" or "ins"."""
    said = escape(word)
    if changed:
        said = f'<{changed} class="{"cm-changed" if changed == "ins" else "cm-gone"}">{said}</{changed}>'
    share = min(50.0, 50 * abs(value) / top)
    left = 50 - share if value < 0 else 50
    colour = ROLES["clean" if value < 0 else "adversarial"].colour
    return (
        '<div style="display:grid;grid-template-columns:minmax(0,1.1fr) 2fr '
        '52px;gap:6px;align-items:center;font-size:12.5px">'
        f"<span>{said}</span>"
        '<span style="position:relative;height:10px;border-left:0;display:block">'
        '<span style="position:absolute;left:50%;top:-3px;bottom:-3px;border-left:1px solid '
        'currentColor;opacity:.4"></span>'
        f'<span style="position:absolute;left:{left:.1f}%;width:{share:.1f}%;top:0;bottom:0;'
        f'background:{colour}"></span></span>'
        f'<span style="text-align:right">{value:+.3f}</span></div>'.replace("-0.", "−0.")
    )
