"""Saving a model as an open_clip `local-dir` folder, which open_clip alone can load."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cmai_core.errors import DataError, ModelError
from cmai_core.files import explained, write_text
from cmai_core.models.cards import CARD_FILE
from cmai_core.models.configuration import CONFIG_FILE
from cmai_core.models.open_clip_model import OpenClipModel
from cmai_core.models.sidecar import write_heads
from cmai_core.models.tokenizer import FILES
from cmai_core.models.weights import HEADS_FILE

WEIGHTS_FILE = "open_clip_model.safetensors"


def save_local_dir(
    model: OpenClipModel,
    path: str | Path,
    card: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write config, weights, tokenizer, card and consistency heads; all of it appears at once, or nothing does.

    Args:
        model: the model; left as found. It must know its config (models of `new_model` and of `local-dir` folders do).
        path: the folder; one that holds a model is replaced.
        card: contents of card.json (None: the model's own). Keys read elsewhere: `name`, `defended`, `domain`,
            `description`, `training`, `results`.
        dtype: in which floating-point weights are stored. `load_model` computes in float32 with the stored values.

    Returns:
        The folder.

    Raises:
        ModelError: the model's config is unknown, a weight is not finite or not representable, or the folder holds
            other things than a model.
        DataError: it cannot be written.
    """
    path = Path(path)
    if model.config is None:
        raise ModelError(
            f"The configuration of {model.spec} is unknown.", "Save models of new_model or of a local folder."
        )
    if path.exists() and any(path.iterdir()) and not (path / CONFIG_FILE).is_file():
        raise ModelError(f"The folder {path} is not empty and holds no model.", "Choose another one.")
    weights = {name: _stored(name, tensor, dtype) for name, tensor in model.state().items()}
    of_heads = {} if model.heads is None else model.heads.state_dict()
    of_heads = {name: _stored(f"heads.{name}", tensor, dtype) for name, tensor in of_heads.items()}
    with _appearing(path) as building:
        _write(building, model, model.card if card is None else card, weights, of_heads)
    return path


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Yield a folder that replaces `path` when the block ends well, and is removed when it does not."""
    from safetensors import SafetensorError

    building: Path | None = None
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
            os.chmod(building, 0o755)
            yield building
            swap(building, path)
    except SafetensorError as error:
        raise DataError(f"{path} cannot be written: {error}.", "Free space there, or name another place.") from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def _write(
    folder: Path,
    model: OpenClipModel,
    card: dict[str, Any],
    weights: dict[str, torch.Tensor],
    heads: dict[str, torch.Tensor],
) -> None:
    from safetensors.torch import save_file

    write_text(folder / CONFIG_FILE, _json_text(model.config))
    write_text(folder / CARD_FILE, _json_text(card))
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    if model.heads is not None:
        write_heads(heads, model.heads.sizes, folder / HEADS_FILE)
    _save_tokenizer(model, folder)


def write_card(path: str | Path, card: dict[str, Any]) -> None:
    """Replace the card of a saved model; the weights, and so its hash, stay."""
    path = Path(path)
    if not (path / CONFIG_FILE).is_file():
        raise ModelError(f"{path} holds no model.")
    write_text(path / CARD_FILE, _json_text(card))


def add_to_card(path: str | Path, values: dict[str, Any]) -> None:
    """Put values into the card of a saved model, in the place of earlier ones of their names.

    Raises:
        ModelError: the folder holds no model, or its card cannot be read.
    """
    file = Path(path) / CARD_FILE
    try:
        card = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except json.JSONDecodeError as error:
        raise ModelError(f"The model card {file} is not valid JSON: {error}.", "Restore it.") from error
    write_card(path, card | values)


def _stored(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor.detach().cpu().contiguous()
    stored = tensor.detach().cpu().to(dtype).contiguous()
    if not bool(torch.isfinite(stored).all()):
        raise ModelError(f"The weight {name} is not finite in {dtype}.", "The training has diverged.")
    return stored.clone()


def _save_tokenizer(model: OpenClipModel, folder: Path) -> None:
    """Copy the bundled vocabulary, save another Hugging Face one; open_clip's own BPE needs no file."""
    inner = getattr(model.tokenizer, "tokenizer", None)
    if inner is None:
        return
    source = Path(getattr(inner, "name_or_path", "") or "")
    if not all((source / name).is_file() for name in FILES):
        model.tokenizer.save_pretrained(folder)
        return
    for name in FILES:
        shutil.copyfile(source / name, folder / name)


def swap(building: Path, path: Path) -> None:
    """Replace the folder `path` by the folder `building`."""
    if not path.exists():
        os.rename(building, path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
    os.rename(path, old / path.name)
    try:
        os.rename(building, path)
    except OSError:
        os.rename(old / path.name, path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _json_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
