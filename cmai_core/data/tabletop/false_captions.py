"""False captions beside the true ones of the training arrays: the same sentence with one fact changed.

Only the changed word differs (with its article, where "a" becomes "an"): wording, order and opening are the true
caption's own, so that nothing but the picture tells the two apart. For the same reason a change is drawn so that false
captions state what true ones state, as often: no combination of shape and colour that the split never shows, and no
fewer things that share a value (in half of the scenes some objects share one). Classifiers of the text alone, on
31,680 sentences of training scenes unseen in fitting: counts of words 50.4 % right, pairs of neighbouring words 49.7 %
(53.7 % if every other value were drawn alike), boosted trees on the stated facts 51.1 %.

The captions are read and changed as token ids, by compiled code; `language.parse` reads both to the same logic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from cmai_core.data.tabletop.dataset import SEED, save_atomically
from cmai_core.data.tabletop.language import NUMBERS, words_for
from cmai_core.data.tabletop.sampling import HELD_OUT, scene_rng
from cmai_core.data.tabletop.scene import COLOURS, MAX_OBJECTS, SHAPES
from cmai_core.data.tabletop.statements import ATTRIBUTES, CODE_LENGTH, MAX_RELATIONS, pattern_holds
from cmai_core.errors import DataError

NEVER = 127
"""The number of objects asked for by the code of an absent false caption: it is true of no scene."""

_VALUES = np.array([len(values) for values in ATTRIBUTES.values()])
_DRAWS = 2  # random numbers a caption: which change, in which words
_PURPOSE = 5  # of scene_rng
_CHUNK = 2000
_SHARED = 1 / 8  # of the scenes of several objects have this attribute shared (sampling._sample_kinds)
_LIKE_THE_OTHERS = 3 / 4  # of the objects of such a scene take the shared value
_RELATION_START = 3 + 4 * 4

# What a token is, in `Words.kind`: an adjective or noun that states attribute k is k; the others:
_SOMETHING, _RELATION, _COLON, _NUMBER, _END, _OTHER = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True)
class Words:
    """The language's words as token ids.

    Attributes:
        kind: int8 V, what a token states (see above); value: int8 V, which one (−1: nothing).
        of: int64 4×8×3, the words of attribute a's value v, padded with −1.
        vowel: bool V, the word follows "an".
        names: int64 9: a, an, left, right, in, front, of, before, behind.
    """

    kind: np.ndarray
    value: np.ndarray
    of: np.ndarray
    vowel: np.ndarray
    names: np.ndarray

    @staticmethod
    def read(tokenizer_file: str | Path) -> Words:
        """Look the words up in a vocabulary (tokenizer.json).

        Raises:
            DataError: a word is not one token of its own.
        """
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        size = tokenizer.get_vocab_size()
        known: dict[int, str] = {}

        def one(word: str) -> int:
            ids = tokenizer.encode(word, add_special_tokens=False).ids
            if len(ids) != 1 or known.setdefault(ids[0], word) != word:
                raise DataError(f"{word!r} is not one token of its own.", "Use the bundled vocabulary.")
            return ids[0]

        kind, value = np.full(size, _OTHER, np.int8), np.full(size, -1, np.int8)
        of, vowel = np.full((4, 8, 3), -1, np.int64), np.zeros(size, bool)

        def add(word: str, its_kind: int, its_value: int) -> int:
            token = one(word)
            kind[token], value[token] = its_kind, its_value
            vowel[token] = word[0] in "aeiou"
            return token

        for a, values in enumerate(ATTRIBUTES.values()):
            for v, name in enumerate(values):
                for k, word in enumerate(words_for(name)):
                    of[a, v, k] = add(word, a, v)
        for word in words_for(""):
            add(word, _SOMETHING, -1)
        for word, relation in (("left", 0), ("right", 1), ("front", 2), ("before", 2), ("behind", 3)):
            add(word, _RELATION, relation)
        for number in range(1, MAX_OBJECTS + 1):
            add(NUMBERS[number], _NUMBER, number)
        add(":", _COLON, -1)
        end = tokenizer.encode("a").ids[-1]
        kind[end] = _END
        names = [one(word) for word in ("a", "an", "left", "right", "in", "front", "of", "before", "behind")]
        return Words(kind, value, of, vowel, np.array(names, np.int64))


def false_captions(
    ids: np.ndarray, objects: np.ndarray, frame: np.ndarray, words: Words, draws: np.ndarray, held_out: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """For each true caption, one that differs in one stated fact and is false of the scene.

    An attribute takes another value, or a relation is turned round. A caption without such a change has zeros for ids,
    and a code that is true of no scene.

    Args:
        ids: uint16 N×C×L, captions as `realise` writes them, begin and end tokens included, padded with 0.
        objects, frame: the N encoded scenes (`statements.encode_scenes`).
        draws: float N×C×2 in [0, 1), the random numbers.
        held_out: the scenes may show the held-out combinations (split `holdout`).

    Returns:
        ids uint16 N×C×L and codes int8 N×C×CODE_LENGTH (things in the order of the sentence).
    """
    out = np.zeros_like(ids)
    codes = np.full((*ids.shape[:2], CODE_LENGTH), -1, np.int8)
    _change_all(
        ids, objects, frame, words.kind, words.value, words.of, words.vowel, words.names, draws,
        _shown_together(held_out), _VALUES, out, codes,
    )  # fmt: skip
    return out, codes


def stored_false_captions(
    folder: Path, tokenizer_file: str | Path, split: str, ids: np.ndarray, objects: np.ndarray, frame: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return false captions of the training arrays in `folder`, memory-mapped; made by one core when they are missing.

    The whole training split takes seconds, so a build that was killed starts again. Scene k's depend on its captions
    and its own random numbers alone.

    Args:
        The others: see `false_captions`.

    Returns:
        false_ids uint16 N×C×L and false_codes int8 N×C×CODE_LENGTH.
    """
    paths = folder / "false_ids.npy", folder / "false_codes.npy"
    if not all(path.is_file() for path in paths):
        words = Words.read(tokenizer_file)
        rows, columns, _ = ids.shape
        made = []
        for start in range(0, rows, _CHUNK):
            part = slice(start, min(start + _CHUNK, rows))
            scenes = range(part.start, part.stop)
            draws = np.stack([scene_rng(SEED, split, k, _PURPOSE).random((columns, _DRAWS)) for k in scenes])
            given = (np.ascontiguousarray(x[part]) for x in (ids, objects, frame))
            made.append(false_captions(*given, words, draws, split == "holdout"))
        for path, arrays in zip(paths, zip(*made, strict=True), strict=True):
            save_atomically(path, np.concatenate(arrays))
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1], mmap_mode="r")


