"""How a specification finds its loader: the table of model families, which installed packages can extend.

| specification | what | family |
|---|---|---|
| `tabletop` | a bundled model: a folder of `assets/models` | `bundled` |
| `ViT-B-32/laion2b_s34b_b79k` | an architecture and a pretrained tag of open_clip | `open-clip` |
| `ViT-B-32/random`, `ViT-B-32/random-7` | random weights of seed 0 or 7, for tests and demonstrations | `open-clip` |
| `hf-hub:org/repo` | an open_clip repository on the Hugging Face Hub | `hf-hub` |
| `local-dir:/path` | a folder with `open_clip_config.json` and weights | `local-dir` |

A package adds `name:…` by an entry point `name` of the group `cmai.models` that is a `Family`. A folder or repository
is data and never code: its configuration is read key by key (`configuration`), its tokenizer's files as well
(`tokenizer_files`), and weights are read from safetensors, or by `torch.load(weights_only=True)` (`weights`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmai_core.registry import Registry

if TYPE_CHECKING:
    from cmai_core.models.download import Fetch
    from cmai_core.models.protocol import VisionLanguageModel


LIST_HINT = "`cmai models` lists what can be loaded."


def shown(name: str) -> str:
    """Shorten a name for an error message, where it is long."""
    return name if len(name) <= 300 else f"{name[:300]}…"


def _always(spec: str) -> bool:
    return True


def _nothing(spec: str, fetch: Fetch) -> None:
    return None


@dataclass(frozen=True)
class Family:
    """A kind of models.

    Attributes:
        load: specification → the model on the CPU. Evaluation mode, the device and a first pass are up to `load_model`.
        example: a specification. note: what it names, in a few words.
        prefixed: whether specifications begin with the family's name and a colon.
        is_here: specification → whether loading it asks no network.
        fetch: adds to a download what a specification needs; runs in a process of its own (`models/download.py`).
    """

    load: Callable[[str], VisionLanguageModel]
    example: str
    note: str
    prefixed: bool = True
    is_here: Callable[[str], bool] = _always
    fetch: Callable[[str, Fetch], None] = _nothing


def _refusal(name: str, part: Any) -> str:
    if not isinstance(part, Family) or not part.prefixed:
        return "it must be a `Family` with a prefix"
    return "" if re.fullmatch(r"[a-z][a-z0-9-]*", name) else "its name must be of small letters, digits and hyphens"


FAMILIES: Registry[Family] = Registry(
    "model family",
    "cmai.models",
    {
        "bundled": "cmai_core.models.families.bundled:FAMILY",
        "open-clip": "cmai_core.models.families.open_clip_tags:FAMILY",
        "hf-hub": "cmai_core.models.families.hf_hub:FAMILY",
        "local-dir": "cmai_core.models.families.local_dir:FAMILY",
    },
    _refusal,
)


def family_of(spec: str) -> Family:
    """Return the family that a specification belongs to; one that nobody knows belongs to the bundled models."""
    prefix, colon, _ = spec.partition(":")
    if colon and prefix in FAMILIES and FAMILIES[prefix].prefixed:
        return FAMILIES[prefix]
    return FAMILIES["open-clip" if "/" in spec else "bundled"]
