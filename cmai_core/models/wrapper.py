"""`VisionLanguageModel`: a thin wrapper that gives every open_clip model the same face.

Pixels go in as people see them, in [0, 1]; mean and standard deviation are applied inside. Nothing here changes the
model: no mode, no flag, no `requires_grad` is touched, and the tokenizer (which is not thread-safe) is used under a
lock, so several threads may share one wrapper.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.errors import DataError, ModelError, OptionError
from cmai_core.models import fused_forward as fast
from cmai_core.models import text_tower, tokenizer
from cmai_core.models.generation import generate_ids
from cmai_core.models.heads import ConsistencyHeads, HeadSizes, TextStates, log_verified, word_evidence
from cmai_core.models.integrity import file_hash
from cmai_core.models.patches import embed_patches
from cmai_core.models.preprocess import Preprocessing, preprocess
from cmai_core.models.text_tower import TextFeatures
from cmai_core.models.words import merge_words, punctuation_ids, used_length

_IMAGE_CODE = 0.5
NO_TOKEN = -1


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass over N images gives; every task reads from it.

    Attributes:
        embedding: N×D, unit length, the shared space.
        pooled: N×D, the same before normalisation.
        tokens: N×P×W patch tokens (what a decoder looks at), None where the image tower has none to give.
    """

    embedding: torch.Tensor
    pooled: torch.Tensor
    tokens: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, index: Any) -> ImageFeatures:
        """Rows by slice, mask or index tensor."""
        tokens = None if self.tokens is None else self.tokens[index]
        return ImageFeatures(self.embedding[index], self.pooled[index], tokens)

    def detach(self) -> ImageFeatures:
        tokens = None if self.tokens is None else self.tokens.detach()
        return ImageFeatures(self.embedding.detach(), self.pooled.detach(), tokens)


@dataclass(frozen=True)
class VerifiedWords:
    """How far a picture bears out each word of a text, by V_verify; on the CPU.

    Attributes:
        words: W words in order, punctuation included, as V_verify counts them.
        log_probability: float32 W, log of the probability that the picture bears the word out: the sum over its tokens.
            The sum over the words is log V_verify.
        attention: float32 W×P, where the word looked among the P patch tokens (mean over its tokens; rows sum to 1).
    """

    words: tuple[str, ...]
    log_probability: torch.Tensor
    attention: torch.Tensor

    @property
    def probability(self) -> torch.Tensor:
        """W values in [0, 1]."""
        return self.log_probability.exp()


