"""Questions about one scene, balanced so that the text alone does not give the answer away.

Each family proposes questions and then accepts them at rates that make every answer equally likely *given the words*.
Acceptances are independent tries and all are kept: taking "the first accepted" would tilt the balance again.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cmai_core.data.tabletop.captions import reference_bank
from cmai_core.data.tabletop.language import Query, _choose, answer, realise_question
from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, RELATIONS, SHAPES, SIZES, Scene
from cmai_core.data.tabletop.statements import ATTRIBUTES, Thing, count

_SINGLE = tuple(Thing(**{name: value}) for name, values in ATTRIBUTES.items() for value in values)
COUNTED = (Thing(), *_SINGLE)
_SUBSETS = (("shape",), ("colour",), ("shape", "colour"), ("size", "shape"), ("material", "shape"), ("size", "colour"))
_TRIES = {"existence": 4, "count": 12, "attribute": 2, "comparison": 4, "spatial": 2}


def fits(thing: Thing, objects: np.ndarray) -> np.ndarray:
    """Return which objects of encoded scenes (int8, the last axis of 4 attributes) match: bool."""
    found = objects[..., 0] >= 0
    for a, (name, values) in enumerate(ATTRIBUTES.items()):
        if value := getattr(thing, name):
            found = found & (objects[..., a] == values.index(value))
    return found


def matches(thing: Thing, objects: np.ndarray) -> np.ndarray:
    """How many objects of each encoded scene (int8 N×4×4) match: int N."""
    return fits(thing, objects).sum(-1)


@lru_cache(maxsize=4096)
def _existence_rate(thing: Thing) -> float:
    return float((matches(thing, reference_bank()[0]) > 0).mean())


@lru_cache(maxsize=256)
def _count_acceptance(thing: Thing) -> tuple[float, ...]:
    """Chance of keeping each count 0…4, such that those kept are equally frequent (0: answer not asked for)."""
    asked = (1, 2, 3, 4) if thing == Thing() else (0, 1, 2) if thing.shape or thing.colour else (0, 1, 2, 3)
    share = np.bincount(matches(thing, reference_bank()[0]), minlength=5) / len(reference_bank()[0])
    rarest = min(share[k] for k in asked)
    return tuple(float(rarest / share[k]) if k in asked else 0.0 for k in range(5))


def _bank_thing(rng: np.random.Generator, attributes: tuple[str, ...]) -> Thing:
    """Return a description of a random object of a random reference scene."""
    objects = reference_bank()[0]
    scene = objects[int(rng.integers(0, len(objects)))]
    item = scene[int(rng.integers(0, int((scene[:, 0] >= 0).sum())))]
    values = {name: ATTRIBUTES[name][item[a]] for a, name in enumerate(ATTRIBUTES)}
    return Thing(**{name: values[name] for name in attributes})


def _propose(family: str, scene: Scene, rng: np.random.Generator) -> Query | None:
    items = scene.objects
    if family == "existence":
        attributes = _choose(rng, _SUBSETS)
        if rng.random() < 0.5:
            thing = Thing.of(_choose(rng, items), attributes)
            return Query(family, (thing,)) if rng.random() < 1 - _existence_rate(thing) else None
        thing = _bank_thing(rng, attributes)
        return None if count(thing, scene) else Query(family, (thing,))
    if family == "count":
        thing = _choose(rng, COUNTED)
        accept = _count_acceptance(thing)[count(thing, scene)]
        return Query(family, (thing,)) if rng.random() < accept else None
    if family == "comparison":
        values = _choose(rng, (("shape", SHAPES), ("colour", COLOURS), ("material", MATERIALS), ("size", SIZES)))
        first, second = (Thing(**{values[0]: values[1][int(k)]}) for k in rng.permutation(len(values[1]))[:2])
        return None if count(first, scene) == count(second, scene) else Query(family, (first, second))
    if family == "attribute":
        name = _choose(rng, tuple(ATTRIBUTES))
        thing = _unique(scene, int(rng.integers(0, len(items))), rng, without=name)
        return Query(family, (thing,), name) if thing else None
    if len(items) < 2:
        return None
    i, j = (int(k) for k in rng.permutation(len(items))[:2])
    first, second = _unique(scene, i, rng), _unique(scene, j, rng)
    return Query(family, (first, second), _choose(rng, RELATIONS)) if first and second else None


def _unique(scene: Scene, k: int, rng: np.random.Generator, without: str = "") -> Thing | None:
    """Return a short description that fits object k alone."""
    names = [name for name in ATTRIBUTES if name != without]
    order = [names[int(n)] for n in rng.permutation(len(names))]
    for length in range(1, len(order) + 1):
        thing = Thing.of(scene.objects[k], order[:length])
        if count(thing, scene) == 1:
            return thing
    return None


def questions(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(question, answer, family) triples; how many differs from scene to scene."""
    found: dict[str, tuple[str, str, str]] = {}
    for family, tries in _TRIES.items():
        for _ in range(tries):
            query = _propose(family, scene, rng)
            if query is not None:
                text = realise_question(query, rng)
                found.setdefault(text, (text, answer(query, scene), family))
    return list(found.values())
