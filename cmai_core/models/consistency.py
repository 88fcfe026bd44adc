"""How well a text fits a picture: S_c, and the verifier V_verify with its words, for any model.

Without consistency heads S_c is the cosine of the contrastive embeddings, and there is no verifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cmai_core.errors import DataError, ModelError
from cmai_core.models.decoding import Decoding
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.models.features import ImageFeatures, TextFeatures, VerifiedWords
from cmai_core.models.heads import ConsistencyHeads, HeadSizes, TextStates, log_verified, word_evidence
from cmai_core.models.texts import NO_TOKEN
from cmai_core.models.words import merge_words, used_length


class Consistency(Decoding):
    """S_c and V_verify of pairs of picture and text."""

    # Heads

    @property
    def heads(self) -> ConsistencyHeads | None:
        """What S_c and V_verify are measured with; can be set, and heads that do not fit are refused."""
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
        """Return the sizes of consistency heads for this model; `inner`: the width of their own space.

        Raises:
            ModelError: the image tower gives no patch tokens, or the text tower no token states.
        """
        like, size = self.logit_scale, self.image_size
        with torch.no_grad(), evaluation_mode(self):
            image = self.image_features(torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype))
            ends = [token for token in self.token_ids()[1:] if token != NO_TOKEN]
            text = self.text_features(torch.tensor([ends], device=like.device))
        missing = "image" if image.tokens is None else "text" if text.states is None else ""
        if missing:
            raise ModelError(
                f"{self.name} cannot have consistency heads: its {missing} tower gives no tokens.",
                "Choose a CLIP or CoCa with a vision transformer.",
            )
        return HeadSizes(image.pooled.shape[1], image.tokens.shape[2], text.states.shape[2], inner)

    # S_c

    def consistency(
        self,
        pixels: torch.Tensor | ImageFeatures,
        texts: Sequence[str] | torch.Tensor | TextFeatures,
        image_of_text: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the consistency score S_c of each text with its image: T values in [-1, 1], differentiable.

        S_c = cos(P_v(E_v(x_v)), P_t(E_t(x_t))). Without heads, P_v and P_t change nothing.

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
        """Return P_v, the N×d unit length vectors that S_c compares; without heads the embeddings themselves."""
        if self.heads is None:
            return features.embedding
        return self.heads.image(features.pooled, features.tokens)

    def consistency_text(
        self, x: Sequence[str] | torch.Tensor | TextFeatures, pad_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return P_t, the T×d unit length vectors that S_c compares; without heads the embeddings themselves.

        Args:
            x, pad_mask: as for `text_features`, or what that has returned.
        """
        features = x if isinstance(x, TextFeatures) else self.text_features(x, pad_mask, states=False)
        return features.embedding if self.heads is None else self.heads.text(features.pooled)

    # V_verify

    def verification_states(
        self,
        x: Sequence[str] | torch.Tensor,
        pad_mask: torch.Tensor | None = None,
        features: TextFeatures | None = None,
    ) -> TextStates:
        """Return what V_verify reads of texts: compute it once where the texts stay. Punctuation does not count.

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
        """Return V_verify, the probability that each text is consistent with its image: T values in [0, 1].

        It is the product of the words' probabilities, differentiable; a text without words claims nothing and gets 1.

        Args:
            pixels, image_of_text: as for `consistency`.
            texts: T texts, ids, distributions, or `verification_states` of them.
            log: return log V_verify, whose gradient does not vanish where V_verify is close to 0.

        Raises:
            ModelError: the model has no heads.
        """
        odds, _, counted = self._word_odds(pixels, texts, image_of_text)
        value = log_verified(odds, counted)
        return value if log else value.exp()

    def verify_options(self, features: ImageFeatures, texts: TextStates) -> torch.Tensor:
        """Return log V_verify of K texts for each image, N×K: what `verify` says, in less time.

        The texts of an image share its keys and values, and columns in which no word stands are left out.

        Args:
            features: of N images. texts: `verification_states` of N·K texts, the K texts of an image in a row.

        Raises:
            ModelError: the model has no heads. DataError: a number of texts that is no multiple of N.
        """
        self._need_heads()
        count = len(features)
        if not count or len(texts) % count or not len(texts):
            raise DataError(f"{len(texts)} texts are not as many for each of {count} images.")
        words = texts.counted.any(dim=0).nonzero()
        read = texts.at_length(int(words[-1]) + 1 if len(words) else 1)
        evidence = None
        if self.has_decoder:
            evidence = word_evidence(self.shared_fusion_logits(features.tokens, read.states), read.said)
        odds, _ = self.heads.words(features.tokens, read.states, evidence)
        return log_verified(odds, read.counted).reshape(count, -1)

    @torch.no_grad()
    def verify_words(
        self,
        pixels: torch.Tensor | ImageFeatures,
        texts: Sequence[str] | torch.Tensor,
        image_of_text: Sequence[int] | torch.Tensor | None = None,
    ) -> list[VerifiedWords]:
        """Return each text's words with the probability that the picture supports them, and where they looked.

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
            log_probability = torch.stack(sums) if sums else each.new_zeros(0)
            where = torch.stack(looked) if looked else attention.new_zeros(0, attention.shape[2])
            found.append(VerifiedWords(words, log_probability, where))
        return found

    def _word_odds(
        self,
        pixels: torch.Tensor | ImageFeatures,
        texts: Sequence[str] | torch.Tensor | TextStates,
        image_of_text: Sequence[int] | torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return log odds T×L, attention over patches T×L×P, and which positions count, bool T×L."""
        self._need_heads()
        read = texts if isinstance(texts, TextStates) else self.verification_states(texts)
        images = self.image_features(pixels) if isinstance(pixels, torch.Tensor) else pixels
        tokens = self._rows(images.tokens, len(read), image_of_text)
        read = read.expand(len(tokens)) if len(read) == 1 else read
        evidence = word_evidence(self.fusion_logits(tokens, read.states), read.said) if self.has_decoder else None
        return *self.heads.words(tokens, read.states, evidence), read.counted

    def _need_heads(self) -> None:
        if self.heads is None:
            raise ModelError(
                f"{self.name} has no consistency heads, so it has no verifier.",
                "Choose a model trained with CMCV; S_c works without.",
            )
