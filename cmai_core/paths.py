"""Where things lie: bundled assets (read-only), the cache (may be deleted at any time) and results (may not)."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def assets_dir() -> Path:
    """The bundled assets: beside the package in a checkout, inside it in an installed wheel."""
    inside = _PACKAGE / "_assets"
    return inside if inside.is_dir() else _PACKAGE.parent / "assets"


def lab_dir() -> Path:
    """Where the web lab lies (`app/` and `.streamlit/`): the checkout, or its mirror inside an installed wheel."""
    inside = _PACKAGE / "_app"
    return inside if inside.is_dir() else _PACKAGE.parent


def cache_dir() -> Path:
    """Generated data and downloads: $CMAI_CACHE, else the user's cache folder. Created on first use."""
    path = Path(os.environ.get("CMAI_CACHE") or platformdirs.user_cache_dir("cmai", appauthor=False))
    path.mkdir(parents=True, exist_ok=True)
    return path


def data_dir() -> Path:
    """Results that took time to compute: $CMAI_DATA, else the user's data folder. Not created."""
    return Path(os.environ.get("CMAI_DATA") or platformdirs.user_data_dir("cmai", appauthor=False))
