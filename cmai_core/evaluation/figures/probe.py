"""What a few examples can read from frozen image embeddings: logistic regression on k pictures of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from cmai_core.data.pair import item_id, item_scene
from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures.intervals import ratio_interval
from cmai_core.models.evaluation_mode import evaluation_mode

if TYPE_CHECKING:
    from cmai_core.data.pair import PairDataset
    from cmai_core.data.truth import Scene

CONTAINS = "contains a "
LABEL = "label"
COLUMNS = (
    *("target", "attribute", "shots", "metric", "value", "low", "high", "hits", "total"),
    *("sd", "chance", "classes", "seeds", "note"),
)


def label_of(scene: Scene | None, label: str | None, attribute: str) -> str | None:
    """Return a picture's class; None where it has none.

    Args:
        scene: what is known to be in it. label: the pair's own.
        attribute: an attribute of the scene's ground truth, such as "shape", for scenes with one thing; "contains a
            cube" (or another value of these): "yes" or "no" in any scene; "label": the pair's own label.

    Raises:
        OptionError: an attribute that the ground truth does not know.
    """
    if attribute == LABEL or scene is None:
        return label if attribute == LABEL else None
    known = scene.ground_truth.attributes()
    things = scene.ground_truth.things(scene)
    if attribute in known:
        return things[0][attribute] if len(things) == 1 else None
    value = attribute.removeprefix(CONTAINS)
    if attribute.startswith(CONTAINS) and any(value in values for values in known.values()):
        return "yes" if any(value in thing.values() for thing in things) else "no"
    values = ", ".join(value for values in known.values() for value in values)
    accepted = f"{', '.join(known)}, {LABEL}, or '{CONTAINS}' with one of {values}"
    raise OptionError(f"There is no attribute {attribute!r}.", f"Accepted: {accepted}.")


def few_shot_probe(
    model: Any,
    train: PairDataset,
    test: PairDataset,
    attribute: str = "shape",
    shots: Sequence[int] = (1, 4, 16),
    *,
    seeds: int = 5,
    batch: int = 64,
) -> pd.DataFrame:
    """Measure the accuracy on `test` of a linear probe fitted to k pictures a class of `train`, for each k.

    Multinomial logistic regression (L2, C = 1) on embeddings centred and scaled by the shots' own mean and root mean
    square: nothing of the test pictures enters the fit, and no setting is tuned on them. The first k of the same random
    order are the shots for every k. The model stays as it is.

    Args:
        model: a model, or a System. train, test: no picture may be in both.
        attribute: see `label_of`. shots: values of k. seeds: how many draws of shots, 0 to seeds − 1.

    Returns:
        One row for each k, COLUMNS: the mean accuracy over seeds; its interval resamples test pictures (each with all
        seeds); `sd` over seeds (NaN for one); hits and total summed over seeds; `chance`: the larger of 1/classes and
        the commonest class's share of the test pictures.

    Raises:
        DataError: pictures in both sets, fewer than two classes, or fewer pictures of a class than shots.
        OptionError: an unknown attribute, no shot, no seed.
    """
    if not shots or min(shots) < 1 or seeds < 1:
        raise OptionError(f"shots={tuple(shots)!r}, seeds={seeds}.", "Accepted: whole numbers of at least 1.")
    known, wanted = _labels(train, attribute), _labels(test, attribute)
    classes = _checked_classes(known, wanted, attribute, max(shots))
    kept = [k for k, label in enumerate(wanted.labels) if label in classes]
    if not kept:
        raise DataError("No test picture shows a class of the training pictures.", "Give others.")
    truth = np.array([wanted.labels[k] for k in kept])
    draws = [_draw(known.labels, classes, max(shots), seed) for seed in range(seeds)]
    needed = sorted({k for draw in draws for row in draw for k in row})
    place = {k: number for number, k in enumerate(needed)}
    seen = _embeddings(model, train, [known.index[k] for k in needed], batch)
    unseen = _embeddings(model, test, [wanted.index[k] for k in kept], batch)
    rows = []
    for k in shots:
        right = np.stack([_fit(seen, place, draw, classes, k, unseen) == truth for draw in draws])
        rows.append({"target": model.spec, "attribute": attribute, "shots": int(k)} | _figure(right, truth, classes))
        if left_out := len(wanted.labels) - len(kept):
            rows[-1]["note"] = f"{left_out} test pictures show classes that training does not."
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _checked_classes(known: _Labelled, wanted: _Labelled, attribute: str, shots: int) -> list[str]:
    """Return the classes of the training pictures.

    Raises:
        DataError: pictures in both sets, fewer than two classes, or fewer pictures of a class than shots.
    """
    if both := set(known.ids) & set(wanted.ids):
        raise DataError(f"{len(both)} pictures are in both sets.", "Give sets without a common picture.")
    counts = {c: known.labels.count(c) for c in sorted(set(known.labels))}
    if len(counts) < 2:
        raise DataError(f"The training pictures show {len(counts)} classes of {attribute!r}.", "Give more pictures.")
    rarest = min(counts, key=counts.__getitem__)
    if counts[rarest] < shots:
        raise DataError(
            f"{shots} shots of {rarest!r} are asked for, and there are {counts[rarest]}.",
            "Give more, or ask less.",
        )
    return list(counts)


def _figure(right: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return one row's figures from bool seeds×N: which test pictures each draw's probe has right."""
    seeds = len(right)
    value, low, high = ratio_interval(right.sum(axis=0), np.full(len(truth), seeds))
    commonest = float(max(np.unique(truth, return_counts=True)[1]) / len(truth))
    return {
        "metric": "probe_accuracy",
        "value": value,
        "low": low,
        "high": high,
        "hits": int(right.sum()),
        "total": int(right.size),
        "sd": float(right.mean(axis=1).std(ddof=1)) if seeds > 1 else np.nan,
        "chance": max(1 / len(classes), commonest),
        "classes": len(classes),
        "seeds": seeds,
        "note": "",
    }


