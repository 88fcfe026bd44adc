"""What S_c is measured with, for any model: heads of its own where it has them, else the contrastive embeddings.

Everything that means S_c goes through here; what ranks (retrieval, zero-shot classification, nearest neighbours) goes
on reading `features.embedding` and `encode_text`. A model is whatever has `image_features` and `encode_text`; only one
that also has `consistency_image`, `consistency_text` and `heads` that are not None has vectors of its own for S_c.
Without heads both functions return the very tensors that ranking uses, so every number stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def has_heads(model: Any) -> bool:
    """Whether S_c is measured with vectors of its own."""
    return getattr(model, "heads", None) is not None and callable(getattr(model, "consistency_image", None))


def image_vectors(model: Any, features: Any) -> torch.Tensor:
    """N×d unit length vectors of N images for S_c, differentiable in their features."""
    return model.consistency_image(features) if has_heads(model) else features.embedding


def text_vectors(model: Any, texts: Sequence[str] | torch.Tensor, **options: Any) -> torch.Tensor:
    """T×d unit length vectors of T texts for S_c; arguments as for `encode_text`."""
    return model.consistency_text(texts, **options) if has_heads(model) else model.encode_text(texts, **options)


def both_text_vectors(
    model: Any, texts: Sequence[str] | torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """(embeddings T×D for ranking, vectors T×d for S_c) from one pass; without heads one and the same tensor."""
    if not has_heads(model):
        embedding = model.encode_text(texts, **options)
        return embedding, embedding
    features = model.text_features(texts, states=False, **options)
    return features.embedding, model.consistency_text(features)
