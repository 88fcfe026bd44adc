"""Anybody's network as a vision-language model: a classifier (`classifier.py`), or two encoders with a tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.errors import CmaiError, DataError, ModelError, OptionError
from cmai_core.models import text_tower
from cmai_core.models.base import BaseModel
from cmai_core.models.classifier import BOS, EOS, FIRST, RADIUS, ClassTokenizer, ClassVectors, LiftedLogits
from cmai_core.models.features import ImageFeatures, TextFeatures
from cmai_core.models.preprocess import Preprocessing


def wrap(
    image: nn.Module,
    text: nn.Module | None = None,
    *,
    image_size: int,
    classes: Sequence[str] | None = None,
    tokenizer: Callable[[list[str]], Any] | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    temperature: float = 0.01,
    context_length: int = 77,
    name: str = "wrapped",
    defended: bool = False,
) -> WrappedModel:
    """Make a vision-language model of a network, which is used as it is: attacks, tasks and explanations take it.

    Args:
        image: normalised pixels N×3×S×S → N×C logits (a classifier, with `classes`), or N×D embeddings (with `text`).
            Put it into evaluation mode first: nothing here changes its mode.
        text: token ids T×L → T×D embeddings.
        image_size: S, the side of the pictures it reads.
        classes: the classifier's classes in the order of its logits. A text means the one that it names.
        tokenizer: texts → int64 T×L, padded with 0 (a Hugging Face tokenizer's output is accepted too).
        mean, std: the normalisation, which happens inside; pixels are in [0, 1] and ε is measured on these.
        temperature: what cosines of embeddings are divided by; a classifier's logits are its own.
        context_length: the longest text in tokens. name: for people. defended: whether it was trained against attacks.

    Raises:
        OptionError: neither or both of `classes` and `text`, or a setting out of range.
        ModelError: the network gives something else than what is said above.
    """
    if (text is None) == (classes is None):
        raise OptionError(
            "wrap() makes a model of a classifier or of two encoders.",
            "Give classes=[...] for a classifier, or text= and tokenizer= for a pair of encoders.",
        )
    _check(image_size, mean, std, temperature, context_length)
    words: ClassTokenizer | _Tokenizer
    if text is None:
        known = ClassTokenizer(classes or ())
        count = len(known.classes)
        network = _Towers(LiftedLogits(image, count), ClassVectors(count), 1 / RADIUS)
        words, longest = known, EOS + 1
    else:
        if tokenizer is None:
            raise OptionError("A text encoder without a tokenizer.", "Give tokenizer=: texts to ids T×L.")
        network, words, longest = _Towers(image, text, temperature), _Tokenizer(tokenizer), context_length
    settings = {"size": image_size, "mean": list(mean), "std": list(std)}
    model = WrappedModel(network, words, settings, longest, spec=name, card={"defended": defended})
    _probe(model, image_size)
    return model


class WrappedModel(BaseModel):
    """A classifier, or an image encoder with a text encoder.

    Args:
        network: `visual`, `text` and `logit_scale`. tokenizer: texts to ids.
        settings: the size of pictures, and mean and standard deviation of their channels.
        context_length: the longest text in tokens. others: as for `BaseModel`.
    """

    _network: _Towers

    def __init__(
        self,
        network: _Towers,
        tokenizer: ClassTokenizer | _Tokenizer,
        settings: dict[str, Any],
        context_length: int,
        **others: Any,
    ):
        self._settings, self._context_length = settings, context_length
        super().__init__(network, tokenizer, Preprocessing.of(settings), **others)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classifier's classes; None of a pair of encoders."""
        return self.tokenizer.classes if isinstance(self.tokenizer, ClassTokenizer) else None

    @property
    def logit_scale(self) -> Tensor:
        """1 / temperature, a scalar tensor."""
        return self._network.logit_scale.exp()

    @property
    def context_length(self) -> int:
        """The longest text in tokens."""
        return self._context_length

    @property
    def embed_dim(self) -> int:
        """Length of an embedding."""
        with torch.no_grad():
            return int(self.image_features(_grey(self)).pooled.shape[1])

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens.

        Raises:
            ModelError: the text encoder does not say.
        """
        if self.classes is not None:
            return len(self.classes) + FIRST
        if self._embeddings is None:
            raise ModelError(f"{self.name} does not say how many tokens it knows.", "Use a search by candidates.")
        return self._embeddings

    @property
    def preprocess_config(self) -> dict[str, Any]:
        """Size, mean and standard deviation, as they were given."""
        return dict(self._settings)

    @property
    def image_tower(self) -> nn.Module:
        """The module that pictures go through."""
        return self._network.visual

    def image_features(self, pixels: Tensor) -> ImageFeatures:
        """Run the network once, differentiably, over pixels N×3×S×S in [0, 1]."""
        if not len(pixels):  # not every network takes an empty batch
            return self.image_features(pixels.new_zeros(1, *pixels.shape[1:]))[:0]
        pooled, tokens = _both(self.image_tower(self.normalise(pixels)))
        return ImageFeatures(F.normalize(pooled, dim=-1), pooled, tokens)

    def text_features(
        self, x: Sequence[str] | Tensor, pad_mask: Tensor | None = None, states: bool = True
    ) -> TextFeatures:
        """Run the text encoder once over strings or ids T×L."""
        ids = self._as_ids(x, pad_mask)
        if not len(ids):
            none = self.text_features(ids.new_full((1, self.context_length), FIRST))
            return TextFeatures(none.embedding[:0], none.pooled[:0], None)
        pooled, found = _both(self._network.text(ids))
        return TextFeatures(F.normalize(pooled, dim=-1), pooled, found)

    @property
    def _embeddings(self) -> int | None:
        return text_tower.token_count(self._network)


def _both(out: Any) -> tuple[Tensor, Tensor | None]:
    """Split a tower's output into the pooled vectors and the tokens, where it gives these too."""
    return out if isinstance(out, tuple) else (out, None)


def _grey(model: WrappedModel) -> Tensor:
    return torch.full((1, 3, model.image_size, model.image_size), 0.5, device=model.device)


def _check(
    image_size: int, mean: Sequence[float], std: Sequence[float], temperature: float, context_length: int
) -> None:
    whole = all(isinstance(n, int) and n > 0 for n in (image_size, context_length))
    three = all(len(v) == 3 and all(math.isfinite(x) for x in v) for v in (mean, std))
    if not whole or not three or not all(x > 0 for x in std) or not (math.isfinite(temperature) and temperature > 0):
        raise OptionError(
            f"image_size={image_size!r}, mean={mean!r}, std={std!r}, temperature={temperature!r}, "
            f"context_length={context_length!r} is not accepted.",
            "Accepted: whole sizes from 1, three finite numbers for mean, three positive ones for std, "
            "a positive temperature.",
        )


def _probe(model: WrappedModel, size: int) -> None:
    """Show the network one grey picture, so that one of another kind is refused here and not during an attack."""
    try:
        with torch.no_grad():
            pooled = model.image_features(_grey(model)).pooled
    except CmaiError:
        raise
    except Exception as error:  # it is somebody else's network
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{model.name} cannot read pictures of {size}×{size}: {reason}", "Check image_size and the network."
        ) from error
    if pooled.ndim != 2 or not bool(torch.isfinite(pooled).all()):
        raise ModelError(
            f"{model.name} gives {tuple(pooled.shape)} for one picture, or values that are not finite.",
            "It should give a row of finite numbers a picture.",
        )


