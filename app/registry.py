"""The pages of the lab in their order; the first is the one at the root of the address.

A name is the page's path in the address. Pages of other packages join by the entry point group `cmai.pages`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cmai_core.registry import Registry

if TYPE_CHECKING:
    from app.page import Page


def _why_not(name: str, part: Any) -> str:
    """Return why an object cannot be a page, "" if it can."""
    from app.page import Page

    if not isinstance(part, Page):
        return "it is no app.page.Page."
    if part.name != name:
        return f"it calls itself {part.name!r}."
    if re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) is None:
        return "its name, which is its address, must be of small letters, digits and underscores."
    return ""


PAGES: Registry[Page] = Registry(
    "lab page",
    "cmai.pages",
    {
        "attack_lab": "app.app_pages.attack_lab:PAGE",
        "explore": "app.app_pages.explore:PAGE",
        "explain": "app.app_pages.explain:PAGE",
        "immunize": "app.app_pages.immunize:PAGE",
        "benchmark": "app.app_pages.benchmark:PAGE",
        "lessons": "app.app_pages.lessons:PAGE",
        "review": "app.app_pages.review:PAGE",
        "about": "app.app_pages.about:PAGE",
    },
    refuse=_why_not,
)
