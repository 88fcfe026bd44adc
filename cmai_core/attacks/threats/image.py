"""Threat models on images: which norm, how much, and the region of pixels they allow."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from cmai_core.attacks.result import LEVELS, round_to_8bit
from cmai_core.budget import Budget
from cmai_core.errors import DataError, OptionError
from cmai_core.options import number, one_of, strict_options

NORMS = ("linf", "l2", "l0", "patch")

# The largest ε of each norm, and the accepted values in words.
RANGES = {
    "linf": (1.0, "numbers from 0 to 1, such as 4/255"),
    "l2": (math.inf, "finite numbers from 0"),
    "l0": (math.inf, "numbers of pixel positions: 0, or finite ones from 1"),
    "patch": (1.0, "shares of the area from 0 to 1, such as 0.05"),
}

# What single precision may add to a level: of 1/255 a thousandth.
SLACK = 1e-3


@strict_options
@dataclass(frozen=True, eq=False)
class ThreatModel:
    """What the attacker may change: a bound ε on adversarial − clean, while pixels stay in [0, 1].

    Attributes:
        norm: "linf" (largest change of any pixel value), "l2" (Euclidean length over all 3·H·W values), "l0" (how many
            pixel positions change, all channels together, each as far as it likes), or "patch" (whatever lies under a
            mask may be replaced altogether).
        epsilon: in pixel units of [0, 1] (4/255, not 4) for linf (at most 1) and l2; positions for l0; for patch the
            share of the picture's area, at most 1. One number, or one per sample (sequence or 1-D tensor). Or a
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
        one_of("norm", self.norm, NORMS)
        self._take_budget()
        if isinstance(self.epsilon, Budget):
            return
        try:
            values = torch.as_tensor(self.epsilon, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"epsilon={self.epsilon!r} is not a number.", "Accepted: a number, or one per sample."
            ) from error
        highest, accepted = RANGES[self.norm]
        if values.dim() > 1 or values.numel() == 0:
            raise OptionError(
                f"epsilon has shape {tuple(values.shape)}.",
                "Accepted: one number, or a 1-D sequence with one per sample.",
            )
        fits = torch.isfinite(values) & (values >= 0) & (values <= highest)
        if self.norm == "l0":  # a share of a position, or an ε meant for another norm, would silently change nothing
            fits &= (values == 0) | (values >= 1)
        if not bool(fits.all()):
            raise OptionError(f"epsilon={self.epsilon!r} is not accepted for {self.norm}.", f"Accepted: {accepted}.")
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
                    f"{len(share)} masks for {len(self.epsilon)} values of epsilon.", "Give one, or one per sample."
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
        """The region this threat model allows around clean pixels (N×3×H×W in [0, 1]).

        Raises:
            DataError: pixels outside [0, 1] or not finite (were they normalised already?).
        """
        _check_pixels(pixels)
        if isinstance(self.epsilon, Budget):
            return self.sized(pixels[0].numel()).around(pixels)
        epsilon = self.epsilons(len(pixels)).to(pixels).view(-1, *[1] * (pixels.dim() - 1))
        if self.norm == "patch":
            return PatchRegion.build(pixels.detach(), epsilon, self.masks(pixels))
        kinds = {"linf": LinfRegion, "l2": L2Region, "l0": L0Region}
        return kinds[self.norm].build(pixels.detach(), epsilon)

    def masks(self, pixels: torch.Tensor) -> torch.Tensor:
        """Where a patch may change pixels N×3×H×W: bool N×1×H×W on their device.

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

    def describe(self) -> dict:
        """Return plain values for reports: norm and ε (a list where per sample, words where it has no size yet)."""
        if isinstance(self.epsilon, Budget):
            return {"norm": self.norm, "epsilon": self.epsilon.words}
        epsilon = torch.as_tensor(self.epsilon, dtype=torch.float64)
        extra = {}
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


@dataclass(frozen=True, eq=False)
class Region(ABC):
    """The set of images allowed around each clean one, with what a search needs to move in it.

    Attributes:
        centre: clean pixels N×3×H×W.
        epsilon: N×1×1×1.
        lower, upper: elementwise limits (ball ∩ box for linf, the box [0, 1] for l2).
    """

    centre: torch.Tensor
    epsilon: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor

    def select(self, rows: torch.Tensor) -> Region:
        """The region of some rows only."""
        return type(self)(self.centre[rows], self.epsilon[rows], self.lower[rows], self.upper[rows])

    @property
    def reach(self) -> torch.Tensor:
        """How far a step may usefully be, N×1×1×1 in pixel units: ε where ε is a length, else the whole range 1."""
        return self.epsilon

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        """Perturbations brought into the ball, the box left aside."""
        raise OptionError(f"One perturbation for all does not go with {type(self).__name__}.", "Accepted: linf, l2.")

    def compose(self, shared: torch.Tensor) -> torch.Tensor:
        """The images that one shared perturbation 1×3×H×W gives."""
        return self.project(self.centre + shared)

    def content(self, shared: torch.Tensor) -> torch.Tensor:
        """The shared perturbation as it is handed out."""
        return shared

    @abstractmethod
    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        """How far pixels lie from the centre, in the units of ε: length N."""

    @abstractmethod
    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        """The given images brought back into the region."""

    def rounded(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures of the region in multiples of 1/255, as files hold them, near to the given ones of the region.

        Rounding to the nearest level may leave the ball; here what must goes back towards the clean picture by one
        level. Where the clean picture is no picture of 8 bits itself, no such picture may lie within a small ε, and the
        nearest one stands.
        """
        return round_to_8bit(pixels)

    @abstractmethod
    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Steepest ascent of unit length in this region's norm (0 where the gradient is 0)."""

    @abstractmethod
    def random(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """One random image of the region per sample, each from its own generator."""


class LinfRegion(Region):
    """|δ| ≤ ε elementwise, within the box: one clamp projects exactly."""

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor) -> LinfRegion:
        return cls(centre, epsilon, (centre - epsilon).clamp_(min=0.0), (centre + epsilon).clamp_(max=1.0))

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.clamp(pixels, self.lower, self.upper)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.sign()

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.centre).abs().flatten(1).amax(dim=1)

    def rounded(self, pixels: torch.Tensor) -> torch.Tensor:
        levels = (pixels * LEVELS).round()
        low, high = (self.lower * LEVELS - SLACK).ceil(), (self.upper * LEVELS + SLACK).floor()
        return torch.where(low <= high, torch.clamp(levels, low, high), levels) / LEVELS

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        return torch.clamp(delta, -self.epsilon, self.epsilon)

    def random(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype
        uniform = torch.stack([torch.rand(shape, generator=g, dtype=dtype) for g in generators])
        return self.project(self.lower + uniform.to(self.centre.device) * (self.upper - self.lower))


class L2Region(Region):
    """‖δ‖₂ ≤ ε within the box.

    Projection scales δ into the ball, then clamps to the box; the clamp shortens δ elementwise (the centre lies in
    the box), so the result lies in both. It is the exact projection wherever the box is not touched.
    """

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor) -> L2Region:
        return cls(centre, epsilon, torch.zeros_like(centre), torch.ones_like(centre))

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        delta = pixels - self.centre
        scale = (self.epsilon / _length(delta)).clamp(max=1.0)
        return torch.clamp(self.centre + delta * scale, self.lower, self.upper)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / _length(gradient)

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.centre).flatten(1).norm(dim=1)

    def rounded(self, pixels: torch.Tensor) -> torch.Tensor:
        """Values are set back first where that is nearest to what was asked for, for what it takes off the length."""
        wished, clean = ((x.flatten(1) * LEVELS).cpu().double() for x in (pixels, self.centre))
        levels = wished.round()
        moved = levels - clean
        nearer = levels - moved.sign()
        shortens = moved**2 - (nearer - clean) ** 2
        price = (nearer - wished) ** 2 - (levels - wished) ** 2
        order = torch.where(shortens > 0, price / shortens, torch.inf).argsort(dim=1, stable=True)
        taken = shortens.clamp(min=0).gather(1, order)
        over = (moved**2).sum(dim=1, keepdim=True) - (self.epsilon.flatten(1).cpu().double() * LEVELS) ** 2
        needed = taken.cumsum(dim=1) - taken < over  # what the ones before it leave
        back = torch.zeros_like(needed).scatter(1, order, needed & (taken > 0))
        return (torch.where(back, nearer, levels) / LEVELS).to(pixels).view_as(pixels)

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        return delta * (self.epsilon / _length(delta)).clamp(max=1.0)

    def random(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype
        dimensions = math.prod(shape)
        draws = []
        for generator in generators:
            normal = torch.randn(shape, generator=generator, dtype=dtype)
            radius = torch.rand((), generator=generator, dtype=torch.float64) ** (1.0 / dimensions)
            draws.append(normal / normal.norm().clamp(min=1e-12) * radius.to(dtype))
        return self.project(self.centre + self.epsilon * torch.stack(draws).to(self.centre.device))


class L0Region(Region):
    """At most ε pixel positions differ from the centre, within the box.

    Projection is exact (Croce & Hein 2019, "Sparse and imperceivable adversarial attacks", §4.1): a position is kept
    where clamping it to the box saves most of its squared change. Steps follow the gradient scaled to a largest entry
    of 1, so that the magnitudes decide which positions survive.
    """

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor) -> L0Region:
        return cls(centre, epsilon, torch.zeros_like(centre), torch.ones_like(centre))

    @property
    def reach(self) -> torch.Tensor:
        return torch.ones_like(self.epsilon)

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        boxed = torch.clamp(pixels, self.lower, self.upper)
        gain = ((pixels - self.centre) ** 2 - (pixels - boxed) ** 2).sum(dim=1).flatten(1)
        order = gain.argsort(dim=1, descending=True, stable=True)
        ranks = torch.empty_like(order).scatter_(
            1, order, torch.arange(gain.shape[1], device=gain.device).expand_as(order)
        )
        kept = (ranks < self.epsilon.flatten(1).floor()).view(len(pixels), 1, *pixels.shape[2:])
        return torch.where(kept, boxed, self.centre)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        largest = gradient.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
        return gradient / largest.view(-1, *[1] * (gradient.dim() - 1))

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        return changed_positions(pixels, self.centre).to(pixels)

    def random(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype
        draws = []
        for generator, epsilon in zip(generators, self.epsilon.flatten().tolist(), strict=True):
            uniform = torch.rand(shape, generator=generator, dtype=dtype)
            chosen = torch.randperm(shape[-2] * shape[-1], generator=generator) < int(epsilon)
            draws.append(torch.where(chosen.view(1, *shape[-2:]), uniform, torch.nan))
        drawn = torch.stack(draws).to(self.centre.device)
        return torch.where(drawn.isnan(), self.centre, drawn)


class PatchRegion(LinfRegion):
    """Any value in [0, 1] under a mask, the clean one elsewhere."""

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor, mask: torch.Tensor) -> PatchRegion:
        lower = torch.where(mask, torch.zeros_like(centre), centre)
        return cls(centre, epsilon, lower, torch.where(mask, torch.ones_like(centre), centre))

    @property
    def mask(self) -> torch.Tensor:
        """Bool N×1×H×W: where pixels may change."""
        return (self.upper > self.lower).any(dim=1, keepdim=True)

    @property
    def reach(self) -> torch.Tensor:
        return torch.ones_like(self.epsilon)

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        """Share of the picture's area that changed."""
        return changed_positions(pixels, self.centre).to(pixels) / pixels[0, 0].numel()

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        return torch.clamp(delta, -0.5, 0.5)

    def compose(self, shared: torch.Tensor) -> torch.Tensor:
        """One content for all: what is shared is its deviation from mid-grey."""
        return torch.where(self.mask, self.content(shared), self.centre)

    def content(self, shared: torch.Tensor) -> torch.Tensor:
        return 0.5 + shared


def changed_positions(pixels: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """How many pixel positions differ in any channel: int64 of length N."""
    return (pixels != clean).any(dim=1).flatten(1).sum(dim=1)


def _length(x: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each sample, N×1×1×1, at least a tiny number so that it may divide."""
    norm = x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
    return norm.view(-1, *[1] * (x.dim() - 1))
