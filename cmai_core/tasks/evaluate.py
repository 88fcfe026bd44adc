"""How good a model is on unattacked pairs: every task, with confidence intervals and the level of chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cmai_core.bootstrap import Interval, bootstrap_interval
from cmai_core.data.pair import Pair, PairDataset, Question
from cmai_core.errors import OptionError
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.tasks.base import Prediction, true_of
from cmai_core.tasks.metrics import bleu4, cider, normalise_answer, recall_at, vqa_accuracy
from cmai_core.tasks.vqa import Vqa

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel

QUESTIONS_PER_PAIR = 4
RECALLS = (1, 5, 10)


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
    """Asks a model every task about a dataset's first pairs.

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
    from cmai_core.tasks import NAMES, get_task

    wanted = list(NAMES if tasks is None else tasks)
    chosen = {name: get_task(name) for name in wanted}
    skipped = {name: why for name, task in chosen.items() if (why := task.applies_to(dataset, model))}
    if tasks is not None and skipped:
        name, why = next(iter(skipped.items()))
        raise OptionError(f"The task {name} does not apply: {why}", "Leave it out, or choose another model or dataset.")
    chosen = {name: task for name, task in chosen.items() if name not in skipped}
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if count < 1:
        raise OptionError(f"limit={limit} leaves no pair.", "Give a positive number.")

    with torch.no_grad(), evaluation_mode(model):
        rows = _ask(model, dataset, chosen, count, batch, progress, cancel)
    figures: dict[str, dict[str, Any]] = {}
    for name, measure in _MEASURES.items():
        if name in chosen:
            figures[name] = measure(rows, seed) if name != "retrieval" else _retrieval(rows, seed, gallery)
    return {
        "model": model.spec,
        "hash": model.hash,
        "dataset": dataset.name,
        "split": dataset.split,
        "pairs": count,
        "tasks": figures,
        "skipped": skipped,
    }


class _Rows:
    """What the model answered, gathered over the batches."""

    def __init__(self) -> None:
        self.zero_shot: list[tuple[Prediction, float]] = []
        self.vqa: list[tuple[Question, Prediction]] = []
        self.captions: list[tuple[Pair, Prediction]] = []
        self.nlvr: list[tuple[bool, Prediction]] = []
        self.pairs: list[Pair] = []
        self.image_embeddings: list[np.ndarray] = []
        self.text_embeddings: list[np.ndarray] = []


