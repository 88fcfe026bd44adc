"""What components say: numbers, verdicts, roles in words, and nothing that a caption could inject."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from app.components.attack_lab.answers import answers_table
from app.components.attack_lab.detector import decisions, outcome
from app.components.attack_lab.result_words import finding
from app.components.attack_lab.score_card import verdict
from app.components.common.svg import histogram, histogram_table, line_chart
from app.components.common.theme import ROLES, escape, number, signed
from app.components.explain.words import changed_words
from cmai_core.lab.result import LabResult, SecondPicture


def test_roles_differ_in_more_than_colour():
    assert ROLES["clean"].colour == "#0072B2" and ROLES["adversarial"].colour == "#D55E00"
    assert ROLES["defended"].colour == "#009E73" and ROLES["undefended"].colour == "#6B7280"
    kinds = ("clean", "adversarial", "defended", "undefended"), ("clean", "adversarial", "A", "B", "C", "D")
    for attribute in ("colour", "mark", "plotly_symbol", "word"):
        for names in kinds:
            assert len({getattr(ROLES[name], attribute) for name in names}) == len(names), attribute


def test_numbers_have_three_decimals_and_a_true_minus():
    assert (
        number(0.5) == "0.500" and number(-0.2041) == "−0.204" and number(None) == "–" and number(float("nan")) == "–"
    )
    assert signed(0.1) == "+0.100" and signed(-0.1) == "−0.100"


def test_text_is_escaped():
    assert escape('<img src=x onerror="a">') == "&lt;img src=x onerror=&quot;a&quot;&gt;"


@pytest.mark.parametrize(
    ("tau", "words"),
    [(0.3, "Falls below its threshold"), (-0.5, "no alarm"), (0.7, "even when clean"), (None, "No threshold is known")],
)
def test_the_verdict_follows_the_threshold(result, tau, words):
    said = verdict(result.predictions["A"], tau)
    assert words in said
    assert "1 of 2 answers that were right are now wrong" in said


def test_a_model_that_keeps_its_answers_is_told_so(result):
    assert "No right answer is lost" in verdict(result.predictions["B"], None)
    assert result.predictions["B"].transferred and not result.predictions["A"].transferred


def test_results_survive_json(result):
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    example = result.examples["A"]
    again = LabResult.from_dict(document, {"A": (example.clean, example.adversarial)})
    assert again.predictions == result.predictions
    assert again.experiment == result.experiment
    assert again.examples["A"].score_trace == example.score_trace
    assert np.array_equal(again.first_example.adversarial, example.adversarial)


def test_an_unchanged_picture_is_json_too(result):
    example = result.examples["A"]
    same = replace(result, examples={"A": replace(example, adversarial=example.clean)})
    assert json.loads(json.dumps(same.to_dict(), allow_nan=False))["crafts"]["A"]["psnr_db"] is None


def test_the_answers_table_holds_every_answer(result):
    rows = answers_table(result.predictions)
    assert len(rows) == 3
    assert [r["adversarial right"] for r in rows] == [False, True, True]
    assert [r["transferred"] for r in rows] == [False, False, True]


def test_charts_are_described_and_hold_their_data():
    chart = line_chart({"S_c": ([0.6, 0.1, -0.2], "adversarial")}, title="S_c <falls>", x_label="step", x_max=10)
    assert 'role="img"' in chart and "&lt;falls&gt;" in chart and "<falls>" not in chart
    assert chart.count("<polyline") == 1 and ROLES["adversarial"].dash in chart
    assert "−0.200" in chart
    bars = histogram(
        [0, 0.5, 1.0], {"clean": [0, 4], "adversarial": [3, 1]}, title="t", markers={"clean": 0.9}, tau=0.4
    )
    assert bars.count("<rect x=") == 3 and "τ 0.400" in bars
    table = histogram_table([0, 0.5, 1.0], {"clean": [0, 4], "adversarial": [3, 1]})
    assert table == [
        {"from": 0.0, "to": 0.5, "clean": 0, "adversarial": 3},
        {"from": 0.5, "to": 1.0, "clean": 4, "adversarial": 1},
    ]


def test_a_histogram_of_scores_holds_every_pair():
    from cmai_core.lab.distribution import histogram_counts

    edges, clean, attacked = histogram_counts([0.7, 0.8, 1.0], [-0.2, 0.1, 0.7], bins=12)
    assert len(edges) == 13 and edges[0] == pytest.approx(-0.236) and edges[-1] == 1.0
    assert sum(clean) == sum(attacked) == 3
    assert histogram_counts([0.5], [0.9], 2, (0.4, 0.6))[1:] == ((0, 1), (0, 0))


def test_a_finished_curve_ends_at_the_axis_end():
    """n steps are n + 1 values: the start, and what each step came to."""
    chart = line_chart({"S_c": ([0.5, 0.4, 0.3], "clean")}, title="t", x_label="step", x_max=2)
    xs = [float(point.split(",")[0]) for point in chart.split('points="')[1].split('"')[0].split()]
    assert xs == [46.0, 247.0, 448.0] and ">0</text>" in chart and ">2</text>" in chart


def test_empty_and_constant_curves_can_be_drawn():
    assert "<svg" in line_chart({"S_c": ([], "clean")}, title="t", x_label="step", x_max=0)
    assert "<svg" in line_chart({"S_c": ([0.5, 0.5], "clean")}, title="t", x_label="step", x_max=2)


def detected(result: LabResult, objective: str, *, clean: float, adversarial: float, tau: float = 0.3) -> LabResult:
    """The made-up result as one against a detector, the undefended model's S_c as given."""
    prediction = replace(
        result.predictions["A"],
        clean=clean, adversarial=adversarial, tau=tau, false_positive_rate=0.05, calibration_pairs=200,
    )  # fmt: skip
    experiment = replace(result.experiment, objective=objective, task="zero-shot")
    return replace(result, experiment=experiment, predictions=result.predictions | {"A": prediction})


