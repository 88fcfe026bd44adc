"""Scores pairs of an image and a text: candidates of one pair side by side, gradients in texts and in pixels."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.features import take_rows
from cmai_core.attacks.memory import is_out_of_memory, smaller
from cmai_core.attacks.objectives import Objective
from cmai_core.attacks.success import Criterion, Raised, Scored
from cmai_core.attacks.text_objectives import (
    Misretrieved,
    PairFeatures,
    PairFlagged,
    TextTaskWrong,
    all_parts,
    pair_batch,
)
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError

_MOST_TEXTS = 16_384


@dataclass(frozen=True)
class PairScores:
    """Scores of K pairs: the objective, S_c, and the criterion (None where it was not asked)."""

    value: torch.Tensor
    consistency: torch.Tensor
    success: torch.Tensor | None


View = Callable[[torch.Tensor], torch.Tensor]


class PairEvaluator:
    """A model with an objective and a criterion, bound to the pairs of a batch (T pairs on N images).

    Text embeddings are remembered by their string (a bounded number), so that candidates scored against one image are
    not encoded again for the next.

    Args:
        model: has `image_features(pixels)` and `encode_text(texts)`.
        batch: N images, T texts. objective, criterion: not yet bound.
        chunk: pairs scored in one go; halved whenever the device runs out of memory. micro_batch: images in one pass.

    Attributes:
        pairs: the batch with one row a pair. owner: int64 T, the image row of each pair.
        clean_value: T, set once the clean pairs are scored. encoded: texts encoded so far.
    """

    def __init__(
        self,
        model: Any,
        batch: Batch,
        objective: Objective,
        criterion: Criterion,
        *,
        chunk: int = 256,
        micro_batch: int | None = None,
    ):
        self.model, self.batch, self.pairs = model, batch, pair_batch(batch)
        device = getattr(model, "device", None) or batch.pixels.device
        self.pixels = batch.pixels.detach().to(device)
        self.owner = torch.tensor(list(batch.image_of_text), device=device)
        shared: dict = {}
        self.objective = objective.bind(model, self.pairs, shared)
        self.criterion = criterion.bind(model, self.pairs, shared)
        self.light = all_parts(self.objective, "embedding_only") and _light(self.criterion)
        self.repeats = all_parts(self.objective) and _repeatable(self.criterion)
        self.chunk, self.micro_batch = chunk, micro_batch
        self.clean_value: torch.Tensor | None = None
        self.encoded = 0
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    # Images

    def images(self, pixels: torch.Tensor) -> Any:
        """Features of N images, without gradients."""
        with torch.no_grad():
            parts = self._pieces(len(pixels), lambda span: self.model.image_features(pixels[span]), "micro_batch")
        return parts[0] if len(parts) == 1 else _concatenated(parts)

    # Texts

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit-length embeddings K×D, without gradients; each distinct text once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        if missing:
            with torch.no_grad():
                parts = self._pieces(len(missing), lambda span: self.model.encode_text(missing[span]), "chunk")
            for text, embedding in zip(missing, torch.cat(parts), strict=True):
                self._embeddings[text] = embedding
            self.encoded += len(missing)
        found = torch.stack([self._embeddings[text] for text in texts])
        while len(self._embeddings) > _MOST_TEXTS:
            self._embeddings.popitem(last=False)
        return found

    def score(
        self, texts: Sequence[str], rows: Sequence[int], images: Any, *, success: bool = True, pixels: Any = None
    ) -> PairScores:
        """Scores K texts, text k standing for that of pair `rows[k]`, with the images' features (N rows).

        `pixels` are what `images` was made from; only criteria and objectives that read pixels need them.
        """
        texts, rows = list(texts), list(rows)
        if not texts:
            empty = self.pixels.new_zeros(0)
            return PairScores(empty, empty, torch.zeros(0, dtype=torch.bool, device=self.device))
        with torch.no_grad():
            embedded = self.encode(texts)
            if self.repeats or len(set(rows)) == len(rows):
                parts = self._pieces(
                    len(texts), lambda s: self._scores(texts[s], rows[s], embedded[s], images, success, pixels), "chunk"
                )
                return _joined(parts)
            return self._in_layers(texts, rows, embedded, images, success, pixels)

    def text_gradient(
        self, soft: torch.Tensor, pad_mask: torch.Tensor, rows: Sequence[int], images: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (K) and the gradient of each in its own distribution over tokens (K×L×V).

        Raises:
            OptionError: the objective has no gradient in the text.
        """

        def run(span: slice) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.enable_grad():
                x = soft[span].detach().requires_grad_(True)
                embedding = self.model.encode_text(x, pad_mask=pad_mask[span])
                index = torch.as_tensor(list(rows)[span], device=self.device)
                features = self._features(images, index, embedding, None)
                value = self.objective.select(index)(self.model, self._gathered(index, None), features)
                if not value.requires_grad:
                    raise OptionError(
                        f"The objective {self.objective.describe()} has no gradient in the text.",
                        "Choose a search by candidates, or one that depends on the text.",
                    )
                return value.detach(), torch.autograd.grad(value.sum(), x)[0]

        parts = self._pieces(len(soft), run, "chunk")
        return torch.cat([value for value, _ in parts]), torch.cat([gradient for _, gradient in parts])

    # Images of pairs

    def climb(
        self, pixels: torch.Tensor, embedded: torch.Tensor, texts: Sequence[str] | None, views: Sequence[View] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Objective of every pair with its text fixed, S_c, and the gradient N×… of their sum in the pixels.

        With `views` (differentiable maps of the pixels) the objective is the mean over the views.
        """
        with torch.enable_grad():
            x = pixels.detach().requires_grad_(True)
            total, consistency = None, None
            gradient = torch.zeros_like(x)
            every = torch.arange(len(self.owner), device=self.device)
            for view in views or (lambda p: p,):
                seen = view(x)
                features = self._features(self.model.image_features(seen), every, embedded, texts)
                value = self.objective(self.model, seen[:0] if self.light else seen[self.owner], features)
                if not value.requires_grad:
                    raise OptionError(
                        f"The objective {self.objective.describe()} has no gradient in the pixels.",
                        "Choose one that depends on the image.",
                    )
                gradient += torch.autograd.grad(value.sum(), x)[0]
                cosine = (features.embedding * features.text).sum(dim=1).detach()
                total = value.detach() if total is None else total + value.detach()
                consistency = cosine if consistency is None else consistency + cosine
            count = max(1, len(views))
            return total / count, consistency / count, gradient / count

    @contextlib.contextmanager
    def climbing_on(self, objective: Objective | None) -> Iterator[None]:
        """Another objective (not yet bound) while inside; None changes nothing."""
        kept, light = self.objective, self.light
        try:
            if objective is not None:
                self.objective = objective.bind(self.model, self.pairs, {})
                self.light = light and all_parts(self.objective, "embedding_only")
            yield
        finally:
            self.objective, self.light = kept, light

    def score_flat(
        self, texts: Sequence[str], index: torch.Tensor, embedded: torch.Tensor, images: Any, pixels: torch.Tensor
    ) -> PairScores:
        """Scores of many candidates with images that are part of a graph: the value keeps its gradient.

        Raises:
            OptionError: an objective or a criterion that cannot see one pair with several texts in one call.
        """
        if not self.repeats:
            raise OptionError(
                f"The objective {self.objective.describe()} cannot be asked of many texts at once.",
                "Choose another schedule, such as alternating.",
            )
        features = self._features(images, index, embedded, texts)
        seen = pixels[:0] if self.light else pixels[self.owner[index]]
        value = self.objective.select(index)(self.model, seen, features)
        with torch.no_grad():
            clean = None if self.clean_value is None else self.clean_value[index]
            won = self.criterion.select(index)(Scored(self.model, seen, features, value.detach(), clean))
            return PairScores(value, (features.embedding * features.text).sum(dim=1).detach(), won)

    # Within

    def _features(
        self, images: Any, rows: torch.Tensor, text: torch.Tensor, strings: Sequence[str] | None
    ) -> PairFeatures:
        owner = self.owner[rows]
        same = len(owner) == len(images.embedding) and bool(
            (owner == torch.arange(len(owner), device=owner.device)).all()
        )
        pick = (lambda t: t) if same else (lambda t: None if t is None else t[owner])
        tokens = None if self.light else pick(getattr(images, "tokens", None))
        return PairFeatures(
            pick(images.embedding), pick(images.pooled), tokens, text, None if strings is None else tuple(strings)
        )

    def _gathered(self, rows: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        source = self.pixels if pixels is None else pixels
        return source[:0] if self.light else source[self.owner[rows]]

    def _scores(
        self, texts: list[str], rows: list[int], embedded: torch.Tensor, images: Any, success: bool, pixels: Any
    ) -> PairScores:
        index = torch.tensor(rows, device=self.device)
        features = self._features(images, index, embedded, texts)
        seen = self._gathered(index, pixels)
        value = self.objective.select(index)(self.model, seen, features).detach()
        consistency = (features.embedding * features.text).sum(dim=1)
        won = None
        if success:
            clean = None if self.clean_value is None else self.clean_value[index]
            won = self.criterion.select(index)(Scored(self.model, seen, features, value, clean))
        return PairScores(value, consistency, won)

    def _in_layers(self, texts, rows, embedded, images, success, pixels) -> PairScores:
        """An objective that may not see a row twice in one call: the first candidate of every pair, the second, …"""
        layers: list[list[int]] = []
        seen: dict[int, int] = {}
        for k, row in enumerate(rows):
            depth = seen[row] = seen.get(row, -1) + 1
            if depth == len(layers):
                layers.append([])
            layers[depth].append(k)
        order = [k for layer in layers for k in layer]
        parts = [
            self._scores([texts[k] for k in layer], [rows[k] for k in layer], embedded[layer], images, success, pixels)
            for layer in layers
        ]
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return take_rows(_joined(parts), back.to(self.device))

    def _pieces(self, count: int, work: Callable[[slice], Any], limit: str) -> list[Any]:
        """`work` on consecutive spans; the span's length, kept in attribute `limit`, is halved when memory runs out."""
        done, parts = 0, []
        while done < count or not parts:
            size = min(getattr(self, limit) or count, count - done)
            try:
                parts.append(work(slice(done, done + size)))
                done += size
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            setattr(self, limit, smaller(size))
        return parts


def _parts_of(criterion: Any) -> list[Any]:
    if hasattr(criterion, "left"):
        return _parts_of(criterion.left) + _parts_of(criterion.right)
    return _parts_of(criterion.inner) if hasattr(criterion, "inner") else [criterion]


def _light(criterion: Any) -> bool:
    """Whether a criterion reads nothing but the two embeddings."""
    return all(isinstance(part, (Misretrieved, PairFlagged, Raised)) for part in _parts_of(criterion))


def _repeatable(criterion: Any) -> bool:
    """Whether a criterion may be asked about several candidates of one pair in one call."""
    known = (Misretrieved, PairFlagged, Raised, TextTaskWrong)
    return all(isinstance(part, known) for part in _parts_of(criterion))


def _joined(parts: list[PairScores]) -> PairScores:
    if len(parts) == 1:
        return parts[0]
    success = None if parts[0].success is None else torch.cat([p.success for p in parts])
    return PairScores(torch.cat([p.value for p in parts]), torch.cat([p.consistency for p in parts]), success)


def _concatenated(parts: list[Any]) -> Any:
    """Feature records of consecutive images as one."""
    import dataclasses

    names = [f.name for f in dataclasses.fields(parts[0])]
    columns = {n: [getattr(p, n) for p in parts] for n in names}
    return dataclasses.replace(
        parts[0], **{n: None if values[0] is None else torch.cat(values) for n, values in columns.items()}
    )
