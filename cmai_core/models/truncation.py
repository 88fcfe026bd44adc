"""What of a sentence a model reads: texts longer than its context are cut, and that must be said.

truncation_of(model, caption)          # None where all of it is read
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cmai_core.models import tokenizer

_AMPLE = 4096
"""Tokens that no sentence of the lab or of a dataset reaches."""


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
        """In a sentence, about the model of this name."""
        return (
            f"{name} reads {self.context} tokens and this sentence has {self.tokens}: "
            f"the end is cut, from “{_first_words(self.unread)}”."
        )


def truncation_of(model: Any, caption: str) -> Truncation | None:
    """What a model cuts off a sentence; None where it reads all of it.

    Args:
        model: a `VisionLanguageModel`, or what else has its `tokenizer` and `context_length`.
    """

    def count(text: str) -> int:
        ids = tokenizer.ids_of(model.tokenizer, [text], _AMPLE)[0]
        used = (ids != ids[-1]).nonzero()  # the last place of so long a row is padding
        return int(used[-1]) + 1 if len(used) else 0

    lock = getattr(model, "_tokenizer_lock", None)
    if lock is None:
        return _cut(count, int(model.context_length), caption)
    with lock:
        return _cut(count, int(model.context_length), caption)


def unread_of(model: Any, caption: str) -> str:
    """The end of a sentence that a model does not read; "" where it reads all of it."""
    found = truncation_of(model, caption)
    return "" if found is None else found.unread


def bundled_truncation(caption: str) -> Truncation | None:
    """The same for the bundled models, without loading one."""
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
    """The longest beginning that fits, whole words where there are any."""
    total = count(caption)
    if total <= context:
        return None
    ends = [k for k, character in enumerate(caption) if character.isspace()]
    fits = _last(ends, lambda end: count(caption[:end]) <= context)
    if not fits:  # one word that is too long by itself
        fits = _last(list(range(len(caption))), lambda end: count(caption[:end]) <= context)
    return Truncation(total, context, caption[:fits], caption[fits:].strip())


def _last(ends: list[int], fits: Callable[[int], bool]) -> int:
    """The last of rising numbers that fits, 0 where none does."""
    low, high = -1, len(ends)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(ends[middle]) else (low, middle)
    return ends[low] if low >= 0 else 0


def _first_words(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
