"""Consistency heads: P_v and P_t beside the contrastive head, and the verifier V_verify.

`S_c = cos(P_v(h_v), P_t(h_t))`. V_verify reads a caption word by word: every word looks at the image's patches and says
how probable it is that the picture supports it. A caption is consistent when each of its words is, so V_verify is
the product of the words' probabilities (a noisy AND: Pearl 1988, sec. 4.3.2), and which word disagrees is part of the
answer instead of being reconstructed after it. Where the model has a decoder, a word's evidence also holds how likely
the decoder finds it after the words before and with this picture: that knows more of a scene than new heads learn.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadSizes:
    """Widths of the shared embedding, image tokens and text token states; `inner`: of the heads' own space."""

    embedding: int
    tokens: int
    states: int
    inner: int = 64

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class TextStates:
    """What V_verify reads of T texts.

    Attributes:
        states: T×L×W token states. counted: bool T×L, the positions that are words (no padding, start or end token).
        said: int64 T×L, the token ids; or float T×L×V, distributions over them.
    """

    states: Tensor
    counted: Tensor
    said: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Any) -> TextStates:
        """Select rows by slice, mask or index tensor."""
        return TextStates(self.states[rows], self.counted[rows], self.said[rows])

    def expand(self, count: int) -> TextStates:
        """Repeat one text `count` times."""
        return TextStates(*(x.expand(count, *x.shape[1:]) for x in (self.states, self.counted, self.said)))

    def at_length(self, length: int) -> TextStates:
        """Cut or pad to L positions; none of the added ones counts."""

        def fit(x: Tensor) -> Tensor:
            more = length - x.shape[1]
            return x[:, :length] if more <= 0 else F.pad(x, (0, 0) * (x.dim() - 2) + (0, more))

        return TextStates(fit(self.states), fit(self.counted), fit(self.said))


class ConsistencyHeads(nn.Module):
    """P_v, P_t and V_verify over the outputs of frozen or trained towers.

    Args:
        sizes: of the towers' outputs. generator: source of the initial weights (None: seed 0).
    """

    def __init__(self, sizes: HeadSizes, generator: torch.Generator | None = None):
        super().__init__()
        self.sizes = sizes
        inner = sizes.inner
        self.image_query = nn.Parameter(torch.empty(inner))
        self.image_keys = nn.Linear(sizes.tokens, 2 * inner)
        self.image_mlp = _mlp(sizes.embedding + inner, inner)
        self.text_mlp = _mlp(sizes.embedding, inner)
        self.word_queries = nn.Linear(sizes.states, inner)
        self.patch_keys = nn.Linear(sizes.tokens, 2 * inner)
        self.word_mlp = nn.Sequential(nn.Linear(3 * inner + 2, inner), nn.GELU(), nn.Linear(inner, 1))
        self.evidence = nn.Linear(2, 1)
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self._initialise(generator or torch.Generator().manual_seed(0))

    def _initialise(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    module.weight.normal_(std=module.in_features**-0.5, generator=generator)
                    module.bias.zero_()
            self.image_query.normal_(std=1.0, generator=generator)
            # At the start every word is probably supported: a caption of ten words then has about even odds.
            self.word_mlp[-1].weight.mul_(0.1)
            self.word_mlp[-1].bias.fill_(2.6)
            # And the less, the further the decoder would rather say something else.
            self.evidence.weight.copy_(torch.tensor([[0.0, 2.0]]))

    def image(self, pooled: Tensor, tokens: Tensor) -> Tensor:
        """Compute P_v(h_v), N×inner of unit length, from pooled embeddings N×D (not normalised) and tokens N×P×W."""
        keys, values = self.image_keys(tokens).chunk(2, dim=-1)
        weights = (keys @ self.image_query * self.sizes.inner**-0.5).softmax(dim=-1)
        seen = (weights.unsqueeze(-1) * values).sum(dim=1)
        return F.normalize(_full(self.image_mlp(torch.cat([pooled, seen], dim=-1))), dim=-1)

    def text(self, pooled: Tensor) -> Tensor:
        """Compute P_t(h_t): T×D pooled embeddings (before normalisation) → T×inner, unit length."""
        return F.normalize(_full(self.text_mlp(pooled)), dim=-1)

    def words(self, tokens: Tensor, states: Tensor, evidence: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Judge how well the picture supports each word.

        Args:
            tokens: N×P×W, patch tokens of the images; each has T/N texts in a row (usually one).
            states: T×L×W', token states of the texts.
            evidence: T×L×2 of `word_evidence`; None (no decoder): nothing is known.

        Returns:
            log odds T×L, and the attention over patches T×L×P (rows sum to 1).
        """
        queries = self.word_queries(states)
        keys, values = self.patch_keys(tokens).chunk(2, dim=-1)
        asked = queries.reshape(len(tokens), -1, self.sizes.inner)  # the texts of one image share its keys and values
        weights = (asked @ keys.transpose(-1, -2) * self.sizes.inner**-0.5).softmax(dim=-1)
        seen = (weights @ values).reshape(queries.shape)
        weights = weights.reshape(*queries.shape[:2], -1)
        known = queries.new_zeros(*queries.shape[:2], 2) if evidence is None else evidence.to(queries)
        odds = self.word_mlp(torch.cat([queries, seen, queries * seen, known], dim=-1)) + self.evidence(known)
        return _full(odds.squeeze(-1)), weights


def word_evidence(logits: Tensor, said: Tensor) -> Tensor:
    """Return what a decoder says of each word: T×L×2, its log probability and how far it is below the likeliest.

    In units of four nats, at least −3; the first position, of which nothing is predicted, has zeros.

    Args:
        logits: T×L×V of the decoder that reads the texts with their images; position t predicts token t+1.
        said: int64 T×L, the tokens; or float T×L×V, distributions over them.
    """
    predicted = _full(logits[:, :-1]).log_softmax(dim=-1)
    following = said[:, 1:]
    if said.is_floating_point():
        own = (following.to(predicted) * predicted).sum(dim=-1)
    else:
        own = predicted.gather(-1, following.unsqueeze(-1)).squeeze(-1)
    found = torch.stack([own, own - predicted.amax(dim=-1)], dim=-1) / 4
    return F.pad(found.clamp(min=-3.0), (0, 0, 1, 0))


def log_verified(odds: Tensor, counted: Tensor) -> Tensor:
    """Return log V_verify, T values ≤ 0: the sum of log σ(odds) over the words that count (bool T×L)."""
    return F.logsigmoid(_full(odds)).masked_fill(~counted, 0.0).sum(dim=-1)


def verification_loss(log_probability: Tensor, consistent: Tensor) -> Tensor:
    """Return the binary cross entropy of V_verify, T values; `consistent`: bool T. Stable near 0 and 1."""
    x = log_probability.clamp(max=-1e-6)
    return -torch.where(consistent, x, log_opposite(x))


def log_opposite(log_probability: Tensor) -> Tensor:
    """Return log(1 − p) of log p < 0, exact where p is close to 0 or to 1."""
    # Mächler 2012, "Accurately computing log(1 − exp(−|a|))", eq. 7.
    x, half = log_probability, -0.6931
    return torch.where(x > half, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x.clamp(max=half))))


def _full(x: Tensor) -> Tensor:
    """Return half precision as single; single and double as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _mlp(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * inner), nn.GELU(), nn.Linear(2 * inner, inner))
