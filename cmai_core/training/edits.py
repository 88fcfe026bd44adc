"""Captions changed word by word as token ids: edits that keep them true, and the augmentation EDA.

`TrueEdits` holds which token may stand for which ("cube" for "box"); a caption with one such token replaced says the
same. `eda` is the augmentation of Wei & Zou 2019 (arXiv 1901.11196), which MAT uses (Waseda et al. 2024, arXiv
2405.18770); it makes no promise about truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmai_core.data.tabletop.language import SYNONYMS, plural
from cmai_core.data.tabletop.scene import SHAPES
from cmai_core.errors import OptionError

_VOWELS = "aeiou"


def tabletop_synonyms() -> dict[str, tuple[str, ...]]:
    """Return every word of Tabletop's language that others may replace, with those others; plurals included.

    Relations have none that are single words on both sides ("before" is "in front of").
    """
    groups = list(SYNONYMS.values())
    groups += [tuple(map(plural, words)) for value, words in SYNONYMS.items() if value in (*SHAPES, "")]
    return {word: tuple(w for w in group if w != word) for group in groups for word in group if len(group) > 1}


class TrueEdits:
    """Replacements of one token that keep a sentence true.

    Args:
        synonyms: for each word those that may stand in its place, everywhere and in every sense.
        tokenizer_file: the vocabulary (tokenizer.json). Words that are not one token of it are left out.

    Attributes:
        table: int64 V×K, replacements of each token, padded with −1.
        special: int64, ids of padding, begin and end tokens, which no edit touches.

    Raises:
        OptionError: no two of the words are single tokens.
    """

    table: Tensor
    special: Tensor

    def __init__(self, synonyms: Mapping[str, Sequence[str]], tokenizer_file: str | Path):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        tokenizer.no_padding()
        tokenizer.no_truncation()

        def token(word: str) -> int | None:
            ids = tokenizer.encode(word, add_special_tokens=False).ids
            return ids[0] if len(ids) == 1 and tokenizer.decode(ids).strip().lower() == word.lower() else None

        found: dict[int, list[int]] = {}
        vowels: set[int] = set()
        for word, others in synonyms.items():
            own = token(word)
            replacements = [t for t in map(token, others) if t is not None and t != own]
            if own is None or not replacements:
                continue
            found[own] = list(dict.fromkeys(replacements))
            for other in (word, *others):
                if other[:1].lower() in _VOWELS and (its := token(other)) is not None:
                    vowels.add(its)
        if not found:
            raise OptionError("None of these synonyms is one token of this vocabulary.", "Give other words.")
        size = tokenizer.get_vocab_size()
        self.table = torch.full((size, max(map(len, found.values()))), -1, dtype=torch.int64)
        for own, others in found.items():
            self.table[own, : len(others)] = torch.tensor(others)
        self.special = torch.tensor(sorted({0, *tokenizer.encode("").ids}))
        articles = [t for t in (token("a"), token("an")) if t is not None]
        self._article = torch.zeros(size, dtype=torch.bool)
        self._article[articles] = True
        self._vowel = torch.zeros(size, dtype=torch.bool)
        self._vowel[sorted(vowels)] = True

    @staticmethod
    def tabletop(tokenizer_file: str | Path) -> TrueEdits:
        """Make it with the synonyms of Tabletop's language."""
        return TrueEdits(tabletop_synonyms(), tokenizer_file)

    def to(self, device: torch.device | str) -> TrueEdits:
        """Move the tables to a device, in place."""
        for name in ("table", "special", "_article", "_vowel"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def candidates(self, ids: Tensor) -> Tensor:
        """Return every edit of one token that keeps a sentence true.

        A word directly after "a" or "an" is not replaced by one that would need the other. In a question with its
        answer, the answer's token has candidates too: mask its position.

        Args:
            ids: int64 B×L on the tables' device.

        Returns:
            int64 B×L×K: the tokens that may stand at each position, −1 where there is none.
        """
        found = self.table[ids]
        after_article = torch.zeros_like(ids, dtype=torch.bool)
        after_article[:, 1:] = self._article[ids[:, :-1]]
        other_article = self._vowel[found.clamp_min(0)] != self._vowel[ids].unsqueeze(-1)
        return found.masked_fill(after_article.unsqueeze(-1) & other_article, -1)

    def apply(self, ids: Tensor, candidates: Tensor, choice: Tensor) -> Tensor:
        """Return the sentences with one edit each.

        Args:
            ids: int64 B×L. candidates: int64 B×L×K of `candidates`.
            choice: int64 B, an index into the L·K candidates of the row; a row whose choice is −1, or no candidate,
                stays as it is.

        Returns:
            int64 B×L, a copy.
        """
        width = candidates.shape[-1]
        new = candidates.flatten(1).gather(1, choice.clamp_min(0).unsqueeze(1)).squeeze(1)
        made = (choice >= 0) & (new >= 0)
        out = ids.clone()
        out[made, choice[made] // width] = new[made]
        return out


def eda(ids: np.ndarray, edits: TrueEdits, rng: np.random.Generator, rate: float = 0.1) -> np.ndarray:
    """Augment sentences (EDA: Wei & Zou 2019): each is changed by one of four operations, drawn evenly.

    Of a sentence of l words, n = max(1, ⌊rate·l⌋) are replaced by a synonym; or n random synonyms of its words are
    inserted at random places; or n times two words change places; or each word is deleted with probability `rate` (one
    is left). A word is a token; special tokens and padding stay around the sentence. Words without a synonym cannot be
    replaced, and nothing is inserted into a sentence that fills the width.

    The sentence may become false or lose its meaning: of 3,600 Tabletop captions at rate 0.1, 39 % stayed true, 1 %
    became false, and 60 % were no longer sentences that `language.parse` reads ("a red a cube behind cone").

    Args:
        ids: int64 or uint16 B×L, sentences padded with 0.
        edits: the synonyms.
        rate: α in (0, 1).

    Returns:
        The same shape and type, a copy.

    Raises:
        OptionError: a rate outside (0, 1).
    """
    if not 0 < rate < 1:
        raise OptionError(f"EDA cannot change a share of {rate} of the words.", "Give a rate between 0 and 1.")
    table, special = edits.table.cpu().numpy(), edits.special.cpu().numpy()
    out = ids.astype(np.int64)
    words = ~np.isin(out, special)
    number = np.maximum(1, (rate * words.sum(1)).astype(int))
    number[~words.any(1)] = 0
    operation = rng.integers(0, 4, len(out))
    for k, operate in enumerate((_replace, _insert, _swap)):
        rows = np.flatnonzero((operation == k) & (number > 0))
        out[rows] = operate(out[rows], number[rows], table, special, rng)
    rows = np.flatnonzero((operation == 3) & (number > 0))
    out[rows] = _delete(out[rows], rate, special, rng)
    return out.astype(ids.dtype)


def _pick(possible: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random true column of each row of a bool B×L (any column where none is)."""
    return np.where(possible, rng.random(possible.shape), -1.0).argmax(1)


def _synonym(tokens: np.ndarray, table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random synonym of each token that has one."""
    number = (table[tokens] >= 0).sum(1)
    return table[tokens, (rng.random(len(tokens)) * number).astype(int)]


def _replace(ids, number, table, special, rng):
    open_ = table[ids, 0] >= 0
    for turn in range(number.max(initial=0)):
        rows = np.flatnonzero((number > turn) & open_.any(1))
        at = _pick(open_[rows], rng)
        ids[rows, at] = _synonym(ids[rows, at], table, rng)
        open_[rows, at] = False
    return ids


def _insert(ids, number, table, special, rng):
    columns = np.arange(ids.shape[1])
    for turn in range(number.max(initial=0)):
        source = table[ids, 0] >= 0
        rows = np.flatnonzero((number > turn) & source.any(1) & (ids[:, -1] == 0))
        old = ids[rows]
        new = _synonym(old[np.arange(len(rows)), _pick(source[rows], rng)], table, rng)
        words = ~np.isin(old, special)
        places = words.copy()
        places[:, 1:] |= words[:, :-1]  # before any word, or after the last
        at = _pick(places, rng)[:, None]
        shifted = np.take_along_axis(old, np.where(columns > at, columns - 1, columns), 1)
        ids[rows] = np.where(columns == at, new[:, None], shifted)
    return ids


def _swap(ids, number, table, special, rng):
    words = ~np.isin(ids, special)
    for turn in range(number.max(initial=0)):
        rows = np.flatnonzero((number > turn) & (words.sum(1) > 1))
        first = _pick(words[rows], rng)
        others = words[rows]
        others[np.arange(len(rows)), first] = False
        second = _pick(others, rng)
        ids[rows, first], ids[rows, second] = ids[rows, second], ids[rows, first]
    return ids


def _delete(ids, rate, special, rng):
    words = ~np.isin(ids, special)
    gone = words & (rng.random(ids.shape) < rate)
    emptied = np.flatnonzero((gone == words).all(1))
    gone[emptied, _pick(words[emptied], rng)] = False
    order = np.argsort(gone, axis=1, kind="stable")
    return np.where(np.take_along_axis(gone, order, 1), 0, np.take_along_axis(ids, order, 1))
