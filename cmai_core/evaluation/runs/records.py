"""From attack results and predictions to the rows of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.evaluation.runs.attacked import Examples

if TYPE_CHECKING:
    from cmai_core.data.pair import Batch
    from cmai_core.evaluation.runs.predictor import ScoredPrediction

Item = tuple[str, str]


def restored(
    stored: dict[Item, list[tuple[np.ndarray | None, str | None]]], keys: Sequence[Item], batch: Batch, modality: str
) -> Examples:
    """Make examples from the store's differences to the clean pictures."""
    from cmai_core.evaluation.runs.predictor import pictures

    images = pictures(batch.pixels)
    for row, key in enumerate(keys):
        difference = stored[key][0][0]
        if difference is not None:
            images[row] = images[row] + difference  # uint8 wraps around, as it did when it was stored
    texts = None if modality == "image" else tuple(text for key in keys for _, text in stored[key])
    return Examples(images, texts)


def places(batch: Batch, modality: str) -> list[tuple[int, int]]:
    """(image row, text index) of each row of the store: one an image, or one a text where texts are attacked."""
    if modality == "image":
        return [(row, 0) for row in range(len(batch.ids))]
    seen: dict[int, int] = {}
    out = []
    for row in batch.image_of_text:
        out.append((row, seen.get(row, 0)))
        seen[row] = seen.get(row, 0) + 1
    return out


def example_rows(
    result: Any, examples: Examples, batch: Batch, keys: Sequence[Item], modality: str, minimum: bool, unit: float
) -> list[dict[str, Any]]:
    """Rows of `examples` with what is to be stored beside them.

    Args:
        unit: by what distances of a minimum-norm search are multiplied to stand in the units of ε.
    """
    from cmai_core.data.words import word_distance
    from cmai_core.evaluation.runs.image_quality import psnr, ssim
    from cmai_core.evaluation.runs.predictor import pictures

    clean = pictures(batch.pixels)
    differences = examples.images - clean
    delta = (examples.images.astype(np.float64) - clean) / 255
    suffix = "_8bit" if modality != "text" else ""
    after = getattr(result, f"objective{suffix}").tolist()
    before = result.clean_objective.tolist()
    quality = [None, None] if modality == "text" else [ssim(clean, examples.images), psnr(clean, examples.images)]
    seconds = result.seconds / max(1, len(batch.ids))
    rows = []
    for place, (row, text_index) in enumerate(places(batch, modality)):
        item, version = keys[row]
        values: dict[str, Any] = {"item": item, "version": version, "text_index": text_index}
        values |= {"objective_clean": before[place], "objective": None if minimum else after[place]}
        values |= {"note": result.notes[place], "seconds": seconds if text_index == 0 else 0.0}
        values["difference"] = differences[row] if modality != "text" and text_index == 0 else None
        values["text"] = None if examples.texts is None else examples.texts[place]
        if modality != "text":
            values |= {"linf": float(np.abs(delta[row]).max()), "l2": float(np.sqrt((delta[row] ** 2).sum()))}
            values |= {"ssim": float(quality[0][row]), "psnr": float(quality[1][row])}
        if modality != "image":
            values["words_changed"] = word_distance(batch.texts[place], examples.texts[place])
            values["label_changed"] = result.label_changed[place]
        values |= _passes(result, modality, place, row, text_index)
        if minimum:
            values["minimum_norm"] = float(result.minimum_norm[row]) * unit
        rows.append(values)
    return rows


def _passes(result: Any, modality: str, place: int, row: int, text_index: int) -> dict[str, int]:
    """Pass of the model that an example cost; those of a joint attack's picture stand with its first text."""
    if modality == "image":
        return {"forwards": int(result.forwards[row]), "backwards": int(result.backwards[row])}
    forwards, backwards = int(result.queries[place]), int(result.backwards[place])
    if modality == "joint" and text_index == 0:
        forwards, backwards = forwards + int(result.forwards[row]), backwards + int(result.backwards_image[row])
    return {"forwards": forwards, "backwards": backwards}


def prediction_rows(
    predictions: Sequence[ScoredPrediction],
    batch: Batch,
    keys: Sequence[Item],
    modality: str,
    floats: Sequence[ScoredPrediction] | None = None,
) -> list[dict[str, Any]]:
    """Rows of the tables `readings` or `clean`."""
    rows = []
    for place, (row, text_index) in enumerate(places(batch, modality)):
        prediction, (item, version) = predictions[place], keys[row]
        rows.append(
            {
                "item": item,
                "version": version,
                "text_index": text_index,
                "correct": prediction.correct,
                "correct_float": None if floats is None else floats[place].correct,
                "answer": prediction.answer,
                "consistency": prediction.consistency,
                "answer_consistency": prediction.answer_consistency,
                "verification": prediction.verification,
                "answer_verification": prediction.answer_verification,
            }
        )
    return rows
