"""A vision transformer's first layer as a matrix product.

Patches do not overlap, so the convolution that embeds them is a linear map of each. Its backward pass to the pixels,
which every step of an attack needs, takes most of the first layer's time as a convolution on a CPU and little as a
product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def embed_patches(visual: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Embed the patches as open_clip's `VisionTransformer._embeds` does: N×(1+P)×W tokens, the class token first.

    Args:
        visual: an open_clip `VisionTransformer`. x: N×3×S×S normalised pixels, S a multiple of the patch size.
    """
    weight = visual.conv1.weight
    width, channels, height, across = weight.shape
    rows, columns = x.shape[-2] // height, x.shape[-1] // across
    patches = x.reshape(len(x), channels, rows, height, columns, across).permute(0, 2, 4, 1, 3, 5)
    tokens = F.linear(patches.reshape(len(x), rows * columns, -1), weight.reshape(width, -1), visual.conv1.bias)
    first = visual.class_embedding.to(tokens.dtype).expand(len(x), 1, -1)
    tokens = torch.cat([first, tokens], dim=1) + visual.positional_embedding.to(tokens.dtype)
    return visual.ln_pre(visual.patch_dropout(tokens))
