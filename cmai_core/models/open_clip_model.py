"""`OpenClipModel`: an open_clip CoCa, CLIP or CustomTextCLIP as a vision-language model.

Nothing here changes the model: no mode, no flag, no `requires_grad` is touched, and the tokenizer (which is not
thread-safe) is used under a lock, so several threads may share one model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.errors import ModelError
from cmai_core.models import fused_forward, text_tower
from cmai_core.models.base import BaseModel
from cmai_core.models.features import ImageFeatures, TextFeatures
from cmai_core.models.patches import embed_patches
from cmai_core.models.preprocess import Preprocessing
from cmai_core.models.streams import Stream, image_stream, is_plain, text_stream
from cmai_core.models.towers import (
    TextParts,
    TrainableTowers,
    VisionParts,
    decoder_parts,
    text_parts,
    vision_parts,
)


class OpenClipModel(BaseModel):
    """An open_clip model with its tokenizer, preprocessing and card.

    Args:
        clip: `open_clip` CoCa, CustomTextCLIP or CLIP, with `visual.preprocess_cfg` set (open_clip's factory sets it).
        tokenizer: open_clip's tokenizer of that model.
        weights_file, heads_file: where weights and heads were read from; the model's hash is that of the files.
        others: as for `BaseModel`: spec, name, card, config, heads.

    Raises:
        ModelError: heads that do not fit the model; preprocessing that is not possible (see `Preprocessing.of`).
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Any,
        *,
        weights_file: str | Path | None = None,
        heads_file: str | Path | None = None,
        **others: Any,
    ):
        preprocessing = Preprocessing.of(clip.visual.preprocess_cfg)
        super().__init__(clip, tokenizer, preprocessing, files=(weights_file, heads_file), **others)

    @property
    def clip(self) -> nn.Module:
        """The open_clip model itself."""
        return self._network

    # Sizes

    @property
    def logit_scale(self) -> torch.Tensor:
        """Inverse temperature of the contrastive logits, already exponentiated (a scalar tensor)."""
        return self.clip.logit_scale.exp()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.clip.logit_scale.device

    @property
    def context_length(self) -> int:
        """The longest text in tokens, start and end included."""
        return int(getattr(self.clip, "context_length", None) or self.clip.text.context_length)

    @property
    def embed_dim(self) -> int:
        """Length of an embedding."""
        if hasattr(self.image_tower, "output_dim"):
            return int(self.image_tower.output_dim)
        with torch.no_grad():
            zeros = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
            return int(self.image_features(zeros).pooled.shape[1])

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens.

        Raises:
            ModelError: a text tower that is not open_clip's own.
        """
        return int(self._tower().token_embedding.num_embeddings)

    @property
    def patch_grid(self) -> tuple[int, int] | None:
        """(h, w) of the patches that the image tower cuts a picture into; None where it has none."""
        grid = getattr(self.image_tower, "grid_size", None)
        return tuple(grid) if grid is not None else None

    @property
    def preprocess_config(self) -> Mapping[str, Any]:
        """How pictures are resized and normalised, in open_clip's words; part of the address of stored results."""
        return dict(self.image_tower.preprocess_cfg)

    @property
    def reads_distributions(self) -> bool:
        """Whether texts may be distributions over tokens, so that gradients reach the words."""
        return text_tower.text_parts(self.clip) is not None

    @property
    def has_decoder(self) -> bool:
        """Whether it can read image and text together (CoCa), and so answer questions and write captions."""
        return getattr(self.clip, "text_decoder", None) is not None

    # Passes

    def image_features(self, pixels: torch.Tensor) -> ImageFeatures:
        """Run the image tower once, differentiably.

        Args:
            pixels: float N×3×S×S in [0, 1].

        Raises:
            DataError: another shape.
        """
        visual, x = self.image_tower, self.normalise(pixels)
        if not len(pixels):  # open_clip cannot reshape an empty batch
            return self.image_features(pixels.new_zeros(1, *pixels.shape[1:]))[:0]
        if self._own_vit() and fused_forward.pays(visual, x):
            seen = fused_forward.encode(visual, x)
            pooled, tokens = seen.pooled.float(), seen.tokens.float()
        elif self._own_vit():
            pooled, tokens = visual._pool(visual.transformer(embed_patches(visual, x)))
            if visual.proj is not None:
                pooled = pooled @ visual.proj
        else:
            out = visual(x)
            pooled, tokens = out if isinstance(out, tuple) else (out, None)
        return ImageFeatures(F.normalize(pooled, dim=-1), pooled, tokens)

    def text_features(
        self, x: Sequence[str] | torch.Tensor, pad_mask: torch.Tensor | None = None, states: bool = True
    ) -> TextFeatures:
        """Run the text tower once: embedding and token states together.

        Args:
            x: strings; or ids, int64 T×L; or distributions over tokens, float T×L×V (differentiable: the embedding of a
                position is the mean of the token embeddings under its distribution). L ≤ context_length; a shorter L is
                the same as padding.
            pad_mask: bool T×L, True where a position of a distribution is padding. None: where its likeliest token is.
            states: False: the embedding alone (states None), where the tower allows a shorter way to it.

        Raises:
            DataError: another type, shape or length.
            ModelError: distributions given to a text tower that is not open_clip's own.
        """
        ids = self._as_ids(x, pad_mask)
        if not len(ids):  # PyTorch's attention cannot reshape the mask of an empty batch
            none = self.text_features(ids.new_zeros(1, 1))
            return TextFeatures(none.embedding[:0], none.pooled[:0], None if none.states is None else none.states[:0])
        tower = text_tower.text_parts(self.clip)
        if tower is None:
            out = self.clip.text(ids)
            pooled, found = out if isinstance(out, tuple) else (out, None)
        else:
            embedded = text_tower.embed(tower, x if self._is_soft(x) else ids)
            if tower.cls_emb is None:
                pooled, found = text_tower.forward_plain(tower, ids, embedded, self.token_ids()[0])
            else:
                pooled, found = text_tower.forward_coca(tower, ids, embedded, states)
        return TextFeatures(F.normalize(pooled, dim=-1), pooled, found)

    def text_states(self, ids: torch.Tensor, pad_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the token states T×L'×W that the decoder reads; see `Decoding.text_states`."""
        hard = self._as_ids(ids, pad_mask)
        tower = self._tower()
        return text_tower.forward_states(tower, hard, text_tower.embed(tower, ids if self._is_soft(ids) else hard))

    def fusion_logits(
        self,
        tokens: torch.Tensor,
        ids: torch.Tensor,
        image_of_text: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the decoder's logits T×L'×V, teacher-forced; see `Decoding.fusion_logits`."""
        if not self.has_decoder:
            raise self._no_decoder()
        states = ids if ids.is_floating_point() else self.text_states(ids)
        decoder, shown = self.clip.text_decoder, self._rows(tokens, len(states), image_of_text)
        if fused_forward.pays(decoder, shown):
            (read,) = fused_forward.decode(decoder, shown, [states])
            return fused_forward.vocabulary_logits(decoder, read).float()
        return decoder(shown, states)

    def shared_fusion_logits(self, tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the decoder's logits of several texts for each image; see `Decoding.shared_fusion_logits`."""
        if not self.has_decoder or not fused_forward.is_plain(self.clip.text_decoder):
            return super().shared_fusion_logits(tokens, states)
        (read,) = fused_forward.decode(self.clip.text_decoder, tokens, [states])
        return fused_forward.vocabulary_logits(self.clip.text_decoder, read).float()

    # Inside

    @property
    def image_tower(self) -> nn.Module:
        """The module that pictures go through."""
        return self.clip.visual

    def image_attention(self) -> VisionParts:
        """Return the attentions of the image tower; see `towers.vision_parts`."""
        return vision_parts(self.image_tower, self.name)

    def text_attention(self) -> TextParts:
        """Return the attentions of the text tower; see `towers.text_parts`."""
        return text_parts(self.clip, self.token_ids()[0], self.name)

    def decoder_attention(self) -> dict[str, nn.MultiheadAttention]:
        """Return name → cross-attention of the decoder (text tokens over image tokens)."""
        return decoder_parts(self.clip.text_decoder) if self.has_decoder else super().decoder_attention()

    def image_stream(self, pixels: torch.Tensor) -> Stream:
        """Return the image tower's residual stream; see `streams.image_stream`."""
        return image_stream(self.image_tower, self.normalise(pixels), self.name)

    def text_stream(self, texts: Sequence[str] | torch.Tensor) -> Stream:
        """Return the text tower's residual stream; see `streams.text_stream`."""
        return text_stream(self.clip, self._as_ids(texts, None), self.token_ids()[0], self.name)

    def trainable(self) -> TrainableTowers:
        """Return the modules that a training changes.

        Raises:
            ModelError: the model is no CoCa with open_clip's own image tower.
        """
        if not self.has_decoder or not self._own_vit():
            return super().trainable()
        clip, (mean, std) = self.clip, (values.to(self.device) for values in self._mean_and_std)
        return TrainableTowers(clip, clip.visual, clip.text, clip.text_decoder, clip.logit_scale, mean, std)

    @property
    def _streams(self) -> tuple[bool, bool]:
        tower = text_tower.text_parts(self.clip)
        return self._own_vit() and is_plain(self.image_tower), tower is not None and is_plain(tower)

    @property
    def _embeddings(self) -> int | None:
        return text_tower.token_count(self.clip)

    @property
    def _mask_token(self) -> int:
        return self._tower().pad_id

    def _own_vit(self) -> bool:
        from open_clip.transformer import VisionTransformer

        return isinstance(self.image_tower, VisionTransformer)

    def _tower(self) -> Any:
        tower = text_tower.text_parts(self.clip)
        if tower is None:
            raise ModelError(f"{self.name} has a foreign text tower, which gives no token states.")
        return tower
