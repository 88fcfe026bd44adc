"""The lessons: their checks mark right and wrong answers, and what they show is what the library computes."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from cmai_core.errors import DataError, OptionError
from cmai_core.lab.exhibits import Bars, Curves, Pictures, Table
from cmai_core.lab.lessons import fgsm, masking, words
from cmai_core.lab.lessons.bundle import LADDER, lesson_data
from cmai_core.lab.lessons.lesson import MOST_STEPS, Choice, Lesson, Number, Trials
from cmai_core.lab.lessons.notes import printable, steps
from cmai_core.lab.lessons.registry import LESSONS

STEPS = [(name, k) for name, lesson in LESSONS.items() for k in range(len(lesson.steps))]


def settings(step):
    """Where the knobs stand at first, and at both of their ends."""
    if not step.knobs:
        return [{}]
    return [step.start(), {k.name: k.low for k in step.knobs}, {k.name: k.high for k in step.knobs}]


def wrong_answers(question):
    if isinstance(question, Choice):
        return [str(k) for k in range(len(question.options)) if k != question.right]
    if isinstance(question, Trials):
        return []
    ends = (question.low, question.high)
    return [repr(end) for end in ends if abs(end - question.right) > question.tolerance + 1e-6]


def test_there_are_eight_of_at_most_five_steps():
    assert len(LESSONS) == 8 and all(1 <= len(lesson.steps) <= MOST_STEPS for lesson in LESSONS.values())
    with pytest.raises(OptionError):
        Lesson("x", "x", "x", 1, LESSONS["fgsm"].steps * 2, "")


@pytest.mark.parametrize(("name", "place"), STEPS, ids=[f"{n}-{k + 1}" for n, k in STEPS])
def test_a_check_marks_right_and_wrong_answers(name, place):
    step = LESSONS[name].steps[place]
    for setting in settings(step):
        question = step.ask(setting)
        mark = question.mark(question.right_answer)
        assert mark.right is (None if isinstance(question, Trials) else True), mark
        assert question.because in mark.said
        found = wrong_answers(question)
        assert isinstance(question, Trials) or found, "no answer would be wrong"
        for answer in found:
            assert question.mark(answer).right is False
            assert 0 <= question.group(answer) < len(question.groups())
        for answer in ("", "-77", "99999", "nan", "0; DROP", "x" * 500):
            with pytest.raises(OptionError):
                question.mark(answer)
        for shown in (*step.before(setting), *step.after(setting, question.right_answer)):
            if isinstance(shown, Bars):
                assert shown.title and all(math.isfinite(bar.value) for bar in shown.bars)
            elif isinstance(shown, Table):
                assert shown.title and shown.rows
            elif isinstance(shown, Curves):
                assert all(len(values) > 1 for values, _ in shown.curves.values())
            elif isinstance(shown, Pictures):
                assert all(p.pixels.dtype == np.uint8 and p.alt for p in shown.pictures)


def test_a_guess_of_a_number_is_right_within_its_tolerance():
    question = Number("?", 0, 10, 1, 4.0, 1.0, "")
    assert [question.mark(a).right for a in ("2.9", "3", "5", "5.1")] == [False, True, True, False]
    assert "too low" in question.mark("0").said and "too high" in question.mark("10").said
    assert question.group("0") == 0 and question.group("10") == len(question.groups()) - 1


def test_a_blind_test_is_scored_against_chance():
    question = LESSONS["eyes"].steps[1].ask({})
    assert {trial.group for trial in question.trials} == {"½/255", *(f"{e:g}/255" for e in LADDER if e >= 1)}
    every = question.share(question.right_answer)
    assert every["value"] == 1 and "not guessing" in question.mark(question.right_answer).said
    flipped = "".join("1" if mark == "0" else "0" for mark in question.right_answer)
    assert question.share(flipped)["hits"] == 0
    half = question.right_answer[:6] + flipped[6:]
    assert question.share(half)["value"] == 0.5 and "Guessing would do as well" in question.mark(half).said
    for trial in question.trials:
        clean = trial.pictures.pictures[1 - trial.attacked].pixels
        assert any((clean == scene.clean).all() for scene in lesson_data().scenes)


def test_fgsm_by_hand_is_the_step_that_lowers_a_linear_score_most():
    moved = fgsm.fgsm(fgsm.PIXELS, 0.1)
    assert np.abs(moved - fgsm.PIXELS).max() == pytest.approx(0.1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert fgsm.score(fgsm.PIXELS + rng.uniform(-0.1, 0.1, 3)) >= fgsm.score(moved) - 1e-12
    needed = LESSONS["fgsm"].steps[2].ask({}).right
    assert fgsm.score(fgsm.fgsm(fgsm.PIXELS, needed)) == pytest.approx(0, abs=1e-9)


def test_the_masking_defence_hides_gradients_and_changes_no_answer():
    clean = masking.world()[0]
    assert ((masking.logits(clean, True) > 0) == (masking.logits(clean, False) > 0)).all()
    assert masking.silent(True) > 0.9 > 0.1 > masking.silent(False)
    epsilon = 0.08
    hidden = masking.right(masking.attacked(epsilon, True, "cross entropy"))["value"]
    seen = masking.right(masking.attacked(epsilon, True, "margin"))["value"]
    assert hidden > seen + 0.5
    for found in (masking.attacked(epsilon, True, "margin", 5), masking.attacked(epsilon, False, "cross entropy")):
        assert np.abs(found - clean).max() <= epsilon + 1e-6 and found.min() >= 0 and found.max() <= 1


def test_the_bundled_data_is_of_the_bundled_models_and_within_its_budgets():
    from cmai_core.models.core import hash_of_files
    from cmai_core.models.families.bundled import bundled_dir
    from cmai_core.models.save import WEIGHTS_FILE
    from cmai_core.models.weights import HEADS_FILE

    data = lesson_data()
    for name, digest in data.models.values():
        files = [bundled_dir() / name / file for file in (WEIGHTS_FILE, HEADS_FILE)]
        assert hash_of_files([file for file in files if file.is_file()]) == digest, "make the lessons' data again"
    for scene in data.scenes:
        assert all(scene.right.values()) and scene.said[0].true
        for attacked in scene.attacked:
            assert np.abs(attacked.pixels.astype(int) - scene.clean).max() <= attacked.epsilon + 0.5


def test_edits_are_judged_by_the_ground_truth():
    from cmai_core.data.tabletop.dataset import scene_of

    edited = lesson_data().edited
    scene = scene_of("test", int(edited.pair.rsplit("/", 1)[1]))
    for edit in edited.edits:
        assert scene.ground_truth.holds(edit.text, scene) is edit.true
        changed = sum(a != b for a, b in zip(edit.text.split(), edited.caption.split(), strict=True))
        assert changed == 1
    flagged, accepted = words.wrong("A")
    assert all(e.true and e.s_c["A"] < lesson_data().tau["A"] for e in flagged)
    assert all(not e.true and e.s_c["A"] >= lesson_data().tau["A"] for e in accepted)


def test_missing_data_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        lesson_data(tmp_path)


def test_the_notes_have_every_question_and_its_answer_and_no_markup_of_others():
    said = printable()
    for lesson in LESSONS.values():
        for row in steps(lesson):
            assert row["right answer"] != "–"
    assert said.count("<h2>") == 8 and "<script" not in said
    hostile = Lesson("x", "<img src=x>", "<script>", 1, LESSONS["fgsm"].steps[:1], "</p>")
    said = printable({"x": hostile})
    assert "<img" not in said and "&lt;script&gt;" in said


def test_presets_need_neither_torch_nor_a_model():
    script = (
        "import sys\nfrom cmai_core.lab.lessons.registry import LESSONS\n"
        "for name in ('s_c', 'fgsm', 'eyes', 'words', 'masking'):\n"
        "    for step in LESSONS[name].steps:\n"
        "        step.before(step.start()); q = step.ask(step.start()); q.mark(q.right_answer)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stdout + done.stderr[-2000:]
