"""Token ids back to readable tokens and words."""

from __future__ import annotations

import string
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

_STARTS = ("Ġ", "▁")  # byte-level BPE and SentencePiece mark a word's first token,
_END = "</w>"  # open_clip's own BPE marks its last,
_SPACE = "␣"
_CONTINUES = "##"  # WordPiece marks all but the first


def _pieces(model: VisionLanguageModel, ids: Sequence[int]) -> list[str]:
    """Return the vocabulary's own spelling of each id."""
    tokenizer: Any = model.tokenizer
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        return [tokenizer.decoder[int(i)] for i in ids]
    with getattr(model, "tokenizer_lock", nullcontext()):
        return [str(piece) for piece in inner.convert_ids_to_tokens([int(i) for i in ids])]


def punctuation_ids(model: VisionLanguageModel) -> list[int]:
    """Return the ids of tokens that are punctuation and nothing else: they claim nothing."""
    pieces = _pieces(model, range(model.vocabulary_size))
    plain = [piece.removesuffix(_END).lstrip("".join(_STARTS)) for piece in pieces]
    return [i for i, piece in enumerate(plain) if piece and set(piece) <= set(string.punctuation)]


def token_strings(model: VisionLanguageModel, ids: Sequence[int]) -> tuple[str, ...]:
    """Spell each token as people read it, without marks of word boundaries; special tokens in angle brackets."""
    pad, bos, eos = model.token_ids()
    names = {pad: "<pad>"} if getattr(model.tokenizer, "tokenizer", None) is not None else {}
    names |= {bos: "<start>", eos: "<end>"}  # a vocabulary may pad with its end token
    spelled = []
    for i, piece in zip(ids, _pieces(model, ids), strict=True):
        plain = model.detokenize([int(i)])
        spelled.append(names.get(int(i)) or plain or piece.removesuffix(_END).lstrip("".join(_STARTS)) or _SPACE)
    return tuple(spelled)


def merge_words(model: VisionLanguageModel, ids: Sequence[int]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Return (words, for each word the positions of its tokens in `ids`); special tokens belong to no word."""
    pad, bos, eos = model.token_ids()
    special = {bos, eos} | ({pad} if getattr(model.tokenizer, "tokenizer", None) is not None else set())
    pieces = _pieces(model, ids)
    marks_starts = any(piece.startswith(_STARTS) for piece in pieces)
    marks_ends = any(piece.endswith(_END) for piece in pieces)
    groups: list[list[int]] = []
    open_word = False
    for position, (i, piece) in enumerate(zip(ids, pieces, strict=True)):
        if int(i) in special:
            open_word = False
            continue
        if marks_ends:
            begins = not open_word
        elif marks_starts:
            begins = piece.startswith(_STARTS) or not open_word
        else:
            begins = not piece.startswith(_CONTINUES) or not open_word
        if begins:
            groups.append([])
        groups[-1].append(position)
        open_word = not piece.endswith(_END)
    words = tuple(model.detokenize([int(ids[p]) for p in group]) for group in groups)
    return words, groups


def per_word(values: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """Return the sum of token values over each word, float32."""
    return np.array([values[group].sum() for group in groups], dtype=np.float32)


def used_length(ids: Sequence[int], eos: int) -> int:
    """Return the number of tokens up to and including the end token."""
    return list(ids).index(eos) + 1 if eos in ids else len(ids)
