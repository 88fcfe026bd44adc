"""Tabletop's English: statements and questions in words, and words back into statements and questions.

`realise` writes one of many wordings (synonyms, orders, openings); `parse` reads every one of them, and sentences a
person may type in the same plain style. Each noun phrase introduces another object, so no sentence has two readings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, SHAPES, SIZES, Scene
from cmai_core.data.tabletop.statements import (
    ATTRIBUTES,
    OPPOSITE,
    Count,
    InPictures,
    More,
    Pattern,
    Statement,
    StatementError,
    Thing,
    Together,
    TwoImage,
    count,
    related,
)

SYNONYMS = {
    "sphere": ("sphere", "ball"),
    "cube": ("cube", "block", "box"),
    "cylinder": ("cylinder", "can"),
    "cone": ("cone",),
    "pyramid": ("pyramid",),
    "ring": ("ring", "donut"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "matte": ("matte", "dull"),
    "shiny": ("shiny", "glossy", "polished"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big"),
    "": ("thing", "object", "item"),
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "in front of": ("in front of", "before"),
    "behind": ("behind",),
}
OPENINGS = (
    "",
    "",
    "",
    "there is",
    "a photo of",
    "a picture of",
    "an image of",
    "the picture shows",
    "this image shows",
    "the scene contains",
    "we see",
    "on the table there is",
    "the table holds",
)
ENDINGS = ("", "", "", "", "on the table", "on a table")


def words_for(value: str) -> tuple[str, ...]:
    """Return the words for an attribute value ("" for an object of unstated shape); the first is the plain one."""
    return SYNONYMS.get(value, (value,))


def plural(noun: str) -> str:
    """Return the plural of a noun of Tabletop's language."""
    return noun + ("es" if noun.endswith("x") else "s")


_ADJECTIVE = {
    word: (name, value)
    for name in ("colour", "material", "size")
    for value in ATTRIBUTES[name]
    for word in words_for(value)
}
_NOUN = {word: (value, False) for value in (*SHAPES, "") for word in words_for(value)}
_NOUN |= {plural(word): (value, True) for word, (value, _) in tuple(_NOUN.items())}
_NUMBER = {word: k for k, word in enumerate(NUMBERS)} | {str(k): k for k in range(len(NUMBERS))} | {"no": 0}


def vocabulary() -> tuple[str, ...]:
    """Every word that `realise` and the questions can use, sorted."""
    phrases = [*OPENINGS, *ENDINGS, *(w for words in RELATION_WORDS.values() for w in words), *NUMBERS[1:], *_NOUN]
    phrases += [*_ADJECTIVE, *_QUESTION_WORDS.split(), *(str(k) for k in range(9))]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


_QUESTION_WORDS = (
    "a an the and or are there is yes no not how many what which shape colour material size same more fewer than"
    " at least exactly both pictures show shows only one of neither picture together left right true false"
    " sits stands lies it"
)


# ------------------------------------------------------------------------------------------------------ writing


def _choose(rng: np.random.Generator, options):
    return options[int(rng.integers(0, len(options)))]


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def noun_phrase(thing: Thing, rng: np.random.Generator, many: bool = False) -> str:
    """Return a thing in words without its article: "small shiny red cube", "green things"."""
    adjectives = [thing.size, thing.material]
    if rng.random() < 0.3:
        adjectives.reverse()
    adjectives.append(thing.colour)
    words = [_choose(rng, words_for(value)) for value in adjectives if value]
    noun = _choose(rng, words_for(thing.shape))
    return " ".join([*words, plural(noun) if many else noun])


def plain_facts(statement: Statement) -> tuple[str, ...]:
    """Return each thing of a pattern, each relation and the total, in the plainest words; () for other statements."""
    if not isinstance(statement, Pattern):
        return ()
    pattern = statement.canonical()
    order = ("size", "material", "colour")
    names = []
    for thing in pattern.things:
        adjectives = [words_for(value)[0] for value in (getattr(thing, name) for name in order) if value]
        names.append(_article(" ".join([*adjectives, words_for(thing.shape)[0]])))
    related = [f"{names[i]} {relation} {names[j]}" for i, relation, j in pattern.relations]
    noun = words_for("")[0]
    total = [] if pattern.total is None else [f"there are exactly {NUMBERS[pattern.total]} {plural(noun)}"]
    if pattern.total == 1:
        total = [f"there is exactly {NUMBERS[1]} {noun}"]
    return tuple(dict.fromkeys([*names, *related, *total]))


