"""Measures of tasks, each with a bootstrap confidence interval, and the metrics that tasks report (`METRICS`).

A metric is a function of a task's answers. To add one: a function here, a row of `METRICS`, and its name in `metrics`
of the task that reports it. Another package adds one by an entry point of the group `cmai.metrics` that names its
`Metric`; every task that the metric names reports it, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.bootstrap import Interval, bootstrap_interval
from cmai_core.errors import DataError
from cmai_core.registry import Registry

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair
    from cmai_core.tasks.base import Prediction

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(k)
    for k, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
} | {"none": "0"}


def recall_at(similarity: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Return per query (row) whether one of its k most similar items is right: bool Q.

    Args:
        similarity: Q×C; truth: bool Q×C, which items are right for a query.
    """
    k = min(k, similarity.shape[1])
    best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return np.take_along_axis(truth, best, axis=1).any(axis=1)


def normalise_answer(text: str) -> str:
    """Return an answer as VQA compares them: lower case, no punctuation or articles, number words as digits."""
    words = re.sub(r"[^\w\s'-]", " ", text.lower()).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, accepted: Sequence[str]) -> float:
    """Return VQAv2's accuracy (Antol et al. 2015, arXiv 1505.00468, sec. 3): min(matches / 3, 1).

    With ten answers it is averaged over the ten sets of nine, as the official evaluation does, so that one, two, three
    and four matches give 0.3, 0.6, 0.9 and 1. With fewer than three answers one match suffices.
    """
    given = normalise_answer(answer)
    matches = sum(normalise_answer(a) == given for a in accepted)
    if len(accepted) < 3:
        return float(matches > 0)
    total = len(accepted)
    return (matches * min((matches - 1) / 3, 1) + (total - matches) * min(matches / 3, 1)) / total


def tokens(text: str) -> str:
    """Return a caption as n-gram measures read it: lower case, no punctuation, words joined by one blank."""
    return " ".join(re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower()))