def _ask(
    model: VisionLanguageModel,
    dataset: PairDataset,
    chosen: dict[str, Any],
    count: int,
    size: int,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> _Rows:
    rows = _Rows()
    statements = defaultdict(list)
    if "nlvr" in chosen:
        for item in dataset.statements:
            if item.left < count:
                statements[item.left].append(item)
    for start in range(0, count, size):
        if cancel is not None:
            cancel.check()
        pairs = [dataset[k] for k in range(start, min(start + size, count))]
        features = model.image_features(model.preprocess([pair.image for pair in pairs]))
        if "zero-shot" in chosen:
            prepared = chosen["zero-shot"].prepare(model, pairs, dataset)
            chance = prepared.target.float().mean(dim=1).tolist()
            rows.zero_shot += zip(chosen["zero-shot"].predict(model, features, prepared), chance, strict=True)
        if "retrieval" in chosen:
            rows.image_embeddings.append(features.embedding.float().cpu().numpy())
            texts = model.encode_text([pair.captions[0] for pair in pairs])
            rows.text_embeddings.append(texts.float().cpu().numpy())
        if "vqa" in chosen:
            _ask_questions(rows, chosen["vqa"], model, pairs, features)
        if "captioning" in chosen:
            prepared = chosen["captioning"].prepare(model, pairs, dataset)
            rows.captions += zip(pairs, chosen["captioning"].predict(model, features, prepared), strict=True)
        items = [(k, item) for k in range(len(pairs)) for item in statements[start + k]]
        for first in range(0, len(items), size):
            some = items[first : first + size]
            own = features[torch.tensor([k for k, _ in some], device=model.device)]
            others = [dataset[item.right].image for _, item in some]
            prepared = chosen["nlvr"].prepare_items(model, [item for _, item in some], others, [True] * len(some))
            found = chosen["nlvr"].predict(model, own, prepared)
            rows.nlvr += zip((item.truth for _, item in some), found, strict=True)
        # Pictures are not needed any more, and a large set would not fit.
        rows.pairs += [_without_image(pair) for pair in pairs]
        if progress is not None:
            progress(Progress(start + len(pairs), count, "asking"))
    return rows


def _without_image(pair: Pair) -> Pair:
    from dataclasses import replace

    return replace(pair, image=np.zeros((0, 0, 3), np.uint8))


def _ask_questions(
    rows: _Rows, task: Vqa, model: VisionLanguageModel, pairs: list[Pair], features: ImageFeatures
) -> None:
    asked = []
    for k, pair in enumerate(pairs):
        number = len(pair.questions)
        places = sorted({round(i * (number - 1) / max(1, QUESTIONS_PER_PAIR - 1)) for i in range(QUESTIONS_PER_PAIR)})
        asked += [(k, pair.questions[i]) for i in places if 0 <= i < number and pair.questions[i].answers]
    for start in range(0, len(asked), 128):
        some = asked[start : start + 128]
        prepared = task.prepare_questions(model, [pairs[k] for k, _ in some], [q for _, q in some])
        own = features[torch.tensor([k for k, _ in some], device=model.device)]
        rows.vqa += zip((q for _, q in some), task.predict(model, own, prepared), strict=True)


def _entry(interval: Interval, chance: float | None) -> dict[str, Any]:
    return {**interval.to_dict(), "chance": chance}


def _zero_shot(rows: _Rows, seed: int) -> dict[str, Any]:
    judged = [(bool(p.correct), chance) for p, chance in rows.zero_shot if p.correct is not None]
    if not judged:
        return {}
    right, chance = np.array(judged, dtype=float).T
    return {"accuracy": _entry(bootstrap_interval(right, seed=seed), float(chance.mean()))}


def _retrieval(rows: _Rows, seed: int, gallery: int | None = None) -> dict[str, Any]:
    images, texts = np.concatenate(rows.image_embeddings), np.concatenate(rows.text_embeddings)
    size = len(rows.pairs) if gallery is None else min(gallery, len(rows.pairs))
    found: dict[str, list[tuple[np.ndarray, float, int]]] = {}
    for start in range(0, len(rows.pairs), size):
        some = slice(start, start + size)
        for name, hits, chance in _recalls(rows.pairs[some], images[some] @ texts[some].T):
            found.setdefault(name, []).append((hits, chance, len(hits)))
    out = {}
    for name, parts in found.items():
        hits, chances, counts = zip(*parts, strict=True)
        chance = float(np.average(chances, weights=counts))
        out[name] = _entry(bootstrap_interval(np.concatenate(hits), seed=seed), chance)
    return out


def _recalls(pairs: list[Pair], similarity: np.ndarray) -> Iterator[tuple[str, np.ndarray, float]]:
    """(measure, hits, chance) of retrieval among some pairs; similarity: their pictures × their captions."""
    captions = [pair.captions[0] for pair in pairs]
    own = np.eye(len(pairs), dtype=bool)
    truth = own.copy()
    for k, pair in enumerate(pairs):
        holds = true_of(pair, captions)
        mine = set(pair.captions)
        truth[k] |= np.array([text in mine for text in captions]) if holds is None else holds
    for name, scores, right in (("image_to_text", similarity, truth), ("text_to_image", similarity.T, truth.T)):
        for k in RECALLS:
            if k <= len(captions):
                yield f"{name}_r{k}", recall_at(scores, right, k), _chance_recall(right, k)
        yield f"{name}_own_r1", recall_at(scores, own, 1), 1 / len(captions)


def _chance_recall(truth: np.ndarray, k: int) -> float:
    """Expected recall@k of a random order."""
    total = truth.shape[1]
    return float(np.mean([1 - comb(total - int(m), k) / comb(total, k) for m in truth.sum(axis=1)]))


def _vqa(rows: _Rows, seed: int) -> dict[str, Any]:
    groups: dict[str, list[tuple[Question, Prediction]]] = defaultdict(list)
    for question, prediction in rows.vqa:
        groups[question.family].append((question, prediction))
    out, scores, guesses = {}, [], []
    for family, entries in sorted(groups.items()):
        answers = [normalise_answer(q.answers[0]) for q, _ in entries]
        common = max(sorted(set(answers)), key=answers.count)
        right = [vqa_accuracy(p.answer, q.answers) for q, p in entries]
        guess = [vqa_accuracy(common, q.answers) for q, _ in entries]
        scores, guesses = scores + right, guesses + guess
        if family:
            out[f"accuracy_{family}"] = _entry(bootstrap_interval(right, seed=seed), float(np.mean(guess)))
    if not scores:
        return {}
    return {"accuracy": _entry(bootstrap_interval(scores, seed=seed), float(np.mean(guesses))), **out}


def _captioning(rows: _Rows, seed: int) -> dict[str, Any]:
    texts = [p.answer for _, p in rows.captions]
    pairs = [pair for pair, _ in rows.captions]
    references = [pair.captions for pair in pairs]
    strangers = [pairs[(k + 1) % len(pairs)].captions[0] for k in range(len(pairs))]
    out = {
        "bleu4": _entry(bleu4(texts, references, seed=seed), bleu4(strangers, references, resamples=1).value),
        "cider": _entry(cider(texts, references, seed=seed), cider(strangers, references, resamples=1).value),
    }
    if all(pair.scene is not None for pair in pairs):
        from cmai_core.data.tabletop.captions import fact_f1

        scenes = [pair.scene for pair in pairs]
        true = [bool(p.correct) for _, p in rows.captions]
        lucky = [bool(true_of(pair, [text])[0]) for pair, text in zip(pairs, strangers, strict=True)]
        facts = [p.detail["fact_f1"] for _, p in rows.captions]
        out["true"] = _entry(bootstrap_interval(true, seed=seed), float(np.mean(lucky)))
        out["fact_f1"] = _entry(bootstrap_interval(facts, seed=seed), float(fact_f1(strangers, scenes).mean()))
    return out


def _nlvr(rows: _Rows, seed: int) -> dict[str, Any]:
    if not rows.nlvr:
        return {}
    share = float(np.mean([truth for truth, _ in rows.nlvr]))
    right = [bool(p.correct) for _, p in rows.nlvr]
    return {"accuracy": _entry(bootstrap_interval(right, seed=seed), max(share, 1 - share))}


_MEASURES = {
    "zero-shot": _zero_shot,
    "retrieval": _retrieval,
    "vqa": _vqa,
    "captioning": _captioning,
    "nlvr": _nlvr,
}
