"""Taking rows of what a model's image tower returns, whatever record it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


def take_rows(features: Any, rows: torch.Tensor) -> Any:
    """The same record (tensor, dataclass, tuple, list or dict) with each tensor indexed by `rows` in dimension 0."""
    if isinstance(features, torch.Tensor):
        return features.index_select(0, rows)
    if dataclasses.is_dataclass(features) and not isinstance(features, type):
        changed = {f.name: take_rows(getattr(features, f.name), rows) for f in dataclasses.fields(features)}
        return dataclasses.replace(features, **changed)
    if isinstance(features, tuple) and hasattr(features, "_replace"):
        return type(features)(*(take_rows(value, rows) for value in features))
    if isinstance(features, (tuple, list)):
        return type(features)(take_rows(value, rows) for value in features)
    if isinstance(features, dict):
        return {key: take_rows(value, rows) for key, value in features.items()}
    return features
