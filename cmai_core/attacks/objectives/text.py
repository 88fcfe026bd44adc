"""Objectives and criteria in which the text varies too.

An image attack scores N images against fixed texts. A text or joint attack scores K *pairs*, each an image with one
text, and any of the two may differ from call to call. The protocols stay those of `objectives.Objective` and
`success.Criterion`: bind, select, and a call with (model, pixels, features) or with a `Scored`. What differs is the
features: a `PairFeatures`, which has everything a model's image features have, row k being the image of pair k, and the
text of pair k beside it:

    features.embedding, .pooled, .tokens    of the image, K rows
    features.text                           K×D unit-length text embeddings
    features.consistency                    S_c of each pair, which heads of the model's own may measure
    features.strings                        the K texts, None while they are relaxed distributions over tokens

So every objective written for images works in a joint attack as it is (its texts stay those it was bound with), sums
and multiples mix both kinds (`TaskObjective(task) - PairConsistency()`), and an objective that follows the varying text
reads `features.text`, `.consistency` or `.strings`. Such an objective derives from `TextObjective`, which promises that
`select` takes repeated rows: a text search scores many candidates of one pair in one call.

Binding is to the *pair batch*: one row a pair, in the order of the batch's texts (`pair_batch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from cmai_core.attacks.engine.clean_features import clean_features
from cmai_core.attacks.objectives.objective import Objective, Weighted
from cmai_core.attacks.objectives.success import Criterion, Scored
from cmai_core.data.pair import Batch
from cmai_core.data.truth import ground_truth_of
from cmai_core.errors import DataError, OptionError
from cmai_core.options import number, one_of

if TYPE_CHECKING:
    from cmai_core.data.truth import GroundTruth, Scene


@dataclass(frozen=True)
class PairFeatures:
    """K pairs of an image and a text; see the module's docstring.

    `image_vector`, `text_vector`: K×d, unit length, what S_c compares; without heads the two embeddings.
    """

    embedding: torch.Tensor
    pooled: torch.Tensor
    tokens: torch.Tensor | None
    text: torch.Tensor
    image_vector: torch.Tensor
    text_vector: torch.Tensor
    strings: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def consistency(self) -> torch.Tensor:
        """S_c of each pair, K values in [−1, 1]."""
        return (self.image_vector * self.text_vector).sum(dim=1)


def pair_batch(batch: Batch) -> Batch:
    """Return a batch with one row a text: its image, its pair, an id ("<id>", or "<id>#<number>" of several).

    Raises:
        DataError: no texts, or an image index out of range.
    """
    if not batch.texts:
        raise DataError("The batch has no texts to attack.", "Give Batch(texts=…, image_of_text=…).")
    owners = list(batch.image_of_text)
    if not all(0 <= owner < len(batch.ids) for owner in owners):
        raise DataError("image_of_text points outside the batch.", f"Accepted: 0 to {len(batch.ids) - 1}.")
    if owners == list(range(len(batch.ids))):
        return batch
    ids, seen = [], dict.fromkeys(owners, 0)
    for owner in owners:
        ids.append(batch.ids[owner] if owners.count(owner) == 1 else f"{batch.ids[owner]}#{seen[owner]}")
        seen[owner] += 1
    pairs = tuple(batch.pairs[owner] for owner in owners) if batch.pairs else ()
    return Batch(tuple(ids), batch.pixels[owners], batch.texts, tuple(range(len(owners))), pairs)


class TextObjective(Objective):
    """An objective that follows the varying text.

    Attributes:
        differentiable: whether its value has a gradient in `features.text` (what HotFlip and relaxed PGD need).
        embedding_only: whether it reads nothing but embeddings and S_c (then patch tokens and pixels are not gathered).
    """

    differentiable: bool = True
    embedding_only: bool = True


def follows_text(objective: Objective) -> bool:
    """Tell whether any part of an objective follows the varying text."""
    if isinstance(objective, Weighted):
        return any(follows_text(part) for _, part in objective.terms)
    return isinstance(objective, TextObjective)


def all_parts(objective: Objective, test: str = "") -> bool:
    """Tell whether every part is a `TextObjective` (and its attribute `test`, if one is named, is true)."""
    if isinstance(objective, Weighted):
        return all(all_parts(part, test) for _, part in objective.terms)
    return isinstance(objective, TextObjective) and (not test or bool(getattr(objective, test)))


class _Stateless(TextObjective):
    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return self


@dataclass(frozen=True)
class PairConsistency(_Stateless):
    """S_c of the image with the text as it now is, in [−1, 1]. `-PairConsistency()` pulls a true pair apart."""

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        return features.consistency

    def describe(self) -> str:
        return "pair consistency"


@dataclass(frozen=True)
class Divergence(TextObjective):
    """KL divergence between embeddings read as logits: Co-Attack's measure (Zhang et al. 2022, eq. 4 to 7).

    KL(softmax(reference) ‖ softmax(moving)), where the reference is held constant as it is in that work's code.

    Attributes:
        moving: "image" or "text": which attacked embedding is meant.
        reference: "clean" (the same side's clean embedding), or "other" (the other side's, as it now is).
    """

    stable_name: ClassVar[str] = "cmai_core.attacks.text_objectives.Divergence"

    moving: str = "image"
    reference: str = "clean"

    def __post_init__(self) -> None:
        one_of("moving", self.moving, ("image", "text"))
        one_of("reference", self.reference, ("clean", "other"))

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        if self.reference == "other":
            return _BoundDivergence(self.moving, None)
        with torch.no_grad():
            clean = (
                clean_features(model, batch, shared).embedding
                if self.moving == "image"
                else model.encode_text(list(batch.texts))
            )
        return _BoundDivergence(self.moving, clean.detach())

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The divergence is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return f"KL({self.reference}, {self.moving})"


@dataclass(frozen=True, eq=False)
class _BoundDivergence(TextObjective):
    moving: str
    clean: torch.Tensor | None

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return self if self.clean is None else replace(self, clean=self.clean[rows.to(self.clean.device)])

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        image, text = features.embedding, features.text
        moving, other = (image, text) if self.moving == "image" else (text, image)
        target = (other if self.clean is None else self.clean).detach()
        return F.kl_div(moving.log_softmax(dim=1), target.softmax(dim=1), reduction="none").sum(dim=1)

    def describe(self) -> str:
        return f"KL({'other' if self.clean is None else 'clean'}, {self.moving})"


@dataclass(frozen=True)
class Mismatch(TextObjective):
    """How far a pair is from being retrieved, in a fixed gallery: the batch's clean images, or its clean texts.

    Margin: the highest cosine of a wrong item minus that of the right one; above 0 another item comes first. Only the
    pair itself is attacked, the gallery stays clean. In the direction "image" the query is the text and an item right
    where the text, as it now reads, is true of its scene (where there are scenes and the text can be read; else where
    the clean text is true or it is the text's own image). In the direction "text" the query is the image, and texts
    that are true of it are right.

    Attributes:
        direction: "image" (text → image), "text" (image → text), or "both": their mean.
    """

    direction: str = "image"

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("image", "text", "both"))

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        pairs, count = batch.pairs, len(batch.ids)
        if count < 2:
            raise OptionError("Retrieval among one pair cannot fail.", "Attack at least two pairs together.")
        key = "gallery"
        shared = {} if shared is None else shared
        if key not in shared:
            with torch.no_grad():
                images = clean_features(model, batch, shared).embedding
                shared[key] = (images.detach(), model.encode_text(list(batch.texts)).detach())
        images, texts = shared[key]
        own = _owners(batch)
        truth = ground_truth_of(pairs)
        scenes = None if truth is None else [pair.scene for pair in pairs]
        right = own[:, None] == own[None, :]
        right_images = _RightImages(truth, scenes, tuple(batch.texts), right)
        rows = torch.arange(count, device=images.device)
        return _BoundMismatch(self.direction, images, texts, own.to(images.device), right_images, rows)

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The mismatch objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return f"mismatch of {self.direction}"


def _owners(batch: Batch) -> torch.Tensor:
    """Return for each row the number of the first row that shows the same image."""
    first: dict[str, int] = {}
    names = [sample_id.rsplit("#", 1)[0] for sample_id in batch.ids]
    return torch.tensor([first.setdefault(name, row) for row, name in enumerate(names)])


class _RightImages:
    """The images that each text is true of, remembered by text."""

    def __init__(
        self,
        truth: GroundTruth | None,
        scenes: Sequence[Scene] | None,
        clean: tuple[str, ...],
        right: torch.Tensor,
    ):
        self._truth = truth
        self._scenes, self._clean, self._own, self._memo = scenes, clean, right, {}

    def row(self, text: str, row: int) -> torch.Tensor:
        """Return a bool for each gallery image."""
        key = (text, row)
        if key not in self._memo:
            read = self._read(text, row)
            if read is None:
                read = self._read(self._clean[row], row)
            self._memo[key] = self._own[row] if read is None else read | self._own[row]
        return self._memo[key]

    def _read(self, text: str, row: int) -> torch.Tensor | None:
        if self._truth is None:
            return None
        from cmai_core.attacks.threats.text import read_as

        read = read_as(text, self._clean[row], self._truth.vocabulary())
        true, readable = self._truth.judge([read], self._scenes)
        return torch.from_numpy(true[0]) if readable[0] else None


@dataclass(frozen=True, eq=False)
class _BoundMismatch(TextObjective):
    direction: str
    images: torch.Tensor
    texts: torch.Tensor
    own: torch.Tensor
    truth: _RightImages
    rows: torch.Tensor

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return replace(self, rows=self.rows[rows.to(self.rows.device)])

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        parts = []
        if self.direction in ("image", "both"):
            parts.append(self._margin(features.text, features, self.images, self._right_images(features)))
        if self.direction in ("text", "both"):
            parts.append(self._margin(features.embedding, features, self.texts, self._right_texts()))
        return parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2

    def _margin(self, query: torch.Tensor, features: Any, gallery: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        own = (features.embedding * features.text).sum(dim=1)
        scores = query @ gallery.T
        wrong = scores.masked_fill(right, -2.0).amax(dim=1)
        # Other right items count as found too; the pair's own clean image and text are what is being attacked.
        index = torch.arange(gallery.shape[0], device=right.device)
        mine = self.own[self.rows][:, None] == self.own[index][None, :]
        if gallery is self.texts:
            mine = self.rows[:, None] == index[None, :]
        others = scores.masked_fill(~right | mine, -2.0).amax(dim=1)
        return wrong - torch.maximum(own, others)

    def _right_images(self, features: Any) -> torch.Tensor:
        rows = self.rows.tolist()
        texts = features.strings if features.strings is not None else [self.truth._clean[row] for row in rows]
        return torch.stack([self.truth.row(t, r) for t, r in zip(texts, rows, strict=True)]).to(self.images.device)

    def _right_texts(self) -> torch.Tensor:
        count = len(self.texts)
        table = torch.stack([self.truth.row(self.truth._clean[row], row) for row in range(count)])
        return table.T[self.rows.cpu()].to(self.texts.device)

    def describe(self) -> str:
        return f"mismatch of {self.direction}"


@dataclass(frozen=True)
class TextTask(TextObjective):
    """The loss of any task on pairs whose text has been replaced: no gradient in the text.

    Each call prepares the task on the edited pairs (`task.prepare`), so that it works for every task as it is.

    Attributes:
        task: a task of `cmai_core.tasks`. field: what the text replaces: "caption" (the first) or "question" (the
            first; the answers stay). dataset: handed to `task.prepare`.
    """

    task: Any
    field: str = "caption"
    dataset: Any = None
    differentiable = False
    embedding_only = False

    def __post_init__(self) -> None:
        one_of("field", self.field, ("caption", "question"))

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return _BoundTextTask(self.task, self.field, self.dataset, _pairs_of(batch, self.task))

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The task objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return f"task:{self.task.name} by its {self.field}"


def _pairs_of(batch: Batch, task: Any) -> tuple:
    if len(batch.pairs) != len(batch.ids):
        raise OptionError(f"Task {task.name} needs the batch's pairs.", "Give Batch(pairs=…).")
    return tuple(batch.pairs)


def _with_texts(pairs: Sequence[Any], field: str, texts: Sequence[str]) -> list[Any]:
    if field == "caption":
        return [replace(p, captions=(t, *p.captions[1:])) for p, t in zip(pairs, texts, strict=True)]
    if any(not pair.questions for pair in pairs):
        raise OptionError("A pair has no question to attack.", "Leave it out, or attack captions.")
    return [
        replace(p, questions=(replace(p.questions[0], text=t), *p.questions[1:]))
        for p, t in zip(pairs, texts, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _BoundTextTask(TextObjective):
    task: Any
    field: str
    dataset: Any
    pairs: tuple
    differentiable = False
    embedding_only = False

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return replace(self, pairs=tuple(self.pairs[row] for row in rows.tolist()))

    def prepared(self, model: Any, features: Any) -> Any:
        if features.strings is None:
            raise OptionError(
                f"Task {self.task.name} has no gradient in its text.", "Choose a search by candidates, such as greedy."
            )
        with torch.no_grad():
            return self.task.prepare(model, _with_texts(self.pairs, self.field, features.strings), self.dataset)

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        return self.task.loss(model, features, self.prepared(model, features))

    def describe(self) -> str:
        return f"task:{self.task.name} by its {self.field}"


# ------------------------------------------------------------------------------------------------------- criteria


@dataclass(frozen=True)
class Misretrieved(Criterion):
    """Another item comes before every right one (`Mismatch` above 0). `objective`: bound at `bind`."""

    direction: str = "image"
    objective: Objective | None = None

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("image", "text", "both"))

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Criterion:
        return Misretrieved(self.direction, Mismatch(self.direction).bind(model, batch, shared))

    def select(self, rows: torch.Tensor) -> Criterion:
        return Misretrieved(self.direction, self.objective.select(rows))

    def __call__(self, scored: Scored) -> torch.Tensor:
        return self.objective(scored.model, scored.pixels, scored.features) > 0

    def describe(self) -> str:
        return f"wrong {self.direction} retrieved"


@dataclass(frozen=True)
class PairFlagged(Criterion):
    """S_c of the pair as it now is falls below τ; `~PairFlagged(tau)` is acceptance."""

    tau: float

    def __post_init__(self) -> None:
        number("tau", self.tau, -1.0, 1.0)

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Criterion:
        return self

    def select(self, rows: torch.Tensor) -> Criterion:
        return self

    def __call__(self, scored: Scored) -> torch.Tensor:
        return scored.features.consistency < self.tau

    def describe(self) -> str:
        return f"pair S_c < {self.tau:g}"


@dataclass(frozen=True)
class TextTaskWrong(Criterion):
    """The task's prediction on the pair with its text replaced is wrong (unknown truth is no success)."""

    task: Any
    field: str = "caption"
    dataset: Any = None
    bound: Any = None
    stepwise = False

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Criterion:
        return replace(self, bound=TextTask(self.task, self.field, self.dataset).bind(model, batch, shared))

    def select(self, rows: torch.Tensor) -> Criterion:
        return replace(self, bound=self.bound.select(rows))

    def __call__(self, scored: Scored) -> torch.Tensor:
        with torch.no_grad():
            prepared = self.bound.prepared(scored.model, scored.features)
            predictions = self.task.predict(scored.model, scored.features, prepared)
        flags = [p.correct is False for p in predictions]
        return torch.tensor(flags, dtype=torch.bool, device=scored.features.embedding.device)

    def describe(self) -> str:
        return f"{self.task.name} wrong by its {self.field}"
