"""What can be said about Tabletop scenes, as logic: the one place that decides truth.

A caption is a `Pattern` (things and relations between them); questions, two-image statements, false captions, caption
facts and the validity of text edits all reduce to the same few forms. `holds` judges one statement; `truth_matrix`
judges many patterns against many scenes with a compiled matcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numba import njit

from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, MAX_OBJECTS, RELATIONS, SHAPES, SIZES, Scene, SceneObject
from cmai_core.errors import DataError

ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "material": MATERIALS, "size": SIZES}
OPPOSITE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}
MAX_RELATIONS = 3


class StatementError(DataError):
    """A sentence outside Tabletop's language, or a statement of the wrong form for the question asked."""


@dataclass(frozen=True, order=True)
class Thing:
    """A partial description of one object; "" leaves an attribute open."""

    shape: str = ""
    colour: str = ""
    material: str = ""
    size: str = ""

    def matches(self, item: SceneObject) -> bool:
        return all(not value or value == getattr(item, name) for name, value in self.given().items())

    def given(self) -> dict[str, str]:
        """Return the attributes that are stated."""
        return {name: getattr(self, name) for name in ATTRIBUTES if getattr(self, name)}

    @staticmethod
    def of(item: SceneObject, attributes: Sequence[str] = tuple(ATTRIBUTES)) -> Thing:
        return Thing(**{name: getattr(item, name) for name in attributes})


