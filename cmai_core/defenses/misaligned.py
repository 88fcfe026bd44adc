"""Captions that do not belong: for each pair one text that is false of its picture, as far as anyone can know.

On Tabletop the ground truth decides: every other pair gets its own first caption with one fact changed, the others a
caption of another scene that is not true of theirs. Elsewhere it is another pair's caption that is not also its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cmai_core.errors import DataError
from cmai_core.tasks.base import true_of

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair


def misaligned_captions(pairs: Sequence[Pair], seed: int = 0) -> tuple[str, ...]:
    """One text for each of at least two pairs, drawn from (seed, position).

    Raises:
        DataError: a pair for which no such text was found.
    """
    changed = _one_fact_changed(pairs, seed)
    out = []
    for k, pair in enumerate(pairs):
        own = changed.get(k) if k % 2 == 0 else None
        out.append(own or _of_another(pairs, k, np.random.default_rng((seed, k))) or changed.get(k) or "")
        if not out[-1]:
            raise DataError(f"No caption of the others is false of {pair.id}.", "Give more pairs.")
    return tuple(out)


def _of_another(pairs: Sequence[Pair], row: int, rng: np.random.Generator) -> str | None:
    """The first caption of the first pair, in a random order, whose caption is not true of this one."""
    order = [int(k) for k in rng.permutation(len(pairs)) if k != row]
    for start in range(0, len(order), 16):
        texts = [pairs[k].captions[0] for k in order[start : start + 16]]
        true = true_of(pairs[row], texts)
        own = set(pairs[row].captions)
        for n, text in enumerate(texts):
            if text not in own and (true is None or not true[n]):
                return text
    return None


def _one_fact_changed(pairs: Sequence[Pair], seed: int) -> dict[int, str]:
    """Row → its first caption with one fact changed, where the scene is known and there is such a change."""
    rows = [k for k, pair in enumerate(pairs) if pair.scene is not None]
    if not rows:
        return {}
    from tokenizers import Tokenizer

    from cmai_core.data.tabletop.false_captions import NEVER, Words, false_captions
    from cmai_core.data.tabletop.statements import encode_scenes
    from cmai_core.models.tokenizer import CONTEXT_LENGTH, bundled_tokenizer_dir

    path = bundled_tokenizer_dir() / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding(length=CONTEXT_LENGTH, pad_id=0)
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    ids = np.array([tokenizer.encode(pairs[k].captions[0]).ids for k in rows], dtype=np.uint16)[:, None]
    objects, frame = encode_scenes([pairs[k].scene for k in rows])
    draws = np.stack([np.random.default_rng((seed, k)).random((1, 2)) for k in rows])
    false_ids, codes = false_captions(ids, objects, frame, Words.read(path), draws)
    texts = tokenizer.decode_batch([row[0].tolist() for row in false_ids])
    return {k: text for k, text, code in zip(rows, texts, codes[:, 0], strict=True) if code[1] != NEVER}
