"""What the owner of the lab allows its visitors, as `cmai app` hands it over: in environment variables.

Nothing is allowed because of where a request comes from: a proxy that serves the whole world is "localhost", too.
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
        """Whether somebody who typed this key is a reviewer."""
        given, known = key.strip().encode(), self.review_key.encode()
        return self.open_review or (bool(known) and hmac.compare_digest(given, known))


def rules() -> Rules:
    """The rules in force; what is not set allows nothing."""
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
    """Whether a specification names a model that came with the lab."""
    from cmai_core.models.families.bundled import bundled_folder

    return bundled_folder(spec) is not None


def allowed(spec: str) -> bool:
    """Whether visitors may use a model."""
    now = rules()
    return now.any or spec in now.allow or bundled(spec)


def require(spec: str) -> str:
    """The specification, where visitors may use it.

    Raises:
        ModelError: they may not.
    """
    if not allowed(spec):
        raise refusal(spec)
    return spec


def refusal(spec: str) -> ModelError:
    """What a visitor is told who asks for another model."""
    return ModelError(
        f"The model {spec[:80]!r} is not among those that this lab offers.",
        "Choose one from the list, or ask the lab's owner to allow it.",
    )


def display_name(spec: str) -> str:
    """How a model or a dataset is named to visitors: of a folder only the last part."""
    if spec.startswith(("local-dir:", "/", ".", "~")) or re.match(r"[A-Za-z]:[\\/]", spec):
        return re.split(r"[\\/]", spec.rstrip("\\/"))[-1] or "folder"
    return spec
