"""Whether a caption is true of a scene, in a line."""

from __future__ import annotations

from app.components.common.theme import escape, show


def truth_line(truth: bool | None, words: str) -> None:
    """Draw ✓, ✗ or · (unknown) with the words."""
    sign = {True: "✓", False: "✗", None: "·"}[truth]
    show(f'<div class="cm-small" role="status">{sign} {escape(words)}</div>')
