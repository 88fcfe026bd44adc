"""A dataset that keeps what it has read: every attack in the lab asks for the same gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmai_core.data.pair import Pair, PairDataset, TwoImageStatement


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

    @property
    def statements(self) -> Sequence[TwoImageStatement]:
        return self.dataset.statements

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        return self.dataset.truth(captions, indices)
