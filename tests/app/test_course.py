"""The steps of an attack: kept as they were, bounded in number, read by every model that was shown them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lab_runs import run, setting_of

from cmai_core.lab.course import MOST_FRAMES, CourseRecorder
from cmai_core.lab.experiment import TASKS
from cmai_core.lab.result import LabResult
from cmai_core.progress import CancelToken, Progress

SHORT = [name for name, info in TASKS.items() if info.has_classes and info.pictures == 1]


@pytest.fixture(scope="module")
def setting(tiny_models):
    return setting_of(tiny_models)


@pytest.fixture(scope="module")
def pixels(setting):
    return run(setting)


def ends_agree(result):
    """The first and the last step say what the result says of the clean and the attacked pair."""
    for role, prediction in result.predictions.items():
        reading = result.courses[prediction.picture].readings[role]
        assert reading.scores[0] == pytest.approx(prediction.clean, abs=1e-4)
        assert reading.scores[-1] == pytest.approx(prediction.adversarial, abs=1e-4)
        assert list(reading.answers) == SHORT
        for task, said in reading.answers.items():
            assert (said[0].text, said[-1].text) == tuple(answer.text for answer in prediction.answers[task])


def test_every_step_of_a_short_attack_is_kept_and_read(pixels):
    course, example = pixels.courses["A"], pixels.examples["A"]
    assert course.steps == (0, 1, 2, 3, 4) and not course.sentences and set(course.readings) == {"A", "B"}
    assert np.array_equal(pixels.frame("A", 0), example.clean)
    assert np.array_equal(pixels.frame("A", 4), example.adversarial)
    changes = [np.abs(pixels.frame("A", k).astype(int) - example.clean).max() for k in range(5)]
    assert changes[0] == 0 and all(0 < change <= 4 for change in changes[1:])
    assert pixels.bytes == example.clean.nbytes * 2 + sum(map(len, course.packed))
    ends_agree(pixels)
    scores = course.readings["A"].scores
    assert len(set(scores)) == 5 and all(len(said) == 5 for said in course.readings["A"].answers.values())


def test_a_result_is_read_back_with_its_course_and_without(pixels):
    plain = json.loads(json.dumps(pixels.to_dict(), allow_nan=False))
    pictures = {role: (example.clean, example.adversarial) for role, example in pixels.examples.items()}
    packed = {role: course.packed for role, course in pixels.courses.items()}
    again = LabResult.from_dict(plain, pictures, packed)
    assert again.to_dict() == pixels.to_dict() and np.array_equal(again.frame("A", 2), pixels.frame("A", 2))
    assert LabResult.from_dict(plain, pictures).courses["A"].packed == ()
    del plain["courses"]  # as earlier versions wrote it
    assert not LabResult.from_dict(plain, pictures).courses


def test_of_a_long_attack_a_bounded_number_of_steps_is_kept_evenly():
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    heard = []
    recorder = CourseRecorder(clean, "a cube", lambda step: np.full_like(clean, step[0] % 251), heard.append)
    for step in range(1001):
        recorder(Progress(step, 1000, "", {"pixels": [step]}))
    course = recorder.course(clean[::-1], "a cube", 1000)
    assert len(course.steps) <= MOST_FRAMES and (course.steps[0], course.steps[-1]) == (0, 1000)
    gaps = np.diff(course.steps)
    assert gaps.min() > 0 and gaps.max() <= 1000 / 8
    assert all((course.frame(k, clean) == step % 251).all() for k, step in list(enumerate(course.steps))[1:-1])
    assert (course.frame(len(course.steps) - 1, clean) == clean[::-1]).all()
    assert heard[0].done == 0 and heard[-1].done == 1000 and len(heard) < 500


def test_a_picture_may_change_by_any_amount():
    clean = np.array([[[0, 255, 7]]], np.uint8)
    course = CourseRecorder(clean, "", lambda x: x).course(255 - clean, "", 1)
    assert np.array_equal(course.frame(1, clean), 255 - clean)


@pytest.mark.parametrize(
    "options", [{"norm": "text", "recipe": "char", "words": 2}, {"norm": "joint", "recipe": "joint-cmai"}]
)
def test_sentences_are_kept_and_told_as_they_are_tried(setting, options):
    heard = []
    result = run(setting, tell=heard.append, objective="consistency", b="", **options)
    course, experiment = result.courses["A"], result.experiment
    assert len(course.sentences) == len(course.steps) and course.sentences[0] == experiment.caption
    assert course.sentences[-1] == result.examples["A"].caption != experiment.caption
    ends_agree(result)
    told = [p.data for p in heard if p.stage.startswith("Attacking") and "sentence" in p.data]
    assert told and all(isinstance(data["sentence"], str) for data in told)
    if experiment.norm == "text":
        assert all(np.array_equal(result.frame("A", k), result.examples["A"].clean) for k in range(len(course.steps)))
        tried = [text for data in told for text in data["trying"]]
        assert tried and len(set(tried)) > 1 and max(len(data["trying"]) for data in told) <= 8


def test_each_reads_its_own_course_where_each_is_attacked(setting):
    result = run(setting, craft_on="each", steps=2, objective="consistency")
    assert {role: set(course.readings) for role, course in result.courses.items()} == {"A": {"A"}, "B": {"B"}}


def test_what_was_cancelled_is_kept_and_not_read(setting):
    token = CancelToken()

    def tell(progress):
        if progress.data.get("score"):
            token.cancel()

    result = run(setting, tell=tell, cancel=token, steps=200, craft_on="each", objective="consistency")
    assert list(result.courses) == ["A"] and 1 < len(result.courses["A"].steps) < 10
    assert result.courses["A"].readings["A"].scores == ()
