"""Words of a text and what lies between them, edits of words, and edit distances."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ARTICLES = ("a", "an")


@dataclass(frozen=True)
class Words:
    """A text taken apart: `gaps[0] words[0] gaps[1] … words[-1] gaps[-1]` is the text again, character by character.

    Words are runs of letters and digits of any script, with inner apostrophes; punctuation and spaces are gaps.
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @staticmethod
    def split(text: str) -> Words:
        """Take a text apart."""
        words, gaps, end = [], [], 0
        for match in _WORD.finditer(text):
            gaps.append(text[end : match.start()])
            words.append(match.group())
            end = match.end()
        return Words(tuple(words), (*gaps, text[end:]))

    def __len__(self) -> int:
        return len(self.words)

    def __str__(self) -> str:
        return "".join(gap + word for gap, word in zip(self.gaps, (*self.words, ""), strict=True))

    def spans(self) -> list[tuple[int, int]]:
        """Return where each word stands in the text: (start, end) in characters."""
        found, at = [], 0
        for gap, word in zip(self.gaps, self.words, strict=False):
            at += len(gap)
            found.append((at, at + len(word)))
            at += len(word)
        return found

    def replace(self, index: int, word: str) -> Words:
        """Put another word at `index`; the case of the old one is kept, and an "a" or "an" before it made to agree."""
        words = list(self.words)
        words[index] = match_case(words[index], word)
        article = self.words[index - 1] if index else ""
        if article.lower() in _ARTICLES and (article.lower() == "an") == _vowel(self.words[index]):  # it agreed before
            agreed = "an" if _vowel(word) else "a"
            words[index - 1] = agreed.capitalize() if article[0].isupper() else agreed
        return Words(tuple(words), self.gaps)

    def spell(self, index: int, word: str) -> Words:
        """Write the word at `index` in exactly this way."""
        return Words((*self.words[:index], word, *self.words[index + 1 :]), self.gaps)

    def insert(self, index: int, word: str) -> Words:
        """Insert one more word before word `index` (after the last where `index` is the number of words)."""
        gaps = list(self.gaps)
        if not self.words:
            return Words((word,), (gaps[0], ""))
        gaps[index : index + 1] = [gaps[index], " "] if index < len(self.words) else [" ", gaps[index]]
        return Words((*self.words[:index], word, *self.words[index:]), tuple(gaps))

    def delete(self, index: int) -> Words:
        """Leave out word `index`; the punctuation around it stays."""
        left, right = self.gaps[index], self.gaps[index + 1]
        gap = left + right.lstrip() if index == 0 else left.rstrip() + right
        return Words(
            (*self.words[:index], *self.words[index + 1 :]), (*self.gaps[:index], gap, *self.gaps[index + 2 :])
        )

    def swap(self, first: int, second: int) -> Words:
        """Swap two words."""
        words = list(self.words)
        words[first], words[second] = words[second], words[first]
        return Words(tuple(words), self.gaps)


def _vowel(word: str) -> bool:
    return word[:1].lower() in ("a", "e", "i", "o", "u")


def match_case(old: str, new: str) -> str:
    """Write `new` as `old` is: ALL CAPITALS, Capitalised, or as it comes."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def same_case(old: str, new: str) -> bool:
    """Tell whether `new` is written as `old` is: capitalised at the start or not, shouted or not."""
    shouted = len(old) > 1 and old.isupper()
    starts = not new[:1].isalpha() or not old[:1].isalpha() or old[:1].isupper() == new[:1].isupper()
    return starts and (not shouted or new.upper() == new)


def distance(left: Sequence, right: Sequence) -> int:
    """Count the fewest insertions, deletions, substitutions and swaps of neighbours that turn one into the other.

    Optimal string alignment: no item is edited twice. Works on strings and on lists of words.
    """
    start = 0
    while start < len(left) and start < len(right) and left[start] == right[start]:
        start += 1
    end = 0
    while end < min(len(left), len(right)) - start and left[-1 - end] == right[-1 - end]:
        end += 1
    left, right = left[start : len(left) - end], right[start : len(right) - end]
    if not left or not right:
        return len(left) + len(right)
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, item in enumerate(left, 1):
        previous, row = row, [i]
        for j, other in enumerate(right, 1):
            best = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (item != other))
            if i > 1 and j > 1 and item == right[j - 2] and left[i - 2] == other:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before = previous
    return row[-1]


def word_distance(left: str, right: str) -> int:
    """Return `distance` in words; "a" and "an" count as one word, so that an article may follow its noun."""
    return distance(*([_ARTICLES[0] if w in _ARTICLES else w for w in Words.split(t).words] for t in (left, right)))


@dataclass(frozen=True)
class Edit:
    """One difference between two texts.

    Attributes:
        kind: "substitute", "insert" or "delete".
        word: the index of the word in the clean text (for an insertion: of the word it stands before).
        before, after: the words ("" where there is none).
    """

    kind: str
    word: int
    before: str
    after: str


def edits(clean: str, edited: str) -> tuple[Edit, ...]:
    """List what was done to a text, word by word, by a shortest alignment (swaps show as two substitutions)."""
    a, b = Words.split(clean).words, Words.split(edited).words
    cost = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a), -1, -1):
        for j in range(len(b), -1, -1):
            if i == len(a) or j == len(b):
                cost[i][j] = len(a) - i + len(b) - j
            else:
                cost[i][j] = min(cost[i + 1][j + 1] + (a[i] != b[j]), cost[i + 1][j] + 1, cost[i][j + 1] + 1)
    found, i, j = [], 0, 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and cost[i][j] == cost[i + 1][j + 1] + (a[i] != b[j]):
            if a[i] != b[j]:
                found.append(Edit("substitute", i, a[i], b[j]))
            i, j = i + 1, j + 1
        elif i < len(a) and cost[i][j] == cost[i + 1][j] + 1:
            found.append(Edit("delete", i, a[i], ""))
            i += 1
        else:
            found.append(Edit("insert", i, "", b[j]))
            j += 1
    return tuple(found)
