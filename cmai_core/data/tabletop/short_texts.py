"""Class prompts and short statements about one object, with their truth: what a caption of a whole scene never is.

Captions are true of a tenth of the scenes at most; a model that only saw those is asked about "a red cube" untrained.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from cmai_core.data.tabletop.classes import class_prompt_ids, class_targets
from cmai_core.data.tabletop.language import realise
from cmai_core.data.tabletop.questions import fits
from cmai_core.data.tabletop.statements import ATTRIBUTES, Pattern, Thing

_STATED = (
    *(("shape",), ("colour",), ("material",), ("size",)),
    *(("shape", "material"), ("shape", "size"), ("colour", "material"), ("colour", "size")),
)


def _things() -> Iterator[Thing]:
    for names in _STATED:
        for values in product(*(ATTRIBUTES[name] for name in names)):
            yield Thing(**dict(zip(names, values, strict=True)))


@lru_cache(maxsize=1)
def statements() -> tuple[tuple[str, Thing], ...]:
    """Return 74 statements that there is an object with one or two attributes, in one wording each."""
    things = enumerate(_things())
    return tuple((realise(Pattern((thing,)), np.random.default_rng(k)), thing) for k, thing in things)


def short_text_ids(tokenizer_file: str | Path) -> np.ndarray:
    """Return class prompts, in the order of CLASSES, and then `statements` as token ids.

    int64 S×L, begin and end tokens included, padded with 0 to the longest.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    prompts = class_prompt_ids(tokenizer_file)
    rows = [tokenizer.encode(text).ids for text, _ in statements()]
    out = np.zeros((len(prompts) + len(rows), max(prompts.shape[1], *map(len, rows))), np.int64)
    out[: len(prompts), : prompts.shape[1]] = prompts
    for k, row in enumerate(rows, len(prompts)):
        out[k, : len(row)] = row
    return out


def short_text_truth(objects: np.ndarray) -> np.ndarray:
    """Return which of the short texts are true of the scenes.

    Args:
        objects: int8 B×4×4, encoded scenes (`statements.encode_scenes`).

    Returns:
        bool B×S in the order of `short_text_ids`.
    """
    return np.concatenate(
        [class_targets(objects), np.stack([fits(thing, objects).any(axis=-1) for _, thing in statements()], axis=1)],
        axis=1,
    )
