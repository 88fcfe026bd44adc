"""Tokens that are whole words of a model's vocabulary, and the positions of words in tokenised texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from cmai_core.data.words import Words

_PIECE = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|(?:[^\w\s]|_)+")
_KNOWN: WeakKeyDictionary[Any, tuple[tuple[int, str], ...]] = WeakKeyDictionary()


def token_words(model: Any) -> tuple[tuple[int, str], ...]:
    """Return (id, word) of every token that is a whole word, found out once for each tokenizer.

    A word has letters only, at least two or "a", and is tokenised back to itself.
    """
    tokenizer = getattr(model, "tokenizer", model)
    if tokenizer in _KNOWN:
        return _KNOWN[tokenizer]
    special = set(model.token_ids())
    found = []
    for token in range(model.vocabulary_size):
        if token in special:
            continue
        word = model.detokenize([token]).strip()
        if word.isascii() and word.isalpha() and (len(word) > 1 or word == "a"):
            found.append((token, word))
    kept: list[tuple[int, str]] = []
    for start in range(0, len(found), 4096):
        part = found[start : start + 4096]
        for (token, word), ids in zip(part, _plain_ids(model, [word for _, word in part]), strict=True):
            if ids == [token]:
                kept.append((token, word))
    _KNOWN[tokenizer] = tuple(kept)
    return _KNOWN[tokenizer]


def _plain_ids(model: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text between its start and its end."""
    pad, start, end = model.token_ids()
    out = []
    for ids in model.tokenize(list(texts)).tolist():
        ids = ids[1:] if ids and ids[0] == start else ids
        out.append(ids[: ids.index(end)] if end in ids else [i for i in ids if i != pad])
    return out


def align(model: Any, texts: Sequence[str]) -> tuple[torch.Tensor, list[list[int | None]]]:
    """Return token ids T×L and, for each text and word, the position of its token: None where it has several, or none.

    A text whose pieces (words and punctuation), tokenised one by one, do not give the text's own tokens has no
    positions at all.
    """
    ids = model.tokenize(list(texts))
    whole = _plain_ids(model, texts)
    start = model.token_ids()[1]
    begins = (ids[:, 0] == start).int().tolist()  # not every tokenizer puts a start token before a text
    pieces = [_PIECE.findall(text) for text in texts]
    flat = list(dict.fromkeys(piece for row in pieces for piece in row))
    known = dict(zip(flat, _plain_ids(model, flat), strict=True)) if flat else {}
    positions: list[list[int | None]] = []
    for text, row, tokens, first in zip(texts, pieces, whole, begins, strict=True):
        at, found, joined = first, [], []
        for piece in row:
            own = known[piece]
            if piece[0].isalnum():
                found.append(at if len(own) == 1 else None)
            joined += own
            at += len(own)
        count = len(Words.split(text))
        fits = joined == tokens and len(found) == count
        positions.append(found if fits else [None] * count)
    return ids, positions
