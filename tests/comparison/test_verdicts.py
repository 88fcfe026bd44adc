"""Strings of verdicts: what is lost, what stands, and what nobody asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cmai_core.comparison.verdicts import Verdict, difference, marks, rights, share, success_rate, verdicts
from cmai_core.errors import DataError

ITEMS = ["a", "b", "c", "d"]


def frame(recipes: dict[str, dict[str, bool]], clean: dict[str, bool], source: str = "m") -> pd.DataFrame:
    rows = [
        {"target": "m", "task": "retrieval", "recipe": name, "norm": norm, "epsilon": epsilon}
        | {"source": source if norm else "m", "item": item, "correct": right}
        for name, answers, norm, epsilon in [
            ("clean", clean, "", np.nan),
            *((name, answers, "linf", 2.0) for name, answers in recipes.items()),
        ]
        for item, right in answers.items()
    ]
    return pd.DataFrame(rows)


def test_a_cascade_is_read_as_its_worst_case():
    clean = {"a": True, "b": True, "c": True, "d": False}
    found = verdicts(
        frame({"fgsm": {"a": False, "b": True, "c": True}, "pgd": {"b": False, "c": True}}, clean), "m", ITEMS
    )
    (one,) = found
    assert (one.clean, one.held) == ("1110", "0010")
    assert one.recipes == {"fgsm": "011.", "pgd": ".01."}
    assert one.source == ""
    assert share(one.held)["value"] == 0.25 and share(one.held)["total"] == 4
    assert (success_rate(one)["hits"], success_rate(one)["total"]) == (2, 3)


def test_a_scene_that_stands_must_have_faced_every_attack():
    clean = dict.fromkeys(ITEMS, True)
    with pytest.raises(DataError, match=r"/255: 0\b.*\b1\b"):
        verdicts(frame({"fgsm": clean, "pgd": {"b": True, "c": True, "d": True}}, clean), "m", ITEMS)
    with pytest.raises(DataError, match=r"/255: 1\b"):
        verdicts(frame({"fgsm": clean}, {"a": True, "b": True, "c": True}), "m", ITEMS)


def test_a_scene_without_a_question_is_left_out():
    clean = {"a": True, "b": None, "c": True, "d": False}
    (one,) = verdicts(frame({"fgsm": {"a": False, "b": None, "c": True}}, clean), "m", ITEMS)
    assert (one.clean, one.held) == ("1.10", "0.10")
    assert share(one.held)["total"] == 3 and success_rate(one)["total"] == 2


def test_a_model_that_gets_nothing_right_has_a_verdict_and_no_success_rate():
    planned = [("retrieval", "linf", 2.0, "m")]
    (one,) = verdicts(frame({}, dict.fromkeys(ITEMS, False)), "m", ITEMS, planned)
    assert (one.clean, one.held, one.source) == ("0000", "0000", "")
    assert np.isnan(success_rate(one)["value"]) and success_rate(one)["total"] == 0
    assert np.isnan(share("")["value"]) and share(one.held)["value"] == 0
    with pytest.raises(DataError, match=r"^m, "):
        verdicts(frame({}, dict.fromkeys(ITEMS, True)), "m", ITEMS, planned)


def test_examples_of_another_model_are_told_apart():
    clean = dict.fromkeys(ITEMS, True)
    (one,) = verdicts(frame({"pgd": clean}, clean, source="other"), "m", ITEMS)
    assert one.source == "other" and one.held == "1111"


def test_differences_are_paired():
    assert difference("1100", "1000")["value"] == 0.25
    assert difference("1100", "0011")["low"] < 0 < difference("1100", "0011")["high"]
    assert rights("1.0").tolist() == [True, False]
    with pytest.raises(DataError):
        difference("1.", "11")
    assert marks([True, None, False]) == "1.0"
    kept = Verdict("vqa", "linf", 2.0, "11", "10", recipes={"pgd": "10"})
    assert Verdict(**kept.to_dict()) == kept
