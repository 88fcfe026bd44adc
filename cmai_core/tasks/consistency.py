"""Which text S_c is measured with, task by task: the text that the model's answer amounts to.

Zero-shot: the prompt of the predicted class. Retrieval: the retrieved caption. Question answering: the statement made
of question and predicted answer. Captioning: the generated caption. Two-image statements are not scored.

What ranks the answers and what scores the one given are two things: a task compares contrastive embeddings, S_c and
V_verify are measured by the model's consistency heads, where it has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from cmai_core.data.text import question_with_answer
from cmai_core.errors import OptionError
from cmai_core.models.scoring import has_heads, image_vectors, text_vectors

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair
    from cmai_core.models.wrapper import ImageFeatures, VisionLanguageModel


@dataclass(frozen=True)
class AnswerTexts:
    """The texts that the possible answers amount to, encoded.

    Attributes:
        prepared: what the task prepared.
        strings: C texts, the same for every row, or N×C; None where the text is written anew for each picture
            (captions).
        vectors: C×d or N×C×d, unit length, what S_c compares; None where `strings` is.
    """

    prepared: Any
    strings: tuple[str, ...] | tuple[tuple[str, ...], ...] | None
    vectors: Tensor | None

    def select_rows(self, rows: Tensor) -> AnswerTexts:
        """The same for some of the rows (int64)."""
        strings, vectors = self.strings, self.vectors
        if vectors is not None and vectors.dim() == 3:
            strings, vectors = tuple(strings[int(row)] for row in rows), vectors[rows.to(vectors.device)]
        return replace(self, prepared=self.prepared.select_rows(rows), strings=strings, vectors=vectors)


@torch.no_grad()
def answer_texts(task: Any, model: VisionLanguageModel, pairs: Sequence[Pair], prepared: Any) -> AnswerTexts:
    """Encodes the texts of every possible answer.

    Raises:
        OptionError: a task whose answers are not scored (two-image statements).
    """
    if task.name == "captioning":
        return AnswerTexts(prepared, None, None)
    if task.name == "vqa":
        texts = tuple(tuple(_statements(question, prepared.options)) for question in prepared.asked)
        distinct = list(dict.fromkeys(text for row in texts for text in row))
        encoded = _encoded(model, distinct)
        place = {text: k for k, text in enumerate(distinct)}
        index = torch.tensor([[place[text] for text in row] for row in texts], device=encoded.device)
        return AnswerTexts(prepared, texts, encoded[index])
    embeddings = getattr(prepared, "embeddings", None)
    if embeddings is None:
        raise OptionError(
            f"S_c does not score the answers of {task.name}.",
            "Accepted: zero-shot, retrieval, vqa, captioning; or the given pair.",
        )
    strings = tuple(getattr(prepared, "prompts", None) or prepared.options)
    return AnswerTexts(prepared, strings, _encoded(model, strings) if has_heads(model) else embeddings)


def _encoded(model: VisionLanguageModel, texts: Sequence[str]) -> Tensor:
    return torch.cat([text_vectors(model, list(texts[k : k + 256])) for k in range(0, len(texts), 256)])


def answer_consistency(task: Any, model: VisionLanguageModel, features: ImageFeatures, texts: AnswerTexts) -> Tensor:
    """S_c of each picture with the text of the answer given about it, N values in [-1, 1].

    Differentiable in the features; which answer is given is taken as it is.
    """
    with torch.no_grad():
        if texts.vectors is None:
            chosen = text_vectors(model, _written(task, model, features))
        else:
            best = task.logits(model, features, texts.prepared).argmax(dim=-1)
            if texts.vectors.dim() == 2:
                chosen = texts.vectors[best]
            else:
                chosen = texts.vectors[torch.arange(len(best), device=best.device), best]
    return (image_vectors(model, features) * chosen).sum(dim=-1)


@torch.no_grad()
def answered(task: Any, model: VisionLanguageModel, features: ImageFeatures, texts: AnswerTexts) -> list[str]:
    """The text that the answer given about each picture amounts to: N strings."""
    if texts.strings is None:
        return _written(task, model, features)
    best = task.logits(model, features, texts.prepared).argmax(dim=-1).tolist()
    shared = texts.vectors.dim() == 2
    return [(texts.strings if shared else texts.strings[row])[k] for row, k in enumerate(best)]


def _written(task: Any, model: VisionLanguageModel, features: ImageFeatures) -> list[str]:
    return model.generate(features, max_tokens=task.max_tokens, beam=task.beam)


def _statements(question: str, answers: Sequence[str]) -> list[str]:
    """The statement that each answer to a question makes; where there is none, the question followed by the answer."""
    from cmai_core.data.tabletop.language import parse_question, realise, statement_of
    from cmai_core.data.tabletop.statements import StatementError

    try:
        query = parse_question(question)
    except StatementError:
        return [question_with_answer(question, answer) for answer in answers]
    out = []
    for answer in answers:
        try:
            # The wording is drawn; the address of its random numbers is the text itself.
            rng = np.random.default_rng(crc32(f"{question}\x1f{answer}".encode()))
            out.append(realise(statement_of(query, answer), rng))
        except StatementError:
            out.append(question_with_answer(question, answer))
    return out
