"""Training of Tabletop's masked language model, which proposes substitutes for words.

cmai masked-lm
"""

from __future__ import annotations

import torch
from torch import nn

from cmai_core.attacks.text_searches.masked_lm import TabletopMaskedLM
from cmai_core.data.tabletop.captions import captions
from cmai_core.data.tabletop.sampling import sample_scene, scene_rng
from cmai_core.progress import CancelToken, Progress, ProgressCallback


def caption_ids(scenes: int, seed: int = 0) -> torch.Tensor:
    """Return the token ids of six captions of each of the first `scenes` training scenes: int64 6·scenes × 48."""
    texts: list[str] = []
    for k in range(scenes):
        scene = sample_scene(scene_rng(seed, "train", k), "train")
        texts += [text for text, _ in captions(scene, scene_rng(seed, "train", k, 1), 6)]
    return TabletopMaskedLM().tokenize(texts)


def mask_tokens(
    ids: torch.Tensor, mask_id: int, vocabulary: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Corrupt tokens (BERT: Devlin et al. 2019, §3.1): of 15 % of them 80 % are masked, 10 % random, 10 % left.

    Returns the corrupted ids, and which positions are to be predicted. Start, end and padding are left alone.
    """
    chance = torch.rand(ids.shape, generator=generator)
    kind = torch.rand(ids.shape, generator=generator)
    other = torch.randint(3, vocabulary, ids.shape, generator=generator)
    asked = (chance < 0.15) & (ids > 2)
    corrupted = torch.where(asked & (kind < 0.8), mask_id, ids)
    return torch.where(asked & (kind >= 0.9), other, corrupted), asked


def train_masked_lm(
    *,
    steps: int = 3000,
    batch_size: int = 96,
    learning_rate: float = 2e-3,
    scenes: int = 4000,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> tuple[TabletopMaskedLM, dict[str, float]]:
    """Train Tabletop's masked LM on the CPU; returns it with its loss and accuracy on held-out captions.

    AdamW with a one-cycle rate; the last 5 % of the captions are held out.
    """
    generator = torch.Generator().manual_seed(seed)
    data = caption_ids(scenes, seed)
    data = data[:, : int((data != 0).sum(dim=1).max())]
    held = data[-max(1, len(data) // 20) :]
    data = data[: len(data) - len(held)]
    model = TabletopMaskedLM()
    model.initialise(generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)
    running = 0.0
    for step in range(steps):
        if cancel is not None and cancel.cancelled:
            break
        ids = data[torch.randint(0, len(data), (batch_size,), generator=generator)]
        ids = ids[:, : int((ids != 0).sum(dim=1).max())]
        corrupted, asked = mask_tokens(ids, model.mask_id, model.vocabulary_size, generator)
        loss = nn.functional.cross_entropy(model(corrupted)[asked], ids[asked])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if progress is not None and (step % 50 == 0 or step + 1 == steps):
            progress(Progress(step + 1, steps, "training the masked LM", {"loss": running}))
    model.eval()
    with torch.no_grad():
        corrupted, asked = mask_tokens(held, model.mask_id, model.vocabulary_size, torch.Generator().manual_seed(1))
        logits = model(corrupted)[asked]
        loss = float(nn.functional.cross_entropy(logits, held[asked]))
        accuracy = float((logits.argmax(dim=1) == held[asked]).float().mean())
    return model, {"held_out_loss": round(loss, 4), "held_out_accuracy": round(accuracy, 4)}


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["masked-lm", *sys.argv[1:]]))
