"""Measures of tasks, each with a bootstrap confidence interval."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np

from cmai_core.bootstrap import Interval, bootstrap_interval
from cmai_core.errors import DataError

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(k)
    for k, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
} | {"none": "0"}


def recall_at(similarity: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Per query (row), whether one of its k most similar items is right: bool Q.

    Args:
        similarity: Q×C; truth: bool Q×C, which items are right for a query.
    """
    k = min(k, similarity.shape[1])
    best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return np.take_along_axis(truth, best, axis=1).any(axis=1)


def normalise_answer(text: str) -> str:
    """An answer as VQA compares them: lower case, no punctuation or articles, number words as digits."""
    words = re.sub(r"[^\w\s'-]", " ", text.lower()).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, accepted: Sequence[str]) -> float:
    """VQAv2's accuracy (Antol et al. 2015, arXiv 1505.00468, sec. 3): min(matches / 3, 1).

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
    """A caption for n-gram measures: lower case, punctuation apart and left out, words joined by one blank."""
    return " ".join(re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower()))


def _prepared(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[dict, dict]:
    if len(texts) != len(references) or any(not r for r in references):
        raise DataError("Every caption needs at least one reference.", "Give references for all of them.")
    generated = {k: [tokens(t)] for k, t in enumerate(texts)}
    return generated, {k: [tokens(t) for t in r] for k, r in enumerate(references)}


def bleu4(texts: Sequence[str], references: Sequence[Sequence[str]], **bootstrap: int) -> Interval:
    """Corpus BLEU-4 in [0, 1] (Papineni et al. 2002) by pycocoevalcap's scorer, closest reference length."""
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
    """CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726) by pycocoevalcap's scorer, the one COCO reports as CIDEr.

    The interval resamples the per-caption scores; the document frequencies stay those of all references.
    """
    from pycocoevalcap.cider.cider import Cider

    generated, wanted = _prepared(texts, references)
    _, scores = Cider().compute_score(wanted, generated)
    return bootstrap_interval(scores, **bootstrap)
