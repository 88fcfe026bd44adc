"""Metrics against known answers and the reference implementations."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from cmai_core.errors import DataError
from cmai_core.tasks.metrics import (
    bleu4,
    cider,
    normalise_answer,
    recall_at,
    tokens,
    vqa_accuracy,
)
from cmai_core.tasks.retrieval import _chance_recall

TEXTS = ["a red cube on the table", "two large spheres and a cone", "a small green ring"]
REFERENCES = [
    ["a red cube on a table", "one red cube"],
    ["a cone and two large spheres", "two spheres"],
    ["a blue pyramid", "a small ring"],
]


def test_recall():
    similarity = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.8]])
    truth = np.array([[False, True, False], [False, False, True]])
    assert recall_at(similarity, truth, 1).tolist() == [False, True]
    assert recall_at(similarity, truth, 2).tolist() == [True, True]
    assert recall_at(similarity, truth & False, 3).tolist() == [False, False]


def test_chance_recall_by_counting_all_orders():
    truth = np.array([[True, True, False, False, False], [True, False, False, False, False]])
    for k in (1, 2, 3):
        expected = [np.mean([any(row[i] for i in some) for some in combinations(range(5), k)]) for row in truth]
        assert _chance_recall(truth, k) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_with_ten_answers(matches, accuracy):
    accepted = ["cat"] * matches + ["dog"] * (10 - matches)
    assert vqa_accuracy("Cat.", accepted) == pytest.approx(accuracy)


def test_vqa_accuracy_with_one_answer_and_its_normalisation():
    assert vqa_accuracy("two", ["2"]) == 1.0
    assert vqa_accuracy("3", ["2"]) == 0.0
    assert normalise_answer(" The Red, cube! ") == "red cube"


def test_bleu_and_cider_are_those_of_the_reference_implementation():
    wanted = {k: [tokens(t) for t in r] for k, r in enumerate(REFERENCES)}
    given = {k: [tokens(t)] for k, t in enumerate(TEXTS)}
    reference, _ = Bleu(4).compute_score(wanted, given, verbose=0)
    assert bleu4(TEXTS, REFERENCES, resamples=10).value == pytest.approx(reference[3], rel=1e-6)
    score, _ = Cider().compute_score(wanted, given)
    assert cider(TEXTS, REFERENCES, resamples=10).value == pytest.approx(score, rel=1e-6)


def test_bleu_of_a_perfect_and_of_a_short_caption():
    perfect = [["a red cube on the table today"]]
    assert bleu4(["a red cube on the table today"], perfect, resamples=5).value == pytest.approx(1.0, abs=1e-6)
    short = bleu4(["a red cube on the"], perfect, resamples=5).value
    assert short == pytest.approx(np.exp(1 - 7 / 5), rel=1e-6)  # all n-grams match: the brevity penalty alone
    with pytest.raises(DataError):
        bleu4(["a"], [[]])


def test_tokens_drop_punctuation_and_case():
    assert tokens("A well-lit Cube, isn't it?") == "a well-lit cube isn't it"
