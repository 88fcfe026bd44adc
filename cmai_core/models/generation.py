"""Writing a text about an image, token by token: greedy and beam search.

open_clip's own `CoCa.generate` needs classes that current transformers no longer has; this one needs none. Padding and
the start token are never produced; a text ends at the end token, at `max_tokens`, or where the context is full.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

# (tokens N×P×W, ids N×L') → logits N×L'×V
FusionFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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

    Returns:
        N lists of added ids, without the end token.
    """
    count, device = len(prompt), prompt.device
    rows = torch.arange(count, device=device).repeat_interleave(beam)
    ids = torch.full((count * beam, context_length), pad_id, dtype=torch.long, device=device)
    ids[:, : prompt.shape[1]] = prompt[rows]
    start = lengths.to(device)[rows]
    ends = start.clone()
    scores = torch.full((count, beam), float("-inf"), device=device)
    scores[:, 0] = 0.0
    alive = ends < context_length
    for _ in range(max_tokens):
        if not bool(alive.any()):
            break
        log_probs = _next_log_probs(fusion, tokens, rows, ids, ends, alive, forbidden)
        vocabulary = log_probs.shape[1]
        # A finished hypothesis has one successor, itself, at no cost.
        log_probs[~alive] = float("-inf")
        log_probs[~alive, pad_id] = 0.0
        totals = scores.view(-1, 1) + log_probs
        added = (ends - start + alive.long()).clamp(min=1).unsqueeze(1)
        ranked = (totals / added).view(count, -1).topk(beam, dim=1).indices
        parents = (ranked // vocabulary + torch.arange(count, device=device).unsqueeze(1) * beam).view(-1)
        chosen = (ranked % vocabulary).view(-1)
        scores = totals.view(count, -1).gather(1, ranked)
        ids, ends, alive = ids[parents], ends[parents], alive[parents]
        live = alive.nonzero().squeeze(1)
        ids[live, ends[live]] = chosen[live]
        ends = ends + alive.long()
        alive = alive & (chosen != eos_id) & (ends < context_length)
    best = (scores / (ends - start).clamp(min=1).view(count, beam)).argmax(dim=1)
    picked = best + torch.arange(count, device=device) * beam
    texts = []
    for row in picked.tolist():
        added_ids = ids[row, int(start[row]) : int(ends[row])].tolist()
        texts.append(added_ids[:-1] if added_ids and added_ids[-1] == eos_id else added_ids)
    return texts


def _next_log_probs(
    fusion: FusionFunction,
    tokens: torch.Tensor,
    rows: torch.Tensor,
    ids: torch.Tensor,
    ends: torch.Tensor,
    alive: torch.Tensor,
    forbidden: tuple[int, ...],
) -> torch.Tensor:
    """Log-probabilities of the next token for every hypothesis (rows that are not alive: zeros), float32."""
    live = alive.nonzero().squeeze(1)
    reach = int(ends[live].max())
    logits = fusion(tokens[rows[live]], ids[live, :reach])
    last = logits[torch.arange(len(live), device=logits.device), ends[live] - 1].float()
    last[:, list(forbidden)] = float("-inf")
    out = torch.zeros(len(ids), last.shape[1], device=ids.device)
    out[live] = last.log_softmax(dim=1)
    return out
