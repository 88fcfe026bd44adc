"""Where pairs lie in a model's shared space, clean and attacked, and what of it a plane can show."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.data.pair import Batch, PairDataset
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.run import clean_pixels
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

METHODS = ("pca", "umap")
BATCH = 32


@dataclass(frozen=True)
class EmbeddedPairs:
    """N pairs as one model embeds them.

    Attributes:
        clean, adversarial, text: unit vectors N×D; the adversarial pictures are this model's own white-box ones, 8 bit.
        clean_pictures, adversarial_pictures: uint8 N×S×S×3.
        score_clean, score_adversarial: S_c, N values. moved: cosine distance between clean and adversarial, N values.
        projections: method → `cmai_core.projection.Projection`.
    """

    name: str
    hash: str
    clean: np.ndarray
    adversarial: np.ndarray
    text: np.ndarray
    clean_pictures: np.ndarray
    adversarial_pictures: np.ndarray
    projections: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score_clean(self) -> np.ndarray:
        return (self.clean * self.text).sum(1)

    @property
    def score_adversarial(self) -> np.ndarray:
        return (self.adversarial * self.text).sum(1)

    @property
    def moved(self) -> np.ndarray:
        return 1 - (self.clean * self.adversarial).sum(1)


@dataclass(frozen=True)
class EmbeddingMap:
    """The pairs embedded by each model (role → EmbeddedPairs), row k belonging to ids[k] and captions[k].

    `asked`: how many pairs there were to be.
    """

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    models: Mapping[str, EmbeddedPairs]
    experiment: Experiment
    seconds: float = 0.0
    asked: int = 0

    @property
    def key(self) -> str:
        """Names this map: a digest of the models, the pairs and the vectors."""
        digest = hashlib.sha256(json.dumps([self.ids, self.experiment.to_dict()]).encode())
        for embedded in self.models.values():
            digest.update(embedded.hash.encode())
            digest.update(np.ascontiguousarray(embedded.adversarial).tobytes())
        return digest.hexdigest()[:16]

    def rows(self, role: str, method: str) -> list[dict[str, Any]]:
        """One row a pair, for tables and CSV."""
        embedded, points = self.models[role], self.models[role].projections[method].points
        return [
            {
                "id": self.ids[k],
                "caption": self.captions[k],
                "S_c clean": round(float(embedded.score_clean[k]), 4),
                "S_c adversarial": round(float(embedded.score_adversarial[k]), 4),
                "cosine distance moved": round(float(embedded.moved[k]), 4),
            }
            | {f"{kind} {axis}": round(float(points[kind][k][i]), 4) for kind in points for i, axis in enumerate("xy")}
            for k in range(len(self.ids))
        ]


def embedding_map(
    models: Mapping[str, VisionLanguageModel],
    dataset: PairDataset,
    *,
    count: int,
    experiment: Experiment,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> EmbeddingMap:
    """Attacks the first `count` pairs on each model (raising −S_c), embeds all, and projects by PCA and UMAP.

    Raises:
        Cancelled: there is no use for half a map.
    """
    from cmai_core.projection import project

    start = time.perf_counter()
    pairs = [dataset[k] for k in range(min(count, len(dataset)))]
    texts = [p.captions[0] for p in pairs]
    total = len(models) * (len(pairs) + len(METHODS) * 10)
    embedded: dict[str, EmbeddedPairs] = {}
    done = 0
    for role, model in models.items():
        rows = _embed(
            model, pairs, texts, experiment, _stage(progress, done, total, f"Attacking, model {role}"), cancel
        )
        done += len(pairs)
        projections = {}
        for method in METHODS:
            if cancel is not None:
                cancel.check()
            if progress:
                words = "the first map takes some seconds longer" if method == "umap" else ""
                progress(Progress(done, total, f"Projecting by {method.upper()} (model {role}) {words}".strip(), {}))
            points = {kind: rows[kind] for kind in ("clean", "adversarial", "text")}
            projections[method] = project(points, method=method, seed=experiment.seed)
            done += 10
        embedded[role] = EmbeddedPairs(model.name, model.hash, **rows, projections=projections)
    return EmbeddingMap(
        tuple(p.id for p in pairs), tuple(texts), embedded, experiment, round(time.perf_counter() - start, 2), count
    )


def _stage(progress: ProgressCallback | None, done: int, total: int, stage: str):
    if progress is None:
        return None
    return lambda finished: progress(Progress(done + finished, total, stage, {}))


def _embed(model: VisionLanguageModel, pairs, texts, experiment: Experiment, tell, cancel) -> dict[str, np.ndarray]:
    import torch

    found: dict[str, list[np.ndarray]] = {
        k: [] for k in ("clean", "adversarial", "text", "clean_pictures", "adversarial_pictures")
    }
    for first in range(0, len(pairs), BATCH):
        if cancel is not None:
            cancel.check()
        some, words = pairs[first : first + BATCH], texts[first : first + BATCH]
        pixels = clean_pixels(model, [p.image for p in some])
        batch = Batch(tuple(p.id for p in some), pixels, tuple(words), tuple(range(len(some))), tuple(some))
        attack = replace(experiment, objective="consistency").spec().build(value_count=pixels[0].numel())
        listener = None if tell is None else _within(tell, first, len(some))
        result = attack(model, batch, progress=listener, cancel=cancel, seed=experiment.seed)
        rounded = result.pixels_8bit.to(pixels.device)
        with torch.no_grad():
            found["clean"].append(model.encode_image(pixels).float().cpu().numpy())
            found["adversarial"].append(model.encode_image(rounded).float().cpu().numpy())
            found["text"].append(model.encode_text(list(words)).float().cpu().numpy())
        found["clean_pictures"].append((pixels * 255).round().byte().movedim(1, -1).cpu().numpy())
        found["adversarial_pictures"].append(result.images())
    if cancel is not None:
        cancel.check()
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def _within(tell, first: int, size: int) -> ProgressCallback:
    """Progress of one batch as progress over all pairs."""
    return lambda update: tell(first + int(update.fraction * size))
