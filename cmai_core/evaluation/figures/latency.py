"""What a model costs: time and memory of answering, and of the training that made it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from cmai_core.errors import OptionError
from cmai_core.models import ModelCard, bundled_models
from cmai_core.models.evaluation_mode import evaluation_mode

LATENCY = (
    *("target", "task", "device", "threads", "batch", "milliseconds", "low_quartile", "high_quartile"),
    *("images_per_second", "repeats", "peak_mib"),
)
TRAINING = (
    *("target", "base", "seconds", "pairs", "milliseconds_per_pair", "base_seconds", "base_pairs"),
    *("overhead", "overhead_per_pair", "note"),
)


def latency(
    model: Any,
    images: Sequence[np.ndarray],
    batch_sizes: Sequence[int] = (1, 8, 32),
    *,
    task: Any = None,
    pairs: Sequence[Any] = (),
    dataset: Any = None,
    repeats: int = 20,
    warm_up: int = 3,
) -> pd.DataFrame:
    """Time answers about pictures, with everything that is deployed around a model.

    Each repeat is one batch, from pixels on the device to the answer: preprocessing from uint8 and the texts, which are
    prepared once, are not counted. The first `warm_up` batches are not either.

    Args:
        model: a model, or a System; left as found.
        images: uint8 pictures, taken in turn to fill a batch.
        batch_sizes: one row each.
        task: a `Task` that is answered about `pairs` (as many as `images`) of `dataset`; None: embeddings only.
        repeats: batches timed.

    Returns:
        One row a batch size with LATENCY: median and quartiles of the milliseconds per image, images per second at the
        median, `peak_mib` of device memory while answering (NaN without CUDA, where it is not counted).

    Raises:
        OptionError: no picture, a size or number below 1, or a task without as many pairs as pictures.
    """
    if not len(images) or min(batch_sizes, default=0) < 1 or repeats < 1 or warm_up < 0:
        raise OptionError(
            f"{len(images)} images, batch_sizes={tuple(batch_sizes)!r}, repeats={repeats}, warm_up={warm_up}.",
            "Accepted: at least one of each; warm_up from 0.",
        )
    if task is not None and len(pairs) != len(images):
        raise OptionError(f"{len(pairs)} pairs for {len(images)} images.", "Give the pair of each image.")
    out = []
    with torch.no_grad(), evaluation_mode(model):
        pixels = model.preprocess(list(images))
        prepared = None if task is None else task.prepare(model, list(pairs), dataset)
        cuda = pixels.device.type == "cuda"
        for size in batch_sizes:
            rows = torch.arange(size, device=pixels.device) % len(pixels)
            batch = pixels[rows]
            asked = None if prepared is None else prepared.select_rows(rows)
            if cuda:
                torch.cuda.reset_peak_memory_stats(pixels.device)
            seconds = np.array([_once(model, batch, task, asked, cuda) for _ in range(warm_up + repeats)][warm_up:])
            peak = torch.cuda.max_memory_allocated(pixels.device) / 2**20 if cuda else np.nan
            low, middle, high = np.quantile(1000 * seconds / size, [0.25, 0.5, 0.75])
            row = [model.spec, getattr(task, "name", "embedding"), str(pixels.device), torch.get_num_threads(), size]
            row += [middle, low, high, 1000 / middle, repeats, peak]
            out.append(dict(zip(LATENCY, row, strict=True)))
    return pd.DataFrame(out, columns=list(LATENCY))


def _once(model: Any, batch: torch.Tensor, task: Any, asked: Any, cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize(batch.device)
    start = time.perf_counter()
    features = model.image_features(batch)
    if task is not None:
        task.predict(model, features, asked)
    if cuda:
        torch.cuda.synchronize(batch.device)
    return time.perf_counter() - start


def training_overhead(cards: Sequence[ModelCard] | None = None) -> pd.DataFrame:
    """Return seconds and pairs of each training, as the card has them, beside those of the model it starts from.

    Args:
        cards: None: the bundled models'.

    Returns:
        One row a model with TRAINING. `overhead` = seconds on top of the base's, as a share of these;
        `overhead_per_pair` = time per pair relative to the base's (both NaN for a model trained from nothing, or where
        a card does not say). A note where device or precision differ, since times then do not compare.
    """
    out = []
    for card in bundled_models() if cards is None else cards:
        training, base = card.training, card.training.get("start") or {}
        seconds, pairs = _positive(training.get("seconds")), _positive(training.get("pairs"))
        base_seconds, base_pairs = _positive(base.get("seconds")), _positive(base.get("pairs"))
        per_pair = seconds / pairs
        differ = [
            f"{name}: {training.get(name)}, base {base.get(name)}"
            for name in ("device", "precision", "threads")
            if base.get(name) is not None and base.get(name) != training.get(name)
        ]
        note = f"Not alike: {'; '.join(differ)}." if differ else ""
        name = (training.get("recipe") or {}).get("start", "") if base else ""
        row = [card.name, name, seconds, pairs, 1000 * per_pair, base_seconds, base_pairs]
        row += [seconds / base_seconds, per_pair / (base_seconds / base_pairs), note]
        out.append(dict(zip(TRAINING, row, strict=True)))
    return pd.DataFrame(out, columns=list(TRAINING))


def _positive(value: Any) -> float:
    """Return a number of a card; NaN where it has none."""
    return float(value) if isinstance(value, (int, float)) and value > 0 else float("nan")
