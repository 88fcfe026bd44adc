"""The models that come with CMAI: folders of `assets/models`, their list, their vocabulary and their architectures."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.errors import ModelError
from cmai_core.models.cards import ModelCard, card_or_problem
from cmai_core.models.configuration import CONFIG_FILE
from cmai_core.models.devices import pick_device
from cmai_core.models.families.family import LIST_HINT, Family, shown
from cmai_core.paths import assets_dir

if TYPE_CHECKING:
    import torch

    from cmai_core.models.open_clip_model import OpenClipModel


def bundled_dir() -> Path:
    """Return the folder of the bundled models."""
    return assets_dir() / "models"


def bundled_folder(name: str) -> Path | None:
    """Return the folder of a bundled model; None where there is none of that name."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is None:
        return None
    folder = bundled_dir() / name
    return folder if (folder / CONFIG_FILE).is_file() else None


def bundled_models() -> list[ModelCard]:
    """List the bundled models, undefended first, then by name. Reads only cards; a damaged one has a `problem`."""
    folders = [path.parent for path in bundled_dir().glob(f"*/{CONFIG_FILE}")]
    cards = [card_or_problem(folder) for folder in folders if folder.name[0] not in "._"]
    return sorted(cards, key=lambda c: (c.defended, c.name))


def bundled_tokenizer() -> Any:
    """Return open_clip's tokenizer object for the bundled vocabulary."""
    from open_clip.tokenizer import HFTokenizer

    from cmai_core.models.integrity import verify
    from cmai_core.models.tokenizer import CONTEXT_LENGTH, bundled_tokenizer_dir

    verify(bundled_tokenizer_dir())
    options = {"context_length": CONTEXT_LENGTH, "trust_remote_code": False, "local_files_only": True}
    return HFTokenizer(str(bundled_tokenizer_dir()), **options)


def new_model(
    architecture: str, generator: torch.Generator | None = None, device: str | torch.device | None = "cpu"
) -> OpenClipModel:
    """Make a freshly initialised bundled architecture, in training mode and with gradients on.

    Args:
        architecture: a key of `architectures.ARCHITECTURES`.
        generator: source of the initial weights (None: seed 0).
        device: where to put it.

    Raises:
        ModelError: unknown architecture or device.
    """
    from cmai_core.models.architectures import build, model_config
    from cmai_core.models.open_clip_model import OpenClipModel

    model = OpenClipModel(
        build(architecture, generator),
        bundled_tokenizer(),
        spec=architecture,
        card={"domain": "tabletop", "architecture": architecture},
        config=model_config(architecture),
    )
    return model.to(pick_device(device))


def unknown_model(spec: str) -> ModelError:
    """Make the error for a name that is neither bundled nor open_clip's."""
    import open_clip

    architectures = open_clip.list_models()
    bundled = [card.name for card in bundled_models()]
    if spec in architectures:
        tags = open_clip.list_pretrained_tags_by_model(spec)
        options = [f"{spec}/{tag}" for tag in tags[:4]] + [f"{spec}/random"]
        return ModelError(f"{spec} is an architecture, not a model.", f"Say which weights: {', '.join(options)}.")
    base = spec.split("/")[0][:200]
    by_case = {name.lower(): name for name in [*bundled, *architectures]}
    matches = difflib.get_close_matches(base.lower(), by_case, n=4, cutoff=0.5)
    near = f"Did you mean {', '.join(by_case[match] for match in matches)}? " if matches else ""
    known = f"Bundled: {', '.join(bundled)}. " if bundled else ""
    return ModelError(f"Unknown model {shown(spec)!r}.", f"{near}{known}{LIST_HINT}")


def _load(spec: str) -> OpenClipModel:
    """Load a bundled model, once its files are found to be those that were bundled."""
    from cmai_core.models.families.local_dir import load_folder
    from cmai_core.models.integrity import verify

    folder = bundled_folder(spec)
    if folder is None:
        raise unknown_model(spec)
    verify(folder)
    return load_folder(folder, spec)


FAMILY = Family(_load, "tabletop", "a bundled model", prefixed=False)
