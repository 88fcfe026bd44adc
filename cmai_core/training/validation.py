"""Quick validation during training, on arrays laid out like the training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.data.tabletop.language import FAMILIES
from cmai_core.models import fused_forward as fast
from cmai_core.training.batches import Arrays, TrainingBatch, draw, to_pixels
from cmai_core.training.inner import InnerProblem, perturb
from cmai_core.training.losses import Parts, contrastive_logits, pairs_consistency, unit
from cmai_core.training.settings import Inner, Recipe

_QUESTIONS, _CHUNK = 4, 64


@torch.no_grad()
def quick_validation(
    parts: Parts, arrays: Arrays, *, scenes: int = 500, device: torch.device | None = None
) -> dict[str, float]:
    """Measure how good the model is, by teacher-forced measures that take seconds.

    Args:
        parts: the model.
        arrays: validation arrays; the first `scenes` scenes are used, each with its first caption.

    Returns:
        `r1_image_to_text`, `r1_text_to_image`: a retrieved item is right when the caption is true of the image;
        `caption_loss`: nats a token; `vqa`: answers that come first in the whole vocabulary, `vqa_<family>`: those of
        one family of questions; `nlvr`: likewise.
    """
    device = device or parts.mean.device
    count = min(scenes, len(arrays))
    rows = np.arange(count)
    captions = torch.from_numpy(arrays.caption_ids[:count, 0].astype(np.int64)).to(device)
    images, texts, loss, tokens = [], [], 0.0, 0
    right, asked = np.zeros(len(FAMILIES), int), np.zeros(len(FAMILIES), int)
    kept_tokens = []
    for start in range(0, count, _CHUNK):
        some = slice(start, min(start + _CHUNK, count))
        image = parts.vision(to_pixels(torch.from_numpy(np.array(arrays.images[some])).to(device)))
        ids = fast.trim(captions[some], parts.pad)
        pooled, states = fast.text_embedding(parts.text, ids, parts.pad)
        (decoded,) = fast.decode(parts.decoder, image.tokens, [states[:, : ids.shape[1] - 1]])
        kept = ids[:, 1:] != parts.pad
        logits = fast.vocabulary_logits(parts.decoder, decoded[kept]).float()
        loss += float(F.cross_entropy(logits, ids[:, 1:][kept], reduction="sum"))
        tokens += int(kept.sum())
        images.append(F.normalize(image.pooled.float(), dim=-1))
        texts.append(F.normalize(pooled.float(), dim=-1))
        kept_tokens.append(image.tokens)
        good, total = _answers(parts, image.tokens, arrays, some, device)
        right, asked = right + good, asked + total
    similarity = torch.cat(images) @ torch.cat(texts).T
    truth = torch.from_numpy(np.array(arrays.truth(rows, rows, np.zeros(count, np.int64)), dtype=bool)).to(device)
    out = {
        "r1_image_to_text": _hit(similarity, truth),
        "r1_text_to_image": _hit(similarity.T, truth.T),
        "caption_loss": loss / max(tokens, 1),
    }
    if asked.sum():
        out["vqa"] = float(right.sum() / asked.sum())
        out |= {f"vqa_{name}": float(r / n) for name, r, n in zip(FAMILIES, right, asked, strict=True) if n}
    judged = _statements(parts, torch.cat(kept_tokens), arrays, count, device)
    return out if judged is None else {**out, "nlvr": judged}


@torch.no_grad()
def clean_accuracy(parts: Parts, arrays: Arrays, pairs: int) -> float:
    """Return image→text R@1 of the first `pairs` scenes among their first captions; fewer where there are fewer."""
    device, count = parts.mean.device, min(pairs, len(arrays))
    captions = torch.from_numpy(arrays.caption_ids[:count, 0].astype(np.int64)).to(device)
    images, texts = [], []
    for start in range(0, count, _CHUNK):
        some = slice(start, min(start + _CHUNK, count))
        images.append(parts.vision(to_pixels(torch.from_numpy(np.array(arrays.images[some])).to(device))).pooled)
        texts.append(fast.text_embedding(parts.text, fast.trim(captions[some], parts.pad), parts.pad)[0])
    rows = np.arange(count)
    truth = torch.from_numpy(np.array(arrays.truth(rows, rows, np.zeros(count, np.int64)), dtype=bool)).to(device)
    with torch.autocast(device.type, enabled=False):  # in half precision many of a thousand cosines are equal
        return _hit(unit(torch.cat(images)) @ unit(torch.cat(texts)).T, truth)


def _hit(similarity: Tensor, truth: Tensor) -> float:
    best = similarity.argmax(dim=1)
    return float(truth[torch.arange(len(best), device=best.device), best].float().mean())


def _answers(
    parts: Parts, tokens: Tensor, arrays: Arrays, some: slice, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return right answers and questions, by family."""
    asked = min(_QUESTIONS, arrays.question_family.shape[1])
    family = np.asarray(arrays.question_family[some, :asked]).reshape(-1)
    ids = torch.from_numpy(arrays.question_ids[some, :asked].astype(np.int64)).flatten(0, 1).to(device)
    at = torch.from_numpy(arrays.question_answer_at[some, :asked].astype(np.int64)).reshape(-1).clamp(min=1).to(device)
    ids = fast.trim(ids, parts.pad)
    (state,) = fast.decode(parts.decoder, tokens, [fast.text_states(parts.text, ids)], [at - 1])
    answers = ids.gather(1, at[:, None])[:, 0]
    found = fast.vocabulary_logits(parts.decoder, state).argmax(dim=-1)
    right = (found == answers).cpu().numpy()
    count = partial(np.bincount, minlength=len(FAMILIES))
    return count(family[right & (family >= 0)]), count(family[family >= 0])


