"""Thresholds of the lab's own, from clean validation pairs: of its detector, and of consistency verification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmai_core.data.pair import Pair, PairDataset
from cmai_core.lab.choices import FALSE_POSITIVE_RATE
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.defenses.calibration import Calibration
    from cmai_core.evaluation.detection import Threshold
    from cmai_core.models.wrapper import VisionLanguageModel


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


def calibrated_threshold(
    model: VisionLanguageModel,
    dataset: PairDataset,
    *,
    name: str = "",
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Threshold:
    """τ of a model: at most the share FALSE_POSITIVE_RATE of these clean pairs, with their first captions, is below it.

    Args:
        dataset: clean pairs that are not attacked. name: of the model, for the progress.

    Raises:
        Cancelled: when told to stop. DataError: too few pairs for a threshold.
    """
    from cmai_core.evaluation.calibration import calibrated_detector

    watched = _Watched(dataset, f"Calibrating the detector of {name or 'the model'}", progress, cancel)
    return calibrated_detector(model, watched, FALSE_POSITIVE_RATE)[1]


def calibrated_verification(
    model: VisionLanguageModel,
    dataset: PairDataset,
    *,
    name: str = "",
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Calibration:
    """Thresholds of S_c (and V_verify, where the model has consistency heads) and the temperature on clean pairs.

    Arguments and errors as for `calibrated_threshold`.
    """
    from cmai_core.evaluation.cmcv import calibrate_cmcv

    return calibrate_cmcv(model, _Watched(dataset, f"Calibrating CMCV of {name or 'the model'}", progress, cancel))
