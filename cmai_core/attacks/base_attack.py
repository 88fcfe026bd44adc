"""What every attack does around its search: checks, evaluation mode, progress, cancellation, time, the result."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch

from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Criterion
from cmai_core.attacks.threats.regions.region import Region, changed_positions
from cmai_core.data.pair import Batch
from cmai_core.errors import DataError, OptionError
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.reporting import Watch
from cmai_core.seeds import resolve_seed

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

Result = TypeVar("Result")


class BaseAttack(ABC, Generic[Result]):
    """An attack on a batch: calling it prepares, searches, and measures what was found before and after rounding.

    A kind of attack (on pixels, on texts, on both) says how it does each of the three.

    Attributes:
        objective: what is raised. success: when a sample counts as fooled. name: for reports.
    """

    objective: Objective
    success: Criterion
    name: str
    result_type: ClassVar[type]

    def __call__(
        self,
        model: VisionLanguageModel,
        batch: Batch,
        *,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        progress_interval: float = 0.05,
    ) -> Result:
        """Attack every sample of the batch.

        The batch and the model are left as they were found (evaluation mode, `requires_grad` and gradients included),
        and the global random state is not touched. With one seed the result of a sample depends neither on the other
        samples of the batch nor on their order, up to the rounding of differently shaped matrix products (unless the
        objective or the search makes it so: a gallery made of the batch, one perturbation for all).

        Args:
            model: has `image_features(pixels)` and, where texts are used, `encode_text(texts)`; or a `System`.
            batch: pixels in [0, 1]; its texts are attacked, or what S_c is traced with (no texts: no S_c).
            progress: told at least every `progress_interval` seconds (0: every step), with data `step`, `restart`,
                `objective` (traces so far, (k+1)×N), `consistency` (the same, or None), and `pixels` or `texts` as they
                are: references to tensors on the device that nobody changes afterwards.
            cancel: looked at before every step; a cancelled attack returns the best it has found.
            generator, seed: at most one of them; where the random starts come from (seed 0 when neither is given).

        Raises:
            DataError: pixels outside [0, 1], no texts where they are attacked, or two samples with one id.
            OptionError: options that contradict each other or do not fit the batch.
            CmaiError: the device has too little memory for a single image.
        """
        seed = resolve_seed(seed, generator)
        if len(set(batch.ids)) != len(batch.ids):
            raise DataError(
                "Two samples of the batch have the same id.", "Random numbers belong to ids: make them unique."
            )
        with evaluation_mode(model):
            return self._run(model, batch, seed, Watch(progress, cancel, progress_interval))

    def _run(self, model: VisionLanguageModel, batch: Batch, seed: int, watch: Watch) -> Result:
        setting = self._prepare(model, batch, seed)
        start = time.perf_counter()
        outcome = self._search(setting, seed, watch)
        seconds = _seconds_since(start, setting.pixels.device)
        result = self._measure(setting, outcome, watch)
        tensors = {name: v.detach().cpu() if isinstance(v, torch.Tensor) else v for name, v in result.items()}
        return self.result_type(**tensors, seconds=seconds, seed=seed, attack=self.describe())

    @abstractmethod
    def describe(self) -> dict:
        """Return plain values that name the attack in reports."""

    @abstractmethod
    def _prepare(self, model: VisionLanguageModel, batch: Batch, seed: int) -> Any:
        """Return all that the search works on, with an attribute `pixels`: the clean images on the device."""

    @abstractmethod
    def _search(self, setting: Any, seed: int, watch: Watch) -> Any:
        """Score the clean samples, run the search, and return what it found."""

    @abstractmethod
    def _measure(self, setting: Any, outcome: Any, watch: Watch) -> dict[str, Any]:
        """Return the fields of the result, tensors still on the device."""

    def _described(self) -> dict:
        return {"name": self.name, "objective": self.objective.describe(), "success": self.success.describe()}


def check_kinds(attack: object, kinds: Mapping[str, type]) -> None:
    """Check that the attributes of an attack are of certain kinds.

    Raises:
        OptionError: one is not.
    """
    for name, kind in kinds.items():
        value = getattr(attack, name)
        if not isinstance(value, kind):
            raise OptionError(f"{name}={value!r} is not accepted.", f"Accepted: a {kind.__name__}.")


def check_search(name: str, search: object, example: str) -> None:
    """Check that something can be run as a search; `name`: of the option, `example`: one that can.

    Raises:
        OptionError: it cannot.
    """
    if not callable(getattr(search, "run", None)):
        raise OptionError(f"{name}={search!r} is not accepted.", f"Accepted: a search, such as {example}.")


def scores_before_and_after(clean: Any, final: Any, rounded: Any = None) -> dict[str, torch.Tensor | None]:
    """Return success, objective and S_c of clean, attacked and rounded samples by the names they have in results."""
    fields: dict[str, torch.Tensor | None] = {}
    for prefix, suffix, seen in (("clean_", "", clean), ("", "", final), ("", "_8bit", rounded)):
        if seen is not None:
            parts = {"success": seen.success, "objective": seen.value, "consistency": seen.consistency}
            fields |= {f"{prefix}{name}{suffix}": value for name, value in parts.items()}
    return fields


def sizes(region: Region, pixels: torch.Tensor, suffix: str = "") -> dict[str, torch.Tensor]:
    """Return how far pixels lie from the clean ones, by the names that results have for it (N each)."""
    delta = (pixels - region.centre).flatten(1)
    found = {
        "linf": delta.abs().amax(dim=1),
        "l2": delta.norm(dim=1),
        "l0": changed_positions(pixels, region.centre),
        "size": region.distance(pixels),
    }
    return {f"{name}{suffix}": value for name, value in found.items()}


def _seconds_since(start: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
