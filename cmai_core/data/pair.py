"""Pairs, datasets of pairs, and the batch that attacks and tasks work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cmai_core.data.truth import Scene


@dataclass(frozen=True)
class Question:
    """A question about one image.

    Attributes:
        text: the question, ending in "?".
        answers: accepted answers; the first is the canonical one (VQAv2 has ten, Tabletop one).
        family: existence, count, attribute, comparison or spatial; "" where the dataset does not say.
    """

    text: str
    answers: tuple[str, ...]
    family: str = ""


@dataclass(frozen=True)
class TwoImageStatement:
    """A statement about two images of one dataset (NLVR2's form).

    Attributes:
        left, right: indices into the dataset that holds it.
        text: the statement.
        truth: whether it is true of the two images together.
    """

    left: int
    right: int
    text: str
    truth: bool
    family: str = ""


@dataclass(frozen=True)
class Pair:
    """One image with everything that is known about it.

    Attributes:
        id: unique within the dataset, stable between runs ("tabletop/test/17").
        image: uint8 RGB, H×W×3.
        captions: at least one; all true of the image.
        questions: may be empty.
        label: class name, where the dataset has classes.
        scene: what is known to be in the picture, where the dataset knows it (`data.truth`); None for photographs.
        meta: anything else worth showing (file name, licence, source).
    """

    id: str
    image: np.ndarray
    captions: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    label: str | None = None
    scene: Scene | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class PairDataset(Protocol):
    """A sequence of pairs. Reading an item may decode a file; nothing else is kept.

    A dataset that knows more without reading pictures may say so by further methods of an index: `item_id`,
    `item_captions`, `item_scene`, and `item_version` (a name of the item's content; the content is hashed without it).
    """

    name: str
    split: str
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...

    @property
    def statements(self) -> Sequence[TwoImageStatement]:
        """Two-image statements; empty where the dataset has none."""
        ...

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Return which caption is true of which item: bool, len(captions)×len(indices); None without ground truth."""
        ...


def item_id(dataset: PairDataset, index: int) -> str:
    """Return the id of an item, without reading its picture where the dataset knows ids without (`item_id`)."""
    known = getattr(dataset, "item_id", None)
    return dataset[index].id if known is None else known(index)


def item_captions(dataset: PairDataset, index: int) -> tuple[str, ...]:
    """Return the captions of an item, without reading its picture where the dataset can (`item_captions`)."""
    known = getattr(dataset, "item_captions", None)
    return dataset[index].captions if known is None else known(index)


def item_scene(dataset: PairDataset, index: int) -> Scene | None:
    """Return what is known to be in a picture, without reading it where the dataset can (`item_scene`)."""
    known = getattr(dataset, "item_scene", None)
    return dataset[index].scene if known is None else known(index)


@dataclass(frozen=True)
class Batch:
    """Image rows, text rows and the indices that join them.

    Attributes:
        ids: one per image row; random numbers are drawn from (seed, id, restart).
        pixels: float32 N×3×H×W in [0, 1].
        texts: T strings (T = N for plain pairs, more for 1:N captions).
        image_of_text: T indices into the image rows.
        pairs: the pairs themselves where the task needs their questions or scenes (may be empty).
    """

    ids: tuple[str, ...]
    pixels: torch.Tensor
    texts: tuple[str, ...]
    image_of_text: tuple[int, ...]
    pairs: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.pixels):
            raise ValueError(f"{len(self.ids)} ids for {len(self.pixels)} images")
        if len(self.texts) != len(self.image_of_text):
            raise ValueError(f"{len(self.texts)} texts but {len(self.image_of_text)} image indices")
