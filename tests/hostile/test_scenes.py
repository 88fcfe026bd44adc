"""Scenes as a stranger may write them into a link: read strictly, or refused in words; never a traceback."""

from __future__ import annotations

import copy
import json
import random

import pytest

from cmai_core.data.tabletop.compose import ObjectChoice, compose, scene_pair
from cmai_core.data.tabletop.read_scene import BACKDROP_COUNT, MAX_LENGTH, TABLE_COUNT
from cmai_core.data.tabletop.sampling import sample_scene, scene_rng
from cmai_core.data.tabletop.scene import MAX_OBJECTS, Scene
from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.judgement import judge

CHOICES = (ObjectChoice(across="left"), ObjectChoice("cone", "blue", size="small", across="right", depth="back"))
COUNT = 300
VALUES = (
    None, [], {}, "", "x", "red", True, False, -1, 0, 1, 1e308, -1e308, 10**40, 0.5, 1e-320, [[]], [None], {"a": 1},
    "\u202e", "9" * 500, [0.1, 0.1], [0.1, 0.1, 0.1, 0.1], ["a", "b", "c"], -0.0,
)  # fmt: skip
WHOLE = (
    "", "null", "[]", "{}", "0", '"scene"', "NaN", "[" * 5000 + "]" * 5000, '{"a":' * 2000, "{", "\x00", "true",
    '{"objects":[],"environment":{}}', '{"objects":null,"environment":null}', '{"objects":[[]],"environment":{}}',
    "1" * 4999, " " * 100_000, "\ud800", '{"objects": [{}], "environment": {}, "environment": []}',
)  # fmt: skip


@pytest.fixture(scope="module")
def good() -> dict:
    return json.loads(compose(CHOICES)[0].to_json())


def places(node: object, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(deeper for key, child in children for deeper in places(child, (*path, key)))]


def mutated(good: dict, rng: random.Random) -> str:
    """A scene with one to three things wrong, or not even a scene."""
    if rng.random() < 0.08:
        return rng.choice(WHOLE)
    raw = copy.deepcopy(good)
    if rng.random() < 0.25:  # nothing wrong: only other numbers
        for entry in (raw["environment"], *raw["objects"]):
            for name, value in entry.items():
                if isinstance(value, float):
                    entry[name] = value + rng.gauss(0, 0.05)
        return json.dumps(raw)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(places(raw)[1:] or [("objects",)])
        node = raw
        for key in path[:-1]:
            node = node[key]
        if not isinstance(node, (dict, list)):
            continue
        action = rng.randrange(5)
        if action == 0 and isinstance(node, dict):
            node.pop(path[-1], None)
        elif action == 1 and isinstance(node, dict):
            node[rng.choice(("__class__", "objects", "seed", "x", "é"))] = rng.choice(VALUES)
        elif action == 2 and isinstance(node, list):
            node.extend(copy.deepcopy(node) * rng.choice((1, 4)))
        elif isinstance(node, dict) or path[-1] < len(node):
            node[path[-1]] = rng.choice(VALUES)
    text = json.dumps(raw)
    if rng.random() < 0.1:
        text = text[: rng.randrange(len(text))]
    if rng.random() < 0.1:
        text = text.replace("0.0", rng.choice(("NaN", "Infinity", "-Infinity", "1e999", "0x1")), 1)
    return text


def test_mutated_scenes_are_read_or_refused(good):
    rng, refused, kept = random.Random(12), 0, {}
    for _ in range(COUNT):
        text = mutated(good, rng)
        link = {"pair": "scene", "caption": "a red cube", "scene": text}
        try:
            scene = Scene.from_json(text)
        except CmaiError as error:
            refused += 1
            assert error.message and error.hint and len(str(error)) < 500
            with pytest.raises(CmaiError):
                Experiment.from_query(link)
        else:
            kept[scene.to_json()] = scene
            assert Scene.from_json(scene.to_json()) == scene and Experiment.from_query(link).scene == text
    assert refused >= 170 and len(kept) >= 10
    for scene in list(kept.values())[:12]:  # what passes can be rendered, described and asked about
        pair = scene_pair(scene, "a red cube")
        assert pair.image.shape == (128, 128, 3) and pair.captions[0] == "a red cube"
        assert judge("a red cube", scene)[0] in (True, False)


@pytest.mark.parametrize("text", WHOLE)
def test_what_is_no_scene_is_refused(text):
    with pytest.raises(DataError):
        Scene.from_json(text)
    with pytest.raises(CmaiError):
        Experiment.from_query({"pair": "scene", "caption": "a", "scene": text or "null"})


def test_every_sampled_scene_passes_and_limits_are_those_of_the_renderer():
    from cmai_core.data.tabletop.render import BACKDROPS, TABLES

    assert (len(TABLES), len(BACKDROPS)) == (TABLE_COUNT, BACKDROP_COUNT)
    for index in range(60):
        scene = sample_scene(scene_rng(5, "test", index))
        assert Scene.from_json(scene.to_json()) == scene and len(scene.to_json()) < MAX_LENGTH / 2


def test_objects_whose_relations_would_be_in_doubt_are_refused(good):
    raw = copy.deepcopy(good)
    raw["objects"][1] |= {"x": raw["objects"][0]["x"] + 0.1, "y": raw["objects"][0]["y"]}
    with pytest.raises(DataError):
        Scene.from_json(json.dumps(raw))
    with pytest.raises(DataError):
        Scene.from_json(json.dumps(good | {"objects": good["objects"] * MAX_OBJECTS}))


def test_a_scene_beside_another_pair_is_refused(good):
    query = {"pair": "tabletop/test/3", "caption": "a", "scene": json.dumps(good)}
    with pytest.raises(CmaiError):
        Experiment.from_query(query)
