"""The result of an attack on images, sample by sample."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmai_core.errors import DataError
from cmai_core.files import atomic, explained


@dataclass(frozen=True)
class Rate:
    """A share that names its denominator: `hits` of `total`; `share` is NaN when the total is 0."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        return self.hits / self.total if self.total else math.nan

    def to_dict(self) -> dict[str, Any]:
        return {"hits": self.hits, "total": self.total, "share": None if not self.total else self.share}


@dataclass(frozen=True, eq=False)
class AttackResult:
    """The outcome of an attack. Tensors on the CPU; N samples, S steps; pixels in [0, 1].

    "Rounded" means brought to the 256 levels of a saved picture; only that counts in practice. Where the nearest level
    would leave the threat model (L2, and ε between two levels), values go back towards the clean picture by one level.

    Attributes:
        ids: sample ids.
        pixels: adversarial images N×3×H×W as floats.
        clean_success, success, success_8bit: the criterion on the clean, the adversarial and the rounded adversarial
            image (bool N). A sample with clean_success was lost before the attack: leave it out of success rates.
        clean_objective, objective, objective_8bit: the objective on the same three (N).
        clean_consistency, consistency, consistency_8bit: S_c on the same three (N), None where the batch has no texts.
        objective_trace: (S+1)×N; row k is the iterate after k steps of the restart that was kept (row 0: the start),
            NaN where none was scored. consistency_trace: the same of S_c, or None.
        linf, l2: norms of the float perturbation in [0, 1] pixel units (N); linf_8bit, l2_8bit: of the rounded one.
        forwards, backwards: passes the search spent on each sample (scoring clean and final images not counted).
        notes: why a sample is not as expected ("" where it is): a gradient that was not finite, for instance.
        steps_done: gradient steps over all restarts; cancelled: whether the attack was stopped before its end.
        seconds: wall time of the search for the whole batch. seed: replays it.
        attack: plain description of threat, objective, search and criterion.
        l0, l0_8bit: pixel positions that differ from the clean image (N).
        size, size_8bit: how far from the clean image under the threat's own norm, in the units of its ε (N).
        minimum, minimum_norm: of a minimum-norm search: the closest adversarial image N×3×H×W whatever ε, and its
            distance in the threat's units (inf where none was found); None otherwise. `pixels` respect ε.
        universal: 3×H×W, the one perturbation of a universal search (a patch's content), to be used on other images.
        rounded: the rounded adversarial images N×3×H×W, multiples of 1/255 within the threat model.

    `forwards` of a black-box search are its queries, exactly.
    """

    ids: tuple[str, ...]
    pixels: torch.Tensor
    clean_success: torch.Tensor
    success: torch.Tensor
    success_8bit: torch.Tensor
    clean_objective: torch.Tensor
    objective: torch.Tensor
    objective_8bit: torch.Tensor
    clean_consistency: torch.Tensor | None
    consistency: torch.Tensor | None
    consistency_8bit: torch.Tensor | None
    objective_trace: torch.Tensor
    consistency_trace: torch.Tensor | None
    linf: torch.Tensor
    l2: torch.Tensor
    linf_8bit: torch.Tensor
    l2_8bit: torch.Tensor
    forwards: torch.Tensor
    backwards: torch.Tensor
    notes: tuple[str, ...]
    steps_done: int
    cancelled: bool
    seconds: float
    seed: int
    attack: Mapping[str, object] = field(default_factory=dict)
    l0: torch.Tensor | None = None
    l0_8bit: torch.Tensor | None = None
    size: torch.Tensor | None = None
    size_8bit: torch.Tensor | None = None
    minimum: torch.Tensor | None = None
    minimum_norm: torch.Tensor | None = None
    universal: torch.Tensor | None = None
    rounded: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pixels_8bit(self) -> torch.Tensor:
        """Adversarial images in multiples of 1/255: N×3×H×W floats."""
        return round_to_8bit(self.pixels) if self.rounded is None else self.rounded

    def images(self) -> np.ndarray:
        """Return adversarial images as a picture file holds them: uint8 N×H×W×3."""
        return to_uint8(self.pixels_8bit)

    def success_rate(self, rounded: bool = True) -> Rate:
        """Return ASR: among the samples that did not meet the criterion when clean, those that do after the attack."""
        intact = ~self.clean_success
        success = self.success_8bit if rounded else self.success
        return Rate(int((success & intact).sum()), int(intact.sum()))

    def robust_rate(self, rounded: bool = True) -> Rate:
        """Return the share of samples that meet the criterion neither clean nor attacked (robust accuracy)."""
        success = self.success_8bit if rounded else self.success
        return Rate(int((~success & ~self.clean_success).sum()), len(self))

    def success_at(self, epsilons: Any) -> torch.Tensor:
        """Score a minimum-norm search at several ε at once: bool E×N, whether an adversarial image lies within each ε.

        Raises:
            DataError: the search was not a minimum-norm one.
        """
        if self.minimum_norm is None:
            raise DataError("Only a minimum-norm search can be scored at every epsilon.", "Run the attack at each.")
        limits = torch.as_tensor(epsilons, dtype=torch.float64).reshape(-1, 1)
        return (self.minimum_norm.double() <= limits * (1 + 1e-9)) | self.clean_success

    def records(self, traces: bool = True) -> list[dict[str, Any]]:
        """Return one dict of plain JSON values per sample (None for what is not a finite number), without pixels."""
        names: tuple[str, ...] = (
            "clean_success",
            "success",
            "success_8bit",
            "clean_objective",
            "objective",
            "objective_8bit",
        )
        names += ("clean_consistency", "consistency", "consistency_8bit", "linf", "l2", "linf_8bit", "l2_8bit")
        names += ("l0", "l0_8bit", "size", "size_8bit", "minimum_norm", "forwards", "backwards")
        columns = {name: _plain(getattr(self, name)) for name in names}
        if traces:
            columns["objective_trace"] = _plain(self.objective_trace.T)
            columns["consistency_trace"] = _plain(None if self.consistency_trace is None else self.consistency_trace.T)
        records = []
        for row, sample_id in enumerate(self.ids):
            values = {name: None if column is None else column[row] for name, column in columns.items()}
            records.append({"id": sample_id, **values, "note": self.notes[row]})
        return records

    def to_json(self, traces: bool = True) -> str:
        """Return the description, totals and per-sample records as a JSON object; no tensors."""
        summary = {
            "attack": dict(self.attack),
            "seed": self.seed,
            "seconds": self.seconds,
            "steps_done": self.steps_done,
            "cancelled": self.cancelled,
            "samples": self.records(traces),
        }
        return json.dumps(summary, allow_nan=False)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each adversarial image as a PNG named after its sample id; return the paths in the samples' order.

        Raises:
            DataError: the folder cannot be written.
        """
        return save_images(self.ids, self.images(), folder)

    @staticmethod
    def concatenate(results: list[AttackResult]) -> AttackResult:
        """Join results of several batches of one attack, in the order given; seconds and steps add up."""
        if not results:
            raise DataError("There is no result to concatenate.")
        merged: dict[str, Any] = {}
        for name in AttackResult.__dataclass_fields__:
            values = [getattr(result, name) for result in results]
            if name in ("seconds", "steps_done"):
                merged[name] = sum(values)
            elif name == "cancelled":
                merged[name] = any(values)
            elif name == "universal":  # each batch has its own
                merged[name] = values[0] if len(values) == 1 else None
            elif isinstance(values[0], torch.Tensor):
                merged[name] = torch.cat(values, dim=1 if name.endswith("_trace") else 0)
            elif isinstance(values[0], tuple):
                merged[name] = tuple(item for value in values for item in value)
            else:
                merged[name] = values[0]
        return AttackResult(**merged)


def save_images(ids: Sequence[str], images: np.ndarray, folder: str | Path) -> list[Path]:
    """Write uint8 images N×H×W×3 as PNGs named after their ids; return the paths in their order.

    Raises:
        DataError: the folder cannot be written.
    """
    from PIL import Image

    folder = Path(folder)
    paths: list[Path] = []
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for sample_id, image in zip(ids, images, strict=True):
            stem = re.sub(r"[^A-Za-z0-9._-]+", "_", sample_id).strip("._")[:120] or "sample"
            path, number = folder / f"{stem}.png", 2
            while path in paths:
                path, number = folder / f"{stem}-{number}.png", number + 1
            with atomic(path) as temporary:
                Image.fromarray(image).save(temporary, "PNG")
            paths.append(path)
    return paths


LEVELS = 255
"""Steps from black to white of a picture of 8 bits."""


def round_to_8bit(pixels: torch.Tensor) -> torch.Tensor:
    """Round pixels in [0, 1] to the nearest multiple of 1/255 (never truncated).

    An adversarial picture may leave its budget so: `Region.rounded` keeps it inside.
    """
    return (pixels * LEVELS).round() / LEVELS


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """Return N×3×H×W in [0, 1] as uint8 N×H×W×3, rounded to nearest."""
    return (pixels.detach() * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()


def _plain(values: torch.Tensor | None) -> list | None:
    if values is None:
        return None
    plain = values.tolist()

    def finite(value: Any) -> Any:
        if isinstance(value, list):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [finite(value) for value in plain]
