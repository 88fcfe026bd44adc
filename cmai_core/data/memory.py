"""A dataset made of pictures that are already in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cmai_core.data.pair import Pair, Question, TwoImageStatement
from cmai_core.errors import DataError


class InMemory:
    """Pictures with captions, or with class labels, as a `PairDataset`.

    Args:
        images: uint8 RGB H×W×3 each, of any sizes.
        captions: of each picture one text, or several. labels: of each picture its class. One of the two is needed;
            without captions a picture's caption is "a photo of" its class.
        classes: all classes; None: those that the labels name, sorted.
        questions: of each picture its questions. name, split: what the dataset is called in results.

    Raises:
        DataError: nothing, or lists of different lengths, pictures that are none, a label that is no class.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        captions: Sequence[str | Sequence[str]] | None = None,
        *,
        labels: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        questions: Sequence[Sequence[Question]] | None = None,
        name: str = "memory",
        split: str = "test",
    ):
        self._images = [_picture(image, k) for k, image in enumerate(images)]
        if not self._images or (captions is None and labels is None):
            raise DataError("A dataset needs pictures, and captions or labels.", "Give images= and one of the two.")
        for what, given in (("captions", captions), ("labels", labels), ("questions", questions)):
            if given is not None and len(given) != len(self._images):
                raise DataError(f"{len(given)} {what} for {len(self._images)} pictures.", "Give one of each a picture.")
        self._labels = None if labels is None else [str(label) for label in labels]
        self.classes = tuple(map(str, classes)) if classes is not None else tuple(sorted(set(self._labels or ())))
        if unknown := sorted(set(self._labels or ()) - set(self.classes)):
            raise DataError(f"{unknown[0]!r} is a label and no class.", f"The classes are {', '.join(self.classes)}.")
        if captions is not None:
            self._captions = [_captions(given, k) for k, given in enumerate(captions)]
        else:
            self._captions = [(f"a photo of a {label}",) for label in self._labels or ()]
        self._questions = questions
        self.name, self.split = name, split

    statements: Sequence[TwoImageStatement] = ()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Pair:
        label = None if self._labels is None else self._labels[index]
        name = f"{self.name}/{self.split}/{index}"
        return Pair(name, self._images[index], self._captions_of(index), self._questions_of(index), label)

    def _captions_of(self, index: int) -> tuple[str, ...]:
        return self._captions[index]

    def _questions_of(self, index: int) -> tuple[Question, ...]:
        return () if self._questions is None else tuple(self._questions[index])

    def texts(self, count: int | None = None) -> Iterator[tuple[str, str]]:
        """Yield (picture, text) of every caption and question of the first `count` pictures."""
        for index in range(len(self))[:count]:
            for text in (*self._captions_of(index), *(question.text for question in self._questions_of(index))):
                yield f"picture {index}", text

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Return None: what is true of a picture beyond its own captions is not known."""
        return None


def _picture(image: np.ndarray, index: int) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(
            f"Picture {index} is {array.dtype} {array.shape}.", "Give uint8 RGB, H×W×3 (values from 0 to 255)."
        )
    return array


def _captions(given: str | Sequence[str], index: int) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"Picture {index} has no caption, or one that is no text.", "Give one text or several.")
    return texts
