"""A grid of thumbnails; a click (or Enter) picks one."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

_CSS = """
.grid {display: grid; grid-template-columns: repeat(auto-fill, minmax(var(--cell, 132px), 1fr)); gap: 12px;}
button {all: unset; box-sizing: border-box; cursor: pointer; border-radius: 8px; overflow: hidden; display: flex;
  flex-direction: column;  border: 1px solid color-mix(in srgb, var(--st-text-color, #888) 18%, transparent);
  background: var(--st-secondary-background-color, transparent);
  color: var(--st-text-color, inherit); font: 12.5px/1.35 var(--st-font, sans-serif);}
button:hover {border-color: var(--st-primary-color, #0072B2);}
button:focus-visible {outline: 3px solid var(--st-primary-color, #0072B2); outline-offset: 2px;}
button[aria-pressed="true"] {border-color: var(--st-primary-color, #0072B2);
  box-shadow: inset 0 0 0 2px var(--st-primary-color, #0072B2);}
img {width: 100%; aspect-ratio: 1; object-fit: cover; display: block;}
span {margin: 6px 8px 8px; display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical; overflow: hidden;
  height: 4.05em;}
"""

_JS = """
export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement;
  let grid = root.querySelector(".grid");
  grid.style.setProperty("--cell", data.cell + "px");
  grid.replaceChildren(...data.items.map(item => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = item.id;
    button.setAttribute("aria-pressed", String(item.id === data.selected));
    button.setAttribute("aria-label", "Choose: " + item.title);
    button.title = item.title;
    const img = document.createElement("img");
    img.src = item.src; img.alt = ""; img.loading = "lazy";
    const text = document.createElement("span");
    text.textContent = item.title;
    button.append(img, text);
    button.onclick = () => setTriggerValue("picked", item.id);
    return button;
  }));
}
"""

_gallery = st.components.v2.component("cmai_gallery", html='<div class="grid"></div>', css=_CSS, js=_JS)


def gallery(items: Sequence[dict[str, str]], *, key: str, selected: str = "", cell: int = 132) -> str | None:
    """Draws the grid.

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
