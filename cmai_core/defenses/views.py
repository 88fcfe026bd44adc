"""A second look at a picture: squeezed, shifted, blurred and noisy copies of it.

What an attack on the plain picture has found rarely survives such a change, what is really there does (feature
squeezing: Xu et al. 2018, arXiv 1704.01155; noise: Roth et al. 2019, arXiv 1902.04818). An attacker who knows of them
climbs through all of them: every view but one is differentiable as it is, and rounding passes gradients as if it
changed nothing (BPDA: Athalye et al. 2018, arXiv 1802.00420, §4.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from cmai_core.defenses.preprocessing import Quantise
from cmai_core.options import number, strict_options, whole
from cmai_core.seeds import sample_generators

NAMES = ("squeezed", "shifted", "blurred", "noisy")
_MOST_BITS = 8


@strict_options
@dataclass(frozen=True, kw_only=True)
class Views:
    """How the copies differ from the picture.

    Attributes:
        bits: of each colour of the squeezed copy, 1 to 8.
        shift: how far the shifted copy is moved right and down, as a share of the side; its border is repeated.
        sigma: standard deviation of the noisy copy's noise in pixel units of [0, 1].
        seed: of the noise, which belongs to (seed, sample id): one and the same at every look, and known to an attacker
            who knows the system.
    """

    bits: int = 5
    shift: float = 1 / 32
    sigma: float = 4 / 255
    seed: int = 0

    def __post_init__(self) -> None:
        whole("bits", self.bits, 1)
        number("bits", self.bits, 1, _MOST_BITS)
        number("shift", self.shift, 0.0, 0.5, above_low=True)
        number("sigma", self.sigma, 0.0, 1.0, above_low=True)
        whole("seed", self.seed, 0)

    def noise(self, ids: Sequence[str], like: torch.Tensor) -> torch.Tensor:
        """Return the noise of some samples, of standard deviation 1: as `like`, N×3×H×W."""
        generators = sample_generators(self.seed, [f"{name}/view" for name in ids], 0)
        drawn = [torch.randn(like.shape[1:], generator=g, dtype=like.dtype) for g in generators]
        return torch.stack(drawn).to(like.device)

    def of(self, pixels: torch.Tensor, noise: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and copy, in the order of NAMES, of pictures N×3×H×W in [0, 1] with their noise."""
        rounded = Quantise(levels=2**self.bits)(pixels)
        yield NAMES[0], pixels + (rounded - pixels).detach()
        yield NAMES[1], self._shifted(pixels)
        yield NAMES[2], _blurred(pixels)
        yield NAMES[3], pixels + self.sigma * noise.to(pixels)

    def _shifted(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[-2:]
        down, right = (max(1, round(self.shift * side)) for side in (height, width))
        return F.pad(pixels, (right, 0, down, 0), mode="replicate")[..., :height, :width]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Return the picture under the binomial filter (1, 2, 1)/4 both ways."""
    row = torch.tensor([0.25, 0.5, 0.25], dtype=pixels.dtype, device=pixels.device)
    kernel = (row[:, None] * row[None, :]).expand(pixels.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=pixels.shape[1])
