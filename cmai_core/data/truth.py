"""What a dataset knows about its pictures beyond the captions that came with them.

Where a dataset has ground truth, each pair carries a `Scene`, and the scene names the `GroundTruth` that reads and
judges sentences. Photographs have none: about them every question here is answered by None. What lies above `data/`
asks these functions and never a dataset's own modules.

    holds("a red cube left of a ball", pair)      # True, False, or None where nobody can say
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, TwoImageStatement


@runtime_checkable
class Scene(Protocol):
    """The ground truth of one picture: hashable plain data, opaque to whoever does not belong to its dataset."""

    @property
    def ground_truth(self) -> GroundTruth:
        """What reads and judges sentences about scenes of this kind."""
        ...

    def to_json(self) -> str:
        """Write the scene as text; equal scenes give equal texts."""
        ...


class GroundTruth(ABC):
    """A language about the scenes of one dataset, with the logic that decides which sentences are true.

    Only `judge` is required. A method that a dataset has nothing to say to keeps its default: None, or nothing.
    """

    @abstractmethod
    def judge(self, texts: Sequence[str], scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
        """Judge T texts about N scenes.

        Returns:
            true: bool T×N, which text is true of which scene; one that cannot be read is true of none.
            readable: bool T, which texts could be read.
        """

    def holds(self, text: str, scene: Scene) -> bool | None:
        """Judge one text about one scene; None where the text cannot be read."""
        true, readable = self.judge([text], [scene])
        return bool(true[0, 0]) if readable[0] else None

    def unreadable_because(self, text: str) -> str:
        """Explain in a sentence how a text that cannot be read should be put; "" where there is nothing to say."""
        return ""

    def vocabulary(self) -> frozenset[str]:
        """Return every word of the language, in lower case."""
        return frozenset()

    def synonyms(self) -> tuple[tuple[str, ...], ...]:
        """Return groups of words that may stand for one another without changing what is true."""
        return ()

    def exclusions(self) -> tuple[tuple[str, ...], ...]:
        """Return groups of words of which no two can be said of one thing and which no synonym shows."""
        return ()

    def paraphrases(self, text: str, count: int, rng: np.random.Generator) -> list[str]:
        """Return `count` wordings that are true of the same scenes; none where the text cannot be read."""
        return []

    def false_captions(
        self, captions: Sequence[str], scenes: Sequence[Scene], generators: Sequence[np.random.Generator]
    ) -> list[str | None]:
        """Change one fact of each caption so that it is false of its scene; None where no change was found."""
        return [None] * len(captions)

    def answers(self) -> tuple[str, ...]:
        """Return every answer that questions about these scenes have."""
        return ()

    def statement(self, question: str, answer: str) -> str | None:
        """Return the statement that an answer to a question makes; None where it makes none. The same each time."""
        return None

    def two_image_statements(
        self, scenes: Sequence[Scene], count: int, rng: np.random.Generator
    ) -> list[TwoImageStatement]:
        """Make about `count` balanced statements about two of the scenes each; their indices count in `scenes`."""
        return []

    def fact_f1(self, captions: Sequence[str], scenes: Sequence[Scene]) -> np.ndarray | None:
        """Return how well each caption states its scene's facts: F1 in [0, 1], one value a caption."""
        return None

    def facts(self, text: str) -> tuple[str, ...] | None:
        """Return what a text states, one fact a sentence in one fixed wording that can be judged; None: unreadable."""
        return None

    def share_true(self, text: str) -> float | None:
        """Return the share of all scenes of this kind of which a text is true; None where it cannot be read."""
        return None

    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """Return the attributes that things of a scene have, each with its values."""
        return {}

    def things(self, scene: Scene) -> tuple[Mapping[str, str], ...]:
        """Return the things in a scene, each as its attributes with their values."""
        return ()

    def named(self, text: str, scene: Scene) -> tuple[int, ...]:
        """Return which things of a scene (indices of `things`) a text that is true of it is about; none if unknown."""
        return ()

    def patches(self, scene: Scene, grid: tuple[int, int]) -> np.ndarray | None:
        """Return which thing fills most of each patch: int h×w, −1 where none does; None where nobody knows."""
        return None


def ground_truth_of(pairs: Sequence[Pair]) -> GroundTruth | None:
    """Return the ground truth that all pairs share; None without pairs, or where one of them has none or another."""
    found = {id(truth): truth for truth in (None if p.scene is None else p.scene.ground_truth for p in pairs)}
    return next(iter(found.values())) if len(found) == 1 else None


def holds(text: str, pair: Pair) -> bool | None:
    """Return whether a text is true of a pair's picture; None where there is no ground truth, or it cannot be read."""
    return None if pair.scene is None else pair.scene.ground_truth.holds(text, pair.scene)


def true_texts(texts: Sequence[str], pair: Pair) -> np.ndarray | None:
    """Return which texts are true of a pair's picture: bool T (an unreadable one is not); None without ground truth."""
    return None if pair.scene is None else pair.scene.ground_truth.judge(texts, [pair.scene])[0][:, 0]


def truth_table(texts: Sequence[str], pairs: Sequence[Pair]) -> np.ndarray | None:
    """Return which text is true of which pair's picture: bool T×N; None where one of the pairs has no ground truth."""
    truth = ground_truth_of(pairs)
    scenes = [pair.scene for pair in pairs if pair.scene is not None]
    return None if truth is None else truth.judge(texts, scenes)[0]
