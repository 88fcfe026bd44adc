"""The verified pathway: flagged pictures are answered by verification, all others by the model's own scores.

    System(model, detector=…, policy="robust pathway", pathway=VerifiedPathway(VerifiedAnswers(shortlist=10)))

Verified answering (`defenses.verified`) costs a pass of the verifier for each shortlisted option; here only what looks
attacked pays it. Which pictures were flagged travels with their features, so tasks and attacks need not know of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from cmai_core.defenses.pathways import Pathway
from cmai_core.models.features import ImageFeatures
from cmai_core.options import strict_options
from cmai_core.tasks.verified import Rule, VerifiedAnswers, VerifiedCaptions, Verify


@dataclass(frozen=True)
class MarkedFeatures(ImageFeatures):
    """Features that know which pictures were flagged: bool N."""

    flagged: Tensor | None = None

    def __getitem__(self, index: Any) -> MarkedFeatures:
        """Select rows by slice, mask or index tensor."""
        return MarkedFeatures(*(None if value is None else value[index] for value in self._values()))

    def detach(self) -> MarkedFeatures:
        """Return the same values outside the autograd graph."""
        return MarkedFeatures(*(None if value is None else value.detach() for value in self._values()))

    def _values(self) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True, eq=False)
class VerifiedPathway:
    """Verified answering for flagged pictures.

    Attributes:
        rule: how they are answered. then: a pathway that their features take besides; None: features stay.
    """

    rule: VerifiedAnswers
    then: Pathway | None = None

    @property
    def passes(self) -> int:
        return 0 if self.then is None else self.then.passes

    def features(self, model: Any, pixels: Tensor, generators: Sequence[torch.Generator]) -> Any:
        """Return the features of flagged pictures (without `then`, the model's own)."""
        if self.then is None:
            return model.image_features(pixels)
        return self.then.features(model, pixels, generators)

    def mark(self, features: Any, rows: Tensor) -> MarkedFeatures:
        """Return features that say which rows (int64) were flagged."""
        flagged = torch.zeros(len(features), dtype=torch.bool, device=features.embedding.device)
        flagged[rows] = True
        return MarkedFeatures(features.embedding, features.pooled, features.tokens, flagged)

    def answering(self, others: VerifiedAnswers | Mapping[str, Rule] | None) -> Any:
        """Return the system's rule, or rules by task: this one for flagged pictures, `others` for the rest."""
        if isinstance(others, Mapping):
            return _ByTask(self, others)
        return FlaggedAnswers(**asdict(self.rule), others=others)

    def describe(self) -> dict:
        plain = {"verified": self.rule.describe()}
        return plain if self.then is None else plain | self.then.describe()


@strict_options
@dataclass(frozen=True, kw_only=True)
class FlaggedAnswers(VerifiedAnswers):
    """A rule for flagged pictures. `others`: for all the others; None: the model's own scores decide."""

    others: VerifiedAnswers | None = None

    def rescore(self, scores: Tensor, verify: Verify, flagged: Tensor | None = None) -> Tensor:
        """Return N×C values to answer by; see `VerifiedAnswers.rescore`."""
        found = scores if self.others is None else self.others.rescore(scores, verify)
        if flagged is None or not flagged.any():
            return found
        rows = flagged.nonzero()[:, 0]
        return found.index_copy(0, rows, super().rescore(scores[rows], lambda chosen: verify(chosen, rows)).to(found))


class _ByTask(Mapping[str, Rule]):
    """Rules by task, where every task has the pathway's rule for flagged pictures."""

    def __init__(self, pathway: VerifiedPathway, others: Mapping[str, Rule]):
        self._pathway, self._others = pathway, others

    def __getitem__(self, task: str) -> Rule:
        own = self._others.get(task)
        if isinstance(own, VerifiedCaptions):
            return own
        return FlaggedAnswers(**asdict(self._pathway.rule), others=own)

    def __iter__(self) -> Any:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)