def _shown_together(held_out: bool) -> np.ndarray:
    """Return float 7×9: the share of (shape, colour) that a split shows.

    The last row and column where none is stated.
    """
    out = np.ones((len(SHAPES) + 1, len(COLOURS) + 1))
    if not held_out:
        for shape, colour in HELD_OUT:
            out[SHAPES.index(shape), COLOURS.index(colour)] = 0.0
    out[-1, :-1] = out[:-1, :-1].mean(0)
    out[:, -1] = out[:, :-1].mean(1)
    return out


_MAX_FACTS = 4 * 4 + MAX_RELATIONS


@njit(cache=True)
def _read(ids, kind, value, code, facts):
    """Fill `code` with what a caption says and `facts` with (thing, attribute, position) or (relation, −1, position).

    A noun ends a thing; a relation joins the clause's first thing with the next. Returns the number of facts.
    """
    code[:] = -1
    things, relations, found, head, pending, start = 0, 0, 0, 0, -1, 0
    for p in range(len(ids)):
        if kind[ids[p]] == _COLON:
            start = p + 1
            for q in range(p):
                if kind[ids[q]] == _NUMBER:
                    code[1] = value[ids[q]]
    for p in range(start, len(ids)):
        its = kind[ids[p]]
        if its == _END:
            break
        if its == _RELATION:
            pending = value[ids[p]]
            facts[found, 0], facts[found, 1], facts[found, 2] = relations, -1, p
            found += 1
        elif its <= _SOMETHING:
            if its < _SOMETHING:
                code[3 + 4 * things + its] = value[ids[p]]
                facts[found, 0], facts[found, 1], facts[found, 2] = things, its, p
                found += 1
            if its == 0 or its == _SOMETHING:
                if pending >= 0:
                    at = _RELATION_START + 3 * relations
                    code[at], code[at + 1], code[at + 2] = head, pending, things
                    relations += 1
                    pending = -1
                else:
                    head = things
                things += 1
    code[0], code[2] = things, relations
    return found


