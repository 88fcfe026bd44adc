"""What is known of a pair besides its picture and text: from the scene's truth where there is one, else from the pair.

Names are those of the dataset's own attributes ("shape", "colour", …), in front of what any pair has: how many things,
the class, the families of its questions, the length of its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair

THINGS, LABEL, FAMILIES, LENGTH = "things", "label", "question family", "words"
LENGTHS = ((4, "1–4"), (8, "5–8"), (12, "9–12"), (10**6, "13 or more"))
MOST_VALUES = 60
"""An attribute of more values than this sorts nothing: it is left out."""


def attributes_of(pairs: Sequence[Pair]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return name → the values of each pair, each once; attributes that tell no pair apart are left out."""
    found = [_of(pair) for pair in pairs]
    names = dict.fromkeys(name for values in found for name in values)
    columns = {name: tuple(values.get(name, ()) for values in found) for name in names}
    return {name: column for name, column in columns.items() if _tells(column)}


def values_of(column: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Return value → how many pairs have it, the most frequent first."""
    counts: dict[str, int] = {}
    for values in column:
        for value in values:
            counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _of(pair: Pair) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    if pair.scene is not None:
        things: Sequence[Mapping[str, str]] = pair.scene.ground_truth.things(pair.scene)
        for name in pair.scene.ground_truth.attributes():
            found[name] = tuple(dict.fromkeys(thing[name] for thing in things if name in thing))
        found[THINGS] = (str(len(things)),)
    if pair.label:
        found[LABEL] = (pair.label,)
    families = tuple(sorted({question.family for question in pair.questions if question.family}))
    if families:
        found[FAMILIES] = families
    words = len(pair.captions[0].split())
    found[LENGTH] = (next(name for most, name in LENGTHS if words <= most),)
    return found


def _tells(column: Sequence[tuple[str, ...]]) -> bool:
    counts = values_of(column)
    return len(counts) <= MOST_VALUES and any(count < len(column) for count in counts.values())
