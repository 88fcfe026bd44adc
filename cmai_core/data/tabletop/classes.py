"""Tabletop's zero-shot classes ("red cube") as training targets: a scene has every class that one of its objects is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmai_core.data.tabletop.dataset import CLASSES
from cmai_core.data.tabletop.language import _article
from cmai_core.data.tabletop.scene import COLOURS, SHAPES

_CLASS_OF = np.array([[CLASSES.index(f"{colour} {shape}") for colour in COLOURS] for shape in SHAPES])


def class_targets(objects: np.ndarray) -> np.ndarray:
    """Return which classes the scenes show, as the zero-shot task judges it (`tasks.zero_shot`).

    Args:
        objects: int8 B×4×4, encoded scenes (`statements.encode_scenes`): shape and colour come first, −1 is no object.

    Returns:
        bool B×C in the order of CLASSES.
    """
    out = np.zeros((len(objects), len(CLASSES)), bool)
    row, k = np.nonzero(objects[:, :, 0] >= 0)
    out[row, _CLASS_OF[objects[row, k, 0], objects[row, k, 1]]] = True
    return out


def class_prompt_ids(tokenizer_file: str | Path) -> np.ndarray:
    """Return the classes' prompts ("a red cube") as token ids.

    int64 C×L in the order of CLASSES, begin and end tokens included, padded with 0 to the longest.

    Args:
        tokenizer_file: the vocabulary (tokenizer.json).
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows = [tokenizer.encode(_article(name)).ids for name in CLASSES]
    out = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for k, row in enumerate(rows):
        out[k, : len(row)] = row
    return out
