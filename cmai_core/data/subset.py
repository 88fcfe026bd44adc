"""A part of a dataset that is itself a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cmai_core.data.pair import Pair, PairDataset, TwoImageStatement, item_captions, item_id, item_scene

if TYPE_CHECKING:
    import numpy as np

    from cmai_core.data.truth import Scene


class Subset:
    """The items of `dataset` at `indices`, in that order; nothing is copied or decoded.

    Two-image statements are kept where both pictures are, with their indices moved.
    """

    def __init__(self, dataset: PairDataset, indices: Sequence[int]):
        size = len(dataset)
        for index in indices:
            if not 0 <= index < size:
                raise IndexError(f"index {index} is outside a dataset of {size}")
        self.dataset = dataset
        self.indices = tuple(int(index) for index in indices)
        self.name = dataset.name
        self.split = dataset.split
        self.classes = tuple(dataset.classes)
        self._statements: tuple[TwoImageStatement, ...] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Pair:
        return self.dataset[self.indices[index]]

    def item_id(self, index: int) -> str:
        """Return an item's id, without its picture where the dataset can."""
        return item_id(self.dataset, self.indices[index])

    def item_captions(self, index: int) -> tuple[str, ...]:
        """Return an item's captions, likewise."""
        return item_captions(self.dataset, self.indices[index])

    def item_scene(self, index: int) -> Scene | None:
        """Return an item's ground truth, likewise."""
        return item_scene(self.dataset, self.indices[index])

    @property
    def statements(self) -> Sequence[TwoImageStatement]:
        """The dataset's statements about two items that are both here."""
        if self._statements is None:
            place = {old: new for new, old in enumerate(self.indices)}
            self._statements = tuple(
                replace(item, left=place[item.left], right=place[item.right])
                for item in self.dataset.statements
                if item.left in place and item.right in place
            )
        return self._statements

    @property
    def texts(self) -> Callable[..., Iterator[tuple[str, str]]] | None:
        """`texts` of the dataset where it has them and this is its beginning (see `FilePairs`), else None."""
        texts = getattr(self.dataset, "texts", None)
        if texts is None or self.indices != tuple(range(len(self))):
            return None
        return lambda count=None: texts(len(self) if count is None else min(count, len(self)))

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Ask the dataset."""
        return self.dataset.truth(captions, [self.indices[index] for index in indices])


def first(dataset: PairDataset, limit: int | None) -> PairDataset:
    """Return the first `limit` items; the dataset itself where it has no more than that."""
    if limit is None or limit >= len(dataset):
        return dataset
    return Subset(dataset, range(limit))
