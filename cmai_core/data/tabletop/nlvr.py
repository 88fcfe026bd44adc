"""Statements about two pictures (NLVR2's form), true and false equally often *given the words*.

The words are drawn first and the truth value by a fair coin; then a pair of scenes is searched that makes it so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmai_core.data.tabletop.language import _choose, realise
from cmai_core.data.tabletop.questions import matches
from cmai_core.data.tabletop.scene import COLOURS, SHAPES, SIZES
from cmai_core.data.tabletop.statements import ATTRIBUTES, InPictures, MoreInPicture, Pattern, Thing, Together, TwoImage
from cmai_core.errors import OptionError

FAMILIES = ("both", "one", "neither", "together", "more")
_THINGS = tuple(Thing(**{name: value}) for name, values in ATTRIBUTES.items() for value in values)
_PAIRS = tuple(Thing(colour=c, size=s) for c in COLOURS for s in SIZES) + tuple(
    Thing(shape=h, size=s) for h in SHAPES for s in SIZES
)
_DESCRIBED = tuple(t for t in _THINGS if t.shape or t.colour) + _PAIRS


@dataclass(frozen=True)
class Item:
    """Two scene indices, a statement in logic and words, and whether it is true."""

    left: int
    right: int
    statement: TwoImage
    text: str
    truth: bool
    family: str


def items(objects: np.ndarray, number: int, rng: np.random.Generator) -> list[Item]:
    """Return `number` two-image items over encoded scenes (int8 N×4×4).

    Args:
        objects: the split's scenes as `statements.encode_scenes` gives them.

    Raises:
        OptionError: the scenes are too few or too much alike to say anything true and anything false of two.
    """
    counts = {thing: matches(thing, objects) for thing in {*_THINGS, *_DESCRIBED}}
    out: list[Item] = []
    failed = 0
    while len(out) < number:
        family = FAMILIES[len(out) % len(FAMILIES)]
        truth = bool(rng.random() < 0.5)
        thing = _choose(rng, _THINGS if family in ("together", "more") else _DESCRIBED)
        total = int(rng.integers(1, 5)) if thing.material or thing.size else int(rng.integers(1, 4))
        pair = _find(counts[thing], family, total, truth, rng)
        if pair is None:  # only among few scenes: what is rare may occur in one scene alone
            failed += 1
            if failed > 100 + 10 * number:
                raise OptionError(f"{len(objects)} scenes are too few for two-image statements.", "Give more scenes.")
            continue
        if family == "together":
            statement: TwoImage = Together(thing, total)
        elif family == "more":
            statement = MoreInPicture(_choose(rng, ("left", "right")), thing)
            if statement.side == "right":
                pair = pair[::-1]
        else:
            statement = InPictures(family, Pattern((thing,)))
        out.append(Item(pair[0], pair[1], statement, realise(statement, rng), truth, family))
    return out


def _find(number: np.ndarray, family: str, total: int, truth: bool, rng: np.random.Generator) -> tuple[int, int] | None:
    """Two different scenes whose counts of a thing make the statement true (or false, but not absurdly so).

    None where 65,536 draws find none.
    """
    for _ in range(16):
        i, j = rng.integers(0, len(number), (2, 4096))
        a, b = number[i], number[j]
        if family == "together":
            fine = a + b == total if truth else (a + b != total) & (np.abs(a + b - total) <= 2)
        elif family == "more":
            fine = a > b if truth else a < b
        else:
            shown = (a > 0).astype(int) + (b > 0)
            wanted = {"neither": 0, "one": 1, "both": 2}[family]
            fine = shown == wanted if truth else shown != wanted
        fine &= i != j
        if fine.any():
            k = int(np.argmax(fine))
            return int(i[k]), int(j[k])
    return None
