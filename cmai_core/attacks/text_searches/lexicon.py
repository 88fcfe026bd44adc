"""Words that may stand for one another and words that exclude each other: a dataset's own, and a small general list."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from cmai_core.errors import DataError


class Lexicon:
    """Synonyms and exclusions, looked up in lower case.

    Args:
        groups: sets of words that may stand for one another (a word may be in several).
        exclusions: sets of words none of which may stand for another; they outweigh the groups.
    """

    def __init__(self, groups: Iterable[Iterable[str]] = (), exclusions: Iterable[Iterable[str]] = ()):
        self._synonyms: dict[str, dict[str, None]] = {}
        self._excluded: dict[str, set[str]] = {}
        for words in map(list, exclusions):
            for word in words:
                self._excluded.setdefault(word, set()).update(w for w in words if w != word)
        for words in map(list, groups):
            for word in words:
                self._synonyms.setdefault(word, {}).update(dict.fromkeys(w for w in words if w != word))

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Return words that may stand for `word`, none of which excludes it; () where there is none."""
        low = word.lower()
        return tuple(w for w in self._synonyms.get(low, ()) if not self.excludes(low, w))

    def excludes(self, word: str, other: str) -> bool:
        """Tell whether not both can be said of one thing: opposites ("left", "right"), one family ("red", "blue").

        A synonym of an excluded word is excluded too ("sphere" excludes "block").
        """
        a, b = word.lower(), other.lower()
        first, second = {a, *self._synonyms.get(a, ())}, {b, *self._synonyms.get(b, ())}
        if a == b or (b in first and b not in self._excluded.get(a, ())):
            return False
        return any(second & self._excluded.get(w, set()) for w in first)

    def words(self) -> tuple[str, ...]:
        """Return every word that has a synonym, in the order of the list."""
        return tuple(self._synonyms)

    @staticmethod
    def read(path: str | Path) -> Lexicon:
        """Read a text file: a line of words is a group, a line that starts with "!" an exclusion, with "#" a remark.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"The lexicon {path} cannot be read: {error}.", "Give a UTF-8 text file.") from error
        lines = [line.lower().split() for line in lines if line.strip() and not line.startswith("#")]
        return Lexicon([line for line in lines if line[0] != "!"], [line[1:] for line in lines if line[0] == "!"])


@lru_cache(maxsize=1)
def bundled_lexicon() -> Lexicon:
    """Return the synonyms of the default dataset's language and the general list beside this file, as one lexicon."""
    from cmai_core.data.registry import DATASETS, DEFAULT_DATASET

    general = Lexicon.read(Path(__file__).with_name("lexicon.txt"))
    truth = DATASETS[DEFAULT_DATASET].ground_truth()
    merged = Lexicon(truth.synonyms(), truth.exclusions())
    for own, other in ((merged._synonyms, general._synonyms), (merged._excluded, general._excluded)):
        for word, others in other.items():
            if isinstance(others, dict):
                own.setdefault(word, {}).update(others)
            else:
                own.setdefault(word, set()).update(others)
    return merged
