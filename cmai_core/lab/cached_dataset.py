"""A dataset that keeps the items that it has read: every attack in the lab asks for the same gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmai_core.data.pair import Pair, PairDataset, TwoImageStatement, item_captions, item_id


class KeptItems:
    """`dataset` (`PairDataset`) with its items kept in memory once read: about 50 kB each for Tabletop.

    Two threads that ask for one item at once may both read it; items are immutable, so that does no harm.
    """

    def __init__(self, dataset: PairDataset):
        self.dataset = dataset
        self.name = dataset.name
        self.split = dataset.split
        self.classes = tuple(dataset.classes)
        self._items: dict[int, Pair] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        if index not in self._items:
            self._items[index] = self.dataset[index]
        return self._items[index]

    def item_id(self, index: int) -> str:
        """Return an item's id, without its picture where the dataset can."""
        return item_id(self.dataset, index)

    def item_captions(self, index: int) -> tuple[str, ...]:
        """Return an item's captions, likewise."""
        return self._items[index].captions if index in self._items else item_captions(self.dataset, index)

    @property
    def statements(self) -> Sequence[TwoImageStatement]:
        """Return the dataset's two-image statements."""
        return self.dataset.statements

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Ask the dataset."""
        return self.dataset.truth(captions, indices)
