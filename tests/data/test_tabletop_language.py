"""Words and logic agree: every wording is read back, and truth is decided the same way everywhere."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_pictures import holds_of_two, parse_two

from cmai_core.data.tabletop.captions import (
    MOST_COMMON,
    captions,
    fact_f1,
    reference_bank,
    truth_rate,
)
from cmai_core.data.tabletop.language import (
    ANSWERS,
    FAMILIES,
    answer,
    parse,
    parse_question,
    realise,
    statement_of,
    vocabulary,
)
from cmai_core.data.tabletop.nlvr import items
from cmai_core.data.tabletop.questions import questions
from cmai_core.data.tabletop.sampling import HELD_OUT, sample_scene, scene_rng
from cmai_core.data.tabletop.scene import (
    COLOURS,
    MATERIALS,
    MIN_SEPARATION,
    RELATIONS,
    SHAPES,
    SIZES,
    Environment,
    Scene,
    SceneObject,
)
from cmai_core.data.tabletop.statements import (
    OPPOSITE,
    Count,
    InPictures,
    More,
    Pattern,
    StatementError,
    Thing,
    encode_scenes,
    holds,
    related,
    truth_matrix,
)
from cmai_core.data.tabletop.statistics import question_balance, statement_balance, words_only_accuracy
from cmai_core.errors import OptionError


def scenes(number, split="test"):
    return [sample_scene(scene_rng(0, split, k), split) for k in range(number)]


def some(values):
    return st.sampled_from(("", *values))


things = st.builds(Thing, some(SHAPES), some(COLOURS), some(MATERIALS), some(SIZES))


@st.composite
def patterns(draw):
    described = draw(st.lists(things, min_size=1, max_size=4))
    relations = ()
    if len(described) > 1:
        heads = draw(st.integers(0, len(described) - 2))
        others = range(len(described) - 1, heads, -1)
        relations = tuple((heads, draw(st.sampled_from(RELATIONS)), j) for j in list(others)[:2] if draw(st.booleans()))
    return Pattern(tuple(described), relations, draw(st.sampled_from((None, len(described), 4))))


@given(patterns(), st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_every_wording_of_a_pattern_is_read_back(pattern, seed):
    assert parse(realise(pattern, np.random.default_rng(seed))).canonical() == pattern.canonical()


@given(things, things, st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_counts_and_comparisons_are_read_back(one, other, number, flag, seed):
    rng = np.random.default_rng(seed)
    for statement in (Count(one, "exactly", number), More(one, other, flag)):
        assert parse(realise(statement, rng)) == statement
    for quantity in ("both", "one", "neither"):
        statement = InPictures(quantity, Pattern((one,)))
        assert parse_two(realise(statement, rng)) == statement


def brute_force(pattern, scene):
    """Truth by trying every assignment, written independently of the compiled matcher."""
    if pattern.total is not None and pattern.total != len(scene.objects):
        return False
    for chosen in itertools.permutations(range(len(scene.objects)), len(pattern.things)):
        fits = all(thing.matches(scene.objects[k]) for thing, k in zip(pattern.things, chosen, strict=True))
        if fits and all(related(scene, chosen[i], r, chosen[j]) for i, r, j in pattern.relations):
            return True
    return False


@given(patterns(), st.integers(0, 500))
@settings(max_examples=200, deadline=None)
def test_the_compiled_matcher_agrees_with_brute_force(pattern, index):
    scene = sample_scene(scene_rng(1, "test", index), "test")
    assert holds(pattern, scene) == brute_force(pattern, scene)


def test_truth_matrix_mixes_forms_and_keeps_order():
    some_scenes = scenes(20)
    statements = [Count(Thing("cube"), "exactly", 0), Pattern((Thing("cube"),)), More(Thing("cube"), Thing("ring"))]
    matrix = truth_matrix(statements, some_scenes)
    assert (matrix[0] == ~matrix[1]).all()
    assert matrix.tolist() == [[holds(s, scene) for scene in some_scenes] for s in statements]


def test_relations_are_the_viewers():
    here, there = (
        SceneObject("cube", "red", "matte", "small", 0, 1),
        SceneObject("ring", "blue", "matte", "small", 1, -1),
    )
    scene = Scene((here, there), Environment(camera_azimuth=0.0))  # the camera stands on the +x axis, +y is its right
    assert related(scene, 0, "right of", 1) and related(scene, 1, "left of", 0)
    assert related(scene, 1, "in front of", 0) and related(scene, 0, "behind", 1)
    assert scene.satisfies("a red cube behind a blue ring") and not scene.satisfies("a red cube left of a blue ring")
    for i, relation, j in ((0, r, 1) for r in RELATIONS):
        assert related(scene, i, relation, j) != related(scene, i, OPPOSITE[relation], j)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog",
        "a red",
        "two red cube",
        "a red blue cube",
        "a red cube left of",
        "a cube; DROP TABLE",
        "<eos>",
        "a cube a cube",
    ],
)
def test_what_is_not_tabletops_language_is_refused(text):
    with pytest.raises(StatementError) as caught:
        parse(text)
    assert str(caught.value)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("A big violet box.", "a large purple cube"),
        ("behind the donut is a turquoise ball", "a cyan sphere behind a ring"),
        ("two red cubes", "a red cube and a red cube"),
        ("I see one small red ball, two cans", "a small red sphere, a cylinder, and a cylinder"),
    ],
)
def test_plain_sentences_of_people_are_understood(text, same):
    assert parse(text).canonical() == parse(same).canonical()


def test_captions_are_true_varied_and_not_vague():
    for k, scene in enumerate(scenes(60)):
        found = captions(scene, scene_rng(0, "test", k, 1))
        assert len({text for text, _ in found}) == len(found) >= 5
        for text, pattern in found:
            assert scene.satisfies(text) and truth_rate(pattern) <= MOST_COMMON
            assert set(text.replace(",", "").replace(":", "").split()) <= set(vocabulary())


def test_captions_fit_several_scenes_and_scenes_several_captions():
    some_scenes = scenes(400)
    texts = [captions(scene, scene_rng(0, "test", k, 1))[0][0] for k, scene in enumerate(some_scenes)]
    matrix = truth_matrix([parse(t) for t in texts], some_scenes)
    assert matrix.diagonal().all()
    assert (matrix.sum(1) > 1).mean() > 0.3, "captions that fit several scenes (N:1)"
    assert matrix.mean() < 0.05, "chance of a random caption being true"
    assert matrix.mean(1).max() <= MOST_COMMON + 3 * (MOST_COMMON * 0.9 / 400) ** 0.5


def test_scenes_keep_their_promises():
    for split in ("train", "holdout"):
        for scene in scenes(150, split):
            combinations = {(o.shape, o.colour) for o in scene.objects}
            assert bool(combinations & HELD_OUT) == (split == "holdout")
            frame = scene.ground_frame()
            for i, j in itertools.combinations(range(len(frame)), 2):
                assert (np.abs(frame[i] - frame[j]) > MIN_SEPARATION - 1e-3).all(), "no relation is a matter of taste"
            assert Scene.from_json(scene.to_json()) == scene
    assert {s for s, _ in HELD_OUT} == set(SHAPES) and {c for _, c in HELD_OUT} == set(COLOURS)


def test_questions_are_answered_by_the_scene():
    for k, scene in enumerate(scenes(80)):
        for text, given_answer, family in questions(scene, scene_rng(0, "test", k, 2)):
            query = parse_question(text)
            assert query.family == family and answer(query, scene) == given_answer and given_answer in ANSWERS
            assert scene.satisfies(statement_of(query, given_answer))
            if given_answer in ("yes", "no") and family != "comparison":
                other = "no" if given_answer == "yes" else "yes"
                assert not scene.satisfies(statement_of(query, other))


def test_the_words_alone_do_not_answer():
    """A guesser that has read 6,000 scenes' questions stays within 5 points of chance on other scenes."""
    balance = question_balance()
    assert set(balance) == set(FAMILIES)
    for family, (accuracy, chance, number) in balance.items():
        assert number > 500
        assert accuracy - chance < 0.05, f"{family}: {accuracy:.3f} from the words alone, chance {chance:.3f}"


