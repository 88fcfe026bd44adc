"""Accuracy under natural distribution shift: on a dataset's shifted variants of a split, and on held-out scenes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from cmai_core.data.registry import DATASETS, DEFAULT_DATASET, load_dataset
from cmai_core.errors import OptionError
from cmai_core.evaluation.figures.compare import paired_test
from cmai_core.evaluation.figures.intervals import share_interval
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.data.pair import PairDataset

COLUMNS = (
    *("target", "dataset", "split", "task", "metric", "value", "low", "high", "hits", "total"),
    *("change", "change_low", "change_high", "p", "note"),
)


def shift_accuracy(
    model: Any,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    *,
    dataset: str = DEFAULT_DATASET,
    splits: Sequence[str] | None = None,
    batch: int = 64,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> pd.DataFrame:
    """Measure `acc_clean` on each variant, and what it loses against the plain split.

    The same answers count as right as in the evaluation's clean predictions (`Task.predict`). The variants show the
    plain split's scenes, so that `change` (variant − plain) is paired, with McNemar's exact `p`; a held-out split has
    scenes of its own, recombining attributes never seen together, and no paired change.

    Args:
        model: a model, or a System; left as found.
        tasks: names; None: all that apply. limit: the first so many scenes of each split.
        dataset: one whose row in `DATASETS` names shifted splits. splits: some of these, of its held-out and its plain
            split; None: all.

    Returns:
        One row a (split, task) with COLUMNS. `total` counts items whose truth is known.

    Raises:
        OptionError: an unknown dataset, split or task, or a task asked for by name that does not apply.
        Cancelled: when cancelled.
    """
    info = DATASETS.find(dataset)
    variants = (info.usual, *info.shifts, *info.held_out)
    for split in splits or ():
        if split not in variants:
            raise OptionError(f"{split!r} is no variant.", f"Accepted: {', '.join(variants)}.")
    opened = {split: load_dataset(dataset, split, limit) for split in dict.fromkeys(splits or variants)}
    chosen = _applying(model, opened.values(), tasks)
    found: dict[str, dict[str, dict[str, bool | None]]] = {}
    total, done = sum(map(len, opened.values())), 0
    for split, part in opened.items():

        def tell(seen: int, split: str = split, before: int = done) -> None:
            if cancel is not None:
                cancel.check()
            if progress is not None:
                progress(Progress(before + seen, total, split))

        found[split] = _right(model, part, chosen, batch, tell)
        done += len(part)
    rows = [
        {"target": model.spec, "dataset": dataset, "split": split, "task": task, "metric": "acc_clean"}
        | _figure(found[split][task], found.get(info.usual, {}).get(task), split == info.usual, split in info.shifts)
        for split in found
        for task in chosen
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _applying(model: Any, splits: Iterable[PairDataset], tasks: Sequence[str] | None) -> dict[str, Any]:
    """Return the tasks asked for by name, or all that apply to each split.

    Raises:
        OptionError: an unknown task, or one asked for by name that does not apply.
    """
    from cmai_core.tasks import TASKS, get_task

    chosen = {name: get_task(name) for name in (TASKS if tasks is None else tasks)}
    reasons = {name: why for name, task in chosen.items() for s in splits if (why := task.applies_to(s, model))}
    if tasks is not None:
        for name, why in reasons.items():
            raise OptionError(f"The task {name} does not apply: {why}", "Leave it out.")
    return {name: task for name, task in chosen.items() if name not in reasons}


@torch.no_grad()
def _right(model: Any, dataset: PairDataset, tasks: dict, batch: int, tell: Any) -> dict[str, dict[str, bool | None]]:
    """Return for each task, scene number → whether the answer is right."""
    out: dict[str, dict[str, bool | None]] = {name: {} for name in tasks}
    with evaluation_mode(model):
        for start in range(0, len(dataset), batch):
            tell(start)
            pairs = [dataset[k] for k in range(start, min(start + batch, len(dataset)))]
            features = model.image_features(model.preprocess([pair.image for pair in pairs]))
            for name, task in tasks.items():
                answers = task.predict(model, features, task.prepare(model, pairs, dataset))
                for pair, answer in zip(pairs, answers, strict=True):
                    out[name][pair.id.rsplit("/", 1)[-1]] = answer.correct
    tell(len(dataset))
    return out


def _figure(
    right: dict[str, bool | None], plain: dict[str, bool | None] | None, is_plain: bool, paired_with_plain: bool
) -> dict[str, Any]:
    known = np.array([value for value in right.values() if value is not None], dtype=bool)
    low, high = share_interval(known.sum(), len(known))
    figure = {"value": float(known.mean()) if len(known) else np.nan, "low": float(low), "high": float(high)}
    figure |= {"hits": int(known.sum()), "total": len(known), "note": ""}
    figure |= dict.fromkeys(("change", "change_low", "change_high", "p"), np.nan)
    if is_plain or plain is None:
        return figure
    if not paired_with_plain:
        return figure | {"note": "Scenes of its own: not paired with the plain split."}
    same = [k for k, value in right.items() if value is not None and plain.get(k) is not None]
    paired = paired_test(np.array([right[k] for k in same], bool), np.array([plain[k] for k in same], bool))
    changes = {"change": "value", "change_low": "low", "change_high": "high", "p": "p"}
    return figure | {name: paired[other] for name, other in changes.items()}
