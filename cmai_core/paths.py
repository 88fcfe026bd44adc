"""Where things lie: bundled assets (read-only), the cache (may be deleted at any time) and results (may not)."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from cmai_core.errors import DataError

_PACKAGE = Path(__file__).resolve().parent


def assets_dir() -> Path:
    """Return the bundled assets: beside the package in a checkout, inside it in an installed wheel."""
    inside = _PACKAGE / "_assets"
    return inside if inside.is_dir() else _PACKAGE.parent / "assets"


def lab_dir() -> Path:
    """Where the web lab lies (`app/` and `.streamlit/`): the checkout, or its mirror inside an installed wheel."""
    inside = _PACKAGE / "_app"
    return inside if inside.is_dir() else _PACKAGE.parent


def cache_dir() -> Path:
    """Return generated data and downloads: $CMAI_CACHE, else the user's cache folder. Created on first use.

    Raises:
        DataError: it is no folder and cannot be made.
    """
    path = Path(os.environ.get("CMAI_CACHE") or platformdirs.user_cache_dir("cmai", appauthor=False))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"The cache folder {path} cannot be used: {error.strerror or error}.",
            "Set the environment variable CMAI_CACHE to a folder you may write to.",
        ) from error
    return path


def data_dir() -> Path:
    """Results that took time to compute: $CMAI_DATA, else the user's data folder. Not created."""
    return Path(os.environ.get("CMAI_DATA") or platformdirs.user_data_dir("cmai", appauthor=False))
