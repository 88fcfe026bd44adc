"""What the owner of the lab allows its visitors, which `cmai app` passes in environment variables.

Nothing depends on where a request comes from: a proxy that serves the whole world is "localhost", too.
"""

from __future__ import annotations

import hmac
import os
import re
from dataclasses import dataclass

from cmai_core.errors import ModelError

ALLOW = "CMAI_ALLOW"
"""Specifications of models beside the bundled ones, one a line."""
ALLOW_ANY = "CMAI_ALLOW_ANY"
"""1: any specification may be typed, folders of this machine included."""
MAX_DOWNLOAD = "CMAI_MAX_DOWNLOAD_GB"
"""Most gigabytes (10⁹ bytes) that the download of one model may have."""
REVIEW_KEY = "CMAI_REVIEW_KEY"
"""What reviewers type to see and judge the review queue; empty: nobody can."""
OPEN_REVIEW = "CMAI_OPEN_REVIEW"
"""1: every visitor sees and judges the review queue."""
OFFLINE = "HF_HUB_OFFLINE"
"""The Hugging Face libraries' own variable: 1 keeps them from the network."""
DEFAULT_DOWNLOAD_GB = 5.0


@dataclass(frozen=True)
class Rules:
    """What visitors may do.

    Attributes:
        allow: specifications beside the bundled models. any: whether any other may be typed.
        download_bytes: most bytes of one model's download.
        review_key: what makes a visitor a reviewer, "" where nothing does. open_review: whether everybody is one.
    """

    allow: tuple[str, ...] = ()
    any: bool = False
    download_bytes: int = int(DEFAULT_DOWNLOAD_GB * 1e9)
    review_key: str = ""
    open_review: bool = False

    def reviewer(self, key: str) -> bool:
        """Tell whether somebody who typed this key is a reviewer."""
        given, known = key.strip().encode(), self.review_key.encode()
        return self.open_review or (bool(known) and hmac.compare_digest(given, known))


def rules() -> Rules:
    """Return the rules in force; what is not set allows nothing."""
    read = os.environ.get
    try:
        most = float(read(MAX_DOWNLOAD) or DEFAULT_DOWNLOAD_GB)
    except ValueError:
        most = 0.0
    return Rules(
        allow=tuple(line.strip() for line in read(ALLOW, "").splitlines() if line.strip()),
        any=read(ALLOW_ANY) == "1",
        download_bytes=int(max(0.0, min(most, 1e6)) * 1e9),
        review_key=read(REVIEW_KEY, "").strip(),
        open_review=read(OPEN_REVIEW) == "1",
    )


def bundled(spec: str) -> bool:
    """Tell whether a specification names a bundled model."""
    from cmai_core.models.families.bundled import bundled_folder

    return bundled_folder(spec) is not None


def allowed(spec: str) -> bool:
    """Tell whether visitors may use a model."""
    now = rules()
    return now.any or spec in now.allow or bundled(spec)


def require(spec: str) -> str:
    """Return the specification if visitors may use it.

    Raises:
        ModelError: they may not.
    """
    if not allowed(spec):
        raise refusal(spec)
    return spec


def refusal(spec: str) -> ModelError:
    """Return the error for a visitor who asks for a model that is not offered."""
    return ModelError(
        f"The model {spec[:80]!r} is not among those that this lab offers.",
        "Choose one from the list, or ask the lab's owner to allow it.",
    )


def display_name(spec: str) -> str:
    """Return the name of a model or a dataset for visitors: of a folder only its last part."""
    if spec.startswith(("local-dir:", "/", ".", "~")) or re.match(r"[A-Za-z]:[\\/]", spec):
        return re.split(r"[\\/]", spec.rstrip("\\/"))[-1] or "folder"
    return spec
