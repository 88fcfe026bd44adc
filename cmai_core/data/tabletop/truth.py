"""Tabletop's ground truth as `data.truth` asks for it: sentences are read by `language`, judged by `statements`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from zlib import crc32

import numpy as np

from cmai_core.data.pair import TwoImageStatement
from cmai_core.data.tabletop.language import SYNONYMS, parse, parse_question, plural, realise, statement_of, vocabulary
from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, MAX_OBJECTS, SHAPES, SIZES, Scene
from cmai_core.data.tabletop.statements import (
    ATTRIBUTES,
    Pattern,
    Statement,
    StatementError,
    encode_pattern,
    encode_scenes,
    share_true,
    truth_matrix,
)
from cmai_core.data.tabletop.statements import holds as statement_holds
from cmai_core.data.truth import GroundTruth
from cmai_core.paths import assets_dir

_CONTEXT = 48
_DRAWS = 2
"""Random numbers that a false caption takes."""


class TabletopTruth(GroundTruth):
    """What is true of Tabletop's scenes (`data.tabletop.scene.Scene`); use the one `TRUTH`."""

    def judge(self, texts: Sequence[str], scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
        """Judge texts about scenes with the compiled matcher."""
        read = [_read(text) for text in texts]
        true, readable = np.zeros((len(texts), len(scenes)), bool), np.array([s is not None for s in read], bool)
        if readable.any():
            true[readable] = truth_matrix([s for s in read if s is not None], scenes)
        return true, readable

    def holds(self, text: str, scene: Scene) -> bool | None:
        """Judge one text about one scene; judgements are remembered."""
        statement = _read(text)
        return None if statement is None else _holds(statement, scene)

    def unreadable_because(self, text: str) -> str:
        """Return the reader's hint."""
        try:
            parse(text)
        except StatementError as error:
            return error.hint
        return ""

    def vocabulary(self) -> frozenset[str]:
        """Return the words of sentences, questions and answers."""
        return _vocabulary()

    def synonyms(self) -> tuple[tuple[str, ...], ...]:
        """Return the words of each attribute value, and the plurals of the nouns."""
        return (*SYNONYMS.values(), *(tuple(plural(word) for word in words) for words in _nouns()))

    def exclusions(self) -> tuple[tuple[str, ...], ...]:
        """Return the shapes in the plural: a general word list knows the singulars only."""
        return (tuple(plural(words[0]) for words in _nouns() if words is not SYNONYMS[""]),)

    def paraphrases(self, text: str, count: int, rng: np.random.Generator) -> list[str]:
        """Read the text and say it again."""
        statement = _read(text)
        try:
            return [] if statement is None else [realise(statement, rng) for _ in range(count)]
        except StatementError:  # relations that cannot be said in one sentence
            return []

    def false_captions(
        self, captions: Sequence[str], scenes: Sequence[Scene], generators: Sequence[np.random.Generator]
    ) -> list[str | None]:
        """Change one fact of each caption, as training does (`data.tabletop.false_captions`)."""
        from tokenizers import Tokenizer

        from cmai_core.data.tabletop.false_captions import NEVER, Words, false_captions

        path = assets_dir() / "models" / "_tokenizer" / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.enable_padding(length=_CONTEXT, pad_id=0)
        tokenizer.enable_truncation(_CONTEXT)
        ids = np.array([tokenizer.encode(text).ids for text in captions], dtype=np.uint16)[:, None]
        draws = np.stack([generator.random((1, _DRAWS)) for generator in generators])
        false_ids, codes = false_captions(ids, *encode_scenes(scenes), Words.read(path), draws)
        texts = tokenizer.decode_batch([row[0].tolist() for row in false_ids])
        return [text if code[1] != NEVER else None for text, code in zip(texts, codes[:, 0], strict=True)]

    def answers(self) -> tuple[str, ...]:
        """Return yes, no, the numbers of things there can be, and the values of the attributes."""
        return ("yes", "no", *map(str, range(MAX_OBJECTS + 1)), *COLOURS, *SHAPES, *MATERIALS, *SIZES)

    def statement(self, question: str, answer: str) -> str | None:
        """Say question and answer as one statement; the wording is drawn by the text itself."""
        try:
            rng = np.random.default_rng(crc32(f"{question}\x1f{answer}".encode()))
            return realise(statement_of(parse_question(question), answer), rng)
        except StatementError:
            return None

    def two_image_statements(
        self, scenes: Sequence[Scene], count: int, rng: np.random.Generator
    ) -> list[TwoImageStatement]:
        """Make statements as those of the dataset's splits are made."""
        from cmai_core.data.tabletop.nlvr import items

        made = items(encode_scenes(scenes)[0], count, rng)
        return [TwoImageStatement(item.left, item.right, item.text, item.truth, item.family) for item in made]

    def fact_f1(self, captions: Sequence[str], scenes: Sequence[Scene]) -> np.ndarray:
        """Return F1 of the stated attributes and relations; a caption that cannot be read counts 0."""
        from cmai_core.data.tabletop.captions import fact_f1

        return fact_f1(captions, scenes)

    def facts(self, text: str) -> tuple[str, ...] | None:
        """Return the things that a description names, then how they stand, in plain words; other statements as one."""
        from cmai_core.data.tabletop.language import plain_facts

        statement = _read(text)
        return None if statement is None else plain_facts(statement) or (text,)

    def share_true(self, text: str) -> float | None:
        """Return the share of the reference bank's scenes of which a description is true."""
        from cmai_core.data.tabletop.captions import truth_rate

        statement = _read(text)
        return truth_rate(statement) if isinstance(statement, Pattern) else None

    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """Return shape, colour, material and size with their values."""
        return ATTRIBUTES

    def things(self, scene: Scene) -> tuple[Mapping[str, str], ...]:
        """Return each object's attributes."""
        return tuple({name: getattr(item, name) for name in ATTRIBUTES} for item in scene.objects)

    def named(self, text: str, scene: Scene) -> tuple[int, ...]:
        """Return the objects without which the text is no longer true, else those of which alone it is true."""
        if self.holds(text, scene) is not True:
            return ()
        count = range(len(scene.objects))
        without = [replace(scene, objects=tuple(o for k, o in enumerate(scene.objects) if k != n)) for n in count]
        needed = tuple(n for n in count if self.holds(text, without[n]) is not True)
        alone = (n for n in count if self.holds(text, replace(scene, objects=(scene.objects[n],))))
        return needed or tuple(alone)

    def patches(self, scene: Scene, grid: tuple[int, int]) -> np.ndarray | None:
        """Draw the scene's masks; an object has a patch that it covers to at least 35 %, as in training."""
        from cmai_core.data.tabletop.arrays import IMAGE_SIZE, NO_OBJECT, patch_labels
        from cmai_core.data.tabletop.render import render_with_masks

        if grid[0] != grid[1] or IMAGE_SIZE % grid[0]:
            return None
        _, masks = render_with_masks([scene], IMAGE_SIZE, threads=1)
        shown = patch_labels(masks, IMAGE_SIZE // grid[0])[0].astype(int)
        return np.where(shown == NO_OBJECT, -1, shown)


TRUTH = TabletopTruth()
"""The ground truth of every Tabletop scene."""


def _nouns() -> list[tuple[str, ...]]:
    return [words for value, words in SYNONYMS.items() if value in (*SHAPES, "")]


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    return frozenset(vocabulary())


@lru_cache(maxsize=65536)
def _read(text: str) -> Statement | None:
    """Return the statement of a text; None where it cannot be read, or says more than any scene can hold."""
    try:
        statement = parse(text)
        if isinstance(statement, Pattern):
            encode_pattern(statement)
        return statement
    except (StatementError, KeyError):
        return None


@lru_cache(maxsize=65536)
def _holds(statement: Statement, scene: Scene) -> bool:
    """`statements.holds`, without building matrices for a single pattern and a single scene."""
    if not isinstance(statement, Pattern):
        return statement_holds(statement, scene)
    return share_true(encode_pattern(statement), *_encoded(scene)) == 1.0


@lru_cache(maxsize=4096)
def _encoded(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    return encode_scenes([scene])
