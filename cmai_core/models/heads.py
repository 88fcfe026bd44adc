"""Heads of their own for consistency: P_v and P_t beside the contrastive head, and the verifier V_verify.

`S_c = cos(P_v(h_v), P_t(h_t))`. V_verify reads a caption word by word: every word looks at the image's patches and says
how probable it is that the picture bears it out. A caption is consistent when each of its words is, so V_verify is
the product of the words' probabilities (a noisy AND: Pearl 1988, sec. 4.3.2), and which word disagrees is part of the
answer instead of being reconstructed after it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadSizes:
    """Widths: of the shared embedding, image tokens and text token states; `inner` of the heads' own space."""

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
    """

    states: Tensor
    counted: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Any) -> TextStates:
        """Rows by slice, mask or index tensor."""
        return TextStates(self.states[rows], self.counted[rows])


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
        self.word_mlp = nn.Sequential(nn.Linear(3 * inner, inner), nn.GELU(), nn.Linear(inner, 1))
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self._initialise(generator or torch.Generator().manual_seed(0))

    def _initialise(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    module.weight.normal_(std=module.in_features**-0.5, generator=generator)
                    module.bias.zero_()
            self.image_query.normal_(std=1.0, generator=generator)
            # At the start every word is probably borne out: a caption of ten words then has about even odds.
            self.word_mlp[-1].weight.mul_(0.1)
            self.word_mlp[-1].bias.fill_(2.6)

    def image(self, pooled: Tensor, tokens: Tensor) -> Tensor:
        """P_v(h_v): N×D pooled embeddings (before normalisation) and N×P×W patch tokens → N×inner, unit length."""
        keys, values = self.image_keys(tokens).chunk(2, dim=-1)
        weights = (keys @ self.image_query * self.sizes.inner**-0.5).softmax(dim=-1)
        seen = (weights.unsqueeze(-1) * values).sum(dim=1)
        return F.normalize(_full(self.image_mlp(torch.cat([pooled, seen], dim=-1))), dim=-1)

    def text(self, pooled: Tensor) -> Tensor:
        """P_t(h_t): T×D pooled embeddings (before normalisation) → T×inner, unit length."""
        return F.normalize(_full(self.text_mlp(pooled)), dim=-1)

    def words(self, tokens: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """How far the picture bears out each word.

        Args:
            tokens: T×P×W, patch tokens of each text's image.
            states: T×L×W', token states of the texts.

        Returns:
            log odds T×L, and the attention over patches T×L×P (rows sum to 1).
        """
        queries = self.word_queries(states)
        keys, values = self.patch_keys(tokens).chunk(2, dim=-1)
        weights = (queries @ keys.transpose(-1, -2) * self.sizes.inner**-0.5).softmax(dim=-1)
        seen = weights @ values
        return _full(self.word_mlp(torch.cat([queries, seen, queries * seen], dim=-1)).squeeze(-1)), weights


def log_verified(odds: Tensor, counted: Tensor) -> Tensor:
    """log V_verify, T values ≤ 0: the sum of log σ(odds) over the words that count (bool T×L)."""
    return F.logsigmoid(_full(odds)).masked_fill(~counted, 0.0).sum(dim=-1)


def verification_loss(log_probability: Tensor, consistent: Tensor) -> Tensor:
    """Binary cross entropy of V_verify, T values; `consistent`: bool T. Stable where V is close to 0 or 1."""
    x = log_probability.clamp(max=-1e-6)
    return -torch.where(consistent, x, log_opposite(x))


def log_opposite(log_probability: Tensor) -> Tensor:
    """log(1 − p) of log p < 0, exact where p is close to 0 or to 1."""
    # Mächler 2012, "Accurately computing log(1 − exp(−|a|))", eq. 7.
    x, half = log_probability, -0.6931
    return torch.where(x > half, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x.clamp(max=half))))


def _full(x: Tensor) -> Tensor:
    """Half precision as single; single and double as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _mlp(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * inner), nn.GELU(), nn.Linear(2 * inner, inner))
