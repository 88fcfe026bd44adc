"""The architectures of the bundled CoCa models (Yu et al. 2022, arXiv 2205.01917, in open_clip's form).

All read 128×128 images in 16×16 patches and texts of up to 48 tokens, and stay under 8 MB in half precision.

- `tabletop`: ViT of width 120, 4 layers, pooled at the class token; the decoder sees the 64 patch tokens.
- `tabletop-2`: the same with 5 layers, for the second comparison.
- `tabletop-b`: another image tower, for transfer: width 96, 6 layers, an attentional pooler with 33 queries, of which
  one is the image embedding and 32 are the decoder's image tokens.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from cmai_core.errors import ModelError
from cmai_core.models.tokenizer import CONTEXT_LENGTH, EOS_ID, PAD_ID, VOCABULARY_SIZE

if TYPE_CHECKING:
    import torch
    from torch import nn

IMAGE_SIZE = 128

PREPROCESS: dict[str, Any] = {
    "size": [IMAGE_SIZE, IMAGE_SIZE],
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def _coca(width: int, vision: dict[str, Any]) -> dict[str, Any]:
    """Return the open_clip `model_cfg` of a CoCa whose towers and shared space all have the given width."""
    return {
        "embed_dim": width,
        "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 16, "output_tokens": True, **vision},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": VOCABULARY_SIZE,
            "hf_tokenizer_name": "cmai-tabletop",
            "width": width,
            "heads": 4,
            "layers": 3,
            "mlp_ratio": 3.0,
            "embed_cls": True,
            "output_tokens": True,
            "pad_id": PAD_ID,
            "eos_id": EOS_ID,
        },
        "multimodal_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": VOCABULARY_SIZE,
            "width": width,
            "heads": 4,
            "layers": 2,
        },
        "custom_text": True,
    }


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tabletop": _coca(120, {"width": 120, "layers": 4, "head_width": 30, "mlp_ratio": 4.0, "pool_type": "tok"}),
    "tabletop-2": _coca(120, {"width": 120, "layers": 5, "head_width": 30, "mlp_ratio": 4.0, "pool_type": "tok"}),
    "tabletop-b": _coca(
        112,
        {
            "width": 96,
            "layers": 6,
            "head_width": 32,
            "mlp_ratio": 4.0,
            "attentional_pool": True,
            "attn_pooler_queries": 33,
            "attn_pooler_heads": 4,
        },
    ),
}


def model_config(name: str) -> dict[str, Any]:
    """Return a copy of an architecture's `open_clip_config.json`: keys `model_cfg` and `preprocess_cfg`.

    Raises:
        ModelError: unknown name.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f"Unknown architecture {name!r}.", f"Known: {', '.join(ARCHITECTURES)}.")
    return {"model_cfg": deepcopy(ARCHITECTURES[name]), "preprocess_cfg": deepcopy(PREPROCESS)}


def build(name: str, generator: torch.Generator | None = None) -> nn.Module:
    """Build a freshly initialised open_clip CoCa.

    Args:
        name: a key of `ARCHITECTURES`.
        generator: source of the initial weights (None: seed 0). The global random state is left as found.

    Returns:
        `open_clip.CoCa` on the CPU, in float32, in training mode, with open_clip's preprocessing config attached.
    """
    config = model_config(name)
    return build_from_config(config["model_cfg"], config["preprocess_cfg"], generator)


def build_from_config(
    model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], generator: torch.Generator | None = None
) -> nn.Module:
    """Build a CoCa of any `model_cfg` (see open_clip's `model_configs`)."""
    import torch
    from open_clip.coca_model import CoCa
    from open_clip.model import set_model_preprocess_cfg

    generator = generator or torch.Generator().manual_seed(0)
    arguments = {key: value for key, value in deepcopy(model_cfg).items() if key != "custom_text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        model = CoCa(**arguments)
        initialise_decoder(model)
    set_model_preprocess_cfg(model, dict(preprocess_cfg))
    return model


def initialise_decoder(model: nn.Module) -> None:
    """Give CoCa's decoder the initial weights that open_clip 3.3 means to give it.

    `MultimodalTransformer.__init__` never calls its `init_parameters` (which reads attributes that do not exist), so
    its output projection would stay uninitialised memory. The standard deviations are those of `TextTransformer`.
    """
    from torch import nn

    decoder = model.text_decoder
    attention_std = decoder.width**-0.5
    projection_std = attention_std * (2 * 2 * decoder.layers) ** -0.5
    for block in [*decoder.resblocks, *decoder.cross_attn]:
        nn.init.normal_(block.attn.in_proj_weight, std=attention_std)
        nn.init.zeros_(block.attn.in_proj_bias)
        nn.init.normal_(block.attn.out_proj.weight, std=projection_std)
        nn.init.zeros_(block.attn.out_proj.bias)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * decoder.width) ** -0.5)
        nn.init.zeros_(block.mlp.c_fc.bias)
        nn.init.normal_(block.mlp.c_proj.weight, std=projection_std / math.sqrt(2))
        nn.init.zeros_(block.mlp.c_proj.bias)
    nn.init.normal_(decoder.text_projection, std=attention_std)
