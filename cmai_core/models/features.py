"""What a model's passes over pictures and texts return, and how rows of such records are taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass over N images gives; every task reads from it.

    Attributes:
        embedding: N×D, unit length, in the space that images and texts share.
        pooled: N×D, the same before normalisation.
        tokens: N×P×W patch tokens (what a decoder looks at); None where the image tower gives none.
    """

    embedding: torch.Tensor
    pooled: torch.Tensor
    tokens: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, index: Any) -> ImageFeatures:
        """Select rows by slice, mask or index tensor."""
        tokens = None if self.tokens is None else self.tokens[index]
        return ImageFeatures(self.embedding[index], self.pooled[index], tokens)

    def detach(self) -> ImageFeatures:
        """Return the same values outside the autograd graph."""
        tokens = None if self.tokens is None else self.tokens.detach()
        return ImageFeatures(self.embedding.detach(), self.pooled.detach(), tokens)


@dataclass(frozen=True)
class TextFeatures:
    """What one pass over T texts gives.

    Attributes:
        embedding: T×D, unit length, in the space that images and texts share.
        pooled: T×D, the same before normalisation.
        states: T×L'×W token states (what CoCa's decoder reads), L' the trimmed length; None where the tower has none.
    """

    embedding: torch.Tensor
    pooled: torch.Tensor
    states: torch.Tensor | None


@dataclass(frozen=True)
class VerifiedWords:
    """How well a picture supports each word of a text, by V_verify; on the CPU.

    Attributes:
        words: W words in order, punctuation included, as V_verify counts them.
        log_probability: float32 W, log of the probability that the picture supports the word: the sum over its tokens.
            The sum over the words is log V_verify.
        attention: float32 W×P, where the word looked among the P patch tokens (mean over its tokens; rows sum to 1).
    """

    words: tuple[str, ...]
    log_probability: torch.Tensor
    attention: torch.Tensor

    @property
    def probability(self) -> torch.Tensor:
        """W values in [0, 1]."""
        return self.log_probability.exp()


def take_rows(features: Any, rows: torch.Tensor) -> Any:
    """Return the same record (tensor, dataclass, tuple, list or dict) with each tensor indexed by `rows`."""
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


def join_features(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    """Return the features of several batches of pictures as those of one."""
    tokens = None if parts[0].tokens is None else torch.cat([part.tokens for part in parts])
    return ImageFeatures(
        torch.cat([part.embedding for part in parts]), torch.cat([part.pooled for part in parts]), tokens
    )
