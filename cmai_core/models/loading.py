"""Loading a model by its specification (see `families/family.py` for what there is)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmai_core.errors import ModelError
from cmai_core.models.devices import pick_device
from cmai_core.models.families.family import LIST_HINT, family_of

if TYPE_CHECKING:
    import torch

    from cmai_core.models.protocol import VisionLanguageModel


def load_model(spec: str, device: str | torch.device | None = None) -> VisionLanguageModel:
    """Load a model in evaluation mode, in float32, with parameters that ask for no gradient.

    Consistency heads come with it where its folder holds some. What is too large for the machine is refused before it
    is built (`sizes`), and what cannot be run before it is returned.

    Args:
        spec: such as `tabletop`, `ViT-B-32/laion2b_s34b_b79k`, `hf-hub:org/repo`, `local-dir:/path`, or of a family
            that an installed package brings.
        device: where to compute; None takes CUDA if there is one, else the CPU.

    Raises:
        ModelError: unknown name, weights that cannot be had or read, unknown device; the hint says what to do.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise ModelError("No model named.", LIST_HINT)
    spec = spec.strip()
    chosen = pick_device(device)
    model = family_of(spec).load(spec)
    for module in model.modules():
        module.training = False
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    _refuse_damaged(model)
    model.to(chosen)
    _rehearse(model)
    return model


def _refuse_damaged(model: VisionLanguageModel) -> None:
    from cmai_core.models.building import refuse_non_finite

    refuse_non_finite(model.state(), model.name)
    if model.heads is not None:
        refuse_non_finite(model.heads.state_dict(), f"the consistency heads of {model.name}")


def _rehearse(model: VisionLanguageModel) -> None:
    """Run everything that a model has once, so that one which cannot run is refused here and not in mid-work.

    Raises:
        ModelError: a pass fails, or answers with what is no number.
    """
    import torch

    from cmai_core.models.guard import guarded

    def passes() -> list[torch.Tensor]:
        images = model.image_features(torch.full((1, 3, model.image_size, model.image_size), 0.5, device=model.device))
        text = f"a photo of a {'cat' if model.classes is None else model.classes[0]}"
        ids = model.trim(model.tokenize([text]))
        texts = model.text_features(ids)
        found = [images.pooled, texts.pooled, images.embedding @ texts.embedding.T, model.logit_scale]
        if model.has_decoder:
            found.append(model.fusion_logits(images.tokens, ids))
        if model.heads is not None:
            found += [model.consistency(images, ids), model.verify(images, ids)]
        return found

    with torch.no_grad():
        found = guarded(passes, f"{model.name}: it cannot be run")
    if not all(bool(torch.isfinite(value).all()) for value in found):
        raise ModelError(
            f"{model.name} is damaged: a grey picture and a short text already give values that are not finite.",
            "Fetch or save the model again.",
        )
