"""A bag-of-words model whose best edits are known, a small real CoCa, and Tabletop pairs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cmai_core.data.pair import Batch, Pair
from cmai_core.data.words import Words
from cmai_core.models.tokenizer import word_list

WORDS = word_list("tabletop")[:200]


@dataclass(frozen=True)
class Features:
    embedding: torch.Tensor
    pooled: torch.Tensor
    tokens: torch.Tensor | None = None


class BagOfWords(nn.Module):
    """Text embedding = mean of its words' vectors; image embedding = a linear map of the pixels. Float64, no norm.

    S_c is linear in every word's vector, so the best single substitution can be written down. Tokens: 0 pad, 1 start,
    2 end, 3 unknown, then the words.
    """

    context_length = 16

    def __init__(self, seed=0, words=WORDS, dim=6, size=4):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.vocabulary = ["<pad>", "<bos>", "<eos>", "<unk>", *words]
        self.index = {word: k for k, word in enumerate(self.vocabulary)}
        self.vocabulary_size, self.reads_distributions = len(self.vocabulary), True
        self.table = nn.Parameter(torch.randn(self.vocabulary_size, dim, generator=generator, dtype=torch.float64))
        self.image = nn.Parameter(torch.randn(3 * size * size, dim, generator=generator, dtype=torch.float64))
        self.text_passes = 0

    def token_ids(self):
        return 0, 1, 2

    def tokenize(self, texts):
        out = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids = [self.index.get(w.lower(), 3) for w in Words.split(text).words][: self.context_length - 2]
            ids = [1, *ids, 2]
            out[row, : len(ids)] = torch.tensor(ids)
        return out

    def detokenize(self, ids):
        return " ".join(self.vocabulary[i] for i in ids if i > 3)

    def encode_text(self, x, pad_mask=None):
        self.text_passes += 1
        if not isinstance(x, torch.Tensor):
            x = self.tokenize(x)
        if not x.is_floating_point():
            pad_mask = x == 0
            x = torch.nn.functional.one_hot(x, self.vocabulary_size)
        x = x.double() * (~pad_mask).unsqueeze(-1)
        return (x @ self.table).sum(dim=1) / (~pad_mask).sum(dim=1, keepdim=True)

    def image_features(self, pixels):
        scores = (pixels.double() - 0.5).flatten(1) @ self.image
        return Features(scores, scores)


def text_batch(texts, owners=None, seed=0, size=4, scenes=None, prefix="pair"):
    """Random pixels; one image a text unless `owners` says otherwise."""
    owners = tuple(range(len(texts))) if owners is None else tuple(owners)
    count = max(owners) + 1
    pixels = []
    for k in range(count):
        generator = torch.Generator().manual_seed(seed + 100 * k)
        pixels.append(torch.randint(0, 256, (3, size, size), generator=generator) / 255)
    blank = np.zeros((size, size, 3), np.uint8)
    first = [texts[owners.index(k)] for k in range(count)]
    pairs = tuple(
        Pair(f"{prefix}/{k}", blank, (first[k],), scene=None if scenes is None else scenes[k]) for k in range(count)
    )
    return Batch(tuple(p.id for p in pairs), torch.stack(pixels), tuple(texts), owners, pairs)


def rows_of(batch, rows):
    """Some pairs of a batch with one text per image."""
    return Batch(
        tuple(batch.ids[r] for r in rows),
        batch.pixels[list(rows)],
        tuple(batch.texts[r] for r in rows),
        tuple(range(len(rows))),
        tuple(batch.pairs[r] for r in rows),
    )


def small_coca(seed=0):
    from cmai_core.models import OpenClipModel
    from cmai_core.models.architectures import build_from_config
    from cmai_core.models.families.bundled import bundled_tokenizer

    text = {
        "context_length": 48,
        "vocab_size": 1024,
        "hf_tokenizer_name": "cmai-tabletop",
        "width": 32,
        "heads": 4,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
        "pad_id": 0,
        "eos_id": 2,
    }
    vision = {
        "image_size": 32,
        "patch_size": 16,
        "width": 24,
        "layers": 1,
        "head_width": 12,
        "output_tokens": True,
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 4,
    }
    fusion = {"context_length": 48, "vocab_size": 1024, "width": 32, "heads": 4, "layers": 1}
    model = {
        "embed_dim": 32,  # the pooled image tokens' width too, which the decoder reads
        "vision_cfg": vision,
        "text_cfg": text,
        "multimodal_cfg": fusion,
        "custom_text": True,
    }
    preprocess = {
        "size": [32, 32],
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    config = {"model_cfg": deepcopy(model), "preprocess_cfg": preprocess}
    clip = build_from_config(config["model_cfg"], preprocess, torch.Generator().manual_seed(seed))
    with torch.no_grad():  # a freshly made tower hardly reacts to single words
        clip.text.token_embedding.weight.mul_(30)
    return OpenClipModel(clip.eval(), bundled_tokenizer(), spec="small", config=config)


def tabletop_batch(count=4, size=32, each=1):
    """Real captions and scenes of the test split over random pixels."""
    from cmai_core.data.tabletop.dataset import captions_of, scene_of

    texts, owners, scenes = [], [], []
    for k in range(count):
        scenes.append(scene_of("test", k))
        texts += captions_of("test", k)[:each]
        owners += [k] * each
    return text_batch(texts, owners, size=size, scenes=scenes, prefix="tabletop/test")


@pytest.fixture(scope="session")
def coca():
    """Treat as read-only."""
    return small_coca()


@pytest.fixture(scope="session")
def tools():
    """The builders above."""
    return SimpleNamespace(
        BagOfWords=BagOfWords,
        Features=Features,
        WORDS=WORDS,
        text_batch=text_batch,
        rows_of=rows_of,
        small_coca=small_coca,
        tabletop_batch=tabletop_batch,
    )
