"""Content addresses: what a result depends on, as canonical JSON, hashed.

Two attacks with the same address give the same examples; the address changes with anything that could change them. An
attack is described by walking through its parts (threat, objective, search and all that these are made of), so an
option at its default and the same option written out are one and the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmai_core.evaluation.store.stable_names import stable_name

FORMAT = 1


def digest(value: Any) -> str:
    """Return the SHA-256 (first 32 hex digits) of plain values as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def model_identity(model: Any) -> dict[str, Any]:
    """Describe weights, preprocessing, and what stands around the model where it is a defended system."""
    from cmai_core.models.scoring import has_heads

    describe = getattr(model, "describe", None)
    identity = {
        "weights": model.hash,
        "preprocessing": plain(dict(getattr(model, "preprocess_config", None) or {})),
        "system": plain(describe()) if callable(describe) else None,
    }
    # What stores of format 1 hold of such models lacks V_verify: under another address it is not taken for complete.
    return identity | ({"verification": True} if has_heads(model) else {})


def dataset_identity(dataset: Any) -> dict[str, Any]:
    """Name dataset and split; items have versions of their own (`item_version`)."""
    return {"name": dataset.name, "split": dataset.split}


def item_version(dataset: Any, index: int) -> str:
    """Return what names an item's content: what the dataset says (`item_version`), else a hash of all that is in it."""
    known = getattr(dataset, "item_version", None)
    if known is not None:
        return known(index)
    pair = dataset[index]
    questions = [[q.text, list(q.answers)] for q in pair.questions]
    return digest([plain(pair.image), list(pair.captions), questions, pair.label])


def task_identity(task: Any, dataset: Any) -> dict[str, Any]:
    """Name a task, and hash what its answers depend on besides the item itself (`Task.identity`)."""
    if task is None:
        return {"name": ""}
    return {"name": task.name} | {name: digest(content) for name, content in task.identity(dataset).items()}


def plain(value: Any) -> Any:
    """Return anything an attack is made of as JSON values that depend on its content alone."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=repr)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return _object(value)


def _object(value: Any) -> Any:
    import numpy as np
    import torch

    if callable(getattr(value, "address_content", None)):
        return plain(value.address_content())
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        data = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": data, "shape": list(value.shape), "dtype": str(value.dtype)}
    if callable(getattr(value, "prepare", None)) and callable(getattr(value, "predict", None)):
        return {"task": value.name}
    # Without reading them: a dataset works its statements out when they are asked for, which takes seconds.
    if all(inspect.getattr_static(value, name, None) is not None for name in ("statements", "split")):
        return dataset_identity(value)
    if callable(getattr(value, "image_features", None)) and hasattr(value, "hash"):
        return model_identity(value)
    kind = stable_name(type(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": kind} | {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if inspect.isroutine(value) or isinstance(value, type):
        return {"code": stable_name(value), "source": _source(value)}
    if isinstance(value, torch.nn.Module):
        return {"type": kind, "state": {k: plain(v) for k, v in value.state_dict().items()}}
    # The code of somebody else's class is part of what it does.
    source = None if kind.startswith("cmai_core.") else _source(type(value))
    return {"type": kind, "source": source, "state": plain(getattr(value, "__dict__", {}))}


def _source(code: Any) -> str | None:
    """Return a hash of the text of a function or class, None where it cannot be read."""
    try:
        return hashlib.sha256(inspect.getsource(code).encode()).hexdigest()
    except (OSError, TypeError):
        return None
