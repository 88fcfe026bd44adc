"""The keys that work on every page."""

from __future__ import annotations

from app.components.common.static_files import component
from app.registry import PAGES

_listener = component("keys", "<span></span>")


def keys() -> None:
    """Listen for keys (`common.help` lists them)."""
    _listener(key="keys", data={"pages": list(PAGES)})
