"""The memory that a model needs, from its configuration alone, and whether this machine has it.

The architecture is built on PyTorch's `meta` device, where tensors have shapes and no contents: exact for every tower
that open_clip can build, in a second or two at most, and without memory.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmai_core.errors import ModelError

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_HINT = "Choose a smaller model, or a machine with more memory."


@dataclass(frozen=True)
class ModelSize:
    """The memory that a model needs.

    Attributes:
        parameters: how many numbers its weights are.
        weights: bytes of parameters and buffers in single precision.
        working: bytes that one picture and one text with their gradients need besides, at least.
    """

    parameters: int
    weights: int
    working: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.working


def machine_memory() -> int | None:
    """Return the bytes of memory of this machine, or of its container; None where the system does not say."""
    limits = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min((limit for limit in limits if limit > 0), default=None)


def estimate(model_cfg: Mapping[str, Any], memory: int | None = None) -> ModelSize:
    """Estimate the size of a model from a checked `model_cfg` (see `configuration`).

    Args:
        model_cfg: of a configuration, or of open_clip's own.
        memory: stop where a quick lower bound is above it already (None: count whatever it is).

    Raises:
        ModelError: it cannot be built.
    """
    from cmai_core.models.building import instantiate

    parameters, working = _lower_bounds(model_cfg)
    if memory is not None and 4 * parameters + working > memory:
        return ModelSize(parameters, 4 * parameters, working)
    model = instantiate(model_cfg, "meta")
    parameters = list(model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    count = sum(parameter.numel() for parameter in parameters)
    return ModelSize(count, 4 * count + buffers, working)


def check_memory(model_cfg: Mapping[str, Any], where: str, *, stored: int = 0, memory: int | None = None) -> ModelSize:
    """Refuse a model that this machine's memory cannot hold, before anything of it is built or read.

    Args:
        model_cfg: as for `estimate`. where: what to call the model in errors.
        stored: bytes of the file with its weights, which lies in memory while it is read.
        memory: bytes that there are; None: this machine's.

    Raises:
        ModelError: too large, or an architecture that cannot be built.
    """
    memory = machine_memory() if memory is None else memory
    size = estimate(model_cfg, memory)
    if memory is not None and size.total + stored > memory:
        raise ModelError(
            f"{where} is too large for this machine: it takes at least {_giga(size.total + stored)}, and there are "
            f"{_giga(memory)}.",
            _HINT,
        )
    return size


def _lower_bounds(model_cfg: Mapping[str, Any]) -> tuple[int, int]:
    """Return lower bounds of open_clip's own towers (others: 0): parameters, and bytes kept for a backward pass.

    Each layer of a transformer keeps at least its input, queries, keys and values, the attention's output and both
    sides of the MLP; one layer's attention weights are written out where somebody looks at them.
    """
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    parts = []
    height, width = _sides(vision.get("image_size") or 224)
    if not vision.get("timm_model_name"):
        channels, layers = vision.get("width") or 768, vision.get("layers") or 12
        if isinstance(layers, (list, tuple)):
            parts.append((0.0, height / 2 * width / 2 * channels * 3))
        else:
            down, across = _sides(vision.get("patch_size") or 16)
            tokens = (height // down) * (width // across) + 1
            heads = max(1, channels // (vision.get("head_width") or 64))
            parts.append(_transformer(tokens, channels, layers, vision.get("mlp_ratio") or 4.0, heads))
    if not text.get("hf_model_name"):
        parts.append(_text(text))
    if decoder := model_cfg.get("multimodal_cfg"):
        parts += [_text(decoder), (0.0, (decoder.get("context_length") or 77) * (text.get("vocab_size") or 49408))]
    return math.ceil(sum(weights for weights, _ in parts)), math.ceil(4 * sum(kept for _, kept in parts))


def _text(config: Mapping[str, Any]) -> tuple[float, float]:
    width, ratio = config.get("width") or 512, config.get("mlp_ratio") or 4.0
    length, layers, heads = (config.get("context_length") or 77, config.get("layers") or 12, config.get("heads") or 8)
    return _transformer(length, width, layers, ratio, heads)


def _transformer(tokens: int, width: int, layers: int, ratio: float, heads: int) -> tuple[float, float]:
    """Return (parameters, numbers kept) of a stack of blocks over so many tokens."""
    kept = layers * tokens * width * (6 + 2 * ratio) + heads * float(tokens) ** 2
    return tokens * width + layers * width**2 * (4 + 2 * ratio), kept


def _sides(size: Any) -> tuple[int, int]:
    return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)


def _giga(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB"
