"""Texts that are longer than a model's context: they are cut, and people are told.

truncation_of(model, caption)          # of one sentence; None where all of it is read
warn_truncated(model, dataset)         # of a dataset's texts: how many, and the first
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cmai_core.errors import CmaiWarning
from cmai_core.models import tokenizer

_AMPLE = 4096
"""Tokens that no sentence of the lab or of a dataset reaches."""
_CHUNK = 1000
_SHOWN = 60


@dataclass(frozen=True)
class Truncation:
    """A sentence that is longer than a model's context.

    Attributes:
        tokens: what it would take, with the marks of start and end. context: what the model reads.
        read, unread: the sentence in two parts; the second never reaches the model.
    """

    tokens: int
    context: int
    read: str
    unread: str

    def said(self, name: str) -> str:
        """Describe it in a sentence, about the model of this name."""
        return (
            f"{name} reads {self.context} tokens and this sentence has {self.tokens}: "
            f"the end is cut, from “{_first_words(self.unread)}”."
        )


def truncation_of(model: Any, caption: str) -> Truncation | None:
    """Return how a model cuts a sentence; None where it reads all of it.

    Args:
        model: a `VisionLanguageModel`, or what else has its `tokenizer` and `context_length`.
    """

    def count(text: str) -> int:
        ids = tokenizer.ids_of(model.tokenizer, [text], _AMPLE)[0]
        used = (ids != ids[-1]).nonzero()  # the last place of so long a row is padding
        return int(used[-1]) + 1 if len(used) else 0

    with getattr(model, "tokenizer_lock", nullcontext()):
        return _cut(count, int(model.context_length), caption)


def unread_of(model: Any, caption: str) -> str:
    """Return the end of a sentence that a model does not read; "" where it reads all of it."""
    found = truncation_of(model, caption)
    return "" if found is None else found.unread


def bundled_truncation(caption: str) -> Truncation | None:
    """Return how the bundled models cut a sentence, without loading one; None where they read all of it."""
    return _cut(lambda text: len(_bundled().encode(text).ids), tokenizer.CONTEXT_LENGTH, caption)


@lru_cache(maxsize=1)
def _bundled() -> Any:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(tokenizer.bundled_tokenizer_dir() / "tokenizer.json"))
    made.encode_special_tokens = True  # "<eos>" in a caption is ordinary text
    made.no_truncation()
    made.no_padding()
    return made


def _cut(count: Callable[[str], int], context: int, caption: str) -> Truncation | None:
    """Return the longest beginning that fits, whole words where there are any."""
    total = count(caption)
    if total <= context:
        return None
    ends = [k for k, character in enumerate(caption) if character.isspace()]
    fits = _last(ends, lambda end: count(caption[:end]) <= context)
    if not fits:  # one word that is too long by itself
        fits = _last(list(range(len(caption))), lambda end: count(caption[:end]) <= context)
    return Truncation(total, context, caption[:fits], caption[fits:].strip())


def _last(ends: list[int], fits: Callable[[int], bool]) -> int:
    """Return the last of rising numbers that fits, 0 where none does."""
    low, high = -1, len(ends)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(ends[middle]) else (low, middle)
    return ends[low] if low >= 0 else 0


def _first_words(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def truncated_captions(model: Any, captions: Sequence[str]) -> list[int]:
    """Which of some texts a model reads only in part: their indices.

    Args:
        model: a `VisionLanguageModel`.
    """
    context, (pad, _, eos) = model.context_length, model.token_ids()
    cut: list[int] = []
    for start in range(0, len(captions), _CHUNK):
        texts = list(captions[start : start + _CHUNK])
        with getattr(model, "tokenizer_lock", nullcontext()):
            ids = tokenizer.ids_of(model.tokenizer, texts, context + 1)
        if ids.shape[1] < context:  # a tokenizer that pads to the longest text alone
            continue
        # With room for one token more, the last place of the context holds the end, or nothing, of what fits.
        last = ids[:, context - 1]
        cut += [start + k for k in ((last != pad) & (last != eos)).nonzero()[:, 0].tolist()]
    return cut


def warn_truncated(model: Any, dataset: Any, count: int | None = None) -> None:
    """Warns (`CmaiWarning`) of a dataset's texts that a model reads only in part: how many, and the first.

    Args:
        dataset: asked for its `texts`, which datasets of files and of memory have; the bundled ones fit the bundled
            models.
        count: only the first so many items.
    """
    texts = getattr(dataset, "texts", None)
    if texts is None:
        return
    named = list(dict.fromkeys(texts(count)))
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
