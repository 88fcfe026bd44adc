"""Which objects a question is about, beside the questions of the training arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmai_core.data.tabletop.dataset import save_atomically
from cmai_core.data.tabletop.language import FAMILIES, parse_question
from cmai_core.data.tabletop.questions import fits

ABOUT_ONE_EACH = tuple(FAMILIES.index(name) for name in ("attribute", "spatial"))
"""Families whose things are one object each; the others ask about any number."""


def question_things(
    ids: np.ndarray, answer_at: np.ndarray, family: np.ndarray, objects: np.ndarray, tokenizer_file: Path
) -> np.ndarray:
    """Return int8 N×Q×2, the objects that a question names, in its order; −1 where it names none alone.

    Args:
        ids, answer_at, family: of the training arrays, N×Q×L, N×Q and N×Q. objects: int8 N×4×4, the encoded scenes.
        tokenizer_file: the vocabulary, to read the questions.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    out = np.full((*family.shape, 2), -1, np.int8)
    for row, column in zip(*np.nonzero(np.isin(family, ABOUT_ONE_EACH)), strict=True):
        text = tokenizer.decode(ids[row, column, : answer_at[row, column]].tolist())
        for place, thing in enumerate(parse_question(text).things):
            (matching,) = np.flatnonzero(fits(thing, objects[row]))
            out[row, column, place] = matching
    return out


def stored_question_things(folder: Path, tokenizer_file: Path, *arrays: np.ndarray) -> np.ndarray:
    """Open `question_things` of a folder of training arrays, made when first asked for.

    Args:
        arrays: what `question_things` reads: ids, answer_at, family, objects.
    """
    path = folder / "question_things.npy"
    if not path.is_file():
        save_atomically(path, question_things(*(np.asarray(x) for x in arrays), tokenizer_file))
    return np.load(path, mmap_mode="r")
