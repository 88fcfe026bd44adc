"""What a model makes of pictures and texts, attacked or not: its answers, S_c and V_verify with the pairs' texts.

`cmai attack`, the evaluation and the lab read predictions by the same functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from cmai_core.data.pair import Batch, Pair, PairDataset
    from cmai_core.tasks.base import Prediction


@dataclass(frozen=True)
class ScoredPrediction:
    """What a model says of one pair.

    Attributes:
        prediction: the task's whole prediction, with its score and details; None where it was not asked.
        answer, correct: the task's prediction; None where it was not asked or the truth is unknown.
        consistency: S_c with the pair's texts (mean), or with the one text of a row; None without texts.
        answer_consistency: S_c with the text that the answer amounts to; None where the task has none or it was not
            asked for.
        verification, answer_verification: log V_verify in the place of S_c, likewise (of several texts the mean of the
            logarithms); None also for a model without consistency heads.
    """

    answer: str | None = None
    correct: bool | None = None
    consistency: float | None = None
    answer_consistency: float | None = None
    verification: float | None = None
    answer_verification: float | None = None
    prediction: Prediction | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Pictures with what a model has made of them already, so that several tasks can be asked of one encoding.

    Attributes:
        pixels: N×3×H×W of the model. features: `model.image_features(pixels)`.
    """

    pixels: torch.Tensor
    features: Any

    def rows(self, first: int, end: int) -> Encoded:
        """Return some of the pictures."""
        return self.picked(range(first, end))

    def picked(self, places: Sequence[int]) -> Encoded:
        """Return the pictures at some places, each as often as its place is named."""
        import torch

        from cmai_core.models.features import take_rows

        rows = torch.tensor(list(places), dtype=torch.int64, device=self.pixels.device)
        return Encoded(self.pixels[rows], take_rows(self.features, rows))


def encode(model: Any, images: Any) -> Encoded:
    """Encode pictures: uint8 N×H×W×3 (brought to the model's size), or the model's own pixels N×3×H×W."""
    import torch

    if isinstance(images, Encoded):
        return images
    pixels = images if isinstance(images, torch.Tensor) else model.preprocess(list(images))
    return Encoded(pixels, model.image_features(pixels))


def make_batch(model: Any, pairs: Sequence[Pair], captions: int) -> Batch:
    """Make pairs a batch of the model's pixels rounded to 8 bits, with at most `captions` texts of each."""
    from cmai_core.attacks.result import round_to_8bit
    from cmai_core.data.pair import Batch

    pixels = round_to_8bit(model.preprocess([pair.image for pair in pairs]))
    texts = tuple(text for pair in pairs for text in pair.captions[:captions])
    owners = tuple(row for row, pair in enumerate(pairs) for _ in pair.captions[:captions])
    return Batch(tuple(pair.id for pair in pairs), pixels, texts, owners, tuple(pairs))


def predict_images(
    model: Any, task: Any, dataset: PairDataset, batch: Batch, versions: Iterable[Any], *, answers: bool = False
) -> list[list[ScoredPrediction]]:
    """Read what a model answers on several versions of a batch's pictures, S_c and V_verify with the batch's texts.

    Args:
        versions: each N pictures as `encode` takes them, or `Encoded`. batch: without texts, no scores are read.
        answers: also both scores with the text of each answer, where the task's answers have one.

    Returns:
        For each version N predictions.
    """
    import torch

    from cmai_core.attacks.objectives.detectors import Verification
    from cmai_core.attacks.objectives.objective import Consistency
    from cmai_core.models.evaluation_mode import evaluation_mode
    from cmai_core.models.scoring import has_heads
    from cmai_core.tasks.consistency import answer_scores

    def values(score: Any, pixels: Any, features: Any) -> list:
        return [None] * len(batch.ids) if score is None else score(model, pixels, features).tolist()

    out = []
    with torch.no_grad(), evaluation_mode(model):
        prepared = task.prepare(model, list(batch.pairs), dataset)
        consistency = Consistency().bind(model, batch) if batch.texts else None
        verification = Verification(log=True).bind(model, batch) if batch.texts and has_heads(model) else None
        texts = _answer_texts(task, model, batch, prepared) if answers else None
        for images in versions:
            shown = encode(model, images)
            pixels, features = shown.pixels, shown.features
            of_answers = (None, None) if texts is None else answer_scores(task, model, features, texts)
            s_c, v = values(consistency, pixels, features), values(verification, pixels, features)
            own_s_c, own_v = ([None] * len(batch.ids) if x is None else x.tolist() for x in of_answers)
            predictions = task.predict(model, features, prepared)
            rows = zip(predictions, s_c, own_s_c, v, own_v, strict=True)
            out.append([ScoredPrediction(p.answer, p.correct, *scores, prediction=p) for p, *scores in rows])
    return out


def _answer_texts(task: Any, model: Any, batch: Batch, prepared: Any) -> Any:
    from cmai_core.errors import OptionError
    from cmai_core.models.scoring import has_heads

    try:
        return task.answer_texts(model, list(batch.pairs), prepared, encode=not has_heads(model))
    except OptionError:  # a task whose answers are no texts
        return None


def predict_pairs(
    model: Any, task: Any, dataset: PairDataset | None, batch: Batch, versions: Iterable[tuple[Any, Sequence[str]]]
) -> list[list[ScoredPrediction]]:
    """Read S_c and V_verify of versions of a batch's pairs, one row a text; answers stand with an image's first.

    Args:
        task: None: nothing is asked. versions: each pictures (as in `predict_images`) and as many texts as the batch
            has.

    Returns:
        For each version one prediction a text.
    """
    import torch

    from cmai_core.models.evaluation_mode import evaluation_mode
    from cmai_core.models.scoring import has_heads, image_vectors, text_vectors

    owner = torch.tensor(batch.image_of_text)
    first = {row: place for place, row in reversed(list(enumerate(batch.image_of_text)))}
    out = []
    with torch.no_grad(), evaluation_mode(model):
        prepared = None if task is None else task.prepare(model, list(batch.pairs), dataset)
        for images, texts in versions:
            features = encode(model, images).features
            text = text_vectors(model, list(texts))
            scores = (image_vectors(model, features)[owner.to(text.device)] * text).sum(dim=1).tolist()
            log_v: list = [None] * len(scores)
            if has_heads(model):
                log_v = model.verify(features, list(texts), owner, log=True).tolist()
            answers = None if task is None else task.predict(model, features, prepared)
            rows = []
            for place, row in enumerate(batch.image_of_text):
                shown = answers[row] if answers is not None and first[row] == place else None
                said = (shown and shown.answer, shown and shown.correct)
                rows.append(ScoredPrediction(*said, scores[place], verification=log_v[place]))
            out.append(rows)
    return out


def pictures(pixels: torch.Tensor) -> Any:
    """Turn pixels N×3×H×W in [0, 1] into what a picture file holds: uint8 N×H×W×3."""
    from cmai_core.attacks.result import to_uint8

    return to_uint8(pixels)