@pytest.mark.parametrize(
    ("objective", "clean", "adversarial", "evaded", "words"),
    [
        ("aware", 0.6, 0.3, True, "zero-shot is wrong and the picture is accepted: the attack succeeded"),
        ("aware", 0.6, 0.29, False, "zero-shot is wrong, but the picture is rejected: no success"),
        ("accept", 0.2, 0.4, True, "now accepted: the attack succeeded"),
        ("accept", 0.2, 0.25, False, "is still rejected: no success"),
        ("accept", 0.4, 0.5, None, "was accepted even when clean: there was nothing to gain"),
        ("reject", 0.6, 0.1, True, "now rejected: the attack succeeded"),
        ("reject", 0.6, 0.4, False, "is still accepted: no success"),
        ("reject", 0.2, 0.1, None, "was rejected even when clean"),
    ],
)
def test_success_against_a_detector_is_wrong_and_accepted(result, objective, clean, adversarial, evaded, words):
    made = detected(result, objective, clean=clean, adversarial=adversarial)
    assert made.evaded("A") is evaded and words in outcome(made, "A")
    assert made.predictions["A"].accepted == (clean >= 0.3, adversarial >= 0.3)
    assert words.split(":")[0] in finding(made)[0] and decisions(made.predictions["A"]) in finding(made)[0]
    assert made.evaded("B") is None and outcome(made, "B") == ""  # no threshold, no verdict
    again = LabResult.from_dict(
        json.loads(json.dumps(made.to_dict())), {r: (c.clean, c.adversarial) for r, c in made.examples.items()}
    )
    assert again.predictions == made.predictions


def test_a_right_answer_is_no_success(result):
    made = detected(result, "aware", clean=0.6, adversarial=0.5)
    made = replace(made, experiment=replace(made.experiment, task="retrieval"))
    assert made.evaded("A") is False and "still right" in outcome(made, "A")
    made = replace(made, experiment=replace(made.experiment, task="vqa"))
    wrong = made.predictions["A"].answers["zero-shot"][1]
    for clean, evaded, words in ((0.6, None, "even when clean"), (0.2, True, "the attack succeeded")):
        was = detected(result, "aware", clean=clean, adversarial=0.5)
        prediction = replace(was.predictions["A"], answers={"zero-shot": (wrong, wrong)})
        was = replace(was, predictions={"A": prediction})
        assert was.evaded("A") is evaded and words in outcome(was, "A")
    assert made.evaded("A") is None and "not asked" in outcome(made, "A")


def test_the_second_picture_is_kept_by_name(result):
    second = SecondPicture(np.zeros((4, 4, 3), np.uint8), "tabletop/test/9", True)
    document = json.loads(json.dumps(replace(result, second=second).to_dict()))
    again = LabResult.from_dict(document, {r: (c.clean, c.adversarial) for r, c in result.examples.items()})
    assert (again.second.id, again.second.left, again.second.image) == ("tabletop/test/9", True, None)


def test_changed_words_are_found_by_their_place():
    before, after = ["a", "red", "cube", "near", "a", "ball"], ["a", "crimson", "cube", "a", "ball", "now"]
    assert changed_words(before, after) == ({1, 3}, {1, 5})
    assert changed_words(before, before) == (set(), set())
