"""What flagged pictures go through instead of the model's own image tower (ARM at inference).

- `Smoothing`: features averaged over randomly perturbed copies.
- `Regime`: another image tower, such as one moved towards a robust model's weights (`shifted`).
- `Ensemble`: features averaged over several image towers.

A pathway gives features in the place of the model's, so every task, attack and explanation goes through it as it goes
through the model. Towers must share the model's text side, since tasks have encoded their texts with it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from cmai_core.attacks.engine.transforms import InputTransform, Noise
from cmai_core.errors import OptionError
from cmai_core.options import number, strict_options, whole

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel


class Pathway(Protocol):
    """Pixels N×3×H×W → feature records; `passes`: of an image tower, for each picture."""

    @property
    def passes(self) -> int: ...

    def features(self, model: Any, pixels: torch.Tensor, generators: Sequence[torch.Generator]) -> Any:
        """Return features; random numbers of a picture come from its own generator (none where nothing is random)."""
        ...

    def describe(self) -> dict: ...


@strict_options
@dataclass(frozen=True)
class Smoothing:
    """Features averaged over randomly perturbed copies (after Cohen et al. 2019, arXiv 1902.02918, who average votes).

    Averaging features serves every task at once. The mean embedding is stretched to the copies' mean length (unit
    length stays unit length).

    Attributes:
        transform: how copies are perturbed. copies: how many.
    """

    transform: InputTransform = dataclasses.field(default_factory=Noise)
    copies: int = 8

    def __post_init__(self) -> None:
        whole("copies", self.copies, 1)
        if not isinstance(self.transform, InputTransform):
            raise OptionError(f"transform={self.transform!r} is not accepted.", "Accepted: an InputTransform.")

    @property
    def passes(self) -> int:
        return self.copies

    def features(self, model: Any, pixels: torch.Tensor, generators: Sequence[torch.Generator]) -> Any:
        """Return the mean features of each picture's copies, drawn from its own generator."""
        seen = []
        for _ in range(self.copies):
            seen.append(model.image_features(self.transform.apply(pixels, self.transform.draw(generators, pixels))))
        return mean_features(seen)

    def describe(self) -> dict:
        return {"smoothing": self.transform.describe(), "copies": self.copies}


@dataclass(frozen=True, eq=False)
class Regime:
    """Another image tower beside the model's text side: the parameters shift when a picture is flagged.

    Attributes:
        tower: a model whose `image_features` are taken (`shifted(model, robust, share)` makes one).
        then: a pathway through that model, such as `Smoothing()`; None: its plain features.
    """

    tower: Any
    then: Pathway | None = None

    @property
    def passes(self) -> int:
        return 1 if self.then is None else self.then.passes

    def features(self, model: Any, pixels: torch.Tensor, generators: Sequence[torch.Generator]) -> Any:
        if self.then is None:
            return self.tower.image_features(pixels)
        return self.then.features(self.tower, pixels, generators)

    def describe(self) -> dict:
        return {"regime": self.tower.name} | ({} if self.then is None else self.then.describe())


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Features averaged over the model's own image tower and others.

    Attributes:
        others: models that share the model's text side.
    """

    others: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.others:
            raise OptionError("The ensemble has no member besides the model.", "Give at least one.")

    @property
    def passes(self) -> int:
        return 1 + len(self.others)

    def features(self, model: Any, pixels: torch.Tensor, generators: Sequence[torch.Generator]) -> Any:
        return mean_features([member.image_features(pixels) for member in (model, *self.others)])

    def describe(self) -> dict:
        return {"ensemble": [member.name for member in self.others]}


def shifted(
    model: VisionLanguageModel,
    robust: VisionLanguageModel,
    share: float = 1.0,
    *,
    base: VisionLanguageModel | None = None,
) -> VisionLanguageModel:
    """Move the weights of a model's image tower as far as a base model's were moved to make it robust.

    θ + share·(θ_robust − θ_base). With the model itself for a base, that is (1 − share)·θ + share·θ_robust:
    weight-space interpolation of fine-tuned models (WiSE-FT: Wortsman et al. 2022, arXiv 2109.01903, eq. 1). A model
    whose text tower was trained has none whose image tower alone differs; it is shifted by the difference that robust
    training made to the model that both come from (task arithmetic: Ilharco et al. 2023, arXiv 2212.04089, sec. 2),
    and keeps its own text side. How well that carries over is to be measured: nothing promises it.

    Args:
        model, robust: `VisionLanguageModel`s of one architecture. All stay as they are.
        share: in [0, 1]; 0 is the model.
        base: the robust model with its image tower as it was before (FARE, for example, trains the image tower alone);
            None: the model.

    Raises:
        OptionError: different architectures, a robust model whose text side is not the base's, a share outside [0, 1].
    """
    number("share", share, 0.0, 1.0)
    before = model if base is None else base
    shapes = [{name: value.shape for name, value in one.state().items()} for one in (model, before, robust)]
    if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        raise OptionError(
            f"{model.name} and {robust.name} have different architectures.",
            "Give two of the same, such as fine-tunings.",
        )
    # With the robust model's image tower, a model that differs nowhere else is the robust model.
    swapped, other = before.with_image_tower(robust.image_tower).state(), robust.state()
    if away := [name for name, value in swapped.items() if not torch.equal(value, other[name].to(value))]:
        raise OptionError(
            f"{robust.name} has another text side than {before.name} ({away[0]} differs).",
            "Give a model whose image tower alone was trained, such as tabletop-fare for tabletop, "
            "and as base the model that it was trained from.",
        )
    tower, towards = copy.deepcopy(model.image_tower), robust.image_tower.state_dict()
    away_from = before.image_tower.state_dict()
    with torch.no_grad():
        for name, tensor in tower.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if base is None:
                tensor.lerp_(towards[name].to(tensor), share)
            else:
                tensor.add_(towards[name].to(tensor) - away_from[name].to(tensor), alpha=share)
    by = "" if base is None else f" − {base.name}"
    return model.with_image_tower(tower, f"{model.name} → {robust.name}{by} ({share:g})")


def mean_features(records: Sequence[Any]) -> Any:
    """Return feature records averaged field by field; see `Smoothing`."""
    if len(records) == 1:
        return records[0]

    def average(name: str) -> torch.Tensor | None:
        values = [getattr(record, name) for record in records]
        if values[0] is None:
            return None
        mean = sum(values[1:], values[0]) / len(values)
        if name != "embedding":
            return mean
        length = sum(value.norm(dim=-1, keepdim=True) for value in values) / len(values)
        return mean * (length / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12))

    names = [field.name for field in dataclasses.fields(records[0])]
    return dataclasses.replace(records[0], **{name: average(name) for name in names})
