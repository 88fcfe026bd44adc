"""S_c over many pairs, clean and attacked, for up to two models; thresholds and counts from it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.data.pair import Batch, Pair, PairDataset
from cmai_core.evaluation.figures import detection
from cmai_core.evaluation.figures.histogram import histogram
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.run import clean_pixels
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.versions import library_versions

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

BATCH = 32


@dataclass(frozen=True)
class ScoreDistribution:
    """S_c of N pairs. Maps: role → N values; `adversarial` from each model's own (white-box) attack, rounded to 8 bits.

    Attributes:
        ids, captions: of the N pairs measured (fewer than asked for when cancelled).
        names, hashes: role → model.
        experiment: threat model, objective and search used. asked: how many pairs were to be measured.
    """

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    clean: Mapping[str, tuple[float, ...]]
    adversarial: Mapping[str, tuple[float, ...]]
    names: Mapping[str, str]
    hashes: Mapping[str, str]
    experiment: Experiment
    cancelled: bool = False
    seconds: float = 0.0
    versions: Mapping[str, str] | None = None
    asked: int = 0

    @property
    def key(self) -> str:
        """Names this measurement: a digest of what was measured and what came out."""
        values = json.dumps([self.ids, dict(self.hashes), dict(self.adversarial), self.experiment.to_dict()])
        return hashlib.sha256(values.encode()).hexdigest()[:16]

    def threshold(self, role: str, false_positive_rate: float) -> float:
        """τ such that at most this share of these clean pairs lies below it."""
        return detection.threshold_at_fpr(self.clean[role], false_positive_rate)

    def rates(self, role: str, tau: float) -> tuple[float, float]:
        """Return (false positive rate, true positive rate) of "flag where S_c < τ"."""
        return detection.rates_at(self.clean[role], self.adversarial[role], tau)

    def auroc(self, role: str) -> detection.Interval:
        """Area under the ROC with its 95 % bootstrap interval (pairs drawn as one)."""
        return detection.auroc_interval(
            self.clean[role], self.adversarial[role], generator=np.random.default_rng(0), resamples=500, paired=True
        )

    def roc(self, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (false positive rates, true positive rates) of all thresholds."""
        return detection.roc_curve(self.clean[role], self.adversarial[role])

    def rows(self) -> list[dict[str, Any]]:
        """One row a pair, for tables and CSV."""
        return [
            {"id": self.ids[k], "caption": self.captions[k]}
            | {f"{role} clean": self.clean[role][k] for role in self.clean}
            | {f"{role} adversarial": self.adversarial[role][k] for role in self.clean}
            for k in range(len(self.ids))
        ]


def score_distribution(
    models: Mapping[str, VisionLanguageModel],
    dataset: PairDataset,
    *,
    count: int,
    experiment: Experiment,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ScoreDistribution:
    """Scores the first `count` pairs with their first caption, clean and attacked (white box on each model).

    The attack raises −S_c alone: it is the distribution of S_c under an attacker who aims at it. When cancelled, whole
    batches finished for every model are kept.
    """
    start = time.perf_counter()
    asked, count = count, min(count, len(dataset))
    ids: list[str] = []
    captions: list[str] = []
    clean: dict[str, list[float]] = {role: [] for role in models}
    attacked: dict[str, list[float]] = {role: [] for role in models}
    stopped = False
    for first in range(0, count, BATCH):
        pairs = [dataset[k] for k in range(first, min(first + BATCH, count))]
        found: dict[str, tuple[list[float], list[float]]] = {}
        for number, (role, model) in enumerate(models.items()):
            listener = None
            if progress:
                done, total = first * len(models) + number * len(pairs), count * len(models)
                listener = _Inner(progress, done, total, len(pairs), f"Scoring pairs, model {role}", clean, attacked)
            result = _attack_batch(model, pairs, experiment, listener, cancel)
            if result.cancelled:
                stopped = True
                break
            found[role] = (result.clean_consistency.tolist(), result.consistency_8bit.tolist())
        if stopped:
            break
        ids += [p.id for p in pairs]
        captions += [p.captions[0] for p in pairs]
        for role, (before, after) in found.items():
            clean[role] += before
            attacked[role] += after
        if cancel is not None and cancel.cancelled:
            stopped = len(ids) < count
            break
    return ScoreDistribution(
        tuple(ids),
        tuple(captions),
        {r: tuple(round(v, 5) for v in values) for r, values in clean.items()},
        {r: tuple(round(v, 5) for v in values) for r, values in attacked.items()},
        {r: m.name for r, m in models.items()},
        {r: m.hash for r, m in models.items()},
        experiment,
        stopped,
        round(time.perf_counter() - start, 2),
        library_versions(),
        asked,
    )


def _attack_batch(
    model: VisionLanguageModel, pairs: Sequence[Pair], experiment: Experiment, progress: Any, cancel: Any
) -> Any:
    pixels = clean_pixels(model, [p.image for p in pairs])
    batch = Batch(
        tuple(p.id for p in pairs), pixels, tuple(p.captions[0] for p in pairs), tuple(range(len(pairs))), tuple(pairs)
    )
    attack = replace(experiment, objective="consistency").spec().build(value_count=pixels[0].numel())
    return attack(model, batch, progress=progress, cancel=cancel, seed=experiment.seed)


class _Inner:
    """Progress over all pairs from the progress of one batch's attack."""

    def __init__(
        self, progress: ProgressCallback, done: int, total: int, size: int, stage: str, clean: dict, attacked: dict
    ):
        self._progress, self._done, self._total, self._size, self._stage = progress, done, total, size, stage
        self._clean, self._attacked = clean, attacked

    def __call__(self, update: Progress) -> None:
        share = update.fraction
        data = {
            "clean": {r: tuple(v) for r, v in self._clean.items()},
            "adversarial": {r: tuple(v) for r, v in self._attacked.items()},
        }
        self._progress(Progress(self._done + int(share * self._size), self._total, self._stage, data))


def histogram_counts(
    clean: Sequence[float], adversarial: Sequence[float], bins: int = 40, limits: tuple[float, float] | None = None
) -> tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]:
    """(edges, counts clean, counts adversarial) over one range that holds both, with a margin, within [-1, 1]."""
    if limits is None:
        low, high = min(*clean, *adversarial), max(*clean, *adversarial)
        margin = max(0.02, 0.03 * (high - low))
        limits = (max(-1.0, low - margin), min(1.0, high + margin))
    found = histogram({"clean": clean, "adversarial": adversarial}, bins, limits)
    return (
        tuple(round(float(e), 5) for e in found.edges),
        tuple(int(c) for c in found.counts["clean"]),
        tuple(int(c) for c in found.counts["adversarial"]),
    )
