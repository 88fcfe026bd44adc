"""Vision-language models: loading, wrapping, saving. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmai_core.lazy import lazily
from cmai_core.models.registry import ModelCard, bundled_models, load_model, new_model

if TYPE_CHECKING:
    from cmai_core.models.save import save_local_dir
    from cmai_core.models.text_tower import TextFeatures
    from cmai_core.models.wrapper import ImageFeatures, VisionLanguageModel

__all__ = [
    "ImageFeatures",
    "ModelCard",
    "TextFeatures",
    "VisionLanguageModel",
    "bundled_models",
    "load_model",
    "new_model",
    "save_local_dir",
]

_LAZY = {
    "ImageFeatures": "cmai_core.models.wrapper",
    "VisionLanguageModel": "cmai_core.models.wrapper",
    "TextFeatures": "cmai_core.models.text_tower",
    "save_local_dir": "cmai_core.models.save",
}

__getattr__ = lazily(__name__, _LAZY)
