"""Objectives on the image embedding: away from the clean one, or towards a chosen image or text. No labels needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from cmai_core.attacks.engine.clean_features import clean_features, encode
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.options import one_of

PARTS = ("embedding", "pooled")
DISTANCES = ("squared", "cosine")


@dataclass(frozen=True)
class EmbeddingDeviation(Objective):
    """Distance between the attacked and the clean embedding.

    The default is the loss of FARE's inner problem (Schlarmann et al. 2024, eq. 3): squared Euclidean distance of the
    un-normalised embedding. Its gradient is 0 at the clean image: start at a random point.

    Attributes:
        part: "pooled" (un-normalised) or "embedding" (unit length).
        distance: "squared" (Euclidean) or "cosine" (1 − cosine).
    """

    part: str = "pooled"
    distance: str = "squared"

    def __post_init__(self) -> None:
        one_of("part", self.part, PARTS)
        one_of("distance", self.distance, DISTANCES)

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        clean = getattr(clean_features(model, batch, shared), self.part)
        return _BoundDeviation(self.part, self.distance, clean)

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return f"deviation:{self.part}" + ("" if self.distance == "squared" else f" ({self.distance})")


@dataclass(frozen=True, eq=False)
class _BoundDeviation(Objective):
    part: str
    distance: str
    clean: torch.Tensor

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundDeviation(self.part, self.distance, self.clean[rows.to(self.clean.device)])

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        attacked = getattr(features, self.part)
        if self.distance == "cosine":
            return 1 - F.cosine_similarity(attacked, self.clean, dim=1)
        return ((attacked - self.clean) ** 2).sum(dim=1)

    def describe(self) -> str:
        return EmbeddingDeviation(self.part, self.distance).describe()


@dataclass(frozen=True, eq=False)
class EmbeddingTarget(Objective):
    """Cosine between the attacked image's embedding and a chosen one, in [−1, 1] (as in Zhao et al. 2023, eq. 2 and 3).

    Attributes (exactly one of them; one for all samples, or one for each):
        text: what the picture shall be taken for.
        image: pixels N×3×H×W in [0, 1] of the model's size, or a sequence of uint8 H×W×3 images.
        embedding: N×D.
    """

    text: str | Sequence[str] | None = None
    image: torch.Tensor | Sequence[Any] | None = None
    embedding: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if sum(item is not None for item in (self.text, self.image, self.embedding)) != 1:
            raise OptionError("An embedding target is one thing.", "Accepted: exactly one of text, image, embedding.")

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        with torch.no_grad():
            if self.text is not None:
                goal = model.encode_text([self.text] if isinstance(self.text, str) else list(self.text))
            elif self.image is not None:
                pixels = self.image if isinstance(self.image, torch.Tensor) else model.preprocess(list(self.image))
                goal = encode(model, pixels.to(batch.pixels)).embedding
            else:
                goal = self.embedding
        if len(goal) not in (1, len(batch.ids)):
            raise OptionError(f"{len(goal)} targets for {len(batch.ids)} samples.", "Give one, or one per sample.")
        goal = F.normalize(goal.detach(), dim=1)
        return _BoundTarget(goal.expand(len(batch.ids), -1), self.describe())

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        kind = "text" if self.text is not None else "image" if self.image is not None else "embedding"
        return f"target:{kind}"


@dataclass(frozen=True, eq=False)
class _BoundTarget(Objective):
    goal: torch.Tensor
    words: str

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundTarget(self.goal[rows.to(self.goal.device)], self.words)

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        return F.cosine_similarity(features.embedding, self.goal.to(features.embedding), dim=1)

    def describe(self) -> str:
        return self.words


@dataclass(frozen=True)
class Constant(Objective):
    """The same number for every sample: `Constant(tau) - Consistency()` is positive exactly where S_c < τ.

    Searches for the nearest boundary take an objective's zero as the boundary.
    """

    number: float

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return self

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        return torch.full((len(pixels),), float(self.number), dtype=features.embedding.dtype, device=pixels.device)

    def describe(self) -> str:
        return f"{self.number:g}"
