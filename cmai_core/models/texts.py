"""Texts as a model takes them: strings, token ids, or distributions over tokens."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from cmai_core.errors import DataError, ModelError
from cmai_core.models import tokenizer
from cmai_core.models.core import ModelCore
from cmai_core.models.text_tower import trimmed_length
from cmai_core.models.words import punctuation_ids

NO_TOKEN = -1
"""Stands for a start token where a vocabulary has none."""


class TextInput(ModelCore):
    """The side of a model that texts go in by."""

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Number of tokens."""

    @property
    def reads_distributions(self) -> bool:
        """Whether texts may be distributions over tokens, so that gradients reach the words."""
        return False

    def token_ids(self) -> tuple[int, int, int]:
        """Return (pad, bos, eos) of the vocabulary; bos is `NO_TOKEN` (−1, which no token is) where it has none.

        A vocabulary may have a start token that its texts do not begin with, and pad with its end token (SigLIP's do).
        """
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is not None:
            bos = inner.bos_token_id if inner.bos_token_id is not None else inner.cls_token_id
            eos = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
            return int(inner.pad_token_id), NO_TOKEN if bos is None else int(bos), int(eos)
        return 0, int(self.tokenizer.sot_token_id), int(self.tokenizer.eot_token_id)

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Return token ids, int64 T×context_length on the model's device, padded at the end; longer texts are cut.

        Raises:
            DataError: not a sequence of strings, or a text with a token that the model has no embedding of.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise DataError("Texts must be a sequence of strings.", "Wrap a single text in a list.")
        if not len(texts):
            return torch.zeros(0, self.context_length, dtype=torch.long, device=self.device)
        with self.tokenizer_lock:
            ids = tokenizer.ids_of(self.tokenizer, list(texts), self.context_length)
        self._refuse_unknown_tokens(ids, texts)
        return ids.to(self.device)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of ids; padding, start and end tokens are left out."""
        special = set(self.token_ids())
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is not None:
            with self.tokenizer_lock:
                return inner.decode([i for i in ids if i not in special]).strip()
        start_end = set(self.token_ids()[1:])
        return self.tokenizer.decode([i for i in ids if i not in start_end]).strip()

    def trim(self, ids: torch.Tensor) -> torch.Tensor:
        """Drop the columns that are padding in every text."""
        return ids[:, : trimmed_length(ids, self.token_ids()[0])]

    def encode_text(
        self, x: Sequence[str] | torch.Tensor, normalize: bool = True, pad_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return text embeddings T×D, of unit length if `normalize`; other arguments as for `text_features`."""
        features = self.text_features(x, pad_mask, states=False)
        return features.embedding if normalize else features.pooled

    @functools.cached_property
    def punctuation(self) -> torch.Tensor:
        """Return bool V: tokens that are punctuation and nothing else."""
        found = torch.zeros(self.vocabulary_size, dtype=torch.bool)
        found[punctuation_ids(self)] = True
        return found

    @property
    def _embeddings(self) -> int | None:
        """How many tokens the text tower has embeddings of; None where that is not known."""
        return None

    def _refuse_unknown_tokens(self, ids: torch.Tensor, texts: Sequence[str]) -> None:
        most = self._embeddings
        outside = ((ids < 0) | (ids >= most)).any(dim=1) if most is not None else None
        if outside is not None and bool(outside.any()):
            text = texts[int(outside.int().argmax())]
            raise DataError(
                f"The text {text[:80]!r} has a token that {self.name} does not know: its tokenizer has more than the "
                f"model's {most:,}.",
                "Write it in other words.",
            )

    @staticmethod
    def _is_soft(x: Any) -> bool:
        return isinstance(x, torch.Tensor) and x.is_floating_point()

    def _as_ids(self, x: Sequence[str] | torch.Tensor, pad_mask: torch.Tensor | None) -> torch.Tensor:
        """Return checked ids T×L of strings, ids or distributions (there: the most likely token)."""
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
        if not self.reads_distributions:
            raise ModelError(f"{self.name} has a foreign text tower, which takes no distributions over tokens.")
        if x.shape[2] != self.vocabulary_size:
            raise DataError(f"Distributions over {x.shape[2]} tokens, the vocabulary has {self.vocabulary_size}.")
        ids = x.detach().argmax(dim=-1)
        if pad_mask is None:
            return ids
        pad = self._mask_token
        ids = torch.where(ids == pad, torch.ones_like(ids), ids)
        return ids.masked_fill(pad_mask, pad)

    @property
    def _mask_token(self) -> int:
        """The token that the text tower masks as padding."""
        return self.token_ids()[0]