def realise(statement: Statement | TwoImage, rng: np.random.Generator) -> str:
    """One wording of a statement, drawn with `rng`; `parse` reads those about one image back.

    Raises:
        StatementError: a pattern whose relations do not form stars (a thing that is related must not relate others).
    """
    if isinstance(statement, Pattern):
        return _realise_pattern(statement, rng)
    if isinstance(statement, Count):
        amount = "no" if statement.number == 0 else f"{statement.operator} {NUMBERS[statement.number]}"
        many = statement.number != 1
        return f"there {'are' if many else 'is'} {amount} {noun_phrase(statement.thing, rng, many)}"
    if isinstance(statement, More):
        more, fewer = noun_phrase(statement.more, rng, True), noun_phrase(statement.fewer, rng, True)
        return f"there are {'not ' if statement.negated else ''}more {more} than {fewer}"
    if isinstance(statement, InPictures):
        opening = {
            "both": ("both pictures show", "both images show"),
            "one": ("only one of the pictures shows", "exactly one picture shows"),
            "neither": ("neither picture shows", "neither of the pictures shows"),
        }[statement.quantity]
        return f"{_choose(rng, opening)} {_clauses(statement.pattern, rng)}"
    if isinstance(statement, Together):
        many = statement.number != 1
        things = noun_phrase(statement.thing, rng, many)
        return f"together the pictures show exactly {NUMBERS[statement.number]} {things}"
    other = "right" if statement.side == "left" else "left"
    things = noun_phrase(statement.thing, rng, True)
    return f"the {statement.side} picture shows more {things} than the {other} picture"


def _realise_pattern(pattern: Pattern, rng: np.random.Generator) -> str:
    if pattern.total is not None:
        noun = _choose(rng, words_for(""))
        heading = f"{NUMBERS[pattern.total]} {noun if pattern.total == 1 else plural(noun)}"
        opening = _choose(rng, ("", "", "there are", "we see") if pattern.total > 1 else ("", "there is", "we see"))
        return " ".join(w for w in (opening, heading) if w) + ": " + _clauses(pattern, rng)
    opening, ending = _choose(rng, OPENINGS), _choose(rng, ENDINGS)
    if "table" in opening:
        ending = ""
    return " ".join(w for w in (opening, _clauses(pattern, rng), ending) if w)


def _clauses(pattern: Pattern, rng: np.random.Generator) -> str:
    """Noun phrases with their relations, joined; heads are shuffled, so that word order says nothing."""
    children: dict[int, list[tuple[str, int]]] = {}
    taken: set[int] = set()
    for i, relation, j in pattern.relations:
        if j in taken or j in children or i in taken:
            raise StatementError("These relations cannot be said in one sentence.", "Relate each thing to one head.")
        children.setdefault(i, []).append((relation, j))
        taken.add(j)
    heads = [k for k in range(len(pattern.things)) if k not in taken]
    heads = [heads[k] for k in rng.permutation(len(heads))]
    clauses = []
    for head in heads:
        phrase = _article(noun_phrase(pattern.things[head], rng))
        related_to = children.get(head, [])
        if len(related_to) == 1 and rng.random() < 0.5:
            # The same fact seen from the other thing.
            relation, other = related_to[0]
            first = _article(noun_phrase(pattern.things[other], rng))
            clauses.append(f"{first} {_choose(rng, RELATION_WORDS[OPPOSITE[relation]])} {phrase}")
            continue
        parts = [
            f"{_choose(rng, RELATION_WORDS[relation])} {_article(noun_phrase(pattern.things[other], rng))}"
            for relation, other in related_to
        ]
        clauses.append(" ".join([phrase, " and ".join(parts)]) if parts else phrase)
    if len(clauses) > 1:
        return ", ".join(clauses[:-1]) + _choose(rng, (" and ", ", and ", ", ")) + clauses[-1]
    return clauses[0]


# ------------------------------------------------------------------------------------------------------ reading

_TOKEN = re.compile(r"[a-z]+|[0-9]+|[,.:;?]")


class _Reader:
    """Tokens and a position; every `take` that fails leaves the position where it was."""

    def __init__(self, text: str):
        self.text = text
        lowered = text.lower().replace("color", "colour")
        leftover = _TOKEN.sub("", lowered).strip()
        if leftover:
            raise StatementError(f"Cannot read {leftover!r} in {text!r}.", "Use plain words, commas and full stops.")
        self.tokens = _TOKEN.findall(lowered)
        self.at = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *phrases: str) -> str:
        for phrase in phrases:
            words = phrase.split()
            if self.tokens[self.at : self.at + len(words)] == words:
                self.at += len(words)
                return phrase
        return ""

    def expect(self, *phrases: str) -> str:
        found = self.take(*phrases)
        if not found:
            self.fail(" or ".join(repr(p) for p in phrases))
        return found

    def fail(self, wanted: str):
        seen = repr(self.next) if self.next else "the end"
        raise StatementError(f"Expected {wanted} but found {seen} in {self.text!r}.", "Say it in plainer words.")

    def end(self) -> None:
        self.take(".")
        if self.next:
            self.fail("the end")