class _Towers(nn.Module):
    """Both encoders with the logarithm of the inverse temperature."""

    visual: _Holder
    text: nn.Module
    logit_scale: nn.Parameter

    def __init__(self, visual: nn.Module, text: nn.Module, temperature: float):
        super().__init__()
        self.visual, self.text = _Holder(visual), text
        device = next((p.device for p in visual.parameters()), torch.device("cpu"))
        scale = torch.tensor(-math.log(temperature), device=device)
        self.logit_scale = nn.Parameter(scale, requires_grad=False)
        self.training = visual.training


class _Holder(nn.Module):
    """A network inside a module of ours, so that nothing that is set here lands on somebody's module."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)


class _Tokenizer:
    """A function from texts to ids, with the methods of a tokenizer."""

    def __init__(self, function: Callable[[list[str]], Any]):
        self._function = function
        self.sot_token_id = int(getattr(function, "sot_token_id", BOS))
        self.eot_token_id = int(getattr(function, "eot_token_id", EOS))

    def __call__(self, texts: Sequence[str], context_length: int) -> Tensor:
        found = self._function(list(texts))
        ids = torch.as_tensor(found["input_ids"] if hasattr(found, "keys") else found, dtype=torch.int64)
        if ids.ndim != 2 or len(ids) != len(texts) or not ids.shape[1] > 0:
            raise DataError(
                f"The tokenizer gives {tuple(ids.shape)} for {len(texts)} texts.", "It should give T×L ids."
            )
        return ids[:, :context_length]

    def decode(self, ids: Sequence[int]) -> str:
        decode = getattr(self._function, "decode", None)
        return str(decode(ids)) if callable(decode) else " ".join(map(str, ids))
