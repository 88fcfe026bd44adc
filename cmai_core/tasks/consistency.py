"""S_c and V_verify of a model's own answer: measured with the text that the answer amounts to (`Task.answer_texts`).

Zero-shot: the prompt of the predicted class. Retrieval: the retrieved caption. Question answering: the statement made
of question and predicted answer. Captioning: the generated caption. Two-image statements are not scored.

What ranks the answers and what scores the one given are two things: a task compares contrastive embeddings, S_c and
V_verify are measured by the model's consistency heads, where it has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cmai_core.models.scoring import has_heads, image_vectors, text_vectors

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel


@dataclass(frozen=True)
class AnswerTexts:
    """The texts that the possible answers amount to, encoded.

    Attributes:
        prepared: what the task prepared.
        strings: C texts, the same for every row, or N×C; None where the task writes the text anew for each picture
            (`task.write(model, features)`).
        vectors: C×d or N×C×d, unit length, what S_c compares; None where `strings` is, or where encoding was not
            asked for.
    """

    prepared: Any
    strings: tuple[str, ...] | tuple[tuple[str, ...], ...] | None
    vectors: Tensor | None

    @property
    def shared(self) -> bool:
        """Tell whether `strings` are the same for every row."""
        return isinstance(self.strings[0], str)

    def select_rows(self, rows: Tensor) -> AnswerTexts:
        """Return the same for some of the rows (int64)."""
        strings, vectors = self.strings, self.vectors
        if strings is not None and not self.shared:
            strings = tuple(strings[int(row)] for row in rows)
            vectors = None if vectors is None else vectors[rows.to(vectors.device)]
        return replace(self, prepared=self.prepared.select_rows(rows), strings=strings, vectors=vectors)


@torch.no_grad()
def option_texts(
    model: VisionLanguageModel, prepared: Any, texts: Sequence[str], vectors: Tensor, *, encode: bool = True
) -> AnswerTexts:
    """Return texts that are the same for every row, of a task that ranks by their contrastive embeddings.

    Args:
        texts: C, one for each option. vectors: C×d, their embeddings, which S_c compares without consistency heads.
    """
    if has_heads(model):
        vectors = _encoded(model, texts) if encode else None
    return AnswerTexts(prepared, tuple(texts), vectors)


@torch.no_grad()
def row_texts(
    model: VisionLanguageModel, prepared: Any, texts: Sequence[Sequence[str]], *, encode: bool = True
) -> AnswerTexts:
    """Return texts of each row's own: N×C."""
    texts = tuple(map(tuple, texts))
    if not encode:
        return AnswerTexts(prepared, texts, None)
    distinct = list(dict.fromkeys(text for row in texts for text in row))
    encoded = _encoded(model, distinct)
    place = {text: k for k, text in enumerate(distinct)}
    index = torch.tensor([[place[text] for text in row] for row in texts], device=encoded.device)
    return AnswerTexts(prepared, texts, encoded[index])


def _encoded(model: VisionLanguageModel, texts: Sequence[str]) -> Tensor:
    return torch.cat([text_vectors(model, list(texts[k : k + 256])) for k in range(0, len(texts), 256)])


def answer_consistency(task: Any, model: VisionLanguageModel, features: ImageFeatures, texts: AnswerTexts) -> Tensor:
    """Return S_c of each picture with the text of the answer given about it: N values in [-1, 1].

    Differentiable in the features; which answer is given is taken as it is.
    """
    with torch.no_grad():
        if texts.vectors is None:
            chosen = text_vectors(model, answered(task, model, features, texts))
        else:
            best = task.logits(model, features, texts.prepared).argmax(dim=-1)
            if texts.shared:
                chosen = texts.vectors[best]
            else:
                chosen = texts.vectors[torch.arange(len(best), device=best.device), best]
    return (image_vectors(model, features) * chosen).sum(dim=-1)


@torch.no_grad()
def answer_scores(
    task: Any, model: VisionLanguageModel, features: ImageFeatures, texts: AnswerTexts
) -> tuple[Tensor, Tensor | None]:
    """Return S_c and log V_verify of each picture with the text of the answer given: N values each, no gradient.

    Args:
        texts: of a model with consistency heads, they need not be encoded: only the answers given are.

    Returns:
        S_c in [-1, 1], and log V_verify ≤ 0, None without consistency heads.
    """
    if not has_heads(model):
        return answer_consistency(task, model, features, texts), None
    said = answered(task, model, features, texts)
    place = {text: k for k, text in enumerate(dict.fromkeys(said))}
    rows = torch.tensor([place[text] for text in said])
    vectors = _encoded(model, list(place))
    s_c = (image_vectors(model, features) * vectors[rows.to(vectors.device)]).sum(dim=-1)
    read = model.verification_states(list(place))
    return s_c, model.verify(features, read[rows.to(read.states.device)], log=True)


@torch.no_grad()
def answered(task: Any, model: VisionLanguageModel, features: ImageFeatures, texts: AnswerTexts) -> list[str]:
    """Return the text that the answer given about each picture amounts to: N strings."""
    if texts.strings is None:
        return task.write(model, features)
    best = task.logits(model, features, texts.prepared).argmax(dim=-1).tolist()
    return [(texts.strings if texts.shared else texts.strings[row])[k] for row, k in enumerate(best)]
