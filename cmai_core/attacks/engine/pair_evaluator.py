"""Scores pairs of an image and a text: candidates of one pair side by side, gradients in texts and in pixels."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.engine.clean_features import joined
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Criterion, Raised, Scored
from cmai_core.attacks.objectives.text import (
    Misretrieved,
    PairFeatures,
    PairFlagged,
    TextTaskWrong,
    all_parts,
    pair_batch,
)
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.models.features import take_rows
from cmai_core.models.oom import is_out_of_memory, smaller
from cmai_core.models.scoring import both_text_vectors, image_vectors

_MOST_TEXTS = 16_384
# Views of few images go through the model in one pass of about so many pictures: small passes waste the device.
_VIEWED_TOGETHER = 64


@dataclass(frozen=True)
class PairScores:
    """Scores of K pairs: the objective, S_c, and the criterion (None where it was not asked)."""

    value: torch.Tensor
    consistency: torch.Tensor
    success: torch.Tensor | None


@dataclass(frozen=True)
class Images:
    """Features of N images, and the vectors N×d that S_c compares (without heads the embeddings themselves)."""

    features: Any
    vectors: torch.Tensor


@dataclass(frozen=True)
class Texts:
    """Unit-length embeddings K×D of texts, and the vectors K×d that S_c compares (without heads the same tensor)."""

    embedding: torch.Tensor
    vectors: torch.Tensor

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, rows: Any) -> Texts:
        embedding = self.embedding[rows]
        return Texts(embedding, embedding if self.vectors is self.embedding else self.vectors[rows])


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
        self._texts: OrderedDict[str, Texts] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    # Images

    def images(self, pixels: torch.Tensor) -> Images:
        """Encode N images without gradients."""
        with torch.no_grad():
            parts = self._pieces(len(pixels), lambda span: self.model.image_features(pixels[span]), "micro_batch")
            return self._encoded(parts[0] if len(parts) == 1 else joined(parts))

    # Texts

    def encode(self, texts: Sequence[str]) -> Texts:
        """Encode K texts without gradients, each distinct text once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if missing:
            missing.sort(key=len)  # texts of about one length share a pass, which is as long as its longest
            with torch.no_grad():
                parts = self._pieces(
                    len(missing), lambda span: Texts(*both_text_vectors(self.model, missing[span])), "chunk"
                )
            rows = [row for part in parts for row in _rows_of(part)]
            self._texts.update(zip(missing, rows, strict=True))
            self.encoded += len(missing)
        found = [self._texts[text] for text in texts]
        while len(self._texts) > _MOST_TEXTS:
            self._texts.popitem(last=False)
        return _stacked(found)

    def score(
        self, texts: Sequence[str], rows: Sequence[int], images: Images, *, success: bool = True, pixels: Any = None
    ) -> PairScores:
        """Score K texts, text k standing for that of pair `rows[k]`, with N encoded images.

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
        self, soft: torch.Tensor, pad_mask: torch.Tensor, rows: Sequence[int], images: Images
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values (K) and the gradient of each in its own distribution over tokens (K×L×V).

        Raises:
            OptionError: the objective has no gradient in the text.
        """

        def run(span: slice) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.enable_grad():
                x = soft[span].detach().requires_grad_(True)
                text = Texts(*both_text_vectors(self.model, x, pad_mask=pad_mask[span]))
                index = torch.as_tensor(list(rows)[span], device=self.device)
                features = self._features(images, index, text, None)
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

    def value_and_grad(
        self, pixels: torch.Tensor, embedded: Texts, texts: Sequence[str] | None, views: Sequence[View] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the objective of every pair with its text fixed, S_c, and the gradient N×… of their sum in the pixels.

        With `views` (differentiable maps of the pixels) the objective is the mean over the views.
        """
        views = views or (lambda p: p,)
        value = pixels.new_zeros(len(self.owner))
        consistency, gradient = value.clone(), torch.zeros_like(pixels)
        together = max(1, min(len(views), _VIEWED_TOGETHER // max(1, len(pixels))))
        for start in range(0, len(views), together):
            x = pixels.detach().requires_grad_(True)
            with torch.enable_grad():
                seen = torch.stack([view(x) for view in views[start : start + together]])
            gradients = torch.zeros_like(seen)

            def one(span: slice, seen=seen, gradients=gradients) -> tuple[torch.Tensor, ...]:
                return self._some_value_and_grad(seen[:, span].detach(), span, embedded, texts, gradients)

            for pairs, values, cosines in self._pieces(len(pixels), one, "micro_batch"):
                value[pairs] += values
                consistency[pairs] += cosines
            gradient += torch.autograd.grad(seen, x, gradients)[0]
        return value / len(views), consistency / len(views), gradient / len(views)

    def _some_value_and_grad(
        self, seen: torch.Tensor, span: slice, embedded: Texts, texts: Sequence[str] | None, gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the pairs of some images, their objectives and S_c summed over views; gradients V×N×… are filled in.

        `seen`: V views of these images, V×n×3×H×W.
        """
        views, count = seen.shape[:2]
        pairs = ((self.owner >= span.start) & (self.owner < span.stop)).nonzero()[:, 0]
        every = len(pairs) == len(self.owner)
        objective = self.objective if every else self.objective.select(pairs)
        strings = texts if every or texts is None else [texts[k] for k in pairs.tolist()]
        owner = self.owner[pairs] - span.start
        with torch.enable_grad():
            x = seen.flatten(0, 1).requires_grad_(True)
            images = self._encoded(self.model.image_features(x))
            values, cosines = 0.0, 0.0
            for view in range(views):
                rows = view * count + owner
                found = self._of_rows(images, rows, embedded[pairs], strings)
                values = values + objective(self.model, x[:0] if self.light else x[rows], found)
                cosines = cosines + found.consistency.detach()
            if not values.requires_grad:
                raise OptionError(
                    f"The objective {self.objective.describe()} has no gradient in the pixels.",
                    "Choose one that depends on the image.",
                )
            gradients[:, span] = torch.autograd.grad(values.sum(), x)[0].view_as(seen)
        return pairs, values.detach(), cosines

    @contextlib.contextmanager
    def under(self, objective: Objective | None) -> Iterator[None]:
        """Bind another objective for the length of the block; None changes nothing."""
        kept, light = self.objective, self.light
        try:
            if objective is not None:
                self.objective = objective.bind(self.model, self.pairs, {})
                self.light = light and all_parts(self.objective, "embedding_only")
            yield
        finally:
            self.objective, self.light = kept, light

    def candidates_value_and_grad(
        self,
        texts: Sequence[str],
        index: torch.Tensor,
        embedded: Texts,
        pixels: torch.Tensor,
        weigh: Callable[[PairScores, torch.Tensor], torch.Tensor],
    ) -> tuple[PairScores, torch.Tensor]:
        """Return scores of many candidates, and the gradient N×… in the pixels of their weighted sum.

        Candidate k stands for the text of pair `index[k]`. `weigh` is told the scores of the candidates of some images
        (all of theirs) and which candidates these are, and gives their weights.

        Raises:
            OptionError: an objective or a criterion that cannot see one pair with several texts in one call.
        """
        if not self.repeats:
            raise OptionError(
                f"The objective {self.objective.describe()} cannot be asked of many texts at once.",
                "Choose another schedule, such as alternating.",
            )
        owner = self.owner[index]
        gradient = torch.zeros_like(pixels)

        def run(span: slice) -> tuple[torch.Tensor, PairScores]:
            own = ((owner >= span.start) & (owner < span.stop)).nonzero()[:, 0]
            rows, strings = index[own], [texts[k] for k in own.tolist()]
            with torch.enable_grad():
                x = pixels[span].detach().requires_grad_(True)
                images = self._encoded(self.model.image_features(x))
                features = self._of_rows(images, owner[own] - span.start, embedded[own], strings)
                seen = x[:0] if self.light else x[owner[own] - span.start]
                value = self.objective.select(rows)(self.model, seen, features)
                with torch.no_grad():
                    clean = None if self.clean_value is None else self.clean_value[rows]
                    won = self.criterion.select(rows)(Scored(self.model, seen, features, value.detach(), clean))
                    scores = PairScores(value.detach(), features.consistency.detach(), won)
                gradient[span] = torch.autograd.grad((value * weigh(scores, own)).sum(), x)[0]
            return own, scores

        parts = self._pieces(len(pixels), run, "micro_batch")
        if len(parts) == 1:
            return parts[0][1], gradient
        back = torch.cat([own for own, _ in parts]).argsort()
        return take_rows(_joined([scores for _, scores in parts]), back), gradient

    # Within

    def _encoded(self, features: Any) -> Images:
        return Images(features, image_vectors(self.model, features))

    def _features(self, images: Images, rows: torch.Tensor, text: Texts, strings: Sequence[str] | None) -> PairFeatures:
        return self._of_rows(images, self.owner[rows], text, strings)

    def _of_rows(self, images: Images, owner: torch.Tensor, text: Texts, strings: Sequence[str] | None) -> PairFeatures:
        """Return the features of pairs: text k with the image of row `owner[k]`."""
        of = images.features
        same = len(owner) == len(of.embedding) and bool((owner == torch.arange(len(owner), device=owner.device)).all())
        pick = (lambda t: t) if same else (lambda t: None if t is None else t[owner])
        embedding = pick(of.embedding)
        return PairFeatures(
            embedding=embedding,
            pooled=pick(of.pooled),
            tokens=None if self.light else pick(getattr(of, "tokens", None)),
            text=text.embedding,
            image_vector=embedding if images.vectors is of.embedding else pick(images.vectors),
            text_vector=text.vectors,
            strings=None if strings is None else tuple(strings),
        )

    def _gathered(self, rows: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        source = self.pixels if pixels is None else pixels
        return source[:0] if self.light else source[self.owner[rows]]

    def _scores(
        self, texts: list[str], rows: list[int], embedded: Texts, images: Images, success: bool, pixels: Any
    ) -> PairScores:
        index = torch.tensor(rows, device=self.device)
        features = self._features(images, index, embedded, texts)
        seen = self._gathered(index, pixels)
        value = self.objective.select(index)(self.model, seen, features).detach()
        won = None
        if success:
            clean = None if self.clean_value is None else self.clean_value[index]
            won = self.criterion.select(index)(Scored(self.model, seen, features, value, clean))
        return PairScores(value, features.consistency, won)

    def _in_layers(self, texts, rows, embedded, images, success, pixels) -> PairScores:
        """Score where no row may occur twice in one call: each pair's first candidate, then its second, and so on."""
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
        """Run `work` on consecutive spans; their length, kept in attribute `limit`, is halved when memory runs out."""
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
    """Tell whether a criterion reads nothing but embeddings and S_c."""
    return all(isinstance(part, (Misretrieved, PairFlagged, Raised)) for part in _parts_of(criterion))


def _repeatable(criterion: Any) -> bool:
    """Tell whether a criterion may be asked about several candidates of one pair in one call."""
    known = (Misretrieved, PairFlagged, Raised, TextTaskWrong)
    return all(isinstance(part, known) for part in _parts_of(criterion))


def _joined(parts: list[PairScores]) -> PairScores:
    if len(parts) == 1:
        return parts[0]
    success = None if parts[0].success is None else torch.cat([p.success for p in parts])
    return PairScores(torch.cat([p.value for p in parts]), torch.cat([p.consistency for p in parts]), success)


def _rows_of(texts: Texts) -> list[Texts]:
    """Return each text by itself."""
    if texts.vectors is texts.embedding:
        return [Texts(row, row) for row in texts.embedding]
    return [Texts(*rows) for rows in zip(texts.embedding, texts.vectors, strict=True)]


def _stacked(rows: Sequence[Texts]) -> Texts:
    """Join texts by themselves into one record."""
    embedding = torch.stack([row.embedding for row in rows])
    if all(row.vectors is row.embedding for row in rows):
        return Texts(embedding, embedding)
    return Texts(embedding, torch.stack([row.vectors for row in rows]))