@dataclass(frozen=True)
class Pattern:
    """There are distinct objects that match `things`, and between them the `relations` (i, relation, j) hold.

    `total`, where given, is the exact number of objects in the scene.
    """

    things: tuple[Thing, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    total: int | None = None

    def canonical(self) -> Pattern:
        """Return the same meaning in one fixed form.

        Equal canonical forms are equal statements up to wording and order.
        """
        best = None
        for order in permutations(range(len(self.things))):
            place = {old: new for new, old in enumerate(order)}
            relations = []
            for i, relation, j in self.relations:
                i, j = place[i], place[j]
                if relation in ("right of", "behind"):
                    i, relation, j = j, OPPOSITE[relation], i
                relations.append((i, relation, j))
            candidate = (tuple(self.things[k] for k in order), tuple(sorted(relations)))
            best = candidate if best is None or candidate < best else best
        things, relations = best if best is not None else ((), ())
        return replace(self, things=things, relations=relations)


@dataclass(frozen=True)
class Count:
    """The number of objects matching `thing` is `operator` ("exactly", "at least") `number`."""

    thing: Thing
    operator: str
    number: int


@dataclass(frozen=True)
class More:
    """More objects match `more` than match `fewer` (or, negated, not more)."""

    more: Thing
    fewer: Thing
    negated: bool = False


@dataclass(frozen=True)
class InPictures:
    """A pattern is true of "both", only "one" or "neither" of two pictures."""

    quantity: str
    pattern: Pattern


@dataclass(frozen=True)
class Together:
    """Two pictures together show exactly `number` objects that match `thing`."""

    thing: Thing
    number: int


@dataclass(frozen=True)
class MoreInPicture:
    """The "left" (or "right") picture shows more objects that match `thing` than the other."""

    side: str
    thing: Thing


Statement = Pattern | Count | More
TwoImage = InPictures | Together | MoreInPicture


def count(thing: Thing, scene: Scene) -> int:
    """How many objects of the scene match."""
    return sum(thing.matches(item) for item in scene.objects)


def related(scene: Scene, i: int, relation: str, j: int) -> bool:
    """Whether object i stands in the relation to object j, as the viewer sees it."""
    frame = scene.ground_frame()
    axis = 0 if relation in ("left of", "right of") else 1
    before = bool(frame[i, axis] < frame[j, axis])
    return before if relation in ("left of", "in front of") else not before


def holds(statement: Statement, scene: Scene) -> bool:
    """Whether a statement about one image is true of the scene.

    Raises:
        StatementError: the statement is about two pictures.
    """
    if isinstance(statement, Pattern):
        return bool(truth_matrix([statement], [scene])[0, 0])
    if isinstance(statement, Count):
        number = count(statement.thing, scene)
        return number == statement.number if statement.operator == "exactly" else number >= statement.number
    if isinstance(statement, More):
        return (count(statement.more, scene) > count(statement.fewer, scene)) != statement.negated
    raise StatementError("This statement is about two pictures.", "Ask about one picture at a time.")


# ---------------------------------------------------------------- compiled matching of many patterns and many scenes

CODE_LENGTH = 3 + 4 * MAX_OBJECTS + 3 * MAX_RELATIONS
_INDEX = {name: {value: k for k, value in enumerate(values)} for name, values in ATTRIBUTES.items()}
_RELATION_INDEX = {relation: k for k, relation in enumerate(RELATIONS)}


def encode_pattern(pattern: Pattern) -> np.ndarray:
    """Return a pattern as int8[CODE_LENGTH]: things, total (−1 open), relations, then attribute indices and triples.

    Raises:
        StatementError: more things or relations than a scene can hold.
    """
    if len(pattern.things) > MAX_OBJECTS or len(pattern.relations) > MAX_RELATIONS:
        raise StatementError(
            f"At most {MAX_OBJECTS} things and {MAX_RELATIONS} relations fit into a statement.", "Say less."
        )
    code = np.full(CODE_LENGTH, -1, np.int8)
    code[0], code[2] = len(pattern.things), len(pattern.relations)
    code[1] = -1 if pattern.total is None else pattern.total
    for k, thing in enumerate(pattern.things):
        for a, name in enumerate(ATTRIBUTES):
            value = getattr(thing, name)
            code[3 + 4 * k + a] = _INDEX[name][value] if value else -1
    start = 3 + 4 * MAX_OBJECTS
    for k, (i, relation, j) in enumerate(pattern.relations):
        code[start + 3 * k : start + 3 * k + 3] = i, _RELATION_INDEX[relation], j
    return code


def encode_scenes(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Scenes as (objects int8 N×4×4 with −1 for "no such object", frame float32 N×4×2 of right and depth)."""
    objects = np.full((len(scenes), MAX_OBJECTS, 4), -1, np.int8)
    frame = np.zeros((len(scenes), MAX_OBJECTS, 2), np.float32)
    for n, scene in enumerate(scenes):
        frame[n, : len(scene.objects)] = scene.ground_frame()
        for k, item in enumerate(scene.objects):
            objects[n, k] = [_INDEX[name][getattr(item, name)] for name in ATTRIBUTES]
    return objects, frame


@njit(cache=True)
def _fits(code, k, item):
    for a in range(4):
        wanted = code[3 + 4 * k + a]
        if wanted >= 0 and item[a] != wanted:
            return False
    return True


@njit(cache=True)
def _relations_hold(code, chosen, placed, frame):
    start = 3 + 4 * 4
    for r in range(code[2]):
        i, relation, j = code[start + 3 * r], code[start + 3 * r + 1], code[start + 3 * r + 2]
        if i >= placed or j >= placed:
            continue
        axis = 0 if relation < 2 else 1
        before = frame[chosen[i], axis] < frame[chosen[j], axis]
        if (relation % 2 == 0) != before:
            return False
    return True


@njit(cache=True)
def pattern_holds(code, objects, frame, chosen):
    """Whether an encoded pattern (int8[CODE_LENGTH]) is true of one encoded scene: depth-first over assignments.

    `chosen` is scratch space, int64[4]: allocating it here would cost more than the search.
    """
    number = 0
    for k in range(objects.shape[0]):
        if objects[k, 0] >= 0:
            number += 1
    if code[1] >= 0 and code[1] != number:
        return False
    wanted = code[0]
    if wanted > number:
        return False
    if wanted == 0:
        return True
    depth = 0
    chosen[0] = -1
    while depth >= 0:
        chosen[depth] += 1
        k = chosen[depth]
        if k >= number:
            depth -= 1
            continue
        used = False
        for d in range(depth):
            if chosen[d] == k:
                used = True
        if used or not _fits(code, depth, objects[k]) or not _relations_hold(code, chosen, depth + 1, frame):
            continue
        if depth + 1 == wanted:
            return True
        depth += 1
        chosen[depth] = -1
    return False


@njit(cache=True, nogil=True)
def truth_of_codes(codes, objects, frame):
    """Return encoded patterns S×CODE_LENGTH against encoded scenes N: bool S×N.

    Not parallel: numba's threads would change how many PyTorch uses in the same process.
    """
    out = np.zeros((codes.shape[0], objects.shape[0]), np.bool_)
    chosen = np.empty(4, np.int64)
    for s in range(codes.shape[0]):
        for n in range(objects.shape[0]):
            out[s, n] = pattern_holds(codes[s], objects[n], frame[n], chosen)
    return out


@njit(cache=True)
def share_true(code, objects, frame):
    """Return the share of encoded scenes of which one encoded pattern is true (no threads: called once a caption)."""
    chosen = np.empty(4, np.int64)
    number = 0
    for n in range(objects.shape[0]):
        if pattern_holds(code, objects[n], frame[n], chosen):
            number += 1
    return number / objects.shape[0]


def truth_matrix(statements: Sequence[Statement], scenes: Sequence[Scene]) -> np.ndarray:
    """Which statement is true of which scene: bool len(statements)×len(scenes)."""
    out = np.zeros((len(statements), len(scenes)), bool)
    patterns = [k for k, statement in enumerate(statements) if isinstance(statement, Pattern)]
    if patterns and scenes:
        codes = np.stack([encode_pattern(statements[k]) for k in patterns])
        out[patterns] = truth_of_codes(codes, *encode_scenes(scenes))
    for k, statement in enumerate(statements):
        if not isinstance(statement, Pattern):
            out[k] = [holds(statement, scene) for scene in scenes]
    return out