_RELATION_OF = {phrase: relation for relation, phrases in RELATION_WORDS.items() for phrase in phrases}
_RELATION_PHRASES = tuple(sorted(_RELATION_OF, key=len, reverse=True))
_SHOWS = ["show", "shows", "contain", "contains", "holds", "has"]
_PREFACES = (
    *(f"{d} {n} of" for d in ("a", "an", "the", "one") for n in ("photo", "picture", "image", "photograph")),
    *(f"{d} {n} {v}" for d in ("the", "this") for n in ("photo", "picture", "image", "scene", "table") for v in _SHOWS),
    "on the table there is",
    "on the table there are",
    "on a table there is",
    "on a table there are",
    "on the table is",
    "on the table are",
    "there is",
    "there are",
    "we see",
    "i see",
)
_STANDS = ("is", "are", "stands", "sits", "lies")


def _thing(reader: _Reader) -> tuple[Thing, int, bool]:
    """Return [number | article] adjectives noun → (thing, number, whether the noun is plural)."""
    number = 1
    if reader.next in _NUMBER and reader.next != "no":
        number = _NUMBER[reader.next]
        reader.at += 1
    else:
        reader.take("a", "an", "the", "some")
    thing, many = _bare_thing(reader)
    if many != (number != 1):
        reader.fail("a noun that agrees with its number")
    return thing, number, many


def _bare_thing(reader: _Reader) -> tuple[Thing, bool]:
    given: dict[str, str] = {}
    while reader.next in _ADJECTIVE:
        name, value = _ADJECTIVE[reader.next]
        if name in given:
            reader.fail(f"only one {name}")
        given[name] = value
        reader.at += 1
    if reader.next not in _NOUN:
        reader.fail("a shape or 'thing'")
    shape, many = _NOUN[reader.next]
    reader.at += 1
    return Thing(shape=shape, **given), many


def _pattern(reader: _Reader) -> Pattern:
    things: list[Thing] = []
    relations: list[tuple[int, str, int]] = []

    def read_thing() -> tuple[int, int]:
        thing, number, _ = _thing(reader)
        things.extend([thing] * number)
        return len(things) - number, number

    while True:
        relation = reader.take(*_RELATION_PHRASES)
        if relation:  # "behind a ball is a cube"
            other, n = read_thing()
            reader.expect(*_STANDS)
            head, m = read_thing()
            if n != 1 or m != 1:
                reader.fail("one thing on each side of a relation")
            relations.append((head, _RELATION_OF[relation], other))
        else:
            head, n = read_thing()
            while True:
                mark = reader.at
                reader.take("and")
                reader.take("that is", "which is", "is", "standing", "stands", "sits", "lies")
                relation = reader.take(*_RELATION_PHRASES)
                if not relation:
                    reader.at = mark
                    break
                other, m = read_thing()
                if n != 1 or m != 1:
                    reader.fail("one thing on each side of a relation")
                relations.append((head, _RELATION_OF[relation], other))
        mark = reader.at
        joined = bool(reader.take(", and", ",", ";", "and"))
        if not joined or not reader.next:
            reader.at = mark
            return Pattern(tuple(things), tuple(relations))


@lru_cache(maxsize=65536)
def parse(text: str) -> Statement:
    """Read a sentence about one image.

    Raises:
        StatementError: not in Tabletop's language; the message says which word was not understood.
    """
    reader = _Reader(text)
    if reader.take("there are more"):
        return _more(reader, negated=False)
    if reader.take("there are not more"):
        return _more(reader, negated=True)
    mark = reader.at
    if reader.take("there is", "there are"):
        operator = reader.take("exactly", "at least")
        if reader.take("no"):
            thing, _ = _bare_thing(reader)
            reader.take("on the table", "on a table")
            reader.end()
            return Count(thing, "exactly", 0)
        if operator and reader.next in _NUMBER:
            number = _NUMBER[reader.next]
            reader.at += 1
            thing, _ = _bare_thing(reader)
            reader.take("on the table", "on a table")
            reader.end()
            return Count(thing, operator, number)
    reader.at = mark
    reader.take(*sorted(_PREFACES, key=len, reverse=True))
    total = None
    mark = reader.at
    if reader.next in _NUMBER:
        number = _NUMBER[reader.next]
        reader.at += 1
        if reader.take("things", "objects", "items", "thing", "object", "item") and reader.take(":", ","):
            total = number
        else:
            reader.at = mark
    pattern = _pattern(reader)
    reader.take("on the table", "on a table")
    reader.end()
    if len(pattern.things) > 4:
        raise StatementError(f"{text!r} names more than four things.", "A scene holds at most four.")
    return Pattern(pattern.things, pattern.relations, total)


