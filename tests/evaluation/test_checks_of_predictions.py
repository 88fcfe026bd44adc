"""Self-checks from predictions alone: a sound frame passes, and each flaw is named by the check meant for it."""

import itertools
import json

import numpy as np
import pytest

from cmai_core.errors import DataError
from cmai_core.evaluation.checks import Check, check_predictions, compared, coverage, report, tried, worst
from cmai_core.evaluation.checks.check import Lead

BEFORE = "1111111110"


@pytest.fixture
def cell(made):
    """Attacked rows of ten items; outcome strings as in `frames.py`, with values an honest attack would leave."""

    def build(after, **columns):
        usual = {
            "linf": columns.get("epsilon", 4.0) / 255,
            "objective_clean": 0.1,
            "objective": 1.0,
            "forwards": 21,
            "backwards": 20,
        }
        return made.attacked(BEFORE, after, **(usual | columns))

    return build


@pytest.fixture
def sound(made, cell):
    """Two models, each attacked by PGD at three budgets and two seeds, and by Square; examples shown to both."""
    parts = []
    outcomes = {2.0: "1111110000", 4.0: "1111000000", 128.0: "0000000000"}
    for model, other in (("a", "b"), ("b", "a")):
        parts.append(made.clean(BEFORE, target=model))
        for (epsilon, after), seed in itertools.product(outcomes.items(), (0, 1)):
            key = {"epsilon": epsilon, "seed": seed, "source": model}
            as_float = [after[k] == "1" for k in range(10)]
            parts.append(cell(after, target=model, correct_float=as_float, **key))
            parts.append(cell("1111111100" if epsilon < 100 else after, target=other, **key))
        square = {"recipe": "square", "knowledge": "scores", "source": model}
        parts.append(cell("1111110000", target=model, **square))
        parts.append(cell("1111111110", target=other, **square))
    return parts


def checked(made, parts, **options):
    return {check.name: check for check in check_predictions(made.frame(*parts), **options)}


def test_a_sound_frame_passes_every_check(made, sound):
    found = checked(made, sound)
    assert {check.status for check in found.values()} == {"pass"}, [c for c in found.values() if c.status != "pass"]
    for check in found.values():
        assert any(character.isdigit() for character in check.evidence)
        json.dumps(check.to_dict(), allow_nan=False)


def test_a_model_that_did_not_face_one_attack_is_named(made, sound):
    lacking = [p for p in sound if not ((p["recipe"] == "square") & (p["source"] == "b")).any()]
    check = checked(made, lacking)[coverage.FACED]
    assert check.status == "fail" and "square on b" in check.evidence
    excused = checked(made, lacking, excused=[("b", "vqa", "square")])[coverage.FACED]
    assert excused.status == "pass"


def test_a_model_attacked_on_fewer_items_is_named(made, sound, cell):
    rows = [p for p in sound if not ((p["recipe"] == "square") & (p["target"] == "b")).any()]
    rows.append(cell("-111110000", target="b", source="b", recipe="square", knowledge="scores"))
    rows.append(cell("1111111110", target="b", source="a", recipe="square", knowledge="scores"))
    check = checked(made, rows)[coverage.FACED]
    assert check.status == "fail" and "square on b, vqa, ε 4/255 (1 items)" in check.evidence


def test_examples_not_shown_to_every_model_are_named(made, sound, cell):
    rows = [p for p in sound if not ((p["recipe"] == "square") & (p["target"] == "b") & (p["source"] == "a")).any()]
    rows.append(cell("1111-11110", target="b", source="a", recipe="square", knowledge="scores"))
    check = checked(made, rows)[coverage.FACED]
    assert check.status == "fail" and check.numbers["transfer_short"]


def test_a_cascade_may_leave_out_what_is_lost_already(made, cell):
    lost = cell("1111000000", target="a", source="a", recipe="pgd")
    survivors = cell("1110------", target="a", source="a", recipe="square", knowledge="scores")
    check = checked(made, [made.clean(BEFORE, target="a"), lost, survivors])[coverage.FACED]
    assert check.status == "pass", check
    nearest = cell("0000000000", recipe="fab", epsilon=np.nan, linf=0.1, minimum_norm=[9.0] * 5 + [1.0] * 5)
    after_fab = cell("11110-----", recipe="pgd")
    check = checked(made, [made.clean(BEFORE, target="a"), nearest, after_fab])[coverage.FACED]
    assert check.status == "pass", check


@pytest.mark.parametrize(
    ("name", "flaw", "status"),
    [
        (tried.WITHIN, {"linf": [4 / 255] * 9 + [5 / 255]}, "fail"),
        (tried.USES, {"linf": [0.4 / 255] * 10}, "fail"),  # a tenth of the budget
        (tried.USES, {"linf": [0.0] + [4 / 255] * 9}, "warn"),  # one of four given back as it was
        (tried.RAISES, {"objective": 0.05}, "fail"),
        (tried.EARLY_STOP, {"forwards": [3, 21, 21, 21, 21, 21, 21, 21, 21, 21]}, "fail"),
        (tried.FINITE, {"note": ["the gradient was not finite at step 0"] + [""] * 9}, "warn"),
        (tried.FINITE, {"note": "the objective of the clean image is not a number"}, "fail"),
        (compared.ROUNDED, {"correct_float": [False] * 10, "after": "1111111110"}, "fail"),
    ],
)
def test_flaws_of_one_cell_are_caught(made, cell, name, flaw, status):
    after = flaw.pop("after", "1111000000")
    rows = [made.clean(BEFORE, target="a"), cell("1111000000"), cell(after, seed=1, **flaw)]
    check = checked(made, rows)[name]
    assert check.status == status, check


