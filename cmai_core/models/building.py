"""From a checked configuration and a file of weights to an open_clip model.

As `open_clip.create_model` does it, with two differences: it takes the configuration as values instead of reading it
from a name, so that what has been checked is what is built; and it never fetches the weights of a tower on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.errors import ModelError
from cmai_core.models.guard import guarded
from cmai_core.models.sizes import check_memory

if TYPE_CHECKING:
    import torch
    from torch import nn


def build_model(
    model_cfg: Mapping[str, Any],
    preprocess_cfg: Mapping[str, Any],
    where: str,
    weights: Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build an open_clip model on the CPU in float32.

    Args:
        model_cfg, preprocess_cfg: of a checked configuration, or of open_clip's own. where: what to call it in errors.
        weights: a file of `weights.checked_weights`; None: random weights of the seed. The global random state is left
            as found.

    Raises:
        ModelError: it is too large for this machine, cannot be built, or the weights cannot be read or do not fit.
    """
    import torch
    from open_clip.factory import load_checkpoint
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    from cmai_core.models.architectures import initialise_decoder

    stored = weights.stat().st_size if weights is not None else 0
    check_memory(model_cfg, where, stored=stored)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = guarded(lambda: instantiate(model_cfg, "cpu"), where)
        if weights is None and getattr(model, "text_decoder", None) is not None:
            initialise_decoder(model)
    if weights is not None:
        guarded(lambda: load_checkpoint(model, str(weights), strict=True, weights_only=True, device="cpu"), where)
    preprocess = merge_preprocess_dict(PreprocessCfg(), dict(preprocess_cfg))
    if hasattr(model.visual, "image_size"):
        preprocess["size"] = model.visual.image_size
    set_model_preprocess_cfg(model, preprocess)
    return model


def instantiate(model_cfg: Mapping[str, Any], device: str) -> nn.Module:
    """Build the open_clip model of a `model_cfg` with initial weights; on "meta" it has shapes and no contents.

    Raises:
        ModelError: it cannot be built, or the configuration of its Hugging Face text tower cannot be had.
    """
    import torch
    from open_clip.coca_model import CoCa
    from open_clip.model import CustomTextCLIP

    from cmai_core.models.tokenizer_files import tower_folder

    arguments = {key: value for key, value in deepcopy(dict(model_cfg)).items() if key != "custom_text"}
    if arguments.get("multimodal_cfg") is None:
        arguments.pop("multimodal_cfg", None)
    # The weights of the whole model follow; those of a single tower are never fetched.
    arguments["vision_cfg"]["timm_model_pretrained"] = False
    arguments["text_cfg"]["hf_model_pretrained"] = False
    if name := arguments["text_cfg"].get("hf_model_name"):
        arguments["text_cfg"]["hf_model_name"] = str(tower_folder(name))
    kind = CoCa if "multimodal_cfg" in arguments else CustomTextCLIP
    with torch.device(device):
        return guarded(lambda: kind(**arguments), "the architecture")


def refuse_non_finite(weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse weights by name with a value that is not a number, or not a finite one.

    Raises:
        ModelError: names the first such weight.
    """
    import torch

    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"The weights of {where} are damaged: {name} has values that are not finite.",
                "Fetch or save the model again; a training that ends so has diverged.",
            )
