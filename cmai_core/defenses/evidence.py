"""What the combined detector looks at: one row of numbers a picture, differentiable in its pixels.

Of the picture and one text (the given caption, or the text of the model's answer): S_c and log V_verify per word, plain
and over several views (`defenses.views`), how far the picture's embedding moves between views, whether the cosine and
V_verify agree over the shortlist of likeliest options, and how likely the decoder finds the text.

Agreement is the correlation of the two scores over the shortlist: of values and not of ranks, which have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cmai_core.attacks.objectives.classes import exposes_logits
from cmai_core.attacks.objectives.objective import prepare_task
from cmai_core.data.pair import Batch
from cmai_core.defenses.verified import StatementCache
from cmai_core.defenses.views import NAMES, Views
from cmai_core.errors import OptionError
from cmai_core.models.heads import TextStates
from cmai_core.models.scoring import has_heads, image_vectors, text_vectors
from cmai_core.options import one_of, whole
from cmai_core.tasks.consistency import AnswerTexts, answered

GIVEN, ANSWER = "given", "answer"
_TINY = 1e-12


@dataclass(frozen=True)
class Evidence:
    """Which numbers are taken, not yet bound to a batch.

    Attributes:
        task: a task of options, whose likeliest ones are the shortlist. dataset: handed to its `prepare`.
        scores: which text is scored: "given" (each picture's first text) or "answer" (what the answer amounts to).
        views: of the picture. shortlist: how many options, at least 2.

    Raises:
        OptionError: a task without options, or a value outside its range.
    """

    task: Any
    dataset: Any = None
    scores: str = ANSWER
    views: Views = field(default_factory=Views)
    shortlist: int = 8

    def __post_init__(self) -> None:
        one_of("scores", self.scores, (GIVEN, ANSWER))
        whole("shortlist", self.shortlist, 2)
        if not exposes_logits(self.task):
            raise OptionError(
                f"{getattr(self.task, 'name', self.task)} has no options to shortlist.", "Choose retrieval, or classes."
            )

    def names(self, model: Any) -> tuple[str, ...]:
        """Return what each column is: fewer without consistency heads, and without a decoder."""
        return (*_of_score("S_c"), *(f"picture {view}" for view in NAMES), *_of_words(model))

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> BoundEvidence:
        """Make it ready for a batch: noise, options and given texts.

        Raises:
            OptionError: a picture without a text, where given ones are scored.
        """
        prepared = prepare_task(self.task, None, model, batch, self.dataset, shared)
        options = self.task.answer_texts(model, batch.pairs, prepared, encode=not has_heads(model))
        texts = None
        if self.scores == GIVEN:
            first = {owner: text for text, owner in reversed(list(zip(batch.texts, batch.image_of_text, strict=True)))}
            if missing := [name for row, name in enumerate(batch.ids) if row not in first]:
                raise OptionError(f"Image {missing[0]!r} has no text.", "Give at least one each, or score the answer.")
            texts = tuple(first[row] for row in range(len(batch.ids)))
        return BoundEvidence(self, options, texts, self.views.noise(batch.ids, batch.pixels), _Read())


@dataclass(frozen=True, eq=False)
class BoundEvidence:
    """The same for N samples: pixels and features → N×F.

    Attributes:
        kind: as it was bound. options: of the task; texts: N given ones, or None. noise: N×3×H×W.
        read: texts encoded so far, shared by all selections.
    """

    kind: Evidence
    options: AnswerTexts
    texts: tuple[str, ...] | None
    noise: torch.Tensor
    read: _Read

    def select(self, rows: torch.Tensor) -> BoundEvidence:
        """Return the same for some of the samples (int64; they may recur)."""
        texts = None if self.texts is None else tuple(self.texts[row] for row in rows.tolist())
        noise = self.noise[rows.to(self.noise.device)]
        return replace(self, options=self.options.select_rows(rows), texts=texts, noise=noise)

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        """Return N×F numbers, float32 or better, in the order of `Evidence.names`."""
        # Of a system: what the detector scores, which is before any pathway that the score decides about.
        look = getattr(model, "plain_features", model.image_features)
        seen = [look(view) for _, view in self.kind.views.of(pixels, self.noise)]
        texts = answered(self.kind.task, model, features, self.options) if self.texts is None else list(self.texts)
        vectors = self.read.vectors(model, texts)
        columns = _spread([(image_vectors(model, f) * vectors).sum(dim=1) for f in (features, *seen)])
        columns += [(f.embedding * features.embedding).sum(dim=1) for f in seen]
        if has_heads(model):
            read = self.read.states(model, texts)
            words = read.counted.sum(dim=1).clamp(min=1)
            log_v = [model.verify(f, read, log=True) / words for f in (features, *seen)]
            columns += [*_spread(log_v), *self._agreement(model, features)]
            if model.has_decoder:
                columns.append(_likelihood(model, features, read))
        wide = torch.promote_types(pixels.dtype, torch.float32)
        return torch.stack([column.to(wide) for column in columns], dim=1)

    def _agreement(self, model: Any, features: Any) -> list[torch.Tensor]:
        """Return the correlation over the shortlist, and log V per word of the model's first less the best's (≤ 0)."""
        scores = self.kind.task.scores(model, features, self.options.prepared)
        shortlist = scores.detach().topk(min(self.kind.shortlist, scores.shape[1]), dim=1).indices
        strings = self.options.strings
        rows = enumerate(shortlist.tolist())
        texts = [(strings if self.options.shared else strings[row])[k] for row, chosen in rows for k in chosen]
        read = self.read.states(model, texts)
        words = read.counted.sum(dim=1).clamp(min=1).reshape(shortlist.shape)
        log_v = model.verify_options(features, read).reshape(shortlist.shape) / words
        cosines = scores.gather(1, shortlist).to(log_v)
        a, b = (x - x.mean(dim=1, keepdim=True) for x in (cosines, log_v))
        correlation = (a * b).sum(dim=1) / ((a * a).sum(dim=1) * (b * b).sum(dim=1) + _TINY).sqrt()
        return [correlation, log_v[:, 0] - log_v.amax(dim=1)]


class _Read:
    """Texts encoded so far: what S_c compares, and what V_verify reads."""

    def __init__(self) -> None:
        self._vectors: dict[str, torch.Tensor] = {}
        self._states = StatementCache()

    def vectors(self, model: Any, texts: Sequence[str]) -> torch.Tensor:
        """Return T×d unit vectors."""
        if missing := [text for text in dict.fromkeys(texts) if text not in self._vectors]:
            found = _in_full(model, lambda: text_vectors(model, missing))
            self._vectors.update(zip(missing, found, strict=True))
        return torch.stack([self._vectors[text] for text in texts])

    def states(self, model: Any, texts: Sequence[str]) -> TextStates:
        """Return what V_verify reads of T texts."""
        return _in_full(model, lambda: self._states.states(model, texts))


@torch.no_grad()
def _in_full(model: Any, encode: Callable[[], Any]) -> Any:
    """Encode texts without gradients in single precision, which passes in half precision read too."""
    with torch.autocast(torch.device(model.device).type, enabled=False):
        return encode()


def _of_score(name: str) -> tuple[str, ...]:
    return (name, *(f"{name} {view}" for view in NAMES), f"{name} spread")


def _of_words(model: Any) -> tuple[str, ...]:
    if not has_heads(model):
        return ()
    return (*_of_score("log V"), "agreement", "V gap", *(("likelihood",) if model.has_decoder else ()))


def _spread(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the plain value, each view's less it, and the standard deviation over all looks."""
    plain, looks = values[0], torch.stack(list(values))
    return [plain, *(value - plain for value in values[1:]), (looks.var(dim=0, unbiased=False) + _TINY).sqrt()]


def _likelihood(model: Any, features: Any, read: TextStates) -> torch.Tensor:
    """Return the mean log probability of each text's words by the decoder that sees the picture: N values ≤ 0."""
    predicted = model.fusion_logits(features.tokens, read.states)[:, :-1].float().log_softmax(dim=-1)
    own = predicted.gather(-1, read.said[:, 1:].unsqueeze(-1)).squeeze(-1)
    counted = read.counted[:, 1:]  # nothing is predicted of the first position
    return own.masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