class _Labelled:
    """Pictures that have a class: their places in the dataset, ids and labels."""

    def __init__(self) -> None:
        self.index: list[int] = []
        self.ids: list[str] = []
        self.labels: list[str] = []


def _labels(dataset: PairDataset, attribute: str) -> _Labelled:
    out = _Labelled()
    for index in range(len(dataset)):
        own = attribute == LABEL
        label = dataset[index].label if own else label_of(item_scene(dataset, index), None, attribute)
        if label is not None:
            out.index.append(index)
            out.ids.append(item_id(dataset, index))
            out.labels.append(label)
    return out


def _draw(labels: Sequence[str], classes: Sequence[str], shots: int, seed: int) -> list[np.ndarray]:
    """Return for each class the first `shots` of its pictures in an order of (seed, class)."""
    named = np.array(labels)
    return [
        np.random.default_rng((seed, number)).permutation(np.flatnonzero(named == c))[:shots]
        for number, c in enumerate(classes)
    ]


@torch.no_grad()
def _embeddings(model: Any, dataset: PairDataset, indices: Sequence[int], batch: int) -> np.ndarray:
    found = []
    with evaluation_mode(model):
        for start in range(0, len(indices), batch):
            pictures = [dataset[k].image for k in indices[start : start + batch]]
            found.append(model.image_features(model.preprocess(pictures)).embedding.double().cpu().numpy())
    return np.concatenate(found)


def _fit(
    seen: np.ndarray, place: dict[int, int], draw: list[np.ndarray], classes: list[str], shots: int, unseen: np.ndarray
) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    rows = np.array([place[k] for row in draw for k in row[:shots]])
    labels = np.repeat(classes, shots)
    mean = seen[rows].mean(axis=0)
    scale = np.sqrt(((seen[rows] - mean) ** 2).mean()) or 1.0
    probe = LogisticRegression(C=1.0, max_iter=2000).fit((seen[rows] - mean) / scale, labels)
    return probe.predict((unseen - mean) / scale)
