"""Threat models on images: which norm, and how much. `regions` has the pixels that each norm allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from cmai_core.attacks.threats.regions.region import Region, region_class
from cmai_core.budget import NORMS, Budget
from cmai_core.errors import DataError, OptionError
from cmai_core.options import number, one_of, strict_options


@strict_options
@dataclass(frozen=True, eq=False)
class ThreatModel:
    """What the attacker may change: a bound ε on adversarial − clean, while pixels stay in [0, 1].

    Attributes:
        norm: a key of `cmai_core.budget.NORMS`: "linf" (largest change of any pixel value), "l2" (Euclidean length over
            all 3·H·W values), "l1" (sum of the absolute changes of all values), "l0" (how many pixel positions change,
            all channels together, each as far as it likes), or "patch" (whatever lies under a mask may be replaced
            altogether).
        epsilon: in pixel units of [0, 1] (4/255, not 4) for linf (at most 1), l2 and l1; positions for l0; for patch
            the share of the picture's area, at most 1. One number, or one per sample (sequence or 1-D tensor). Or a
            `Budget`, which is kept where its size in pixel units depends on that of the pictures, until they are seen
            (`sized`). None: the norm's usual budget.
        place: patch only: centre of the square patch as shares (down, right) of height and width; it is moved inside.
        mask: patch only: bool H×W, or N×H×W, True where pixels may change, in place of the square; covering at most the
            share ε.

    Raises:
        OptionError: unknown norm, an ε outside its range, or a mask that does not go with the rest.
    """

    norm: str = "linf"
    epsilon: float | Sequence[float] | torch.Tensor | Budget | None = None
    place: tuple[float, float] = field(default=(0.5, 0.5), kw_only=True)
    mask: torch.Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        one_of("norm", self.norm, tuple(NORMS))
        self._take_budget()
        if isinstance(self.epsilon, Budget):
            return
        try:
            values = torch.as_tensor(self.epsilon, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"epsilon={self.epsilon!r} is not a number.", "Accepted: a number, or one per sample."
            ) from error
        if values.dim() > 1 or values.numel() == 0:
            raise OptionError(
                f"epsilon has shape {tuple(values.shape)}.",
                "Accepted: one number, or a 1-D sequence with one per sample.",
            )
        kind = region_class(self.norm)
        if not bool(kind.fits(values).all()):
            raise OptionError(
                f"epsilon={self.epsilon!r} is not accepted for {self.norm}.", f"Accepted: {kind.accepted}."
            )
        self._check_patch()

    def _take_budget(self) -> None:
        """Turn a budget into pixel units, unless that takes the size of the pictures."""
        given = Budget.usual(self.norm) if self.epsilon is None else self.epsilon
        if isinstance(given, Budget):
            if given.norm != self.norm:
                raise OptionError(
                    f"The budget {given.words} is for {given.norm}, not {self.norm}.",
                    f"Accepted: a budget for {self.norm}.",
                )
            given = given if given.needs_size else given.pixels(1)
        object.__setattr__(self, "epsilon", given)

    def sized(self, value_count: int) -> ThreatModel:
        """Return the same threat model with ε in pixel units; `value_count`: 3·H·W of the pictures."""
        if not isinstance(self.epsilon, Budget):
            return self
        return dataclasses.replace(self, epsilon=self.epsilon.pixels(value_count))

    @property
    def shared(self) -> bool:
        """Whether one ε holds for all samples."""
        return isinstance(self.epsilon, Budget) or len(torch.as_tensor(self.epsilon).unique()) == 1

    def _check_patch(self) -> None:
        if self.norm != "patch" and (self.mask is not None or tuple(self.place) != (0.5, 0.5)):
            raise OptionError(f"mask and place do not go with {self.norm}.", "Accepted with: norm='patch'.")
        if len(self.place) != 2:
            raise OptionError(f"place={self.place!r} is not accepted.", "Accepted: two shares (down, right).")
        for value in self.place:
            number("place", value, 0.0, 1.0)
        mask = self.mask
        if mask is not None and not (
            isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and mask.dim() in (2, 3)
        ):
            raise OptionError("The mask is not accepted.", "Accepted: a bool tensor H×W or N×H×W.")
        if mask is not None:
            share = mask.double().mean(dim=(-2, -1)).cpu()
            if share.dim() and torch.as_tensor(self.epsilon).numel() not in (1, len(share)):
                raise OptionError(
                    f"{len(share)} masks for {torch.as_tensor(self.epsilon).numel()} values of epsilon.",
                    "Give one, or one per sample.",
                )
            if bool((share > torch.as_tensor(self.epsilon, dtype=torch.float64).cpu() + 1e-9).any()):
                raise OptionError(
                    f"The mask covers {float(share.max()):.3g} of the picture, more than epsilon.",
                    "Give epsilon as the share of the area that the mask covers, or 1.",
                )

    def epsilons(self, count: int) -> torch.Tensor:
        """Return ε of each of `count` samples: float64 tensor of that length.

        Raises:
            OptionError: one ε per sample was given, for another number of samples; or a budget that has no size yet.
        """
        if isinstance(self.epsilon, Budget):
            raise OptionError(f"{self.epsilon.words} under {self.norm} has no size yet.", "Call sized(3·H·W) first.")
        values = torch.as_tensor(self.epsilon, dtype=torch.float64).detach().cpu()
        if values.dim() == 1 and len(values) != count:
            raise OptionError(f"{len(values)} values of epsilon for {count} samples.", "Give one, or one per sample.")
        return values.expand(count).clone()

    def around(self, pixels: torch.Tensor) -> Region:
        """Return the region this threat model allows around clean pixels (N×3×H×W in [0, 1]).

        Raises:
            DataError: pixels outside [0, 1] or not finite (were they normalised already?).
        """
        _check_pixels(pixels)
        if isinstance(self.epsilon, Budget):
            return self.sized(pixels[0].numel()).around(pixels)
        epsilon = self.epsilons(len(pixels)).to(pixels).view(-1, *[1] * (pixels.dim() - 1))
        return region_class(self.norm).build(pixels.detach(), epsilon, self)

    def masks(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return where a patch may change pixels N×3×H×W: bool N×1×H×W on their device.

        A square's side is the largest whole number of pixels whose area is within the share ε.

        Raises:
            OptionError: the mask given does not fit the pixels.
        """
        count, (height, width) = len(pixels), pixels.shape[-2:]
        epsilon = self.epsilons(count)
        if self.mask is not None:
            mask = self.mask if self.mask.dim() == 3 else self.mask.expand(count, *self.mask.shape)
            if tuple(mask.shape) != (count, height, width):
                raise OptionError(
                    f"The mask is {tuple(self.mask.shape)} for pixels {tuple(pixels.shape)}.",
                    f"Accepted: {height}×{width}, or {count}×{height}×{width}.",
                )
            return mask.unsqueeze(1).to(pixels.device)
        masks = torch.zeros(count, 1, height, width, dtype=torch.bool)
        for row, share in enumerate(epsilon.tolist()):
            side = min(int(math.sqrt(share * height * width) + 1e-9), height, width)
            top = min(max(round(self.place[0] * height - side / 2), 0), height - side)
            left = min(max(round(self.place[1] * width - side / 2), 0), width - side)
            if share >= 1:
                masks[row] = True
            masks[row, :, top : top + side, left : left + side] = True
        return masks.to(pixels.device)

    def describe(self) -> dict[str, object]:
        """Return plain values for reports: norm and ε (a list where per sample, words where it has no size yet)."""
        if isinstance(self.epsilon, Budget):
            return {"norm": self.norm, "epsilon": self.epsilon.words}
        epsilon = torch.as_tensor(self.epsilon, dtype=torch.float64)
        extra: dict[str, object] = {}
        if self.norm == "patch":
            extra = {"place": list(self.place)} if self.mask is None else {"mask": f"{int(self.mask.sum())} positions"}
        return {"norm": self.norm, "epsilon": epsilon.tolist()} | extra


def _check_pixels(pixels: torch.Tensor) -> None:
    if pixels.dim() < 2 or not pixels.is_floating_point():
        raise DataError(
            f"Pixels are {pixels.dtype} of shape {tuple(pixels.shape)}.", "Accepted: floating point, N×3×H×W in [0, 1]."
        )
    if pixels.numel() == 0:
        raise DataError("The batch holds no image.", "Give at least one.")
    low, high = (float(v) for v in pixels.detach().aminmax())
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"Pixels range from {low:.4g} to {high:.4g}, outside [0, 1].",
            "Give un-normalised pixels: the model normalises inside.",
        )
