"""`BaseModel`: what a new family of models starts from.

A family needs `image_features`, `text_features`, `logit_scale`, `embed_dim`, `context_length` and `vocabulary_size`;
everything else follows: pixels and texts going in, S_c, attacks, tasks, evaluation and pixel attribution. With
`has_decoder`, `text_states` and `fusion_logits` it also answers and writes captions. What it does not override says
that this model cannot do it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cmai_core.errors import ModelError
from cmai_core.models.consistency import Consistency
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.models.preprocess import Preprocessing
from cmai_core.models.protocol import Capabilities
from cmai_core.models.streams import Stream, no_stream
from cmai_core.models.towers import TextParts, TrainableTowers, VisionParts, no_image_attention, no_text_attention

Self = TypeVar("Self", bound="BaseModel")


class BaseModel(Consistency):
    """A vision-language model of any family.

    Args:
        network: everything that has weights, except consistency heads.
        tokenizer: an open_clip tokenizer, or what has its methods.
        preprocessing: size and normalisation of pictures.
        heads: consistency heads; None: S_c is the cosine of the embeddings, and there is no V_verify.
        others: as for `ModelCore`.

    Raises:
        ModelError: heads that do not fit the model.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        preprocessing: Preprocessing,
        *,
        heads: ConsistencyHeads | None = None,
        files: Sequence[str | Path | None] = (),
        **others: Any,
    ):
        super().__init__(network, tokenizer, preprocessing, files=files, **others)
        self.heads = heads
        self._loaded_version = self.weights_version

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do beyond comparing pictures with texts."""
        return Capabilities(
            decodes=self.has_decoder,
            verifies=self.heads is not None,
            reads_distributions=self.reads_distributions,
            image_attention=_works(self.image_attention),
            text_attention=_works(self.text_attention),
            image_stream=self._streams[0],
            text_stream=self._streams[1],
            trainable=_works(self.trainable),
        )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The only texts that the model knows, where it is a classifier; None where it reads any."""
        return None

    # Recording

    def image_attention(self) -> VisionParts:
        """Return the attentions of the image tower, to be recorded.

        Raises:
            ModelError: it gives out none.
        """
        raise no_image_attention(self.image_tower, self.name)

    def text_attention(self) -> TextParts:
        """Return the attentions of the text tower, to be recorded.

        Raises:
            ModelError: it gives out none.
        """
        raise no_text_attention(self._network, self.name)

    def decoder_attention(self) -> dict[str, nn.MultiheadAttention]:
        """Return name → cross-attention of the decoder (text tokens over image tokens), to be recorded.

        Raises:
            ModelError: there is no decoder, or it gives out none.
        """
        raise ModelError(
            f"{self.name} has no multimodal decoder, so there is no attention from words to image.",
            "Choose a CoCa model, such as tabletop.",
        )

    # Patching

    @property
    def _streams(self) -> tuple[bool, bool]:
        """Whether `image_stream` and `text_stream` work, without a pass."""
        return False, False

    def image_stream(self, pixels: torch.Tensor) -> Stream:
        """Return the image tower's residual stream of pixels N×3×S×S in [0, 1], to be read and patched.

        Raises:
            ModelError: it is no transformer whose layers are known here.
        """
        raise no_stream("image tower", self.image_tower, self.name)

    def text_stream(self, texts: Sequence[str] | torch.Tensor) -> Stream:
        """Return the text tower's residual stream of strings or ids, to be read and patched.

        Raises:
            ModelError: it is no transformer whose layers are known here.
        """
        raise no_stream("text tower", self._network, self.name)

    # Weights

    @property
    def image_tower(self) -> nn.Module:
        """The module that pictures go through; where it cannot be told apart, the whole network."""
        return self._network

    def with_image_tower(self: Self, tower: nn.Module, name: str | None = None) -> Self:
        """Return a model that shares everything with this one except its image tower.

        Args:
            tower: of the same architecture. name: of the new model (None: this one's).
        """
        if self.image_tower is self._network:
            return self.with_network(tower, name)
        found = next(key for key, child in self._network.named_children() if child is self.image_tower)
        network = copy.copy(self._network)
        network.__dict__["_modules"] = dict(self._network._modules) | {found: tower}
        return self.with_network(network, name)

    def trainable(self) -> TrainableTowers:
        """Return the modules that a training changes.

        Raises:
            ModelError: the trainings here do not know models of this kind.
        """
        raise ModelError(f"{self.name} cannot be trained here.", "Give a CoCa, such as a bundled model.")


def _works(ask: Any) -> bool:
    try:
        ask()
    except ModelError:
        return False
    return True