def _prepared(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[dict, dict]:
    if len(texts) != len(references) or any(not r for r in references):
        raise DataError("Every caption needs at least one reference.", "Give references for all of them.")
    generated = {k: [tokens(t)] for k, t in enumerate(texts)}
    return generated, {k: [tokens(t) for t in r] for k, r in enumerate(references)}


def bleu4(texts: Sequence[str], references: Sequence[Sequence[str]], **bootstrap: int) -> Interval:
    """Measure corpus BLEU-4 in [0, 1] (Papineni et al. 2002) by pycocoevalcap's scorer, closest reference length."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    generated, wanted = _prepared(texts, references)
    scorer = BleuScorer(n=4)
    for k, text in generated.items():
        scorer += (text[0], wanted[k])
    with redirect_stdout(sys.stderr):
        scorer.compute_score(option="closest", verbose=0)
    rows = []
    for entry in scorer.ctest:
        length = entry["testlen"]
        closest = min((abs(r - length), r) for r in entry["reflen"])[1]
        rows.append([length, closest, *entry["guess"], *entry["correct"]])
    return bootstrap_interval(np.array(rows, dtype=float), _bleu_of, **bootstrap)


def _bleu_of(rows: np.ndarray) -> float:
    length, reference, *counts = rows.sum(axis=0)
    guess, correct = np.array(counts[:4]), np.array(counts[4:])
    precision = np.exp(np.log((correct + 1e-15) / (guess + 1e-9)).mean())
    ratio = (length + 1e-15) / (reference + 1e-9)
    return float(precision * (np.exp(1 - 1 / ratio) if ratio < 1 else 1.0))


def cider(texts: Sequence[str], references: Sequence[Sequence[str]], **bootstrap: int) -> Interval:
    """Measure CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726) by pycocoevalcap's scorer, the one COCO reports as CIDEr.

    The interval resamples the per-caption scores; the document frequencies stay those of all references.
    """
    from pycocoevalcap.cider.cider import Cider

    generated, wanted = _prepared(texts, references)
    _, scores = Cider().compute_score(wanted, generated)
    return bootstrap_interval(scores, **bootstrap)


@dataclass(frozen=True)
class Records:
    """A task's answers about N unattacked pairs, as metrics read them.

    Attributes:
        predictions: N. pairs: N, without their pictures.
        chance: for each, how likely a guess is right; None where nobody can say.
        accepted: for each, the accepted answers, where the task compares texts.
        similarity, truth: N×C scores of a search among C items, and bool N×C, which are right.
        seed: of the bootstrap.
    """

    predictions: tuple[Prediction, ...]
    pairs: tuple[Pair, ...]
    chance: tuple[float | None, ...] = ()
    accepted: tuple[tuple[str, ...], ...] = ()
    similarity: np.ndarray | None = None
    truth: np.ndarray | None = None
    seed: int = 0


@dataclass(frozen=True)
class Metric:
    """A figure of a task's answers.

    Attributes:
        name: as results have it. title: what people read.
        measure: records → (figure with its interval, what guessing gives or None); None where the records do not
            allow it.
        tasks: names of tasks that report it although they do not declare it (`Task.metrics`).
    """

    name: str
    title: str
    measure: Callable[[Records], tuple[Interval, float | None] | None]
    tasks: tuple[str, ...] = ()


def _refuse(name: str, part: Any) -> str:
    if not isinstance(part, Metric):
        return f"it is a {type(part).__name__}, not a Metric"
    return "" if part.name == name else f"it calls itself {part.name!r}"


def accuracy(records: Records) -> tuple[Interval, float | None] | None:
    """Measure the share of right answers among those whose truth is known."""
    judged = [
        (bool(p.correct), chance)
        for p, chance in zip(records.predictions, records.chance, strict=True)
        if p.correct is not None
    ]
    if not judged:
        return None
    right, chance = zip(*judged, strict=True)
    guessed = None if None in chance else float(np.mean(chance))
    return bootstrap_interval(np.array(right, float), seed=records.seed), guessed


def _against_references(measure: Callable[..., Interval]) -> Callable[[Records], tuple[Interval, float]]:
    """Return a metric of captions and references; guessing is the next pair's caption."""

    def measured(records: Records) -> tuple[Interval, float]:
        references = [pair.captions for pair in records.pairs]
        found = measure([p.answer for p in records.predictions], references, seed=records.seed)
        return found, measure(_strangers(records), references, resamples=1).value

    return measured


def _strangers(records: Records) -> list[str]:
    """For each pair the first caption of the next one."""
    pairs = records.pairs
    return [pairs[(k + 1) % len(pairs)].captions[0] for k in range(len(pairs))]


def true_captions(records: Records) -> tuple[Interval, float] | None:
    """Measure the share of captions that are true of the picture, where its ground truth is known."""
    from cmai_core.data.truth import ground_truth_of, holds

    if ground_truth_of(records.pairs) is None:
        return None
    guesses = [holds(text, pair) is True for text, pair in zip(_strangers(records), records.pairs, strict=True)]
    right = [bool(p.correct) for p in records.predictions]
    return bootstrap_interval(right, seed=records.seed), float(np.mean(guesses))


def caption_facts(records: Records) -> tuple[Interval, float] | None:
    """Measure F1 of the facts that captions state, where the ground truth of every picture is known."""
    from cmai_core.data.truth import ground_truth_of

    truth = ground_truth_of(records.pairs)
    scenes = [pair.scene for pair in records.pairs]
    facts = None if truth is None else truth.fact_f1([p.answer for p in records.predictions], scenes)
    if facts is None:
        return None
    return bootstrap_interval(facts, seed=records.seed), float(truth.fact_f1(_strangers(records), scenes).mean())


_METRICS = (
    Metric("accuracy", "accuracy", accuracy),
    Metric("bleu4", "BLEU-4", _against_references(bleu4)),
    Metric("cider", "CIDEr-D", _against_references(cider)),
    Metric("true", "true captions", true_captions),
    Metric("fact_f1", "fact F1", caption_facts),
)

METRICS: Registry[Metric] = Registry("metric", "cmai.metrics", {metric.name: metric for metric in _METRICS}, _refuse)
"""Every metric of the tasks by name. Recall and the accuracy by families belong to retrieval and question answering."""
