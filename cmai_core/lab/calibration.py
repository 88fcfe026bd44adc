"""Thresholds for the lab: the models' own, and where a card has none, from clean validation pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmai_core.data.pair import Pair, PairDataset
from cmai_core.data.registry import calibrating_dataset
from cmai_core.defenses.basis import Basis
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel


@dataclass(frozen=True)
class _Watched:
    """A dataset that, whenever a pair of it is read, looks for a cancellation and says how far it is."""

    dataset: PairDataset
    words: str
    progress: ProgressCallback | None
    cancel: CancelToken | None

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def split(self) -> str:
        return self.dataset.split

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        if self.cancel is not None:
            self.cancel.check()
        if self.progress is not None:
            self.progress(Progress(index, len(self), self.words, {}))
        return self.dataset[index]


def lab_basis(
    model: VisionLanguageModel,
    kind: str,
    pairs: Callable[[], PairDataset],
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Basis:
    """Return a model's thresholds for pairs of a kind.

    Its card's, else made on validation pairs of that kind, which takes seconds; where no dataset of the kind has pairs
    for it, only the card's.

    Args:
        kind: as `data.registry.kind_of` names it. pairs: gives the clean pairs, none of which is ever attacked.

    Raises:
        Cancelled: when told to stop. DataError: too few pairs for a threshold.
    """
    from cmai_core.evaluation.verification.calibration import calibration_for

    def watched() -> _Watched:
        return _Watched(pairs(), f"Calibrating {model.name}", progress, cancel)

    return calibration_for(model, kind, pairs=watched if calibrating_dataset(kind) is not None else None)
