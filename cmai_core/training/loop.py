"""What happens between the steps of a training: the log, validations, checkpoints, and their part in the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cmai_core.errors import CmaiError
from cmai_core.progress import Progress, ProgressCallback
from cmai_core.training.batches import Arrays, TrainingBatch
from cmai_core.training.schedule import learning_rate

if TYPE_CHECKING:
    from cmai_core.training.trainer import RunOptions, Training

LOG_EVERY = 50
_MEASURED = (5, 25)
"""With a time budget: the steps over which the throughput is measured that fixes the number of pairs."""


class Loop:
    """What happens between steps: the log, validations, checkpoints, and their part in the time."""

    def __init__(
        self,
        training: Training,
        options: RunOptions,
        validation: Arrays | None,
        save: Callable[[], None],
        record: Callable[[dict[str, Any]], None],
        progress: ProgressCallback | None,
    ):
        self._training, self._options, self._validation = training, options, validation
        self._save, self._record, self._progress = save, record, progress
        self._seen: list[dict[str, Tensor]] = []
        self._last = self._saved_at = self._interval = self._measured_from = time.perf_counter()
        self._interval_step = training.step

    def fix_length(self, step: int) -> None:
        """Turn a time budget into a number of steps, by the speed of the first ones."""
        training, minutes = self._training, self._options.minutes
        if minutes is None or training.total_steps is not None:
            return
        if step == _MEASURED[0]:
            self._measured_from = time.perf_counter()
        elif step == _MEASURED[1]:
            per_step = (time.perf_counter() - self._measured_from) / (_MEASURED[1] - _MEASURED[0])
            training.total_steps = max(step + 1, int(minutes * 60 / per_step))

    def advance(self, batch: TrainingBatch) -> None:
        """Take one step, and count its time."""
        training = self._training
        self._seen.append(training.advance(batch.to(training.model.device)))
        now = time.perf_counter()
        training.seconds += now - self._last
        self._last = now

    def log(self) -> None:
        """Record the means since the last record."""
        training, batch = self._training, self._training.recipe.batch
        entry = _averages(self._seen, training)
        steps, seconds = training.step - self._interval_step, time.perf_counter() - self._interval
        entry["pairs_per_second"] = round(steps * batch / seconds, 1)
        self._seen, self._interval_step = [], training.step
        self._record(entry)
        if self._progress is not None:
            total = (training.total_steps or 0) * batch
            self._progress(Progress(entry["pairs"], total, f"loss {entry['loss']:.3f}", entry))
        self._last = self._interval = time.perf_counter()

    def validate_where_due(self) -> None:
        """Record validation figures every `validate_every` steps, but not at the end, where `train` does."""
        training, every = self._training, self._options.validate_every
        if not every or training.step % every or training.finished:
            return
        figures = training.validate(self._validation, self._options.validation_scenes)
        self._record({"step": training.step, "pairs": training.step * training.recipe.batch, "validation": figures})
        self._interval += time.perf_counter() - self._last  # no part of the speed
        self._last = time.perf_counter()

    def save_where_due(self) -> None:
        """Write a checkpoint after so many minutes or steps."""
        due = (time.perf_counter() - self._saved_at) / 60 >= self._options.checkpoint_minutes
        if self._options.checkpoint_steps:
            due = due or self._training.step % self._options.checkpoint_steps == 0
        if due:
            self._save()
            self._saved_at = self._last = time.perf_counter()


def _averages(seen: list[dict[str, Tensor]], training: Training) -> dict[str, Any]:
    """Return means over an interval of steps.

    Raises:
        CmaiError: the loss is not finite.
    """
    names = sorted({name for entry in seen for name in entry})
    means = {n: float(torch.stack([e[n].float().cpu() for e in seen if n in e]).mean()) for n in names}
    if not math.isfinite(means["loss"]):
        raise CmaiError(
            f"The loss is not finite any more around step {training.step}.",
            "Start anew with a lower learning rate (--lr, --restart).",
        )
    return {
        "step": training.step,
        "pairs": training.step * training.recipe.batch,
        "lr": round(learning_rate(training.recipe, training.step - 1, training.total_steps), 8),
        "logit_scale": round(float(training.parts.logit_scale.detach().exp()), 2),
        **{name: round(value, 5) for name, value in means.items()},
        **training.steering.shown(),
    }
