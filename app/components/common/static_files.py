"""Style sheets, scripts and markup of the lab, each a file of `app/static`, read once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

FOLDER = Path(__file__).resolve().parents[2] / "static"


@cache
def static_text(name: str) -> str:
    """Return the text of a file of `app/static`."""
    return (FOLDER / name).read_text(encoding="utf-8")


def component(name: str, html: str) -> Any:
    """Register a Streamlit component with the style sheet and the script of its name.

    Args:
        name: of `<name>.css` and `<name>.js`. html: the markup that the script finds.
    """
    return st.components.v2.component(
        f"cmai_{name}", html=html, css=static_text(f"{name}.css"), js=static_text(f"{name}.js")
    )
