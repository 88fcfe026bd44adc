"""A model's quality on unattacked pairs: every task, with confidence intervals and the level of chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from cmai_core.errors import OptionError
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.tasks.measuring import Measurement, MeasurementSetting
from cmai_core.tasks.registry import TASKS, get_task

if TYPE_CHECKING:
    from cmai_core.data.pair import PairDataset
    from cmai_core.models.protocol import VisionLanguageModel


def evaluate_clean(
    model: VisionLanguageModel,
    dataset: PairDataset,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    *,
    batch: int = 64,
    gallery: int | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, Any]:
    """Ask a model every task about a dataset's first pairs.

    Args:
        model: left as found.
        tasks: names; None asks all that apply.
        limit: use only the first so many pairs.
        batch: images at a time. seed: of the bootstrap.
        gallery: pairs that retrieval chooses among: the pairs in stretches of so many; None: all of them at once.
        progress: told after each batch; cancel: looked at before each.

    Returns:
        JSON values: `model`, `hash`, `dataset`, `split`, `pairs`; `tasks`: name → measure → {value, low, high, n,
        chance}; `skipped`: name → why. Intervals are 95 % percentile bootstrap. Measures:

        - zero-shot: `accuracy` (the most probable class is in the scene; elsewhere: is the label).
        - retrieval: `image_to_text_r1/r5/r10`, `text_to_image_…`, among the gallery, each with its first caption; an
          item is right when the caption is true of the image. `…_own_r1`: only the pair itself counts.
        - vqa: `accuracy` (VQAv2's) over up to four questions a pair, and by family. Chance: the family's commonest
          answer.
        - captioning: `true` (share of captions that are true), `fact_f1`, `bleu4`, `cider`. Chance: the next pair's
          caption.
        - nlvr: `accuracy`. Chance: the commoner judgement.

    Raises:
        OptionError: unknown task, or one asked for by name does not apply.
        Cancelled: when cancelled.
    """
    wanted = list(TASKS if tasks is None else tasks)
    chosen = {name: get_task(name) for name in wanted}
    skipped = {name: why for name, task in chosen.items() if (why := task.applies_to(dataset, model))}
    if tasks is not None and skipped:
        name, why = next(iter(skipped.items()))
        raise OptionError(f"The task {name} does not apply: {why}", "Leave it out, or choose another model or dataset.")
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if count < 1:
        raise OptionError(f"limit={limit} leaves no pair.", "Give a positive number.")
    setting = MeasurementSetting(dataset, count, batch, gallery, seed)
    asked = {name: task.measurement(setting) for name, task in chosen.items() if name not in skipped}

    with torch.no_grad(), evaluation_mode(model):
        _ask(model, setting, list(asked.values()), progress, cancel)
    return {
        "model": model.spec,
        "hash": model.hash,
        "dataset": dataset.name,
        "split": dataset.split,
        "pairs": count,
        "tasks": {name: asked[name].figures() for name in sorted(asked, key=list(TASKS).index)},
        "skipped": skipped,
    }


def _ask(
    model: VisionLanguageModel,
    setting: MeasurementSetting,
    asked: Sequence[Measurement],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> None:
    for start in range(0, setting.count, setting.batch):
        if cancel is not None:
            cancel.check()
        pairs = [setting.dataset[k] for k in range(start, min(start + setting.batch, setting.count))]
        features = model.image_features(model.preprocess([pair.image for pair in pairs]))
        for measurement in asked:
            measurement.ask(model, pairs, features, start)
        if progress is not None:
            progress(Progress(start + len(pairs), setting.count, "asking"))
