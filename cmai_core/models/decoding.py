"""A decoder that reads a picture and a text together: answers, captions, statements about two pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cmai_core.errors import DataError, ModelError, OptionError
from cmai_core.models.features import ImageFeatures
from cmai_core.models.generation import Draw, generate_ids, gumbel
from cmai_core.models.images import ImageInput
from cmai_core.models.texts import NO_TOKEN, TextInput

_IMAGE_CODE = 0.5


class Decoding(ImageInput, TextInput):
    """What a model with a decoder can do; without one, each method says so.

    A family with a decoder overrides `has_decoder`, `text_states` and `fusion_logits`.
    """

    @property
    def has_decoder(self) -> bool:
        """Whether it can read image and text together, token by token, and so answer questions and write captions."""
        return False

    def text_states(self, ids: torch.Tensor, pad_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the token states T×L'×W that the decoder reads, without the class token.

        Args:
            ids: int64 T×L' or distributions, float T×L'×V; L' may be trimmed. Exact at positions that are not padding.
            pad_mask: as for `text_features`.

        Raises:
            ModelError: the text tower gives no token states.
        """
        raise ModelError(f"{self.name} has a foreign text tower, which gives no token states.")

    def fusion_logits(
        self,
        tokens: torch.Tensor,
        ids: torch.Tensor,
        image_of_text: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the decoder's logits T×L'×V, teacher-forced: position t predicts token t+1.

        Args:
            tokens: image tokens N×P×W.
            ids: int64 T×L', or token states T×L'×W from `text_states` (compute them once where the text stays).
            image_of_text: T row numbers into `tokens`; None pairs row by row (a single image goes with every text).

        Raises:
            ModelError: the model has no decoder.
        """
        raise self._no_decoder()

    def shared_fusion_logits(self, tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return `fusion_logits` of K texts for each image, which share its keys and values: (N·K)×L×V.

        Args:
            tokens: image tokens N×P×W. states: token states (N·K)×L×W, the K texts of an image in a row.
        """
        owner = torch.arange(len(tokens), device=tokens.device).repeat_interleave(len(states) // max(len(tokens), 1))
        return self.fusion_logits(tokens, states, owner)

    def two_image_tokens(self, tokens_left: torch.Tensor, tokens_right: torch.Tensor) -> torch.Tensor:
        """Join the tokens of two images as the decoder reads them together: N×2P×W.

        A fixed code (+0.5 on even, -0.5 on odd channels for the left image, the opposite for the right) tells them
        apart. It has no parameters, so any CoCa can be trained to use it.

        Raises:
            ModelError: the model has no decoder.
        """
        if not self.has_decoder:
            raise self._no_decoder()
        code = torch.full((tokens_left.shape[-1],), _IMAGE_CODE, device=tokens_left.device, dtype=tokens_left.dtype)
        code[1::2] = -_IMAGE_CODE
        return torch.cat([tokens_left + code, tokens_right - code], dim=1)

    @torch.no_grad()
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
        if not self.has_decoder:
            raise self._no_decoder()
        if not 1 <= beam <= 16 or max_tokens < 1:
            raise OptionError(f"beam={beam}, max_tokens={max_tokens}.", "beam is 1 to 16, max_tokens at least 1.")
        images = pixels if isinstance(pixels, ImageFeatures) else self.image_features(pixels)
        prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(images):
            raise DataError(f"{len(prompts)} prompts for {len(images)} images.", "Give one for all or one an image.")
        if not prompts:
            return []
        return self._continued(images.tokens, prompts, max_tokens, beam)

    @torch.no_grad()
    def candidates(
        self,
        features: ImageFeatures,
        count: int,
        *,
        max_tokens: int = 44,
        temperature: float = 1.0,
        generators: Sequence[torch.Generator] = (),
    ) -> list[list[str]]:
        """Write several texts about each image; no gradient.

        Args:
            features: of N images. count: texts about each: the greedy one, and count − 1 samples.
            max_tokens: as for `generate`. temperature: of the sampling, above 0.
            generators: one an image, the source of its samples; none: seed 0 for each.

        Returns:
            N lists of `count` texts without special tokens; some may be alike.

        Raises:
            ModelError: the model has no decoder. OptionError: a number out of range.
            DataError: the number of generators is not that of the images.
        """
        if not self.has_decoder:
            raise self._no_decoder()
        if count < 1 or max_tokens < 1 or not temperature > 0:
            raise OptionError(
                f"count={count}, max_tokens={max_tokens}, temperature={temperature}.",
                "The first two are at least 1, the third is above 0.",
            )
        sources = list(generators) or [torch.Generator().manual_seed(0) for _ in range(len(features))]
        if len(sources) != len(features):
            raise DataError(f"{len(sources)} generators for {len(features)} images.", "Give one an image.")
        found = [[text] for text in self.generate(features, max_tokens=max_tokens)]
        more = count - 1
        if more and found:
            rows = torch.arange(len(features), device=features.tokens.device).repeat_interleave(more)
            draw = gumbel([sources[row] for row in rows.tolist()], temperature)
            sampled = self._continued(features.tokens[rows], [""] * len(rows), max_tokens, 1, draw)
            for row, texts in enumerate(found):
                texts += sampled[row * more : (row + 1) * more]
        return found

    def _continued(
        self, tokens: torch.Tensor, prompts: Sequence[str], max_tokens: int, beam: int, draw: Draw | None = None
    ) -> list[str]:
        """Continue one prompt for each row of image tokens."""
        pad, bos, eos = self.token_ids()
        ids, ends = self._opened(prompts)
        added = generate_ids(
            self.fusion_logits,
            tokens,
            ids,
            ends,
            context_length=self.context_length,
            max_tokens=max_tokens,
            beam=beam,
            eos_id=eos,
            pad_id=pad,
            forbidden=tuple({pad, bos} - {eos, NO_TOKEN}),
            draw=draw,
        )
        return [self.detokenize(row) for row in added]

    def _opened(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prompts' ids N×L without their end tokens, and the number of tokens in each."""
        pad, _, eos = self.token_ids()
        ids = self.tokenize(prompts)
        ends = (ids == eos).int().argmax(dim=1)
        ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= ends.unsqueeze(1), pad)
        if int(ends.min()) < 1:
            raise ModelError(
                f"The vocabulary of {self.name} has no start token, so it cannot begin a text.", "Give a prompt."
            )
        if int(ends.max()) >= self.context_length - 1:
            raise DataError("The prompt fills the whole context.", f"Use fewer than {self.context_length - 2} tokens.")
        return ids[:, : int(ends.max())], ends

    def _no_decoder(self) -> ModelError:
        return ModelError(
            f"{self.name} has no multimodal decoder: it cannot answer, judge statements or write captions.",
            "Choose a CoCa model, such as tabletop.",
        )

    @staticmethod
    def _rows(x: torch.Tensor, count: int, image_of_text: Sequence[int] | torch.Tensor | None) -> torch.Tensor:
        """Return rows of `x` for `count` texts."""
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