def test_the_guesser_would_notice_a_bias():
    biased = [("is there a cube?", "yes")] * 9 + [("is there a cube?", "no")]
    assert words_only_accuracy(biased, biased) == (0.9, 10)


def test_two_image_items_are_true_as_said_and_balanced_given_the_words():
    some_scenes = scenes(1500)
    found = items(encode_scenes(some_scenes)[0], 500, np.random.default_rng(0))
    for item in found:
        assert holds_of_two(parse_two(item.text), some_scenes[item.left], some_scenes[item.right]) == item.truth
    accuracy, number = statement_balance()
    assert number > 2000 and accuracy < 0.55


def test_two_image_items_among_few_scenes_end():
    """What is rare occurs in one scene alone, so that no two scenes can both hold it."""
    few = encode_scenes(scenes(12))[0]
    made = items(few, 100, np.random.default_rng(0))
    assert len(made) == 100 and {item.family for item in made} == {"together", "more", "both", "one", "neither"}
    with pytest.raises(OptionError, match=r"^1 "):
        items(few[:1], 2, np.random.default_rng(0))


def test_fact_f1_knows_right_from_wrong():
    some_scenes = scenes(100)
    full = [
        realise(Pattern(tuple(Thing.of(o) for o in s.objects)), np.random.default_rng(k))
        for k, s in enumerate(some_scenes)
    ]
    assert fact_f1(full, some_scenes).min() == 1.0
    assert fact_f1(full, some_scenes[1:] + some_scenes[:1]).mean() < 0.5
    assert fact_f1(["colourless green ideas"], some_scenes[:1])[0] == 0.0


def test_the_reference_bank_does_not_depend_on_when_it_is_made():
    objects, _ = reference_bank()
    again, _ = encode_scenes([sample_scene(scene_rng(0, "reference", k)) for k in (3, 1)])
    assert (objects[[3, 1]] == again).all()
