"""True captions of a scene, and false ones that differ by one fact.

A caption says neither too little nor more than fits: every one is true of at most a tenth of the scenes (judged on a
fixed reference bank), so that retrieving by it means something.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cmai_core.data.tabletop.language import _choose, realise
from cmai_core.data.tabletop.sampling import sample_scene, scene_rng
from cmai_core.data.tabletop.scene import RELATIONS, Scene
from cmai_core.data.tabletop.statements import (
    Pattern,
    Thing,
    encode_pattern,
    encode_scenes,
    related,
    share_true,
)

MOST_COMMON = 0.10
"""A caption may be true of at most this share of the scenes."""

_ACCEPTED = 0.08  # measured on the bank, below MOST_COMMON by more than its sampling error
REFERENCE_SCENES = 2000
_DETAIL = (
    ("shape", "colour", "material", "size"),
    ("shape", "colour"),
    ("shape", "colour"),
    ("shape", "colour", "size"),
    ("shape", "colour", "material"),
    ("shape", "size"),
    ("shape", "material"),
    ("colour", "size"),
    ("shape",),
    ("colour",),
)


@lru_cache(maxsize=1)
def reference_bank() -> tuple[np.ndarray, np.ndarray]:
    """Return the encoded scenes (objects, frame) against which vagueness and answer rates are judged.

    Always the same.
    """
    return encode_scenes([sample_scene(scene_rng(0, "reference", k)) for k in range(REFERENCE_SCENES)])


def truth_rate(pattern: Pattern) -> float:
    """Return the share of reference scenes of which a pattern is true."""
    return share_true(encode_pattern(pattern), *reference_bank())


def sample_pattern(scene: Scene, rng: np.random.Generator) -> Pattern:
    """Return a true description of the scene that is true of at most `MOST_COMMON` of all scenes."""
    number = len(scene.objects)
    while True:
        mentioned = number if rng.random() < 0.6 else int(rng.integers(1, number + 1))
        chosen = [int(k) for k in rng.permutation(number)[:mentioned]]
        detail = _choose(rng, _DETAIL) if rng.random() < 0.5 else None
        things = tuple(Thing.of(scene.objects[k], detail or _choose(rng, _DETAIL)) for k in chosen)
        total = number if rng.random() < 0.2 else None
        pattern = Pattern(things, _sample_relations(scene, chosen, rng), total)
        if truth_rate(pattern) <= _ACCEPTED:
            return pattern


def _sample_relations(scene: Scene, chosen: list[int], rng: np.random.Generator) -> tuple[tuple[int, str, int], ...]:
    """Return true relations in star form: a head and things seen from it; each thing is related at most once."""
    relations: list[tuple[int, str, int]] = []
    if len(chosen) < 2 or rng.random() < 0.45:
        return ()
    order = [int(k) for k in rng.permutation(len(chosen))]
    while len(order) >= 2 and len(relations) < 2:
        head = order.pop()
        for _ in range(2 if len(order) >= 2 and rng.random() < 0.25 else 1):
            other = order.pop()
            true = [r for r in RELATIONS if related(scene, chosen[head], r, chosen[other])]
            relations.append((head, _choose(rng, true), other))
        if rng.random() < 0.5:
            break
    return tuple(relations)


def captions(scene: Scene, rng: np.random.Generator, number: int = 6) -> list[tuple[str, Pattern]]:
    """Return `number` different true captions with their logical form."""
    found: dict[str, Pattern] = {}
    while len(found) < number:
        pattern = sample_pattern(scene, rng)
        text = realise(pattern, rng)
        if len(text.split()) <= 36:
            found.setdefault(text, pattern)
    return list(found.items())


def fact_scores(pattern: Pattern, scene: Scene) -> tuple[float, float]:
    """Precision and recall of a caption's facts against the scene, under the best assignment of things to objects.

    Precision: share of stated attributes and relations that hold. Recall: share of the scene's objects' shapes and
    colours (the two every full description states) that are named. A thing beyond the number of objects is wrong.
    """
    from itertools import permutations

    number = len(scene.objects)
    slots = list(range(number)) + [-1] * len(pattern.things)
    stated = sum(len(thing.given()) or 1 for thing in pattern.things) + len(pattern.relations)
    best = (0.0, 0.0)
    for assignment in set(permutations(slots, len(pattern.things))):
        right, named = 0, 0
        for thing, k in zip(pattern.things, assignment, strict=True):
            if k < 0:
                continue
            item = scene.objects[k]
            given = thing.given()
            right += sum(getattr(item, name) == value for name, value in given.items()) if given else 1
            named += sum(given.get(name) == getattr(item, name) for name in ("shape", "colour"))
        for i, relation, j in pattern.relations:
            a, b = assignment[i], assignment[j]
            right += a >= 0 and b >= 0 and related(scene, a, relation, b)
        precision, recall = right / max(stated, 1), named / (2 * number)
        if _f1(precision, recall) > _f1(*best):
            best = (precision, recall)
    return best


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def fact_f1(texts: Sequence[str], scenes: Sequence[Scene]) -> np.ndarray:
    """Per-caption F1 of facts in [0, 1]; a caption that cannot be read counts 0."""
    from cmai_core.data.tabletop.language import StatementError, parse

    out = np.zeros(len(texts))
    for n, (text, scene) in enumerate(zip(texts, scenes, strict=True)):
        try:
            pattern = parse(text)
        except StatementError:
            continue
        if isinstance(pattern, Pattern):
            out[n] = _f1(*fact_scores(pattern, scene))
    return out
