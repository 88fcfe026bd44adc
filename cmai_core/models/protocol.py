"""What a vision-language model answers: the only face of a model that code outside `models/` may use.

One small protocol for each thing that a model can do. Attacks on pixels need an `ImageEncoder`; most tasks need an
`Encoder`; what else a model can do, its `Capabilities` say before it is asked. `VisionLanguageModel` is all of them
together: `BaseModel` (`models/base.py`) gives a new family the greatest part, and a defended `System` passes on to its
model what it does not answer itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from cmai_core.models.features import ImageFeatures, TextFeatures, VerifiedWords
    from cmai_core.models.heads import ConsistencyHeads, TextStates
    from cmai_core.models.streams import Stream
    from cmai_core.models.towers import TextParts, TrainableTowers, VisionParts

    Texts = Sequence[str] | torch.Tensor
    """Strings; ids, int64 T×L; or distributions over tokens, float T×L×V, where the model reads these."""
    Rows = Sequence[int] | torch.Tensor | None


@dataclass(frozen=True)
class Capabilities:
    """What a model can do beyond comparing pictures with texts; what is False raises `ModelError` when it is asked.

    Attributes:
        decodes: it answers questions and writes captions (`Captioner`).
        verifies: it has consistency heads, so that V_verify exists (`Verifier`).
        reads_distributions: texts may be distributions over tokens, so that gradients reach the words.
        image_attention, text_attention: the attention of its towers can be recorded (`Recordable`).
        image_stream, text_stream: the states inside its towers can be read and replaced (`Patchable`).
        trainable: the trainings here know its towers.
    """

    decodes: bool = False
    verifies: bool = False
    reads_distributions: bool = False
    image_attention: bool = False
    text_attention: bool = False
    image_stream: bool = False
    text_stream: bool = False
    trainable: bool = False


@runtime_checkable
class ImageEncoder(Protocol):
    """Whatever encodes pictures; enough for attacks whose objective needs no texts."""

    def image_features(self, pixels: torch.Tensor) -> ImageFeatures:
        """Run the image tower once, differentiably, over pixels N×3×S×S in [0, 1]."""
        ...


@runtime_checkable
class Encoder(ImageEncoder, Protocol):
    """Pictures and texts in one space."""

    def encode_image(self, pixels: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Return image embeddings N×D."""
        ...

    def text_features(self, x: Texts, pad_mask: torch.Tensor | None = None, states: bool = True) -> TextFeatures:
        """Run the text tower once."""
        ...

    def encode_text(self, x: Texts, normalize: bool = True, pad_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return text embeddings T×D."""
        ...


class Described(Protocol):
    """Which model it is."""

    @property
    def spec(self) -> str:
        """How to load it again."""
        ...

    @property
    def name(self) -> str:
        """Short name for people."""
        ...

    @property
    def card(self) -> Mapping[str, Any]:
        """Contents of its card; empty where it has none."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the weights, heads included."""
        ...

    @property
    def weights_version(self) -> Any:
        """A value that changes with every change of a weight in place."""
        ...

    @property
    def defended(self) -> bool:
        """Whether it was trained against attacks."""
        ...

    @property
    def domain(self) -> str:
        """What its training images look like: "tabletop" or "photographs"."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The only texts that it knows, where it is a classifier; None where it reads any."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do beyond comparing pictures with texts."""
        ...


class Sized(Protocol):
    """Where a model computes, and the sizes of what goes in and comes out."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the square picture that it reads, in pixels."""
        ...

    @property
    def patch_grid(self) -> tuple[int, int] | None:
        """(h, w) of the patches that a picture is cut into; None where there are none."""
        ...

    @property
    def embed_dim(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def logit_scale(self) -> torch.Tensor:
        """What cosines are multiplied by to make logits, a scalar tensor."""
        ...

    @property
    def preprocess_config(self) -> Mapping[str, Any]:
        """How pictures are resized and normalised, as plain values."""
        ...

    def to(self, device: str | torch.device) -> Any:
        """Move the model to a device; returns itself."""
        ...

    def preprocess(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Resize uint8 images H×W×3 of any sizes to float32 N×3×S×S in [0, 1] on the model's device."""
        ...


class Tokenizing(Protocol):
    """Texts as tokens."""

    @property
    def context_length(self) -> int:
        """The longest text in tokens."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        ...

    @property
    def reads_distributions(self) -> bool:
        """Whether texts may be distributions over tokens, so that gradients reach the words."""
        ...

    def token_ids(self) -> tuple[int, int, int]:
        """Return (pad, bos, eos); bos is −1 where there is none."""
        ...

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Return ids, int64 T×context_length."""
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        ...

    def trim(self, ids: torch.Tensor) -> torch.Tensor:
        """Drop the columns that are padding in every text."""
        ...


@runtime_checkable
class ConsistencyScorer(Protocol):
    """How well a text fits a picture, S_c."""

    def consistency(
        self, pixels: torch.Tensor | ImageFeatures, texts: Texts | TextFeatures, image_of_text: Rows = None
    ) -> torch.Tensor:
        """Return S_c of each text with its image, T values in [-1, 1], differentiable."""
        ...

    def consistency_image(self, features: ImageFeatures) -> torch.Tensor:
        """Return the N×d unit length vectors of images that S_c compares."""
        ...

    def consistency_text(self, x: Texts | TextFeatures, pad_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the T×d unit length vectors of texts that S_c compares."""
        ...


class Verifier(Protocol):
    """The verifier V_verify and its words."""

    @property
    def heads(self) -> ConsistencyHeads | None:
        """What it is measured with; None: there is no V_verify."""
        ...

    def verification_states(
        self, x: Texts, pad_mask: torch.Tensor | None = None, features: TextFeatures | None = None
    ) -> TextStates:
        """Return what V_verify reads of texts."""
        ...

    def verify(
        self,
        pixels: torch.Tensor | ImageFeatures,
        texts: Texts | TextStates,
        image_of_text: Rows = None,
        *,
        log: bool = False,
    ) -> torch.Tensor:
        """Return V_verify of each text with its image, T values in [0, 1], or its logarithm."""
        ...

    def verify_options(self, features: ImageFeatures, texts: TextStates) -> torch.Tensor:
        """Return log V_verify of K texts for each image, N×K."""
        ...

    def verify_words(
        self, pixels: torch.Tensor | ImageFeatures, texts: Texts, image_of_text: Rows = None
    ) -> list[VerifiedWords]:
        """Return each text's words with how well the picture supports them."""
        ...


class Captioner(Protocol):
    """A decoder that reads picture and text together."""

    @property
    def has_decoder(self) -> bool:
        """Whether there is one."""
        ...

    def text_states(self, ids: torch.Tensor, pad_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the token states T×L'×W that it reads."""
        ...

    def fusion_logits(self, tokens: torch.Tensor, ids: torch.Tensor, image_of_text: Rows = None) -> torch.Tensor:
        """Return its logits T×L'×V of ids or token states; position t predicts token t+1."""
        ...

    def two_image_tokens(self, tokens_left: torch.Tensor, tokens_right: torch.Tensor) -> torch.Tensor:
        """Join the tokens of two images, N×2P×W."""
        ...

    def generate(
        self,
        pixels: torch.Tensor | ImageFeatures,
        prompt: str | Sequence[str] = "",
        max_tokens: int = 44,
        beam: int = 1,
    ) -> list[str]:
        """Write a text about each image."""
        ...


class Recordable(Protocol):
    """Attention that can be recorded (`models/recording.py`)."""

    def image_attention(self) -> VisionParts:
        """Return the attentions of the image tower."""
        ...

    def text_attention(self) -> TextParts:
        """Return the attentions of the text tower."""
        ...

    def decoder_attention(self) -> Mapping[str, nn.MultiheadAttention]:
        """Return the cross-attentions of the decoder by name."""
        ...


class Patchable(Protocol):
    """Towers whose passes can be begun anywhere and changed on the way (`models/streams.py`)."""

    def image_stream(self, pixels: torch.Tensor) -> Stream:
        """Return the image tower's residual stream of pixels N×3×S×S in [0, 1]."""
        ...

    def text_stream(self, texts: Texts) -> Stream:
        """Return the text tower's residual stream of strings or ids."""
        ...


class Modular(Protocol):
    """Weights that can be read, replaced and trained."""

    @property
    def image_tower(self) -> nn.Module:
        """The module that pictures go through."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Yield every module, consistency heads included."""
        ...

    def state(self) -> Mapping[str, torch.Tensor]:
        """Return the weights by name, without those of the heads."""
        ...

    def with_image_tower(self, tower: nn.Module, name: str | None = None) -> VisionLanguageModel:
        """Return a model that shares everything with this one except its image tower."""
        ...

    def with_network(self, network: nn.Module, name: str | None = None) -> VisionLanguageModel:
        """Return a model that shares everything with this one except its network."""
        ...

    def trainable(self) -> TrainableTowers:
        """Return the modules that a training changes."""
        ...


class VisionLanguageModel(
    Encoder,
    Described,
    Sized,
    Tokenizing,
    ConsistencyScorer,
    Verifier,
    Captioner,
    Recordable,
    Patchable,
    Modular,
    Protocol,
):
    """Everything that a model may be asked."""
