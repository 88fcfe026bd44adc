"""Captions that do not belong: for each pair one text that is false of its picture, as far as anyone can know.

Where there is ground truth it decides: every other pair gets its own first caption with one fact changed, the others a
caption of another scene that is not true of theirs. Elsewhere it is another pair's caption that is not also its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cmai_core.data.truth import ground_truth_of, true_texts
from cmai_core.errors import DataError

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair


def misaligned_captions(pairs: Sequence[Pair], seed: int = 0) -> tuple[str, ...]:
    """Return one text for each of at least two pairs, drawn from (seed, position).

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
    """Return the first caption of the first pair, in a random order, whose caption is not true of this one."""
    order = [int(k) for k in rng.permutation(len(pairs)) if k != row]
    for start in range(0, len(order), 16):
        texts = [pairs[k].captions[0] for k in order[start : start + 16]]
        true = true_texts(texts, pairs[row])
        own = set(pairs[row].captions)
        for n, text in enumerate(texts):
            if text not in own and (true is None or not true[n]):
                return text
    return None


def _one_fact_changed(pairs: Sequence[Pair], seed: int) -> dict[int, str]:
    """Return row → its first caption with one fact changed, where the scene is known and there is such a change."""
    rows = [k for k, pair in enumerate(pairs) if pair.scene is not None]
    truth = ground_truth_of([pairs[k] for k in rows])
    if truth is None:
        return {}
    captions, scenes = [pairs[k].captions[0] for k in rows], [pairs[k].scene for k in rows]
    changed = truth.false_captions(captions, scenes, [np.random.default_rng((seed, k)) for k in rows])
    return {k: text for k, text in zip(rows, changed, strict=True) if text is not None}
