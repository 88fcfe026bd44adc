"""Versions of what a replay depends on, read from package metadata: nothing is imported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from cmai_core import __version__

PACKAGES = ("torch", "torchvision", "open_clip_torch", "transformers", "numpy")


def library_versions() -> dict[str, str]:
    """Python, CMAI and the libraries that numbers depend on; those not installed are left out."""
    found = {"python": platform.python_version(), "cmai": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
