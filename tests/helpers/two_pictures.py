"""Statements about two pictures, read and judged: what the truth of generated items is held against."""

from __future__ import annotations

import re

from cmai_core.data.tabletop.language import parse
from cmai_core.data.tabletop.scene import Scene
from cmai_core.data.tabletop.statements import InPictures, MoreInPicture, Together, TwoImage, count, holds

_HOW_MANY = {
    "both": r"both (?:pictures|images) show ",
    "one": r"(?:only one of the pictures|exactly one picture) shows ",
    "neither": r"neither (?:picture|of the pictures) shows ",
}


def parse_two(text: str) -> TwoImage:
    """Read a sentence about two pictures."""
    for quantity, opening in _HOW_MANY.items():
        if found := re.fullmatch(f"{opening}(.*)", text):
            return InPictures(quantity, parse(found[1]))
    if found := re.fullmatch(r"together the pictures show (exactly .*)", text):
        said = parse(f"there are {found[1]}")
        return Together(said.thing, said.number)
    found = re.fullmatch(r"the (left|right) picture shows more (.*) than the (left|right) picture", text)
    assert found, text
    side, things, other = found.groups()
    assert side != other, text
    return MoreInPicture(side, parse(f"there are more {things} than things").more)


def holds_of_two(statement: TwoImage, left: Scene, right: Scene) -> bool:
    """Whether a statement is true of (left, right)."""
    if isinstance(statement, InPictures):
        number = holds(statement.pattern, left) + holds(statement.pattern, right)
        return number == {"neither": 0, "one": 1, "both": 2}[statement.quantity]
    if isinstance(statement, Together):
        return count(statement.thing, left) + count(statement.thing, right) == statement.number
    first, second = (left, right) if statement.side == "left" else (right, left)
    return count(statement.thing, first) > count(statement.thing, second)
