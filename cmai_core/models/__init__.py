"""Vision-language models: loading, what they answer, saving. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmai_core.lazy import lazily
from cmai_core.models.cards import ModelCard
from cmai_core.models.families.bundled import bundled_models, new_model
from cmai_core.models.loading import load_model

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures, TextFeatures
    from cmai_core.models.open_clip_model import OpenClipModel
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.models.save import save_local_dir

__all__ = [
    "ImageFeatures",
    "ModelCard",
    "OpenClipModel",
    "TextFeatures",
    "VisionLanguageModel",
    "bundled_models",
    "load_model",
    "new_model",
    "save_local_dir",
]

_LAZY = {
    "ImageFeatures": "cmai_core.models.features",
    "OpenClipModel": "cmai_core.models.open_clip_model",
    "TextFeatures": "cmai_core.models.features",
    "VisionLanguageModel": "cmai_core.models.protocol",
    "save_local_dir": "cmai_core.models.save",
}

__getattr__ = lazily(__name__, _LAZY)
