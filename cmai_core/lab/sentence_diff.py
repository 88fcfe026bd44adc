"""How one sentence became another: spans by word, and by character where a word is still the same word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

SAME, GONE, NEW = "same", "gone", "new"
ALIKE = 0.5
"""Share of letters (difflib's ratio) from which a changed word is shown by character."""
_PARTS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Span:
    """A stretch of text. `kind`: SAME (in both sentences), GONE (in the first alone) or NEW (in the second alone)."""

    kind: str
    text: str


def sentence_diff(before: str, after: str) -> tuple[Span, ...]:
    """Return the spans of both sentences in order: SAME and GONE make up `before`, SAME and NEW `after`."""
    old, new = _PARTS.findall(before), _PARTS.findall(after)
    return _joined(span for one, other in _stretches(old, new) for span in _spans(one, other))


def _stretches(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Yield parts of both that belong together: equal ones, changed words one by one, or what has no counterpart."""
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "replace" and b - a == d - c:
            yield from ((old[a + k : a + k + 1], new[c + k : c + k + 1]) for k in range(b - a))
        else:
            yield old[a:b], new[c:d]


def _spans(one: Sequence[str], other: Sequence[str]) -> Iterator[Span]:
    before, after = "".join(one), "".join(other)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    if before != after and matcher.ratio() < ALIKE:
        yield from (Span(GONE, before), Span(NEW, after))
        return
    for _, a, b, c, d in matcher.get_opcodes():
        if before[a:b] == after[c:d]:
            yield Span(SAME, before[a:b])
        else:
            yield from (Span(GONE, before[a:b]), Span(NEW, after[c:d]))


def _joined(spans: Iterator[Span]) -> tuple[Span, ...]:
    """Leave out empty spans and join neighbours of one kind."""
    found: list[Span] = []
    for span in spans:
        if span.text and found and found[-1].kind == span.kind:
            found[-1] = Span(span.kind, found[-1].text + span.text)
        elif span.text:
            found.append(span)
    return tuple(found)
