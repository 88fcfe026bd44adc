"""A grid of thumbnails; a click (or Enter) picks one."""

from __future__ import annotations

from collections.abc import Sequence

from app.components.common.static_files import component

_gallery = component("gallery", '<div class="grid"></div>')


def gallery(items: Sequence[dict[str, str]], *, key: str, selected: str = "", cell: int = 132) -> str | None:
    """Draw the grid.

    Args:
        items: dictionaries with `id`, `src` (data: URL) and `title` (shown, and read aloud).

    Returns:
        The id just clicked, in the run that the click caused; otherwise None. It is one of `items` (checked here: what
        comes from a browser is never trusted).
    """
    result = _gallery(
        key=key, data={"items": list(items), "selected": selected, "cell": cell}, on_picked_change=lambda: None
    )
    picked = result.picked
    return picked if picked in {item["id"] for item in items} else None
