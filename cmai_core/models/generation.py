"""Writing a text about an image, token by token: greedy, beam search, and sampling.

open_clip's own `CoCa.generate` needs classes that current transformers no longer has; this one needs none. Padding and
the start token are never produced; a text ends at the end token, at `max_tokens`, or where the context is full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

# (tokens N×P×W, ids N×L') → logits N×L'×V
FusionFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# log-probabilities N×V of the next token → values by which it is chosen
Draw = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def generate_ids(
    fusion: FusionFunction,
    tokens: torch.Tensor,
    prompt: torch.Tensor,
    lengths: torch.Tensor,
    *,
    context_length: int,
    max_tokens: int,
    beam: int,
    eos_id: int,
    pad_id: int,
    forbidden: tuple[int, ...],
    draw: Draw | None = None,
) -> list[list[int]]:
    """Continue each prompt.

    Args:
        fusion: teacher-forced decoder; position t predicts token t+1.
        tokens: image tokens N×P×W, one row a prompt.
        prompt: int64 N×L0, right-padded with `pad_id`; each begins with the start token and has no end token.
        lengths: int64 N, tokens in each prompt (≥ 1).
        context_length: most tokens that the decoder reads.
        max_tokens: most tokens to add, the end token included.
        beam: hypotheses kept per image; 1 is greedy. Ranked by mean log-probability per added token.
        eos_id, pad_id: the vocabulary's.
        forbidden: ids that are never produced.
        draw: changes the values by which tokens are chosen (`gumbel`); with a beam of 1.

    Returns:
        N lists of added ids, without the end token.
    """
    beams = _Beams(prompt, lengths, beam, context_length, pad_id)
    for _ in range(max_tokens):
        if not bool(beams.alive.any()):
            break
        log_probs = _next_log_probs(fusion, tokens, beams, forbidden)
        beams.extend(log_probs if draw is None else draw(log_probs), eos_id)
    return beams.best(eos_id)


def gumbel(generators: Sequence[torch.Generator], temperature: float) -> Draw:
    """Return what makes the likeliest token a sample of softmax(log p / temperature), by adding Gumbel noise.

    (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030, eq. 2.) Row i draws from generator i, at every step as many
    numbers as there are tokens, so that it does not depend on the other rows.
    """

    def draw(log_probs: torch.Tensor) -> torch.Tensor:
        width = log_probs.shape[1]
        uniform = torch.stack([torch.rand(width, generator=g, device=g.device) for g in generators]).to(log_probs)
        tiny = torch.finfo(uniform.dtype).tiny
        return log_probs / temperature - (-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()

    return draw


class _Beams:
    """The hypotheses of a beam search, `beam` rows for each of N prompts.

    Attributes:
        ids: int64 (N·beam)×context_length. ends: how many tokens of each row are there, start how many of the prompt.
        scores: N×beam, sums of log-probabilities. alive: bool, which rows can be continued.
    """

    def __init__(self, prompt: torch.Tensor, lengths: torch.Tensor, beam: int, context_length: int, pad: int):
        self.count, device = len(prompt), prompt.device
        self.beam, self.context_length, self.pad = beam, context_length, pad
        self.images = torch.arange(self.count, device=device).repeat_interleave(beam)
        self.ids = torch.full((self.count * beam, context_length), pad, dtype=torch.long, device=device)
        self.ids[:, : prompt.shape[1]] = prompt[self.images]
        self.start = lengths.to(device)[self.images]
        self.ends = self.start.clone()
        self.scores = torch.full((self.count, beam), float("-inf"), device=device)
        self.scores[:, 0] = 0.0
        self.alive = self.ends < context_length

    @property
    def _first_rows(self) -> torch.Tensor:
        return torch.arange(self.count, device=self.ids.device) * self.beam

    def extend(self, log_probs: torch.Tensor, eos: int) -> None:
        """Keep the best continuations of each prompt by log-probabilities (N·beam)×V, ranked by their mean."""
        vocabulary = log_probs.shape[1]
        # A finished hypothesis has one successor, itself, at no cost.
        log_probs[~self.alive] = float("-inf")
        log_probs[~self.alive, self.pad] = 0.0
        totals = self.scores.view(-1, 1) + log_probs
        added = (self.ends - self.start + self.alive.long()).clamp(min=1).unsqueeze(1)
        ranked = (totals / added).view(self.count, -1).topk(self.beam, dim=1).indices
        parents = (ranked // vocabulary + self._first_rows.unsqueeze(1)).view(-1)
        chosen = (ranked % vocabulary).view(-1)
        self.scores = totals.view(self.count, -1).gather(1, ranked)
        self.ids, self.ends, self.alive = self.ids[parents], self.ends[parents], self.alive[parents]
        live = self.alive.nonzero().squeeze(1)
        self.ids[live, self.ends[live]] = chosen[live]
        self.ends = self.ends + self.alive.long()
        self.alive = self.alive & (chosen != eos) & (self.ends < self.context_length)

    def best(self, eos: int) -> list[list[int]]:
        """Return the added ids of each prompt's best hypothesis, without the end token."""
        lengths = (self.ends - self.start).clamp(min=1).view(self.count, self.beam)
        picked = (self.scores / lengths).argmax(dim=1) + self._first_rows
        texts = []
        for row in picked.tolist():
            added = self.ids[row, int(self.start[row]) : int(self.ends[row])].tolist()
            texts.append(added[:-1] if added and added[-1] == eos else added)
        return texts


def _next_log_probs(
    fusion: FusionFunction, tokens: torch.Tensor, beams: _Beams, forbidden: tuple[int, ...]
) -> torch.Tensor:
    """Return log-probabilities of every hypothesis' next token, float32 (zeros in rows that are not alive)."""
    live = beams.alive.nonzero().squeeze(1)
    reach = int(beams.ends[live].max())
    logits = fusion(tokens[beams.images[live]], beams.ids[live, :reach])
    last = logits[torch.arange(len(live), device=logits.device), beams.ends[live] - 1].float()
    last[:, list(forbidden)] = float("-inf")
    out = torch.zeros(len(beams.ids), last.shape[1], device=beams.ids.device)
    out[live] = last.log_softmax(dim=1)
    return out