@njit(cache=True)
def _plausibility(code, shown, values):
    """How often the split's scenes have things like these, up to a factor: what they share, and what goes together."""
    out = 1.0
    for k in range(code[0]):
        out *= shown[code[3 + 4 * k], code[4 + 4 * k]]
    for a in range(4):
        number = 0
        for k in range(code[0]):
            number += code[3 + 4 * k + a] >= 0
        if number < 2:
            continue
        size = values[a]
        shared = 0.0
        for v in range(size):
            part = 1.0 / size
            for k in range(code[0]):
                stated = code[3 + 4 * k + a]
                if stated >= 0:
                    part *= (_LIKE_THE_OTHERS if stated == v else 0.0) + (1 - _LIKE_THE_OTHERS) / size
            shared += part
        out *= (1 - _SHARED) * size ** -float(number) + _SHARED * shared
    return out


@njit(cache=True)
def _change_all(ids, objects, frame, kind, value, of, vowel, names, draws, shown, values, out, codes):
    facts = np.empty((_MAX_FACTS, 3), np.int64)
    weights = np.empty((_MAX_FACTS, 8))
    chosen = np.empty(4, np.int64)
    for n in range(ids.shape[0]):
        for c in range(ids.shape[1]):
            code = codes[n, c]
            found = _read(ids[n, c], kind, value, code, facts)
            total = _weigh(code, facts, found, objects[n], frame[n], shown, values, weights, chosen)
            room = np.count_nonzero(ids[n, c]) + 2 <= ids.shape[2]
            if total <= 0 or not room:
                code[:] = -1
                code[0], code[1], code[2] = 0, NEVER, 0
                continue
            pick, fact, new = draws[n, c, 0] * total, 0, 0
            for f in range(found):
                for v in range(8):
                    if weights[f, v] > 0 and pick >= 0:
                        fact, new = f, v
                        pick -= weights[f, v]
            place, attribute, at = facts[fact]
            if attribute < 0:
                code[_RELATION_START + 3 * place + 1] = new
                _turn(ids[n, c], at, new, names, draws[n, c, 1], out[n, c])
            else:
                code[3 + 4 * place + attribute] = new
                known = 0
                while known < 3 and of[attribute, new, known] >= 0:
                    known += 1
                word = of[attribute, new, int(draws[n, c, 1] * known)]
                out[n, c] = ids[n, c]
                out[n, c, at] = word
                if ids[n, c, at - 1] == names[0] or ids[n, c, at - 1] == names[1]:
                    out[n, c, at - 1] = names[1] if vowel[word] else names[0]


@njit(cache=True)
def _weigh(code, facts, found, objects, frame, shown, values, weights, chosen):
    """Fill `weights` (facts × values) with how likely each change is drawn (0: it leaves the caption true)."""
    weights[:] = 0.0
    total = 0.0
    for f in range(found):
        place, attribute = facts[f, 0], facts[f, 1]
        at = _RELATION_START + 3 * place + 1 if attribute < 0 else 3 + 4 * place + attribute
        old = code[at]
        part = 0.0
        for v in range(4 if attribute < 0 else values[attribute]):
            if v == old or (attribute < 0 and v != old + 1 - 2 * (old % 2)):
                continue
            code[at] = v
            if not pattern_holds(code, objects, frame, chosen):
                after = _plausibility(code, shown, values)
                weights[f, v] = after
                part += after
        code[at] = old
        if part > 0:
            weights[f] /= part
            total += 1
    return total


@njit(cache=True)
def _turn(ids, at, new, names, draw, out):
    """Write the caption with the relation whose word stands at `at` turned round.

    "behind" is shorter than its opposite, which half of the time is "in front of", half "before".
    """
    left, right, inside, front, of, ahead, behind = names[2:]
    first = last = at
    if ids[at] == front:
        first, last = at - 1, at + 1
    p = first
    out[:first] = ids[:first]
    if new == 2 and draw < 0.5:
        out[p], out[p + 1], out[p + 2] = inside, front, of
        p += 3
    else:
        out[p] = left if new == 0 else right if new == 1 else ahead if new == 2 else behind
        p += 1
    for q in range(last + 1, len(ids)):
        if p < len(out):
            out[p] = ids[q]
            p += 1
