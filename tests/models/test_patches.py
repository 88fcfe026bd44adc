"""The patch embedding as a product gives open_clip's own tokens and gradients."""

import pytest
import torch
from open_clip.transformer import VisionTransformer

from cmai_core.models.patches import embed_patches


@pytest.mark.parametrize("size, patch, no_norm", [(32, 8, False), (48, 16, True)])
def test_tokens_and_gradients_are_those_of_the_convolution(size, patch, no_norm):
    generator = torch.Generator().manual_seed(3)
    visual = VisionTransformer(size, patch, width=24, layers=1, heads=2, mlp_ratio=2.0, no_ln_pre=no_norm).eval()
    pixels = torch.randn(3, 3, size, size, generator=generator)
    direction = torch.randn(3, 1 + (size // patch) ** 2, 24, generator=generator)
    found = []
    for embed in (visual._embeds, lambda x: embed_patches(visual, x)):
        x = pixels.clone().requires_grad_()
        tokens = embed(x)
        found.append((tokens, *torch.autograd.grad((tokens * direction).sum(), [x, visual.conv1.weight])))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5), (ours - theirs).abs().max()
