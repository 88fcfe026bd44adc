"""The vectors that S_c compares, for any model: those of its consistency heads, else the contrastive embeddings.

Everything that means S_c goes through here; ranking (retrieval, zero-shot classification, nearest neighbours) reads
`features.embedding` and `encode_text`. Any `image_features` and `encode_text` will do; a model that also has
`consistency_image`, `consistency_text` and `heads` has separate vectors for S_c. Without heads both functions return
the very tensors that ranking uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def has_heads(model: Any) -> bool:
    """Return whether S_c has vectors of its own in this model."""
    return getattr(model, "heads", None) is not None and callable(getattr(model, "consistency_image", None))


def image_vectors(model: Any, features: Any) -> torch.Tensor:
    """Return N×d unit length vectors of N images for S_c, differentiable in their features."""
    return model.consistency_image(features) if has_heads(model) else features.embedding


def text_vectors(model: Any, texts: Sequence[str] | torch.Tensor, **options: Any) -> torch.Tensor:
    """Return T×d unit length vectors of T texts for S_c; arguments as for `encode_text`."""
    return model.consistency_text(texts, **options) if has_heads(model) else model.encode_text(texts, **options)


def both_text_vectors(
    model: Any, texts: Sequence[str] | torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (embeddings T×D for ranking, vectors T×d for S_c) from one pass; without heads one and the same tensor."""
    if not has_heads(model):
        embedding = model.encode_text(texts, **options)
        return embedding, embedding
    features = model.text_features(texts, states=False, **options)
    return features.embedding, model.consistency_text(features)


def statement_states(model: Any, texts: Sequence[str]) -> Any:
    """Return what V_verify reads of T texts (`heads.TextStates`): a system's remembered ones, or encoded now."""
    remembered = getattr(model, "statement_states", None)
    return model.verification_states(texts) if remembered is None else remembered(texts)
