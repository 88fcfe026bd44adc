"""Scores that should tell attacked pictures from clean ones: consistency verification, and detectors without training.

Higher is more like clean data, throughout. A detector's τ comes from clean validation pairs.

- given / retrieved: with the pair's caption, or with the one that the model retrieves. "cosine": of the contrastive
  embeddings; "S_c", "V": of the consistency heads; "CMCV": whichever of the two lies lower among the validation pairs'
  (the rule "either").
- "energy": log Σ exp of the retrieval logits (Liu et al. 2020, arXiv 2010.03759, eq. 4).
- "Mahalanobis": − distance of the image embedding from the bank's mean under its covariance (Lee et al. 2018, arXiv
  1807.03888, eq. 2, one class).
- "nearest neighbours": − distance to the k-th nearest of the bank's embeddings (Sun et al. 2022, arXiv 2204.06507,
  eq. 1).
- "feature squeezing": − the largest L1 distance between what the picture and a squeezed one retrieve (Xu et al. 2018,
  arXiv 1704.01155, sec. III-D; 5 bits, median 2×2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cmai_core.comparison.protocol import PROTOCOL
from cmai_core.data.pair import Pair, PairDataset
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.models.scoring import has_heads
from cmai_core.tasks.consistency import answer_scores, answered

GIVEN, RETRIEVED = "given", "retrieved"
VERIFIED = (f"S_c, {GIVEN}", f"V, {GIVEN}", f"S_c, {RETRIEVED}", f"V, {RETRIEVED}")
NEIGHBOUR, BITS = PROTOCOL.instruments.neighbour, PROTOCOL.instruments.bits
_SIZE = 64

Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Bank:
    """Clean image embeddings that distances are measured from.

    Attributes:
        embeddings: M×D, unit length. mean: D. precision: D×D, the inverse covariance.
    """

    embeddings: torch.Tensor
    mean: torch.Tensor
    precision: torch.Tensor

    @staticmethod
    def of(model: Any, dataset: PairDataset, rows: Sequence[int]) -> Bank:
        """Make it from some of a dataset's pictures, which nothing else is measured on."""
        found = []
        with torch.no_grad(), evaluation_mode(model):
            for start in range(0, len(rows), _SIZE):
                pictures = [dataset[k].image for k in rows[start : start + _SIZE]]
                found.append(model.image_features(model.preprocess(pictures)).embedding)
        x = torch.cat(found).double()
        centred = x - x.mean(dim=0)
        covariance = centred.T @ centred / len(x)
        ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return Bank(x, x.mean(dim=0), torch.linalg.inv(covariance + ridge))

    def mahalanobis(self, x: torch.Tensor) -> torch.Tensor:
        away = x.double() - self.mean
        return -torch.einsum("nd,de,ne->n", away, self.precision, away).clamp(min=0).sqrt()

    def neighbours(self, x: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(x.double(), self.embeddings)
        return -distance.topk(min(NEIGHBOUR, len(self.embeddings)), dim=1, largest=False).values[:, -1]


@torch.no_grad()
def raw_scores(
    model: Any,
    task: Any,
    dataset: PairDataset,
    pairs: Sequence[Pair],
    pictures: Sequence[np.ndarray],
    bank: Bank,
    texts: Sequence[str] | None = None,
) -> Scores:
    """Return all scores but "CMCV" of N pictures: name → float64 N.

    Args:
        task: retrieval among the captions of `dataset`. pairs: whose pictures they are, attacked or not.
        pictures: uint8 H×W×3. texts: given ones, in the place of the pairs' first captions.
    """
    out: dict[str, list[np.ndarray]] = {}
    with evaluation_mode(model):
        for start in range(0, len(pairs), _SIZE):
            some = slice(start, start + _SIZE)
            batch = make_batch(model, pairs[some], 1)
            pixels = model.preprocess(list(pictures[some]))
            given = list(batch.texts if texts is None else texts[some])
            for name, values in _scores(model, task, dataset, batch.pairs, pixels, given, bank).items():
                out.setdefault(name, []).append(values.double().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in out.items()}


def _scores(
    model: Any, task: Any, dataset: PairDataset, pairs: Sequence[Pair], pixels: Any, given: list[str], bank: Bank
) -> dict[str, torch.Tensor]:
    features = model.image_features(pixels)
    prepared = task.prepare(model, list(pairs), dataset)
    logits = task.logits(model, features, prepared)
    texts = task.answer_texts(model, pairs, prepared, encode=not has_heads(model))
    retrieved = answered(task, model, features, texts)
    out = {
        f"cosine, {GIVEN}": (features.embedding * model.encode_text(given)).sum(dim=1),
        f"cosine, {RETRIEVED}": (features.embedding * model.encode_text(retrieved)).sum(dim=1),
        "energy": logits.logsumexp(dim=1),
        "Mahalanobis": bank.mahalanobis(features.embedding),
        "nearest neighbours": bank.neighbours(features.embedding),
        "feature squeezing": -_squeezed(model, task, prepared, pixels, logits.softmax(dim=1)),
    }
    if has_heads(model):
        s_c, log_v = answer_scores(task, model, features, texts)
        owners = list(range(len(pixels)))
        out[f"S_c, {GIVEN}"] = model.consistency(features, given, owners)
        out[f"V, {GIVEN}"] = model.verify(features, given, owners, log=True)
        out |= {f"S_c, {RETRIEVED}": s_c, f"V, {RETRIEVED}": log_v}
    return out


def _squeezed(model: Any, task: Any, prepared: Any, pixels: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    levels = 2**BITS - 1
    depth = (pixels * levels).round() / levels
    padded = F.pad(pixels, (1, 0, 1, 0), mode="reflect")
    windows = F.unfold(padded, 2).unflatten(1, (3, 4)).sort(dim=2).values
    median = windows[:, :, 1:3].mean(dim=2).unflatten(2, pixels.shape[-2:])
    moved = [task.logits(model, model.image_features(x), prepared).softmax(dim=1) for x in (depth, median)]
    return torch.stack([(plain - x).abs().sum(dim=1) for x in moved]).amax(dim=0)


def with_rule(scores: Scores, validation: Scores) -> Scores:
    """Return the scores with "CMCV, given" and "CMCV, retrieved".

    The lower of the places that S_c and V take among the validation pairs' scores. Unchanged where there are no heads.
    """
    out = dict(scores)
    for which in (GIVEN, RETRIEVED):
        names = [f"{kind}, {which}" for kind in ("S_c", "V")]
        if all(name in scores for name in names):
            places = [np.searchsorted(np.sort(validation[name]), scores[name]) for name in names]
            # Within a place, S_c decides, so that ties are few.
            lowest = np.minimum(*places) + (scores[names[0]] + 1) / 2.001
            out[f"CMCV, {which}"] = lowest
    return out


def left_out(clean: Mapping[str, np.ndarray], attacked: Mapping[str, Scores], half: Mapping[str, np.ndarray]) -> Scores:
    """Learn "CMCV, learned": logistic regression on S_c and V, trained on all *other* families of attacks.

    Args:
        clean: scores of clean pairs; attacked: family → scores; half: family (and "clean") → bool, which rows it is
            trained on. The others are scored.

    Returns:
        family → scores of its other rows, "clean, without FAMILY" → of the clean pairs' other rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def table(scores: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
        return np.stack([scores[name][rows] for name in VERIFIED], axis=1)

    out: Scores = {}
    for family in attacked:
        others = [name for name in attacked if name != family and half[name].any()]
        if not others or not (~half[family]).any():
            continue
        good = table(clean, half["clean"])
        bad = np.concatenate([table(attacked[name], half[name]) for name in others])
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        model.fit(np.concatenate([good, bad]), np.repeat([1, 0], [len(good), len(bad)]))
        out[family] = model.decision_function(table(attacked[family], ~half[family]))
        out[f"clean, without {family}"] = model.decision_function(table(clean, ~half["clean"]))
    return out
