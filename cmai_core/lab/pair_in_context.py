"""One pair among others of its kind: what lets every task be asked about a single picture, from wherever it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmai_core.data.pair import Pair, PairDataset, TwoImageStatement

OTHERS = 199
"""Other pairs in the gallery, so that retrieval searches through 200."""


@dataclass(frozen=True)
class PairAmong:
    """A dataset (`PairDataset`) of the pair, at index 0, and the first other items of `dataset`.

    The pair need not belong to `dataset`: an upload stands among photographs, a composed scene among Tabletop's.
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
        """Statements about the pair (left) and another scene (right), the same each time; empty without scenes."""
        scenes = [item.scene for item in self.items[:64]]
        if self.pair.scene is None or any(scene is None for scene in scenes) or len(scenes) < 8:
            return ()
        from cmai_core.data.tabletop.nlvr import items
        from cmai_core.data.tabletop.statements import encode_scenes

        seed = hashlib.sha256(self.pair.scene.to_json().encode()).digest()[:8]
        made = items(encode_scenes(scenes)[0], 600, np.random.default_rng(list(seed)))
        return tuple(TwoImageStatement(i.left, i.right, i.text, i.truth, i.family) for i in made if i.left == 0)

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Which caption is true of which item; None where only the pairing is known."""
        scenes = [self.items[i].scene for i in indices]
        if any(scene is None for scene in scenes):
            return None
        from cmai_core.data.tabletop.language import parse
        from cmai_core.data.tabletop.statements import StatementError, truth_matrix

        out = np.zeros((len(captions), len(indices)), bool)
        readable, parsed = [], []
        for k, text in enumerate(captions):
            try:
                parsed.append(parse(text))
                readable.append(k)
            except StatementError:
                continue
        if parsed:
            out[readable] = truth_matrix(parsed, scenes)
        return out
