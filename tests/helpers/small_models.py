"""Small random CoCa and CLIP models, real in every part; tests of several folders build theirs here."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

_COCA = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 24,
        "layers": 2,
        "head_width": 12,
        "output_tokens": True,
        "attentional_pool": True,
        "attn_pooler_queries": 6,
        "attn_pooler_heads": 4,
    },
    "text_cfg": {
        "context_length": 48,
        "vocab_size": 1024,
        "hf_tokenizer_name": "cmai-tabletop",
        "width": 32,
        "heads": 4,
        "layers": 2,
        "embed_cls": True,
        "output_tokens": True,
        "pad_id": 0,
        "eos_id": 2,
    },
    "multimodal_cfg": {"context_length": 48, "vocab_size": 1024, "width": 32, "heads": 4, "layers": 2},
    "custom_text": True,
}
_PREPROCESS = {
    "size": [32, 32],
    "mode": "RGB",
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def small_coca(seed: int = 0, preprocess: dict[str, Any] | None = None, **vision: Any) -> Any:
    """Make a CoCa in its wrapper, in training mode with gradients.

    Args:
        preprocess: other settings of the preprocessing. vision: other settings of the image tower.
    """
    import torch

    from cmai_core.models import OpenClipModel
    from cmai_core.models.architectures import build_from_config
    from cmai_core.models.families.bundled import bundled_tokenizer

    config = {"model_cfg": deepcopy(_COCA), "preprocess_cfg": deepcopy(_PREPROCESS) | (preprocess or {})}
    config["model_cfg"]["vision_cfg"] |= vision
    generator = torch.Generator().manual_seed(seed)
    clip = build_from_config(config["model_cfg"], config["preprocess_cfg"], generator)
    return OpenClipModel(clip, bundled_tokenizer(), spec="small", config=config, card={"domain": "tabletop"})


def small_clip(
    custom_text: bool = True, vision: dict[str, Any] | None = None, preprocess: dict[str, Any] | None = None
) -> Any:
    """Make a plain CLIP (`CustomTextCLIP` or the older `CLIP`) in its wrapper, in evaluation mode.

    Args:
        vision: settings of another image tower. preprocess: other settings of the preprocessing.
    """
    import open_clip
    import torch
    from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg

    from cmai_core.models import OpenClipModel

    vision = vision or {"image_size": 32, "patch_size": 8, "width": 24, "layers": 2, "head_width": 12}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        clip = (CustomTextCLIP if custom_text else CLIP)(16, vision, text)
    set_model_preprocess_cfg(clip, _PREPROCESS | (preprocess or {}))
    return OpenClipModel(clip.eval(), open_clip.get_tokenizer("ViT-B-32"), spec="small-clip")


def small_verifier(seed: int = 4, inner: int = 8) -> Any:
    """Make a CoCa with consistency heads, in evaluation mode.

    Args:
        seed: of the heads. inner: width of their own space.
    """
    import torch

    from cmai_core.models.heads import ConsistencyHeads

    made = small_coca()
    made.heads = ConsistencyHeads(made.head_sizes(inner), torch.Generator().manual_seed(seed))
    for module in made.modules():
        module.eval()
    return made
