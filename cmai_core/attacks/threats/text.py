"""Threat models on text: how many words and characters may change, which may not, and whether the text stays true.

An edited text is always judged against the clean one, whatever the steps that led to it, so a budget holds exactly for
every search. What "stays true" means is chosen by `truth`:

- "scene": the ground truth of the picture decides (`data.truth`). The edited text must be readable and true of the
  scene. A word that is none of the language's but a misspelling of the one it replaced, a look-alike letter included,
  is read as that word, as a person reads it.
- "similarity": its embedding has at least a given cosine with the clean text's. For pictures without ground truth.
- "none": unconstrained. Then an edit may make the text false, and a model that notices is right: results carry the
  label-change rate beside the success rate.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cmai_core.data.words import Words, distance, same_case, word_distance
from cmai_core.errors import DataError, OptionError
from cmai_core.options import flag, number, one_of, strict_options, whole

if TYPE_CHECKING:
    from cmai_core.data.truth import Scene

TRUTHS = ("scene", "similarity", "none")
SPECIAL = (
    "<start_of_text>",
    "<end_of_text>",
    "<|startoftext|>",
    "<|endoftext|>",
    "<pad>",
    "<bos>",
    "<eos>",
    "<s>",
    "</s>",
    "<unk>",
    "<mask>",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[PAD]",
)
"""Literals that some tokenizers turn into special tokens, or that a careless decoder leaves in a text."""

LOOKALIKES = {
    "a": "аɑ", "b": "Ь", "c": "сϲ", "d": "ԁ", "e": "еҽ", "g": "ɡ", "h": "һ", "i": "іı", "j": "ј", "k": "κ", "l": "ӏ",
    "m": "м", "n": "ո", "o": "оο", "p": "рρ", "q": "ԛ", "r": "г", "s": "ѕ", "t": "т", "u": "υ", "v": "ѵν", "w": "ԝ",
    "x": "хχ", "y": "уγ", "z": "ᴢ",
}  # fmt: skip
"""For each letter, letters of other scripts that look the same (after Unicode Technical Standard 39, confusables)."""

_PLAIN = str.maketrans({alike: letter for letter, others in LOOKALIKES.items() for alike in others})

_MOST_REMEMBERED = 200_000

Encoder = Callable[[Sequence[str]], torch.Tensor]


@strict_options
@dataclass(frozen=True, kw_only=True)
class TextThreat:
    """What the attacker may do to a text.

    Attributes:
        words: most words that may change (substituted, inserted, deleted, or two neighbours swapped); "a" for "an" is
            no change. 0: none.
        characters: most characters that may change, over the whole text (None: no limit beside `words`).
        rate: most words changed as a share of the text's words, in (0, 1]; at least one word may always change.
        protected: words that stay as they are, in any case ("cube" protects "Cube").
        truth: "scene", "similarity" or "none", as above.
        similarity: least cosine with the clean text, for truth="similarity".
        encoder: texts → T×D tensor for the similarity. None: the attacked model's own text tower, which the attack is
            out to fool: give an independent one for a result that stands alone.
        keep_case: a changed word is written as the old one was (Capitalised, ALL CAPITALS).
        keep_punctuation: the marks between the words stay the same, in their order.
        special_tokens: literals such as "<end_of_text>" or "[UNK]" may be brought in (prompt injection).

    Raises:
        OptionError: a value outside its range, or a contradiction.
    """

    words: int = 1
    characters: int | None = None
    rate: float | None = None
    protected: Sequence[str] = ()
    truth: str = "none"
    similarity: float = 0.8
    encoder: Encoder | None = None
    keep_case: bool = True
    keep_punctuation: bool = True
    special_tokens: bool = False

    def __post_init__(self) -> None:
        whole("words", self.words, 0)
        if self.characters is not None:
            whole("characters", self.characters, 0)
        if self.rate is not None:
            number("rate", self.rate, 0.0, 1.0, above_low=True)
        one_of("truth", self.truth, TRUTHS)
        number("similarity", self.similarity, -1.0, 1.0)
        for name in ("keep_case", "keep_punctuation", "special_tokens"):
            flag(name, getattr(self, name))
        if isinstance(self.protected, str) or not all(isinstance(word, str) for word in self.protected):
            raise OptionError(f"protected={self.protected!r} is not accepted.", "Accepted: a sequence of words.")
        object.__setattr__(self, "protected", tuple(sorted({word.lower() for word in self.protected})))
        if self.encoder is not None and self.truth != "similarity":
            raise OptionError(
                f"An encoder contradicts truth={self.truth!r}.", "Accepted with an encoder: truth='similarity'."
            )

    def describe(self) -> dict[str, Any]:
        """Return plain values for reports."""
        values: dict[str, Any] = {"words": self.words, "characters": self.characters, "truth": self.truth}
        if self.rate is not None:
            values["rate"] = self.rate
        if self.truth == "similarity":
            values["similarity"] = self.similarity
            values["encoder"] = "the attacked model" if self.encoder is None else "independent"
        if self.protected:
            values["protected"] = list(self.protected)
        if self.special_tokens:
            values["special_tokens"] = True
        return values

    def around(
        self, texts: Sequence[str], scenes: Sequence[Scene | None] | None = None, encode: Encoder | None = None
    ) -> TextRegion:
        """Return the texts this threat model allows around clean ones.

        Args:
            texts: T clean texts.
            scenes: T scenes (`data.truth.Scene`), for truth="scene".
            encode: the attacked model's text encoder, for truth="similarity" without an encoder of its own.

        Raises:
            DataError: truth="scene" without scenes, or a clean text that is no string.
        """
        return TextRegion(self, texts, scenes, encode)


class TextRegion:
    """The set of texts allowed around each clean one.

    Attributes:
        clean: the clean texts. budget: for each, the most words that may change (the rate taken into account).
    """

    def __init__(
        self,
        threat: TextThreat,
        texts: Sequence[str],
        scenes: Sequence[Scene | None] | None = None,
        encode: Encoder | None = None,
    ):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise DataError("Texts must be a sequence of strings.", "Wrap a single text in a list.")
        self.threat, self.clean, self.scenes = threat, tuple(texts), scenes
        self._encode = threat.encoder or encode
        if threat.truth == "scene" and (scenes is None or any(scene is None for scene in scenes)):
            raise DataError(
                "truth='scene' needs the ground truth of every picture.",
                "Attack pairs of a dataset with ground truth, or choose truth='similarity' or truth='none'.",
            )
        if threat.truth == "similarity" and self._encode is None:
            raise OptionError("truth='similarity' has no encoder.", "Give TextThreat(encoder=…).")
        self._words = [Words.split(text) for text in self.clean]
        self._marks = [marks(words) for words in self._words]
        self.budget = tuple(
            threat.words if threat.rate is None else min(threat.words, max(1, int(threat.rate * len(words))))
            for words in self._words
        )
        self._memo: dict[tuple[int, str], bool] = {}
        self._anchors: torch.Tensor | None = None

    def changeable(self, row: int) -> list[bool]:
        """Tell for each word of clean text `row`, whether it may be changed at all."""
        return [word.lower() not in self.threat.protected for word in self._words[row].words]

    def allows(self, row: int, text: str) -> bool:
        """Tell whether one edited text is allowed for clean text `row`."""
        return self.filter([row], [text])[0]

    def filter(self, rows: Sequence[int], texts: Sequence[str]) -> list[bool]:
        """Tell which edited text is allowed for the clean text of the same place in `rows`."""
        if len(self._memo) > _MOST_REMEMBERED:
            self._memo.clear()
        keys = [*zip(rows, texts, strict=True)]
        unknown = [key for key in dict.fromkeys(keys) if key not in self._memo]
        fine = [self._in_form(*key) for key in unknown]
        if self.threat.truth == "scene":
            fine = [ok and self._true(*key) for ok, key in zip(fine, unknown, strict=True)]
        elif self.threat.truth == "similarity":
            fine = self._similar(unknown, fine)
        self._memo.update(zip(unknown, fine, strict=True))
        return [self._memo[key] for key in keys]

    def vocabulary(self) -> frozenset[str]:
        """Return the words that an allowed text can have where the ground truth decides; none: any word."""
        if self.threat.truth != "scene":
            return frozenset()
        return frozenset().union(*(scene.ground_truth.vocabulary() for scene in self.scenes))

    def label_changed(self, row: int, text: str) -> bool | None:
        """Tell whether an edited text is false of the picture; None without a scene, or where it cannot be read."""
        scene = None if self.scenes is None else self.scenes[row]
        if scene is None:
            return None
        truth = truth_of(text, self.clean[row], scene)
        return None if truth is None else not truth

    def _in_form(self, row: int, text: str) -> bool:
        """Check everything but truth: budgets, protected words, case, punctuation, special tokens."""
        threat, clean = self.threat, self.clean[row]
        if text == clean:
            return True
        if not text.strip() or word_distance(clean, text) > self.budget[row]:
            return False
        if threat.characters is not None and distance(clean, text) > threat.characters:
            return False
        if not threat.special_tokens and any(s in text and s not in clean for s in SPECIAL):
            return False
        old, new = self._words[row], Words.split(text)
        if threat.keep_punctuation and marks(new) != self._marks[row]:
            return False
        if threat.protected and not _kept(threat.protected, old.words, new.words):
            return False
        if threat.keep_case and len(old) == len(new) and sorted(old.words) != sorted(new.words):
            return all(a == b or same_case(a, b) for a, b in zip(old.words, new.words, strict=True))
        return True

    def _true(self, row: int, text: str) -> bool:
        return text == self.clean[row] or truth_of(text, self.clean[row], self.scenes[row]) is True

    def _similar(self, keys: Sequence[tuple[int, str]], fine: list[bool]) -> list[bool]:
        chosen = [k for k, ok in enumerate(fine) if ok]
        if not chosen:
            return fine
        unit = torch.nn.functional.normalize
        with torch.no_grad():
            if self._anchors is None:
                self._anchors = unit(self._encode(list(self.clean)), dim=-1)
            embedded = unit(self._encode([keys[k][1] for k in chosen]), dim=-1)
            anchors = self._anchors[[keys[k][0] for k in chosen]]
            cosines = (embedded * anchors).sum(dim=-1).tolist()
        fine = list(fine)
        for k, cosine in zip(chosen, cosines, strict=True):
            fine[k] = keys[k][1] == self.clean[keys[k][0]] or cosine >= self.threat.similarity
        return fine


def marks(words: Words) -> str:
    """Return the punctuation between the words, without spaces."""
    return "".join("".join(words.gaps).split())


def _kept(protected: Sequence[str], old: Sequence[str], new: Sequence[str]) -> bool:
    """Tell whether the protected words stand in both, as often and in the same order."""
    return [w for w in old if w.lower() in protected] == [w for w in new if w.lower() in protected]


def plain_letters(text: str) -> str:
    """Write look-alike letters of other scripts as the Latin letters they look like; invisible characters left out."""
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def read_as(text: str, clean: str, vocabulary: frozenset[str]) -> str:
    """Return a text as a person reads it who knows the vocabulary.

    Look-alike letters as Latin ones, and a word that is none of the vocabulary but at most two character edits (and
    half its letters) from the word of `clean` in its place, as that word.
    """
    new, old = Words.split(plain_letters(text)), Words.split(clean)
    if len(new) != len(old):
        return str(new)
    words = [
        b if a.lower() not in vocabulary and distance(a.lower(), b.lower()) <= min(2, len(b) // 2) else a
        for a, b in zip(new.words, old.words, strict=True)
    ]
    return str(Words(tuple(words), new.gaps))


def truth_of(text: str, clean: str, scene: Scene) -> bool | None:
    """Return whether an edited text, read as `read_as` says, is true of a scene; None where it cannot be read."""
    truth = scene.ground_truth
    return truth.holds(read_as(text, clean, truth.vocabulary()), scene)
