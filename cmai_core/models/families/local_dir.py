"""`local-dir:/path`: a model in a folder, as open_clip saves it: configuration, weights, tokenizer files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.errors import ModelError
from cmai_core.models.cards import card_of
from cmai_core.models.configuration import CONFIG_FILE, read_config
from cmai_core.models.families.family import Family, shown
from cmai_core.models.weights import HEADS_FILE, weights_in

if TYPE_CHECKING:
    from cmai_core.models.open_clip_model import OpenClipModel


def load_folder(folder: Path, spec: str, tokenizer: Any = None, card: bool = True) -> OpenClipModel:
    """Load the model in a folder.

    Args:
        spec: what the model is called. tokenizer: where it has been found elsewhere.
        card: whether to read its card and consistency heads.

    Raises:
        ModelError: something is missing, damaged, or not allowed.
    """
    from cmai_core.models.building import build_model
    from cmai_core.models.open_clip_model import OpenClipModel
    from cmai_core.models.sidecar import read_heads
    from cmai_core.models.tokenizer_files import load_tokenizer

    _check_folder(folder)
    config = read_config(folder / CONFIG_FILE)
    weights = weights_in(folder)
    known: dict[str, Any] = {"config": config, "weights_file": weights}
    if card:
        known["card"] = card_of(folder).card
        if os.path.lexists(folder / HEADS_FILE):
            known |= {"heads": read_heads(folder / HEADS_FILE), "heads_file": folder / HEADS_FILE}
    if tokenizer is None:
        tokenizer = load_tokenizer(config["model_cfg"]["text_cfg"], f"the tokenizer of {folder}", folder)
    where = f"the weights {weights.name} of {folder}"
    clip = build_model(config["model_cfg"], config["preprocess_cfg"], where, weights)
    return OpenClipModel(clip, tokenizer, spec=spec, name=spec, **known)


def _check_folder(folder: Path) -> None:
    config = folder / CONFIG_FILE
    try:
        what = "" if config.is_file() else f"has no {CONFIG_FILE}" if folder.is_dir() else "is not a folder"
    except (OSError, ValueError) as error:  # no right to look, or a name that no folder can have
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if what:
        raise ModelError(
            f"{shown(str(folder))} {what}.", "Give a folder as open_clip saves it: config, weights, tokenizer files."
        )


def _load(spec: str) -> OpenClipModel:
    return load_folder(Path(spec.removeprefix("local-dir:")), spec)


FAMILY = Family(_load, "local-dir:/path/to/folder", "a folder with a configuration and weights")
