"""What leads from the image tower to the decoder, as ProEAT's first stage trains it alone."""

from __future__ import annotations

from torch import nn


def projector(visual: nn.Module) -> list[nn.Parameter]:
    """Return the parameters between an open_clip image tower's features and what decoder and shared space read.

    LLaVA has a projector there (ProEAT, arXiv 2503.04833). Here: the attentional pooler with what follows it, where the
    tower has one; else the last linear map of its last block, and what follows that.
    """
    first = visual.attn_pool if visual.attn_pool is not None else visual.transformer.resblocks[-1].mlp.c_proj
    return [*first.parameters(), *visual.ln_post.parameters(), visual.proj]
