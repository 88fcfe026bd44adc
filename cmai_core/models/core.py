"""What every model has: its network, its names, and the hash that tells its weights from others."""

from __future__ import annotations

import copy
import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from cmai_core.models.features import ImageFeatures, TextFeatures
from cmai_core.models.integrity import file_hash
from cmai_core.models.preprocess import Preprocessing

if TYPE_CHECKING:
    from cmai_core.models.heads import ConsistencyHeads

Self = TypeVar("Self", bound="ModelCore")


class ModelCore(ABC):
    """A network with a tokenizer, preprocessing, names and a card.

    Attributes:
        spec: how to load it again (`load_model(spec)`).
        name: short name for people.
        card: contents of the model's card.json; empty where it has none.
        config: contents of its configuration file; None where it is not known.
        tokenizer: the tokenizer's own object. It may not be thread-safe: hold `tokenizer_lock` while using it.

    Args:
        network: everything that has weights, except consistency heads.
        files: the files that the weights (and heads) were read from; the model's hash is that of the files.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        preprocessing: Preprocessing,
        *,
        spec: str,
        name: str | None = None,
        card: Mapping[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        files: Sequence[str | Path | None] = (),
    ):
        self._network = network
        self.tokenizer = tokenizer
        self.tokenizer_lock = threading.Lock()
        self._preprocessing = preprocessing
        self.spec = spec
        self.name = name or spec
        self.card = dict(card or {})
        self.config = config
        self._heads: ConsistencyHeads | None = None
        self._files = tuple(Path(file) for file in files if file)
        self._file_hash: str | None = None
        self._loaded_version = self.weights_version

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r}, device={str(self.device)!r})"

    # What a family of models brings

    @property
    @abstractmethod
    def logit_scale(self) -> torch.Tensor:
        """Inverse temperature of the contrastive logits, already exponentiated (a scalar tensor)."""

    @property
    @abstractmethod
    def context_length(self) -> int:
        """The longest text in tokens, start and end included."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Length of an embedding."""

    @abstractmethod
    def image_features(self, pixels: torch.Tensor) -> ImageFeatures:
        """Run the image tower once, differentiably, over pixels N×3×S×S in [0, 1]."""

    @abstractmethod
    def text_features(
        self, x: Sequence[str] | torch.Tensor, pad_mask: torch.Tensor | None = None, states: bool = True
    ) -> TextFeatures:
        """Run the text tower once over strings, ids, or distributions over tokens where the model reads these."""

    # Where it is, and its parts

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.logit_scale.device

    def to(self: Self, device: str | torch.device) -> Self:
        """Move the model, heads included; returns itself."""
        self._network.to(device)
        if self._heads is not None:
            self._heads.to(device)
        return self

    def modules(self) -> Iterator[nn.Module]:
        """Yield every module, heads included, each once."""
        yield from self._network.modules()
        if self._heads is not None:
            yield from self._heads.modules()

    def state(self) -> dict[str, torch.Tensor]:
        """Return the weights by name, without those of the heads."""
        return dict(self._network.state_dict())

    def with_network(self: Self, network: nn.Module, name: str | None = None) -> Self:
        """Return a model that shares everything with this one except its network.

        Args:
            network: of the same architecture. name: of the new model (None: this one's).
        """
        made = copy.copy(self)
        made._network, made._files = network, ()
        made.name = name or self.name
        return made

    # Which model it is

    @property
    def defended(self) -> bool:
        """Whether it was trained against attacks."""
        return bool(self.card.get("defended", False))

    @property
    def domain(self) -> str:
        """What its training images look like: "tabletop" or "photographs"."""
        return str(self.card.get("domain", "photographs"))

    @property
    def weights_version(self) -> tuple[int, int]:
        """A value that changes with every change of a parameter in place, and with other heads."""
        parameters = [*self._network.parameters(), *(() if self._heads is None else self._heads.parameters())]
        return id(self._heads), sum(parameter._version for parameter in parameters)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the weights, heads included.

        Of the files that they came from; of the names and bytes of the state dict where there is no file, or where the
        weights have been changed since. Heads in a file of their own: the hash of both files' hashes.
        """
        if self._files and self.weights_version == self._loaded_version:
            if self._file_hash is None:
                self._file_hash = hash_of_files(self._files)
            return self._file_hash
        weights = self.state()
        if self._heads is not None:
            weights |= {f"heads.{name}": tensor for name, tensor in self._heads.state_dict().items()}
        return hash_of_weights(weights)


def hash_of_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of tensors' names and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hash_of_files(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, that of their hashes in hexadecimal, one after the other."""
    hashes = [file_hash(path) for path in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
