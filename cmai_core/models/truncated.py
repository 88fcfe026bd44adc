"""Texts that are longer than a model reads: they are cut, which must be said."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from cmai_core.errors import CmaiWarning
from cmai_core.models.tokenizer import ids_of

_CHUNK = 1000
_SHOWN = 60


def truncated_captions(model: Any, captions: Sequence[str]) -> list[int]:
    """Which of some texts a model reads only in part: their indices.

    Args:
        model: a `VisionLanguageModel`.
    """
    context, (pad, _, eos) = model.context_length, model.token_ids()
    cut: list[int] = []
    for start in range(0, len(captions), _CHUNK):
        texts = list(captions[start : start + _CHUNK])
        with getattr(model, "_tokenizer_lock", nullcontext()):
            ids = ids_of(model.tokenizer, texts, context + 1)
        # With room for one token more, the last place of the context holds the end, or nothing, of what fits.
        last = ids[:, context - 1]
        cut += [start + k for k in ((last != pad) & (last != eos)).nonzero()[:, 0].tolist()]
    return cut


def warn_truncated(model: Any, dataset: Any, count: int | None = None) -> None:
    """Warns (`CmaiWarning`) of a dataset's texts that a model reads only in part: how many, and the first.

    Args:
        dataset: asked for its `texts`, which datasets of files have; the bundled ones fit the bundled models.
        count: only the first so many items.
    """
    if not hasattr(dataset, "texts"):
        return
    named = list(dict.fromkeys(dataset.texts(count)))
    cut = truncated_captions(model, [text for _, text in named])
    if cut:
        where, text = named[cut[0]]
        shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
        warnings.warn(
            f"{len(cut)} of {len(named)} texts are longer than the {model.context_length} tokens that {model.name} "
            f"reads, and their ends are cut; the first, of {where}: {shown!r}.",
            CmaiWarning,
            stacklevel=3,
        )
