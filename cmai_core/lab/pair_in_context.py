"""One pair among others of its kind, so that every task can be asked about a single picture, from wherever it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmai_core.data.pair import Pair, PairDataset, TwoImageStatement
from cmai_core.data.truth import ground_truth_of, truth_table

OTHERS = 199
"""Other pairs in the gallery, so that retrieval searches through 200."""


@dataclass(frozen=True)
class PairAmong:
    """A dataset (`PairDataset`) of the pair, at index 0, and the first other items of `dataset`.

    The pair need not belong to `dataset`: an upload stands among photographs, a composed scene among rendered ones.
    """

    pair: Pair
    dataset: PairDataset
    others: int = OTHERS

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def split(self) -> str:
        return self.dataset.split

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.dataset.classes)

    @cached_property
    def items(self) -> tuple[Pair, ...]:
        found = []
        for k in range(len(self.dataset)):
            if len(found) == self.others:
                break
            item = self.dataset[k]
            if item.id != self.pair.id:
                found.append(item)
        return (self.pair, *found)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Pair:
        return self.items[index]

    @cached_property
    def statements(self) -> Sequence[TwoImageStatement]:
        """Return statements about the pair (left) and another scene (right), the same each time; () without scenes."""
        shown = self.items[:64]
        known = ground_truth_of(shown)
        if known is None or len(shown) < 8:
            return ()
        seed = hashlib.sha256(self.pair.scene.to_json().encode()).digest()[:8]
        made = known.two_image_statements([p.scene for p in shown], 600, np.random.default_rng(list(seed)))
        return tuple(statement for statement in made if statement.left == 0)

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Return which caption is true of which item: bool; None where only the pairing is known."""
        return truth_table(captions, [self.items[i] for i in indices])
