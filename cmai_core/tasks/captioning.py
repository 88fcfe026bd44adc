"""Captioning: the decoder writes a sentence about the image; its loss is that of the reference captions' tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cmai_core.data.truth import ground_truth_of
from cmai_core.tasks.base import Prediction, Task, rule_for
from cmai_core.tasks.consistency import AnswerTexts
from cmai_core.tasks.verified import VerifiedCaptions

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel


@dataclass(frozen=True)
class References:
    """Attributes: ids: int64 N×L, each pair's first caption; states: N×L×W their token states; pairs: the N pairs."""

    ids: Tensor
    states: Tensor
    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def select_rows(self, rows: Tensor) -> References:
        """Return the same for some of the rows (int64)."""
        rows = rows.to(self.ids.device)
        return replace(
            self, ids=self.ids[rows], states=self.states[rows], pairs=tuple(self.pairs[int(r)] for r in rows)
        )


class Captioning(Task):
    """A generated caption is right when it is true of the scene; without ground truth nothing is right or wrong.

    Args:
        max_tokens: length of a generated caption; beam: hypotheses, 1 is greedy.
    """

    name = "captioning"
    needs_decoder = True
    metrics = ("bleu4", "cider", "true", "fact_f1")

    def __init__(self, max_tokens: int = 44, beam: int = 1):
        self.max_tokens, self.beam = max_tokens, beam

    def answer_texts(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], prepared: References, *, encode: bool = True
    ) -> AnswerTexts:
        """Return no texts: the caption is written anew for each picture (`write`)."""
        return AnswerTexts(prepared, None, None)

    def write(self, model: VisionLanguageModel, features: ImageFeatures) -> list[str]:
        """Write a caption of each picture: of several the best supported, where the model is a system with a rule."""
        rule = rule_for(model, self.name)
        if isinstance(rule, VerifiedCaptions):
            return rule.write(model, features, self.max_tokens)
        return model.generate(features, max_tokens=self.max_tokens, beam=self.beam)

    @torch.no_grad()
    def prepare(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None
    ) -> References:
        """Encode the first caption of each pair."""
        ids = model.trim(model.tokenize([pair.captions[0] for pair in pairs]))
        return References(ids, model.text_states(ids), tuple(pairs))

    def loss(self, model: VisionLanguageModel, features: ImageFeatures, prepared: References) -> Tensor:
        """Return the mean cross entropy a token of the pair's first caption, in nats."""
        return -_log_likelihood(model, features, prepared.ids, prepared.states)

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, features: ImageFeatures, prepared: References) -> list[Prediction]:
        """Write captions; `score` is the geometric mean of their tokens' probabilities."""
        texts = self.write(model, features)
        ids = model.trim(model.tokenize(texts))
        scores = _log_likelihood(model, features, ids, model.text_states(ids)).exp().tolist()
        out = []
        for text, score, pair in zip(texts, scores, prepared.pairs, strict=True):
            detail: dict = {"references": list(pair.captions)}
            truth = ground_truth_of([pair])
            facts = None if truth is None else truth.fact_f1([text], [pair.scene])
            if facts is not None:
                detail["fact_f1"] = float(facts[0])
            # A caption of a known scene that cannot be read is wrong.
            correct = None if truth is None else truth.holds(text, pair.scene) is True
            out.append(Prediction(text, correct, score, detail))
        return out


def _log_likelihood(model: VisionLanguageModel, features: ImageFeatures, ids: Tensor, states: Tensor) -> Tensor:
    """Mean log-probability a token (end token included) of each text given its image, N."""
    pad = model.token_ids()[0]
    scores = model.fusion_logits(features.tokens, states[:, :-1]).float()
    targets = ids[:, 1:]
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    kept = targets != pad
    return -(losses * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
