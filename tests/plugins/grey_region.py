"""What the norm of another package allows; imported when it is first projected into."""

import torch

from cmai_core.attacks.threats.regions.linf import LinfRegion


class GreyRegion(LinfRegion):
    """|δ| ≤ ε, the same in all channels, within the box."""

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bring pixels back to the nearest that are allowed."""
        delta = (pixels - self.centre).mean(dim=1, keepdim=True)
        lowest = (self.lower - self.centre).amax(dim=1, keepdim=True)
        highest = (self.upper - self.centre).amin(dim=1, keepdim=True)
        return self.centre + torch.clamp(delta, lowest, highest)