def _statements(parts: Parts, tokens: Tensor, arrays: Arrays, count: int, device: torch.device) -> float | None:
    usable = np.flatnonzero((arrays.nlvr_left < count) & (arrays.nlvr_right < count))[:count]
    right = 0
    for start in range(0, len(usable), _CHUNK):
        items = usable[start : start + _CHUNK]
        ids = fast.trim(torch.from_numpy(arrays.nlvr_ids[items].astype(np.int64)).to(device), parts.pad)
        at = torch.from_numpy(arrays.nlvr_answer_at[items].astype(np.int64)).to(device)
        left = torch.from_numpy(arrays.nlvr_left[items].astype(np.int64)).to(device)
        both = torch.from_numpy(arrays.nlvr_right[items].astype(np.int64)).to(device)
        joined = parts.two_images(tokens[left], tokens[both])
        (state,) = fast.decode(parts.decoder, joined, [fast.text_states(parts.text, ids)], [at - 1])
        found = fast.vocabulary_logits(parts.decoder, state).argmax(dim=-1)
        right += int((found == ids.gather(1, at[:, None])[:, 0]).sum())
    return right / len(usable) if len(usable) else None


def robust_validation(
    parts: Parts,
    arrays: Arrays,
    recipe: Recipe,
    heads: nn.Module | None = None,
    *,
    scenes: int = 256,
    epsilon: float = 2 / 255,
    steps: int = 10,
) -> dict[str, float]:
    """Measure under contrastive PGD, the same for every recipe; nothing for recipes without an inner problem.

    Returns:
        `r1_clean_small`, `r1_attacked`: image→text R@1 among `scenes` captions; `s_c_clean`, `s_c_attacked`: mean S_c
        (of the heads, where there are any) of the given pairs.
    """
    if recipe.inner is None:
        return {}
    count = min(scenes, len(arrays))
    plain = {"views": 1, "captions": 1, "nlvr_share": 0.0, "questions": 0}
    settings = replace(recipe, batch=max(count, 4), weights=replace(recipe.weights, agreement=0.0), **plain)
    batch: TrainingBatch = draw(arrays, settings, 0, 0).to(parts.mean.device)
    inner = Inner(epsilon=epsilon, steps=steps, step_size=epsilon / 4, warmup=0.0)
    attacked, scored = [], []
    pixels = to_pixels(batch.images)
    for start in range(0, len(pixels), _CHUNK):
        rows = torch.arange(start, min(start + _CHUNK, len(pixels)), device=pixels.device)
        problem = InnerProblem(inner, parts, batch, rows, heads)
        generator = torch.Generator().manual_seed(start)
        attacked.append(perturb(pixels[rows], problem.objective, inner, generator=generator))
        scored.append(problem.scored)
    with torch.no_grad():
        texts, _ = fast.text_embedding(parts.text, fast.trim(batch.caption_ids, parts.pad), parts.pad)
        own = torch.eye(len(texts), dtype=torch.bool, device=texts.device)
        out = {}
        for name, images in (("clean", pixels), ("attacked", torch.cat(attacked))):
            seen = [parts.vision(images[k : k + _CHUNK]) for k in range(0, len(images), _CHUNK)]
            pooled = torch.cat([image.pooled for image in seen])
            logits = contrastive_logits(pooled, texts, parts.logit_scale, own)
            out["r1_clean_small" if name == "clean" else "r1_attacked"] = _hit(logits, batch.truth)
            scores = [pairs_consistency(heads, image, text) for image, text in zip(seen, scored, strict=True)]
            out[f"s_c_{name}"] = float(torch.cat(scores).mean())
    return out


