"""What a model makes of pictures and texts, attacked or not: its answers, S_c and V_verify with the pairs' texts.

`cmai attack` and the evaluation read predictions by the same functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from cmai_core.data.pair import Batch, Pair, PairDataset


@dataclass(frozen=True)
class Reading:
    """What a model says of one pair.

    Attributes:
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


def make_batch(model: Any, pairs: Sequence[Pair], captions: int) -> Batch:
    """Pairs as a batch of the model's pixels rounded to 8 bits, with at most `captions` texts of each."""
    from cmai_core.attacks.result import round_to_8bit
    from cmai_core.data.pair import Batch

    pixels = round_to_8bit(model.preprocess([pair.image for pair in pairs]))
    texts = tuple(text for pair in pairs for text in pair.captions[:captions])
    owners = tuple(row for row, pair in enumerate(pairs) for _ in pair.captions[:captions])
    return Batch(tuple(pair.id for pair in pairs), pixels, texts, owners, tuple(pairs))


def read_images(
    model: Any, task: Any, dataset: PairDataset, batch: Batch, versions: Iterable[Any], *, answers: bool = False
) -> list[list[Reading]]:
    """What a model answers on several versions of a batch's pictures; their S_c and V_verify with the batch's texts.

    Args:
        versions: each N pictures: uint8 N×H×W×3 (as a file holds them; brought to the model's size), or its own
            pixels N×3×H×W.
        answers: also both scores with the text of each answer, where the task's answers have one.

    Returns:
        For each version N readings.
    """
    import torch

    from cmai_core.attacks.engine.evaluator import at_rest
    from cmai_core.attacks.objectives.detectors import Verification
    from cmai_core.attacks.objectives.objective import Consistency
    from cmai_core.models.scoring import has_heads
    from cmai_core.tasks.consistency import answer_scores

    def values(score: Any, pixels: Any, features: Any) -> list:
        return [None] * len(batch.ids) if score is None else score(model, pixels, features).tolist()

    out = []
    with torch.no_grad(), at_rest(model):
        prepared = task.prepare(model, list(batch.pairs), dataset)
        consistency = Consistency().bind(model, batch) if batch.texts else None
        verification = Verification(log=True).bind(model, batch) if batch.texts and has_heads(model) else None
        texts = _answer_texts(task, model, batch, prepared) if answers else None
        for images in versions:
            pixels = images if isinstance(images, torch.Tensor) else model.preprocess(list(images))
            features = model.image_features(pixels)
            of_answers = (None, None) if texts is None else answer_scores(task, model, features, texts)
            s_c, v = values(consistency, pixels, features), values(verification, pixels, features)
            own_s_c, own_v = ([None] * len(batch.ids) if x is None else x.tolist() for x in of_answers)
            predictions = task.predict(model, features, prepared)
            out.append(
                [Reading(p.answer, p.correct, *of) for p, *of in zip(predictions, s_c, own_s_c, v, own_v, strict=True)]
            )
    return out


def _answer_texts(task: Any, model: Any, batch: Batch, prepared: Any) -> Any:
    from cmai_core.errors import OptionError
    from cmai_core.models.scoring import has_heads

    try:
        return task.answer_texts(model, list(batch.pairs), prepared, encode=not has_heads(model))
    except OptionError:  # a task whose answers are no texts
        return None


def read_pairs(
    model: Any, task: Any, dataset: PairDataset | None, batch: Batch, versions: Iterable[tuple[Any, Sequence[str]]]
) -> list[list[Reading]]:
    """S_c and V_verify of several versions of a batch's pairs, one row a text; answers stand with an image's first.

    Args:
        task: None: nothing is asked. versions: each pictures (as in `read_images`) and as many texts as the batch has.

    Returns:
        For each version one reading a text.
    """
    import torch

    from cmai_core.attacks.engine.evaluator import at_rest
    from cmai_core.models.scoring import has_heads, image_vectors, text_vectors

    owner = torch.tensor(batch.image_of_text)
    first = {row: place for place, row in reversed(list(enumerate(batch.image_of_text)))}
    out = []
    with torch.no_grad(), at_rest(model):
        prepared = None if task is None else task.prepare(model, list(batch.pairs), dataset)
        for images, texts in versions:
            pixels = images if isinstance(images, torch.Tensor) else model.preprocess(list(images))
            features = model.image_features(pixels)
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
                rows.append(Reading(*said, scores[place], verification=log_v[place]))
            out.append(rows)
    return out


def pictures(pixels: torch.Tensor) -> Any:
    """Pixels N×3×H×W in [0, 1] as a picture file holds them: uint8 N×H×W×3."""
    from cmai_core.attacks.result import to_uint8

    return to_uint8(pixels)
