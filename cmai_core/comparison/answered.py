"""Each model inside verified answering, under attacks that know of it.

The rules are fitted on clean validation pairs (`evaluation.verification.answering`), for every model anew, so that a
reader sees what a training is worth and what the verification. Tasks that verification answers no better keep the
model's own answer, and are not attacked again here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cmai_core.comparison.cascade import Cascade, held, marks_of, standing
from cmai_core.comparison.protocol import Answered
from cmai_core.data.pair import PairDataset
from cmai_core.data.subset import Subset
from cmai_core.models.scoring import has_heads
from cmai_core.progress import CancelToken, ProgressCallback

NO_HEADS = "no consistency heads"


def answered_verdicts(
    model: Any,
    dataset: PairDataset,
    validation: PairDataset,
    asked: Answered,
    *,
    gallery: int,
    limit: int,
    seed: int = 0,
    known: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, Any]:
    """Attack a model inside verified answering.

    Args:
        dataset: whose first scenes are attacked. validation: pairs that the rules are fitted on.
        limit: scenes of retrieval; of the other tasks `asked.others`.
        known: what an earlier call came to, which is gone on with. keep: is handed what is known after each attack.

    Returns:
        `rules`: task → rule as plain values, of the tasks that are verified; `calibration`: what fitting them came to;
        `limit`; `tasks`: task → ε (1/255, as text) → `clean`, `noise` (marks, as in `verdicts`), `rounds` (name →
        `cascade.Cascade.attacked`) and `held`. Of a model without heads only `skipped`, which says so.
    """
    if not has_heads(model):
        return {"skipped": NO_HEADS}
    from cmai_core.defenses.answering_calibration import AnsweringCalibration
    from cmai_core.defenses.system import System
    from cmai_core.evaluation.verification.answering import calibrate_answering
    from cmai_core.tasks import get_task
    from cmai_core.tasks.retrieval import Retrieval

    out = known or {}
    if "calibration" not in out:
        fitted = calibrate_answering(model, Subset(validation, range(min(asked.fitted, len(validation)))))
        rules = {task: rule.describe() for task, rule in fitted.rules.items()}
        out |= {"calibration": fitted.to_dict(), "rules": rules, "limit": limit, "tasks": {}}
    system = System(model, answering=AnsweringCalibration.from_dict(out["calibration"]).rules)
    for name in asked.tasks:
        if name not in out["rules"]:
            continue
        count = min(limit if name == "retrieval" else asked.others, len(dataset))
        task = Retrieval(max(gallery, count)) if name == "retrieval" else get_task(name)
        for epsilon in asked.epsilons:
            cascade = Cascade(model, system, task, dataset, count, epsilon, seed)
            entry = out["tasks"].setdefault(name, {}).setdefault(f"{epsilon:g}", {"rounds": {}})
            _measure(cascade, entry, asked, keep and (lambda: keep(out)), progress, cancel)
    return out


def _measure(
    cascade: Cascade,
    entry: dict[str, Any],
    asked: Answered,
    keep: Callable[[], None] | None,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> None:
    """Run the rounds that are not there yet on one task at one ε."""
    if "clean" not in entry:
        right, noisy = cascade.right(), cascade.right(cascade.noise, asked.noise)
        entry |= {"clean": marks_of(right), "noise": marks_of([a and b for a, b in zip(right, noisy, strict=True)])}
    said = f"{cascade.task.name} at {cascade.epsilon:g}/255, "
    for attack in asked.rounds:
        if attack.name not in entry["rounds"]:
            tools: dict[str, Any] = {"progress": progress, "cancel": cancel, "said": said}
            entry["rounds"][attack.name] = cascade.attacked(attack, standing(entry), **tools)
            if keep is not None:
                keep()
    entry["held"] = held(entry)