QUICK = {
    "contrastive": Inner(losses={"contrastive": 1.0}),
    "targeted": Inner(losses={"contrastive": 1.0}, targeted=1.0),
    "drift": Inner(losses={"drift": 1.0}),
}
"""Attacks of the worst case: away from the true caption, towards a false one, and away from the clean features."""


def worst_validation(
    parts: Parts,
    arrays: Arrays,
    *,
    scenes: int = 300,
    epsilons: Sequence[float] = (2 / 255, 4 / 255),
    steps: int = 10,
) -> dict[str, Any]:
    """Measure image→text R@1 in the worst case over `QUICK`, the same for every model.

    Args:
        arrays: validation arrays; the first `scenes` scenes are used, each with its first caption.
        epsilons: L∞ radii in [0, 1] pixel units. steps: of each attack, of ε/4, from a random start.

    Returns:
        `scenes`; `clean`: the share whose retrieved caption is true of the scene; `worst`: for each radius (in its
        order) the share that keeps such a caption clean and under every attack; `attacks`: for each radius the share
        under each attack alone.
    """
    count = min(scenes, len(arrays))
    batch = _first_scenes(arrays, count).to(parts.mean.device)
    pixels = to_pixels(batch.images)
    with torch.no_grad():
        texts = unit(fast.text_embedding(parts.text, fast.trim(batch.caption_ids, parts.pad), parts.pad)[0])

    def right(images: Tensor) -> Tensor:
        with torch.no_grad():
            found = [unit(parts.vision(part).pooled) @ texts.T for part in images.split(_CHUNK)]
        best = torch.cat(found).argmax(dim=1)
        return batch.truth[torch.arange(count, device=best.device), best]

    clean = right(pixels)
    worst, attacks = [], []
    for epsilon in epsilons:
        kept = {}
        for name, attack in QUICK.items():
            inner = replace(attack, epsilon=epsilon, steps=steps, step_size=epsilon / 4, warmup=0.0)
            kept[name] = right(_attacked(parts, batch, pixels, inner))
        worst.append(float((clean & torch.stack(list(kept.values())).all(dim=0)).float().mean()))
        attacks.append({name: float(held.float().mean()) for name, held in kept.items()})
    return {"scenes": count, "clean": float(clean.float().mean()), "worst": worst, "attacks": attacks}


def _first_scenes(arrays: Arrays, count: int) -> TrainingBatch:
    """Return the first scenes with their first captions, and nothing else."""
    rows, first = np.arange(count), np.zeros(count, np.int64)
    truth = np.array(arrays.truth(rows, rows, first), dtype=bool)
    np.fill_diagonal(truth, True)
    empty = torch.zeros(0)
    batch = TrainingBatch(**{field.name: empty for field in fields(TrainingBatch)})
    return replace(
        batch,
        rows=torch.from_numpy(rows),
        images=torch.from_numpy(np.array(arrays.images[:count])),
        caption_ids=torch.from_numpy(arrays.caption_ids[:count, 0].astype(np.int64)),
        truth=torch.from_numpy(truth),
    )


def _attacked(parts: Parts, batch: TrainingBatch, pixels: Tensor, inner: Inner) -> Tensor:
    out = []
    for start in range(0, len(pixels), _CHUNK):
        rows = torch.arange(start, min(start + _CHUNK, len(pixels)), device=pixels.device)
        problem = InnerProblem(inner, parts, batch, rows, None, parts.visual, pixels[rows])
        generator = torch.Generator().manual_seed(start)
        out.append(perturb(pixels[rows], problem.objective, inner, generator=generator))
    return torch.cat(out)