class VisionLanguageModel:
    """An open_clip model with its tokenizer, preprocessing and card.

    Attributes:
        heads: what S_c and V_verify are measured with; None: S_c is the cosine of the contrastive embeddings, and there
            is no V_verify. Can be set; heads that do not fit the model are refused.

    Args:
        clip: `open_clip` CoCa, CustomTextCLIP or CLIP, with `visual.preprocess_cfg` set (open_clip's factory sets it).
        tokenizer: open_clip's tokenizer of that model.
        spec: how to load it again (`load_model(spec)`).
        name: short name for people; the spec where not given.
        card: contents of the model's card.json, if it has one.
        config: contents of its open_clip_config.json, if known; needed to save it.
        weights_file: where the weights were read from; its SHA-256 is the model's hash.
        heads: consistency heads. heads_file: where they were read from; then the hash is that of both files.

    Raises:
        ModelError: heads that do not fit the model; preprocessing that cannot be (see `Preprocessing.of`).
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Any,
        *,
        spec: str,
        name: str | None = None,
        card: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        weights_file: str | Path | None = None,
        heads: ConsistencyHeads | None = None,
        heads_file: str | Path | None = None,
    ):
        self.clip = clip
        self.tokenizer = tokenizer
        self.spec = spec
        self.name = name or spec
        self.card = dict(card or {})
        self.config = config
        self._files = tuple(Path(file) for file in (weights_file, heads_file) if file)
        self._file_hash: str | None = None
        self._tokenizer_lock = threading.Lock()
        asked = Preprocessing.of(clip.visual.preprocess_cfg)
        self.image_size = asked.size
        self._mean = torch.tensor(asked.mean, dtype=torch.float32).view(3, 1, 1)
        self._std = torch.tensor(asked.std, dtype=torch.float32).view(3, 1, 1)
        self._resize = {"interpolation": asked.interpolation, "resize_mode": asked.resize_mode, "fill": asked.fill}
        self.heads = heads
        self._loaded_version = self.weights_version

    def __repr__(self) -> str:
        return f"VisionLanguageModel({self.spec!r}, device={str(self.device)!r})"

    # What it is

    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device

    def to(self, device: str | torch.device) -> VisionLanguageModel:
        """Move the model, heads included; returns itself."""
        self.clip.to(device)
        if self.heads is not None:
            self.heads.to(device)
        return self

    @property
    def heads(self) -> ConsistencyHeads | None:
        return self._heads

    @heads.setter
    def heads(self, heads: ConsistencyHeads | None) -> None:
        if heads is not None:
            fitting = self.head_sizes(heads.sizes.inner)
            if heads.sizes != fitting:
                raise ModelError(
                    f"Consistency heads of the sizes {heads.sizes.to_dict()} do not fit {self.name}.",
                    f"It takes {fitting.to_dict()}.",
                )
        self._heads = heads

    def head_sizes(self, inner: int = 64) -> HeadSizes:
        """The sizes of consistency heads for this model; `inner`: the width of their own space.

        Raises:
            ModelError: the image tower gives no patch tokens, or the text tower no token states.
        """
        training = [module for module in self.clip.modules() if module.training]
        like, size = self.logit_scale, self.image_size
        try:
            for module in training:
                module.training = False
            with torch.no_grad():
                image = self.image_features(torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype))
                ends = [token for token in self.token_ids()[1:] if token != NO_TOKEN]
                text = self.text_features(torch.tensor([ends], device=like.device))
        finally:
            for module in training:
                module.training = True
        missing = "image" if image.tokens is None else "text" if text.states is None else ""
        if missing:
            raise ModelError(
                f"{self.name} cannot have consistency heads: its {missing} tower gives no tokens.",
                "Choose a CLIP or CoCa with a vision transformer.",
            )
        return HeadSizes(image.pooled.shape[1], image.tokens.shape[2], text.states.shape[2], inner)

    @property
    def has_decoder(self) -> bool:
        """Whether it can fuse image and text token by token (CoCa), and so answer questions and write captions."""
        return getattr(self.clip, "text_decoder", None) is not None

    @property
    def defended(self) -> bool:
        return bool(self.card.get("defended", False))

    @property
    def domain(self) -> str:
        """What its training images look like: "tabletop" or "photographs"."""
        return str(self.card.get("domain", "photographs"))

    @property
    def context_length(self) -> int:
        return int(getattr(self.clip, "context_length", None) or self.clip.text.context_length)

    @property
    def embed_dim(self) -> int:
        return int(self.clip.visual.output_dim) if hasattr(self.clip.visual, "output_dim") else self._probe_embed_dim()

    @property
    def vocabulary_size(self) -> int:
        return int(self._tower().token_embedding.num_embeddings)

    @property
    def logit_scale(self) -> torch.Tensor:
        """Inverse temperature of the contrastive logits, already exponentiated (a scalar tensor)."""
        return self.clip.logit_scale.exp()

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the weights: of the file they came from; of the state dict's names and bytes where there is
        no file or the weights have been changed since. With consistency heads it covers these too (where they came from
        a file of their own, it is the hash of the two files' hashes)."""
        if self._files and self.weights_version == self._loaded_version:
            if self._file_hash is None:
                self._file_hash = hash_of_files(self._files)
            return self._file_hash
        digest = hashlib.sha256()
        weights = dict(self.clip.state_dict())
        if self.heads is not None:
            weights |= {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def token_ids(self) -> tuple[int, int, int]:
        """(pad, bos, eos) of the vocabulary; bos is `NO_TOKEN` (−1, which no token is) where it has none.

        A vocabulary may have a start token that its texts do not begin with, and pad with its end token (SigLIP's do).
        """
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is not None:
            bos = inner.bos_token_id if inner.bos_token_id is not None else inner.cls_token_id
            eos = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
            return int(inner.pad_token_id), NO_TOKEN if bos is None else int(bos), int(eos)
        return 0, int(self.tokenizer.sot_token_id), int(self.tokenizer.eot_token_id)

    @property
    def weights_version(self) -> tuple[int, int]:
        """Changes whenever a parameter is changed in place (an optimiser step, a loaded state dict), and with other
        heads."""
        parameters = [*self.clip.parameters(), *(() if self.heads is None else self.heads.parameters())]
        return id(self.heads), sum(parameter._version for parameter in parameters)

    # Images

    def preprocess(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """uint8 H×W×3 images of any sizes → float32 N×3×S×S in [0, 1] on the model's device; see `preprocess`."""
        return preprocess(images, self.image_size, **self._resize).to(self.device)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1] → what the image tower reads."""
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.image_size, self.image_size):
            raise DataError(
                f"Pixels {tuple(pixels.shape)} do not fit: {self.name} reads N×3×{self.image_size}×{self.image_size}.",
                "Use model.preprocess.",
            )
        return (pixels - self._mean.to(pixels.device)) / self._std.to(pixels.device)

    def image_features(self, pixels: torch.Tensor) -> ImageFeatures:
        """One pass of the image tower, differentiable in `pixels`.

        Args:
            pixels: float N×3×S×S in [0, 1].

        Raises:
            DataError: another shape.
        """
        visual, x = self.clip.visual, self.normalise(pixels)
        if not len(pixels):  # open_clip cannot reshape an empty batch
            return self.image_features(pixels.new_zeros(1, *pixels.shape[1:]))[:0]
        if self._own_vit() and fast.pays(visual, x):
            seen = fast.encode(visual, x)
            pooled, tokens = seen.pooled.float(), seen.tokens.float()
        elif self._own_vit():
            pooled, tokens = visual._pool(visual.transformer(embed_patches(visual, x)))
            if visual.proj is not None:
                pooled = pooled @ visual.proj
        else:
            out = visual(x)
            pooled, tokens = out if isinstance(out, tuple) else (out, None)
        return ImageFeatures(F.normalize(pooled, dim=-1), pooled, tokens)

    def encode_image(self, pixels: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Image embeddings N×D."""
        features = self.image_features(pixels)
        return features.embedding if normalize else features.pooled

    # Texts

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids, int64 T×context_length on the model's device, padded at the end; longer texts are cut.

        Raises:
            DataError: not a sequence of strings, or a text with a token that the model has no embedding of.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise DataError("Texts must be a sequence of strings.", "Wrap a single text in a list.")
        if not len(texts):
            return torch.zeros(0, self.context_length, dtype=torch.long, device=self.device)
        with self._tokenizer_lock:
            ids = tokenizer.ids_of(self.tokenizer, list(texts), self.context_length)
        most = self._embeddings
        outside = ((ids < 0) | (ids >= most)).any(dim=1) if most is not None else None
        if outside is not None and bool(outside.any()):
            text = texts[int(outside.int().argmax())]
            raise DataError(
                f"The text {text[:80]!r} has a token that {self.name} does not know: its tokenizer has more than the "
                f"model's {most:,}.",
                "Write it in other words.",
            )
        return ids.to(self.device)

    @functools.cached_property
    def _embeddings(self) -> int | None:
        """How many tokens the text tower has embeddings of; None where that is not to be seen."""
        tower = text_tower.text_parts(self.clip)
        if tower is not None:
            return int(tower.token_embedding.num_embeddings)
        inner = getattr(getattr(self.clip.text, "transformer", None), "get_input_embeddings", None)
        return None if inner is None else int(inner().num_embeddings)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Ids → text; padding, start and end tokens are left out."""
        special = set(self.token_ids())
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is not None:
            with self._tokenizer_lock:
                return inner.decode([i for i in ids if i not in special]).strip()
        start_end = set(self.token_ids()[1:])
        return self.tokenizer.decode([i for i in ids if i not in start_end]).strip()

    def text_features(
        self, x: Sequence[str] | torch.Tensor, pad_mask: torch.Tensor | None = None, states: bool = True
    ) -> TextFeatures:
        """One pass of the text tower: embedding and token states together.

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
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                raise ModelError(f"{self.name} has a foreign text tower, which takes no distributions over tokens.")
            out = self.clip.text(ids)
            pooled, found = out if isinstance(out, tuple) else (out, None)
        else:
            embedded = text_tower.embed(tower, x if self._is_soft(x) else ids)
            if tower.cls_emb is None:
                pooled, found = text_tower.forward_plain(tower, ids, embedded, self.token_ids()[0])
            else:
                pooled, found = text_tower.forward_coca(tower, ids, embedded, states)
        return TextFeatures(F.normalize(pooled, dim=-1), pooled, found)

    def encode_text(
        self, x: Sequence[str] | torch.Tensor, normalize: bool = True, pad_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Text embeddings T×D; arguments as for `text_features`."""
        features = self.text_features(x, pad_mask, states=False)
        return features.embedding if normalize else features.pooled

    def text_states(self, ids: torch.Tensor, pad_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Token states T×L'×W of the causal text tower, without the class token: what the decoder reads.

        Args:
            ids: int64 T×L' or distributions, float T×L'×V; L' may be trimmed. Exact at positions that are not padding.
            pad_mask: as for `text_features`.
        """
        hard = self._as_ids(ids, pad_mask)
        tower = self._tower()
        return text_tower.forward_states(tower, hard, text_tower.embed(tower, ids if self._is_soft(ids) else hard))

    def trim(self, ids: torch.Tensor) -> torch.Tensor:
        """Drop the columns that are padding in every text."""
        return ids[:, : text_tower._lengths_end(ids, self.token_ids()[0])]

    # Image and text together

    def consistency(
        self,
        pixels: torch.Tensor | ImageFeatures,
        texts: Sequence[str] | torch.Tensor,
        image_of_text: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The consistency score S_c = cos(P_v(E_v(x_v)), P_t(E_t(x_t))) of each text with its image, T values in
        [-1, 1]. Without heads, P_v and P_t change nothing.

        Args:
            pixels: N×3×S×S in [0, 1], or features already computed.
            texts: T texts, ids, distributions, features of texts, or vectors of `consistency_text` (2-D float).
            image_of_text: T row numbers; None pairs row by row (a single image goes with every text, and vice versa).
        """
        images = self.image_features(pixels) if isinstance(pixels, torch.Tensor) else pixels
        is_ready = isinstance(texts, torch.Tensor) and texts.is_floating_point() and texts.ndim == 2
        vectors = texts if is_ready else self.consistency_text(texts)
        return (self._rows(self.consistency_image(images), len(vectors), image_of_text) * vectors).sum(dim=-1)

    def consistency_image(self, features: ImageFeatures) -> torch.Tensor:
        """P_v: N×d unit length vectors that S_c compares; without heads the embeddings themselves."""
        if self.heads is None:
            return features.embedding
        return self.heads.image(features.pooled, features.tokens)

    def consistency_text(
        self, x: Sequence[str] | torch.Tensor | TextFeatures, pad_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """P_t: T×d unit length vectors that S_c compares; without heads the embeddings themselves.

        Args:
            x, pad_mask: as for `text_features`, or what that has returned.
        """
        features = x if isinstance(x, TextFeatures) else self.text_features(x, pad_mask, states=False)
        return features.embedding if self.heads is None else self.heads.text(features.pooled)

    @functools.cached_property
    def punctuation(self) -> torch.Tensor:
        """bool V: tokens that are punctuation and nothing else."""
        found = torch.zeros(self.vocabulary_size, dtype=torch.bool)
        found[punctuation_ids(self)] = True
        return found

    def verification_states(
        self,
        x: Sequence[str] | torch.Tensor,
        pad_mask: torch.Tensor | None = None,
        features: TextFeatures | None = None,
    ) -> TextStates:
        """What V_verify reads of texts: compute it once where the texts stay. Punctuation does not count.

        Args:
            x, pad_mask: as for `text_features`. features: what that has returned for them, if at hand.

        Raises:
            ModelError: the model has no heads.
        """
        self._need_heads()
        ids = self._as_ids(x, pad_mask)
        if features is None:
            features = self.text_features(ids if not self._is_soft(x) else x, pad_mask)
        states = features.states
        pad, bos, eos = self.token_ids()
        counted = (ids != bos) & ((ids == eos).cumsum(dim=1) == 0)
        if getattr(self.tokenizer, "tokenizer", None) is not None:  # open_clip's own pads with an ordinary token
            counted &= ids != pad
        counted &= ~self.punctuation.to(ids.device)[ids]
        said = x if self._is_soft(x) else ids
        return TextStates(states, counted, said).at_length(states.shape[1])

    def verify(
        self,
        pixels: torch.Tensor | ImageFeatures,
        texts: Sequence[str] | torch.Tensor | TextStates,
        image_of_text: Sequence[int] | torch.Tensor | None = None,
        *,
        log: bool = False,
    ) -> torch.Tensor:
        """V_verify, the probability that each text is consistent with its image: T values in [0, 1], differentiable.

        It is the product of the words' probabilities; a text without words claims nothing and gets 1.

        Args:
            pixels, image_of_text: as for `consistency`.
            texts: T texts, ids, distributions, or `verification_states` of them.
            log: log V_verify instead, whose gradient does not vanish where V_verify is close to 0.

        Raises:
            ModelError: the model has no heads.
        """
        odds, _, counted = self._word_odds(pixels, texts, image_of_text)
        value = log_verified(odds, counted)
        return value if log else value.exp()

    @torch.no_grad()
    def verify_words(
        self,
        pixels: torch.Tensor | ImageFeatures,
        texts: Sequence[str] | torch.Tensor,
        image_of_text: Sequence[int] | torch.Tensor | None = None,
    ) -> list[VerifiedWords]:
        """Which words V_verify doubts and where they looked; no gradient.

        Args:
            pixels, image_of_text: as for `consistency`. texts: T texts or ids.

        Raises:
            ModelError: the model has no heads. DataError: distributions over tokens.
        """
        if self._is_soft(texts):
            raise DataError("Distributions over tokens have no words.", "Give texts or ids.")
        ids = self._as_ids(texts, None)
        odds, attention, counted = self._word_odds(pixels, ids, image_of_text)
        each, attention = F.logsigmoid(odds).masked_fill(~counted, 0.0).float().cpu(), attention.float().cpu()
        found = []
        eos = self.token_ids()[2]
        for row, tokens in enumerate(ids[:, : each.shape[1]].expand(len(each), -1).tolist()):
            words, groups = merge_words(self, tokens[: used_length(tokens, eos)])
            sums = [each[row, group].sum() for group in groups]
            looked = [attention[row, group].mean(dim=0) for group in groups]
            found.append(
                VerifiedWords(
                    words,
                    torch.stack(sums) if sums else each.new_zeros(0),
                    torch.stack(looked) if looked else attention.new_zeros(0, attention.shape[2]),
                )
            )
        return found

    def fusion_logits(
        self,
        tokens: torch.Tensor,
        ids: torch.Tensor,
        image_of_text: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The decoder's logits T×L'×V, teacher-forced: position t predicts token t+1.

        Args:
            tokens: image tokens N×P×W.
            ids: int64 T×L', or token states T×L'×W from `text_states` (compute them once where the text stays).
            image_of_text: T row numbers into `tokens`; None pairs row by row (a single image goes with every text).

        Raises:
            ModelError: the model has no decoder.
        """
        self._need_decoder()
        states = ids if ids.is_floating_point() else self.text_states(ids)
        decoder, shown = self.clip.text_decoder, self._rows(tokens, len(states), image_of_text)
        if fast.pays(decoder, shown):
            (read,) = fast.decode(decoder, shown, [states])
            return fast.vocabulary_logits(decoder, read).float()
        return decoder(shown, states)

    def two_image_tokens(self, tokens_left: torch.Tensor, tokens_right: torch.Tensor) -> torch.Tensor:
        """Tokens of two images as the decoder reads them together: N×2P×W.

        A fixed code (+0.5 on even, -0.5 on odd channels for the left image, the opposite for the right) tells them
        apart. It has no parameters, so any CoCa can be trained to use it.
        """
        self._need_decoder()
        code = torch.full((tokens_left.shape[-1],), _IMAGE_CODE, device=tokens_left.device, dtype=tokens_left.dtype)
        code[1::2] = -_IMAGE_CODE
        return torch.cat([tokens_left + code, tokens_right - code], dim=1)

    def generate(
        self,
        pixels: torch.Tensor | ImageFeatures,
        prompt: str | Sequence[str] = "",
        max_tokens: int = 44,
        beam: int = 1,
    ) -> list[str]:
        """Write a text about each image; no gradient.

        Args:
            pixels: N×3×S×S in [0, 1], or features already computed.
            prompt: what the text begins with, one for all or one an image; not repeated in the result.
            max_tokens: most tokens to add, the end token included.
            beam: hypotheses of the beam search, 1 to 16; 1 is greedy.

        Returns:
            N texts without special tokens.

        Raises:
            ModelError: the model has no decoder.
            OptionError: a number out of range.
            DataError: the number of prompts is not that of the images, or a prompt fills the context.
        """
        self._need_decoder()
        if not 1 <= beam <= 16 or max_tokens < 1:
            raise OptionError(f"beam={beam}, max_tokens={max_tokens}.", "beam is 1 to 16, max_tokens at least 1.")
        with torch.no_grad():
            images = pixels if isinstance(pixels, ImageFeatures) else self.image_features(pixels)
            prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
            if len(prompts) != len(images):
                raise DataError(
                    f"{len(prompts)} prompts for {len(images)} images.", "Give one for all or one an image."
                )
            if not prompts:
                return []
            pad, bos, eos = self.token_ids()
            ids = self.tokenize(prompts)
            ends = (ids == eos).int().argmax(dim=1)
            ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= ends.unsqueeze(1), pad)
            if int(ends.min()) < 1:
                raise ModelError(
                    f"The vocabulary of {self.name} has no start token, so it cannot begin a text.", "Give a prompt."
                )
            if int(ends.max()) >= self.context_length - 1:
                raise DataError(
                    "The prompt fills the whole context.", f"Use fewer than {self.context_length - 2} tokens."
                )
            added = generate_ids(
                self.fusion_logits,
                images.tokens,
                ids[:, : int(ends.max())],
                ends,
                context_length=self.context_length,
                max_tokens=max_tokens,
                beam=beam,
                eos_id=eos,
                pad_id=pad,
                forbidden=tuple({pad, bos} - {eos, NO_TOKEN}),
            )
        return [self.detokenize(row) for row in added]

    # Within

    def _need_heads(self) -> None:
        if self.heads is None:
            raise ModelError(
                f"{self.name} has no consistency heads, so it has no verifier.",
                "Choose a model trained with CMCV; S_c works without.",
            )

    def _word_odds(
        self,
        pixels: torch.Tensor | ImageFeatures,
        texts: Sequence[str] | torch.Tensor | TextStates,
        image_of_text: Sequence[int] | torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(log odds T×L, attention over patches T×L×P, which positions count T×L) of V_verify."""
        self._need_heads()
        read = texts if isinstance(texts, TextStates) else self.verification_states(texts)
        images = self.image_features(pixels) if isinstance(pixels, torch.Tensor) else pixels
        tokens = self._rows(images.tokens, len(read), image_of_text)
        read = read.expand(len(tokens)) if len(read) == 1 else read
        evidence = word_evidence(self.fusion_logits(tokens, read.states), read.said) if self.has_decoder else None
        return *self.heads.words(tokens, read.states, evidence), read.counted

    def _own_vit(self) -> bool:
        from open_clip.transformer import VisionTransformer

        return isinstance(self.clip.visual, VisionTransformer)

    def _tower(self) -> Any:
        tower = text_tower.text_parts(self.clip)
        if tower is None:
            raise ModelError(f"{self.name} has a foreign text tower, which gives no token states.")
        return tower

    def _need_decoder(self) -> None:
        if not self.has_decoder:
            raise ModelError(
                f"{self.name} has no multimodal decoder: it cannot answer, judge statements or write captions.",
                "Choose a CoCa model, such as tabletop.",
            )

    @staticmethod
    def _is_soft(x: Any) -> bool:
        return isinstance(x, torch.Tensor) and x.is_floating_point()

    def _as_ids(self, x: Sequence[str] | torch.Tensor, pad_mask: torch.Tensor | None) -> torch.Tensor:
        """Ids T×L of strings, ids or distributions (there: the most likely token), checked."""
        if not isinstance(x, torch.Tensor):
            return self.tokenize(x)
        soft = x.is_floating_point()
        if x.ndim != (3 if soft else 2) or x.shape[1] > self.context_length or x.shape[1] < 1:
            raise DataError(
                f"Text tensor of the shape {tuple(x.shape)}.",
                f"Give ids T×L or distributions T×L×V, L from 1 to {self.context_length}.",
            )
        if not soft:
            return x
        if x.shape[2] != self.vocabulary_size:
            raise DataError(f"Distributions over {x.shape[2]} tokens, the vocabulary has {self.vocabulary_size}.")
        ids = x.detach().argmax(dim=-1)
        if pad_mask is None:
            return ids
        pad = self._tower().pad_id
        ids = torch.where(ids == pad, torch.ones_like(ids), ids)
        return ids.masked_fill(pad_mask, pad)

    @staticmethod
    def _rows(x: torch.Tensor, count: int, image_of_text: Sequence[int] | torch.Tensor | None) -> torch.Tensor:
        """Rows of `x` for `count` texts."""
        if image_of_text is not None:
            index = torch.as_tensor(image_of_text, dtype=torch.long, device=x.device)
            if len(index) != count:
                raise DataError(f"{len(index)} image numbers for {count} texts.")
            return x[index]
        if len(x) == count or count == 1:
            return x
        if len(x) == 1:
            return x.expand(count, *x.shape[1:])
        raise DataError(f"{len(x)} images and {count} texts do not pair up.", "Give image_of_text.")

    def _probe_embed_dim(self) -> int:
        with torch.no_grad():
            zeros = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
            return int(self.image_features(zeros).pooled.shape[1])


def hash_of_files(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, that of their hashes in hexadecimal, one after the other."""
    hashes = [file_hash(path) for path in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
