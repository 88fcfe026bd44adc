"""Speed of SGA, ours and a literal one in turn: python benchmarks/bench_joint.py [--model tabletop]

The literal one does what the paper says (Lu et al. 2023, arXiv 2307.14061, §4.2) as its authors' code is laid out:
images climb together, texts are searched one after another and word by word, and open_clip tokenises and encodes.
Both start at the same points, draw the same noise and choose among the same ten substitutes for every word, and must
end with the same texts and pictures.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from workload import Workload, build, paired

from cmai_core.attacks import ThreatModel
from cmai_core.attacks.joint_attack import JointAttack
from cmai_core.attacks.joint_schedules.schedules import SGA, Scales
from cmai_core.attacks.text_searches.proposers import Vocabulary
from cmai_core.attacks.text_searches.search import BeamSearch
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.data.pair import Batch
from cmai_core.data.words import Words
from cmai_core.seeds import sample_generators

EPSILON, STEPS, RATIOS, NOISE = 2 / 255, 10, (0.5, 0.75, 1.0, 1.25, 1.5), 0.05
SUBSTITUTES = ("red", "green", "cube", "ball", "cone", "large", "small", "metal", "left", "two")
CAPTIONS = 5


def batch_of(work: Workload) -> Batch:
    """Every picture with five of its captions."""
    pairs = work.batch.pairs
    texts = tuple(text for pair in pairs for text in pair.captions[:CAPTIONS])
    owners = tuple(row for row, pair in enumerate(pairs) for _ in pair.captions[:CAPTIONS])
    return Batch(work.batch.ids, work.batch.pixels, texts, owners, pairs)


def literal(work: Workload, batch: Batch, seed: int) -> tuple[torch.Tensor, list[str]]:
    """The paper's three steps, one text at a time."""
    model, clean = work.model, batch.pixels
    owners = list(batch.image_of_text)

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        return model.clip.encode_image((pixels - model._mean) / model._std, normalize=True)

    def encode_text(texts: list[str]) -> torch.Tensor:
        return model.clip.encode_text(model.tokenizer(texts, context_length=model.context_length), normalize=True)

    def attack_texts(pixels: torch.Tensor) -> list[str]:
        found = []
        with torch.no_grad():
            images = encode_image(pixels)
            for text, owner in zip(batch.texts, owners, strict=True):
                words, best, best_value = Words.split(text), text, None
                own = encode_text([text]) @ images[owner]
                best_value = -float(own)
                for place in range(len(words)):
                    tried = [str(words.replace(place, word)) for word in SUBSTITUTES]
                    values = -(encode_text(tried) @ images[owner])
                    if float(values.max()) > best_value:
                        best, best_value = tried[int(values.argmax())], float(values.max())
                found.append(best)
        return found

    texts = attack_texts(clean)
    with torch.no_grad():
        targets = encode_text(texts)
        sums = torch.zeros(len(clean), targets.shape[1]).index_add_(0, torch.tensor(owners), targets)
    lower, upper = (clean - EPSILON).clamp(min=0), (clean + EPSILON).clamp(max=1)
    starts = sample_generators(seed, batch.ids, 0)
    draws = torch.stack([torch.rand(clean.shape[1:], generator=g) for g in starts])
    x = (lower + draws * (upper - lower)).clamp(lower, upper)
    size, side = EPSILON / 4, clean.shape[-1]
    for step in range(STEPS):
        x = x.detach().requires_grad_(True)
        noises = sample_generators(seed, batch.ids, step + 1)
        loss = 0.0
        for ratio in RATIOS:
            noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in noises])
            seen = (x + NOISE * noise).clamp(0, 1)
            if ratio != 1:
                scaled = F.interpolate(seen, size=(int(side * ratio),) * 2, mode="bicubic", antialias=True)
                seen = F.interpolate(scaled, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
            loss = loss - (encode_image(seen) * sums).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        x = (x.detach() + size * gradient.sign()).clamp(lower, upper)
    return x, attack_texts(x)


def compare(name: str, images: int, rounds: int) -> None:
    """Prints the times of both, and how far they agree."""
    work = build(name, images)
    batch = batch_of(work)
    attack = JointAttack(
        threat=ThreatModel("linf", EPSILON),
        text_threat=TextThreat(words=1, keep_case=False),
        schedule=SGA(
            text=BeamSearch(proposer=Vocabulary(words=SUBSTITUTES)),
            steps=STEPS,
            step_size=EPSILON / 4,
            scales=Scales(ratios=RATIOS, noise=NOISE),
        ),
        keep="last",
    )
    result = attack(work.model, batch, seed=0)
    pixels, texts = literal(work, batch, 0)
    same = sum(a == b for a, b in zip(texts, result.texts, strict=True))
    near = float((pixels - result.pixels).abs().le(1e-6).float().mean())
    owners = torch.tensor(batch.image_of_text)
    with torch.no_grad():
        scores = [
            float((work.model.image_features(x).embedding[owners] * work.model.encode_text(list(t))).sum(dim=1).mean())
            for x, t in ((result.pixels, result.texts), (pixels, texts))
        ]
    t = paired(lambda: attack(work.model, batch, seed=0), lambda: literal(work, batch, 0), rounds)
    print(f"\n{name}: {images} pictures, {len(batch.texts)} texts, {rounds} rounds\n")
    print(f"SGA-{STEPS}, ours {t.ours:.2f} s, literal {t.theirs:.2f} s: {t.ratio:.2f} × ({t.low:.2f} to {t.high:.2f})")
    print(f"the same texts: {same} of {len(texts)}; the same pixel values: {100 * near:.2f} %")
    print(f"mean S_c after the attack: ours {scores[0]:.4f}, literal {scores[1]:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="may be repeated (default: tabletop)")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for name in args.model or ["tabletop"]:
        compare(name, args.images, args.rounds)


if __name__ == "__main__":
    main()
