"""`open_clip_config.json`, key by key: what a model folder or repository may say, and nothing else reaches a loader.

A configuration comes from strangers. open_clip hands parts of it on as keyword arguments: to a tokenizer's loader
(where `trust_remote_code` runs the repository's Python), to timm (whose model names can be addresses), to transformers
(names of other repositories, or paths of this machine). So every key is listed here with the values that it may have;
any other is refused. Sizes are bounded, so that a configuration alone cannot ask for more than a machine can hold.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cmai_core.errors import ModelError
from cmai_core.models.jsonfile import read_object

CONFIG_FILE = "open_clip_config.json"
_MOST_BYTES = 1 << 20
_HINT = "A configuration holds model_cfg and preprocess_cfg as open_clip writes them; nothing else is passed on."

# A rule gives the value as it is passed on, or raises ValueError with what would be right.
Rule = Callable[[Any], Any]


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a configuration: `model_cfg` and `preprocess_cfg` with known keys and possible values.

    Raises:
        ModelError: not readable, not JSON, a key that is not known, a value that cannot be.
    """
    return checked_config(read_object(path, _MOST_BYTES), str(path))


def checked_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of a configuration that holds only what is known.

    Args:
        config: contents of an `open_clip_config.json`. where: what to call it in errors.

    Raises:
        ModelError: see `read_config`.
    """
    from cmai_core.models.preprocess import Preprocessing

    preprocess = config.get("preprocess_cfg")
    try:
        model = _section(config.get("model_cfg"), _MODEL, "model_cfg")
        for key in ("embed_dim", "vision_cfg", "text_cfg"):
            if model.get(key) is None:
                raise ModelError(f"model_cfg has no {key}.", _HINT)
        preprocess = _section({} if preprocess is None else preprocess, _PREPROCESS, "preprocess_cfg")
        # open_clip takes the side from the image tower, whatever preprocess_cfg says.
        Preprocessing.of(preprocess | {"size": model["vision_cfg"].get("image_size", 224)})
    except ModelError as error:
        raise ModelError(f"{where}: {error.message}", error.hint) from error
    return {"model_cfg": model, "preprocess_cfg": preprocess}


@functools.cache
def known_repositories() -> frozenset[str]:
    """Return the repositories that open_clip's own configurations name for tokenizers and text towers.

    No others are followed.
    """
    import open_clip

    found = set()
    for architecture in open_clip.list_models():
        text = (open_clip.get_model_config(architecture) or {}).get("text_cfg", {})
        found |= {text.get("hf_tokenizer_name"), text.get("hf_model_name")}
    return frozenset(name for name in found if name)


def _section(content: Any, rules: Mapping[str, Rule], name: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ModelError(f"{name} is missing or not an object.", _HINT)
    found = {}
    for key, value in content.items():
        if key not in rules:
            raise ModelError(f"{name} has the key {str(key)[:80]!r}, which is not allowed.", _HINT)
        try:
            found[key] = None if value is None else rules[key](value)
        except ValueError as error:
            if isinstance(error, ModelError):
                raise
            shown = repr(value)
            shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
            raise ModelError(f"{name}.{key} is {shown}; it must be {error}.", _HINT) from error
    return found


def _object(name: str, rules: Mapping[str, Rule]) -> Rule:
    return lambda value: _section(value, rules, name)


def _whole(low: int, high: int) -> Rule:
    def rule(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return rule


def _real(low: float, high: float) -> Rule:
    def rule(value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return value

    return rule


def _yes_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _one_of(*choices: str) -> Rule:
    def rule(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError("one of " + ", ".join(repr(choice) for choice in choices))
        return value

    return rule


def _side(value: Any) -> int | list[int]:
    """One side, or [height, width]; that both are the same is asked where pictures are prepared."""
    one = _whole(1, 4096)
    return [one(side) for side in value] if isinstance(value, list) and len(value) == 2 else one(value)


def _layers(value: Any) -> int | list[int]:
    """Return a transformer's number of layers, or a ResNet's four."""
    if isinstance(value, list):
        if len(value) != 4:
            raise ValueError("a whole number, or four of them")
        return [_whole(1, 128)(number) for number in value]
    return _whole(1, 256)(value)


def _pooler(value: Any) -> bool | str:
    return value if isinstance(value, bool) else _one_of("parallel", "cascade")(value)


def _timm_model(value: Any) -> str:
    """Return a name that timm knows; its addresses (`hf-hub:…`, `local-dir:…`) are not followed."""
    from open_clip.timm_model import timm

    named = isinstance(value, str) and re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", value) is not None
    if not named or not timm.is_model(value.partition(".")[0]):
        raise ValueError("the name of a model of timm")
    return value


def _tower_name(value: Any) -> str:
    if not isinstance(value, str) or value not in known_repositories():
        raise ValueError("a text tower that open_clip's own configurations name, not another repository or a path")
    return value


def _repository(value: Any) -> str:
    """Says that the tokenizer is a Hugging Face one. Where it lies is not decided by this name alone."""
    if not isinstance(value, str) or re.fullmatch(r"|[\w.-]+(/[\w.-]+)?", value) is None or value.startswith("."):
        raise ValueError("the name of a repository, not a path")
    return value


_BLOCKS: dict[str, Rule] = {
    "ls_init_value": _real(0, 1e6),
    "act_kwargs": _object("act_kwargs", {"approximate": _one_of("none", "tanh")}),
    "norm_kwargs": _object("norm_kwargs", {"eps": _real(1e-12, 1)}),
    "block_type": _one_of("default", "custom"),
    **dict.fromkeys(
        ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), _yes_no
    ),
}
_VISION: dict[str, Rule] = {
    **_BLOCKS,
    "layers": _layers,
    "width": _whole(1, 16384),
    "head_width": _whole(1, 16384),
    "mlp_ratio": _real(0.01, 64),
    "patch_size": _side,
    "image_size": _side,
    "patch_dropout": _real(0, 0.99),
    "attentional_pool": _pooler,
    "attn_pooler_queries": _whole(1, 65536),
    "attn_pooler_heads": _whole(1, 1024),
    "no_ln_pre": _yes_no,
    "pos_embed_type": _one_of("learnable", "sin_cos_2d"),
    "final_ln_after_pool": _yes_no,
    "pool_type": _one_of("tok", "avg", "none"),
    "output_tokens": _yes_no,
    "timm_model_name": _timm_model,
    "timm_model_pretrained": _yes_no,
    "timm_pool": _one_of("", "avg", "max", "avgmax", "fast", "token", "map", "abs_attn", "rot_attn"),
    "timm_proj": _one_of("", "linear", "mlp", "none"),
    "timm_proj_bias": _yes_no,
    "timm_drop": _real(0, 0.99),
    "timm_drop_path": _real(0, 0.99),
}
_TEXT: dict[str, Rule] = {
    **_BLOCKS,
    "context_length": _whole(2, 8192),
    "vocab_size": _whole(2, 1 << 22),
    "hf_tokenizer_name": _repository,
    "tokenizer_mode": _one_of("", "clips"),
    "tokenizer_kwargs": _object(
        "tokenizer_kwargs",
        {"clean": _one_of("lower", "canonicalize", "whitespace"), "strip_sep_token": _yes_no},
    ),
    "width": _whole(1, 16384),
    "heads": _whole(1, 1024),
    "layers": _whole(1, 256),
    "mlp_ratio": _real(0.01, 64),
    "embed_cls": _yes_no,
    "pad_id": _whole(0, 1 << 22),
    "eos_id": _whole(0, 1 << 22),
    "no_causal_mask": _yes_no,
    "final_ln_after_pool": _yes_no,
    "pool_type": _one_of("argmax", "eos", "first", "last"),
    "proj_bias": _yes_no,
    "proj_type": _one_of("linear", "none"),
    "output_tokens": _yes_no,
    "hf_model_name": _tower_name,
    "hf_model_pretrained": _yes_no,
    "hf_proj_type": _one_of("linear", "mlp"),
    "hf_pooler_type": _one_of("mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler"),
}
_MULTIMODAL: dict[str, Rule] = {
    **{name: rule for name, rule in _TEXT.items() if not name.startswith(("hf_", "tokenizer_"))},
    "dim_head": _whole(1, 16384),
    "n_queries": _whole(1, 65536),
    "attn_pooler_heads": _whole(1, 1024),
}
_MODEL: dict[str, Rule] = {
    "embed_dim": _whole(1, 16384),
    "vision_cfg": _object("vision_cfg", _VISION),
    "text_cfg": _object("text_cfg", _TEXT),
    "multimodal_cfg": _object("multimodal_cfg", _MULTIMODAL),
    "custom_text": _yes_no,
    "quick_gelu": _yes_no,
    "init_logit_scale": _real(-100, 100),
    "init_logit_bias": _real(-1e4, 1e4),
    "nonscalar_logit_scale": _yes_no,
    "pad_id": _whole(0, 1 << 22),
}
_PREPROCESS: dict[str, Rule] = {
    # The values are judged together, by `Preprocessing`; here only the keys.
    **dict.fromkeys(("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"), lambda value: value),
}