def test_joint_attacks_on_short_texts_may_be_cheaper(made, cell):
    few = {"forwards": [3, 21, 21, 21, 21, 21, 21, 21, 21, 21], "modality": "joint", "recipe": "joint-cmai"}
    check = checked(made, [made.clean(BEFORE, target="a"), cell("1111000000"), cell("1111000000", **few)])
    assert check[tried.EARLY_STOP].status == "pass"


def test_clean_answers_that_differ_between_cells_are_caught(made, cell):
    other = made.attacked("0111111110", "0111000000", seed=1)
    check = checked(made, [made.clean(BEFORE, target="a"), cell("1111000000"), other])[coverage.SAME_CLEAN]
    assert check.status == "fail" and check.numbers["differ"] == 1 and "a on 0" in check.evidence


def test_an_attack_that_helps_the_model_is_caught(made):
    rows = [made.clean("1110000000", target="a"), made.attacked("1110000000", "1111111110")]
    assert checked(made, rows)[tried.HELPS].status == "fail"


def test_success_that_falls_with_the_budget_is_caught(made, cell):
    rows = [made.clean(BEFORE, target="a"), cell("1000000000", epsilon=2.0), cell("1111111110", epsilon=4.0)]
    found = checked(made, rows)
    assert found[compared.GROWS].status == "fail"
    assert found[compared.LARGE].status == "skipped"


def test_survivors_of_a_large_budget_are_caught(made, cell):
    rows = [made.clean(BEFORE, target="a"), cell("1110000000", epsilon=128.0)]
    assert checked(made, rows)[compared.LARGE].status == "fail"


def test_a_better_black_box_is_caught(made, cell):
    rows = [made.clean(BEFORE, target="a"), cell("1111111110"), cell("0000000000", recipe="square", knowledge="scores")]
    check = checked(made, rows)[compared.SCORES]
    assert check.status == "fail" and check.numbers["only_other"] == 9
    # What a search for the smallest perturbation finds within the budget counts for the white box.
    fab = cell("0000000000", recipe="fab", epsilon=np.nan, linf=0.1, minimum_norm=3.0)
    assert checked(made, [*rows, fab])[compared.SCORES].status == "pass"
    far = cell("0000000000", recipe="fab", epsilon=np.nan, linf=0.1, minimum_norm=5.0)
    assert checked(made, [*rows, far])[compared.SCORES].status == "fail"


def test_a_better_transfer_is_caught(made, cell):
    rows = [made.clean(BEFORE, target="a"), cell("1111111110"), cell("0000000000", source="b")]
    check = checked(made, rows)[compared.TRANSFER]
    assert check.status == "fail" and "pgd on b" in check.evidence and "shown to a" in check.evidence


def test_seeds_that_find_different_items_are_flagged(made, cell):
    rows = [made.clean(BEFORE, target="a"), cell("1111100000"), cell("0000111110", seed=1)]
    check = checked(made, rows)[compared.SEEDS]
    assert check.status == "warn" and check.numbers["together"] == 8


def test_text_attacks_without_a_budget_are_compared_too(made, cell):
    text = {"task": "", "modality": "text", "recipe": "synonym", "norm": "", "epsilon": np.nan, "linf": np.nan}
    rows = [made.clean(BEFORE, target=m, task=t) for m in "ab" for t in ("vqa", "")]
    rows += [cell("1111000000", source=m, target=m) for m in "ab"]
    both = [cell("??????????", source=m, target=m, **text) for m in "ab"]
    assert checked(made, rows + both)[coverage.FACED].status == "pass"
    check = checked(made, rows + both[:1])[coverage.FACED]
    assert check.status == "fail" and "synonym on b" in check.evidence


def test_a_frame_without_attacks_or_columns(made):
    found = checked(made, [made.clean(BEFORE, target="a")])
    assert {check.status for check in found.values()} == {"skipped"}
    with pytest.raises(DataError):
        check_predictions(made.clean(BEFORE).drop(columns="knowledge"))
    with pytest.raises(DataError):
        check_predictions(made.clean(BEFORE).iloc[:0])


def test_the_sign_test_behind_every_comparison():
    assert Lead(5, 0, 20).status == "fail" and Lead(5, 0, 20).p == pytest.approx(1 / 32)
    assert Lead(4, 0, 20).status == "warn"  # 1/16: chance could give it
    assert Lead(1, 0, 20).status == "pass" and Lead(0, 9, 20).status == "pass"
    assert Lead(2, 0, 100).status == "pass" and Lead(0, 0, 0).p == 1.0


def test_the_table_and_the_worst_status():
    checks = [
        Check("one", "pass", "Nothing of 3."),
        Check("two", "fail", "All of 3. " * 30),
        Check("three", "skipped", ""),
    ]
    text = report(checks)
    assert "PASS     one" in text and "FAIL     two" in text and text.endswith("1 pass, 0 warn, 1 fail, 1 skipped")
    assert max(map(len, text.splitlines())) <= 110
    assert worst(["pass", "warn", "skipped"]) == "warn" and worst([]) == "skipped"
    assert report([]) == "No check was made."
    with pytest.raises(ValueError):
        Check("four", "good", "")
