"""The file of a model's consistency heads, beside its weights.

open_clip finds its own weights by their name and does not look at it: a folder with heads remains an open_clip model.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch

from cmai_core.errors import ModelError
from cmai_core.models.heads import ConsistencyHeads, HeadSizes
from cmai_core.models.weights import checked_weights


def write_heads(weights: dict[str, torch.Tensor], sizes: HeadSizes, path: Path) -> None:
    """Store the heads' state dict, in the precision that it has, with the sizes as metadata."""
    from safetensors.torch import save_file

    # A single entry: safetensors writes several in any order, and the file's hash is part of the model's.
    save_file(weights, path, metadata={"sizes": json.dumps(sizes.to_dict())})


def read_heads(path: Path) -> ConsistencyHeads:
    """Read heads in float32, in evaluation mode, with parameters that ask for no gradient.

    Raises:
        ModelError: a damaged file, or one of other heads.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    checked_weights(path)
    try:
        with safe_open(path, "pt") as file:
            sizes = _sizes((file.metadata() or {})["sizes"])
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):  # shapes only: sizes in a header are promises
            expected = {name: tuple(tensor.shape) for name, tensor in ConsistencyHeads(sizes).state_dict().items()}
        if found != expected:
            raise ValueError("tensors of other sizes than the header says")
        heads = ConsistencyHeads(sizes)
        heads.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise ModelError(f"{path} holds no consistency heads that can be read.", "Fetch or save it again.") from error
    return heads.eval().requires_grad_(False)


def _sizes(text: str) -> HeadSizes:
    """Read the sizes in a header: four whole numbers that a model can have."""
    given = json.loads(text)
    names = [field.name for field in fields(HeadSizes)]
    if not isinstance(given, dict) or sorted(given) != sorted(names):
        raise ValueError("other sizes")
    if not all(isinstance(given[name], int) and 1 <= given[name] <= 16384 for name in names):
        raise ValueError("sizes that cannot be")
    return HeadSizes(**given)