def _more(reader: _Reader, negated: bool) -> More:
    more, _ = _bare_thing(reader)
    reader.expect("than")
    fewer, _ = _bare_thing(reader)
    reader.end()
    return More(more, fewer, negated)


# ---------------------------------------------------------------------------------------------------- questions


@dataclass(frozen=True)
class Query:
    """A question as logic.

    Attributes:
        family: existence, count, attribute, comparison or spatial.
        things: what it asks about (one, or two for comparison and spatial).
        detail: the attribute asked for, or the relation.
    """

    family: str
    things: tuple[Thing, ...]
    detail: str = ""


FAMILIES = ("existence", "count", "attribute", "comparison", "spatial")
ANSWERS = ("yes", "no", *(str(k) for k in range(5)), *SHAPES, *COLOURS, *MATERIALS, *SIZES)


def realise_question(query: Query, rng: np.random.Generator) -> str:
    """One wording of a question; `parse_question` reads it back."""
    first = query.things[0]
    if query.family == "existence":
        return f"is there {_article(noun_phrase(first, rng))}?"
    if query.family == "count":
        return f"how many {noun_phrase(first, rng, True)} are there?"
    if query.family == "attribute":
        return f"what {query.detail} is the {noun_phrase(first, rng)}?"
    if query.family == "comparison":
        return f"are there more {noun_phrase(first, rng, True)} than {noun_phrase(query.things[1], rng, True)}?"
    relation = _choose(rng, RELATION_WORDS[query.detail])
    return f"is the {noun_phrase(first, rng)} {relation} the {noun_phrase(query.things[1], rng)}?"


@lru_cache(maxsize=65536)
def parse_question(text: str) -> Query:
    """Read a question.

    Raises:
        StatementError: not one of Tabletop's question forms.
    """
    reader = _Reader(text)

    def done(query: Query) -> Query:
        reader.take("?")
        if reader.next:
            reader.fail("the end of the question")
        return query

    if reader.take("is there", "are there any"):
        reader.take("a", "an", "any")
        return done(Query("existence", (_bare_thing(reader)[0],)))
    if reader.take("how many"):
        thing, _ = _bare_thing(reader)
        reader.take("are there", "do you see", "can you see")
        return done(Query("count", (thing,)))
    if reader.take("what", "which"):
        attribute = reader.expect("shape", "colour", "material", "size")
        reader.expect("is the", "does the")
        thing, _ = _bare_thing(reader)
        reader.take("have")
        return done(Query("attribute", (thing,), attribute))
    if reader.take("are there more"):
        more, _ = _bare_thing(reader)
        reader.expect("than")
        return done(Query("comparison", (more, _bare_thing(reader)[0])))
    reader.expect("is the", "is a")
    first, _ = _bare_thing(reader)
    relation = _RELATION_OF[reader.expect(*_RELATION_PHRASES)]
    reader.take("the", "a", "an")
    return done(Query("spatial", (first, _bare_thing(reader)[0]), relation))


def answer(query: Query, scene: Scene) -> str:
    """Return the true answer.

    Raises:
        StatementError: the question presupposes one object and the scene has none or several that match.
    """
    if query.family == "existence":
        return "yes" if count(query.things[0], scene) else "no"
    if query.family == "count":
        return str(count(query.things[0], scene))
    if query.family == "comparison":
        return "yes" if count(query.things[0], scene) > count(query.things[1], scene) else "no"
    found = []
    for thing in query.things:
        matching = [k for k, item in enumerate(scene.objects) if thing.matches(item)]
        if len(matching) != 1:
            raise StatementError(
                f"The question is about one object, but {len(matching)} match it.", "Describe it so that one is left."
            )
        found.append(matching[0])
    if query.family == "attribute":
        return getattr(scene.objects[found[0]], query.detail)
    return "yes" if related(scene, found[0], query.detail, found[1]) else "no"


def statement_of(query: Query, given: str) -> Statement:
    """Return the statement made of a question and an answer (what S_c scores for question answering).

    Raises:
        StatementError: the answer is not of the question's kind.
    """
    first = query.things[0]
    if query.family == "existence" and given in ("yes", "no"):
        return Pattern((first,)) if given == "yes" else Count(first, "exactly", 0)
    if query.family == "count" and given in _NUMBER:
        return Count(first, "exactly", _NUMBER[given])
    if query.family == "comparison" and given in ("yes", "no"):
        return More(first, query.things[1], negated=given == "no")
    if query.family == "attribute" and given in ATTRIBUTES[query.detail]:
        return Pattern((Thing(**{**first.given(), query.detail: given}),))
    if query.family == "spatial" and given in ("yes", "no"):
        relation = query.detail if given == "yes" else OPPOSITE[query.detail]
        return Pattern(query.things, ((0, relation, 1),))
    raise StatementError(f"{given!r} does not answer this {query.family} question.", f"Answers: {', '.join(ANSWERS)}.")
