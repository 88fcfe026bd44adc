"""A family of models as another package would bring it: one class and one `Family`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.models.base import BaseModel
from cmai_core.models.families.family import Family
from cmai_core.models.features import ImageFeatures, TextFeatures
from cmai_core.models.preprocess import Preprocessing

SIZE, WIDTH, LENGTH = 16, 24, 128


class Letters:
    """A tokenizer: a token is a byte of the text."""

    sot_token_id, eot_token_id = 1, 2

    def __call__(self, texts, context_length):
        rows = [[1, *(3 + byte for byte in text.encode()[: context_length - 2]), 2] for text in texts]
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])

    def decode(self, ids):
        return bytes(i - 3 for i in ids if i >= 3).decode(errors="replace")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GELU(), nn.Flatten(), nn.Linear(128, WIDTH))
        self.text = nn.EmbeddingBag(259, WIDTH, padding_idx=0)
        self.scale = nn.Parameter(torch.tensor(2.0))


class TinyModel(BaseModel):
    vocabulary_size, context_length, embed_dim = 259, LENGTH, WIDTH

    @property
    def logit_scale(self):
        return self._network.scale.exp()

    @property
    def image_tower(self):
        return self._network.image

    def image_features(self, pixels):
        pooled = self.image_tower(self.normalise(pixels))
        return ImageFeatures(F.normalize(pooled, dim=-1), pooled, None)

    def text_features(self, x, pad_mask=None, states=True):
        pooled = self._network.text(self._as_ids(x, pad_mask))
        return TextFeatures(F.normalize(pooled, dim=-1), pooled, None)


def load(spec):
    """`tiny:7`: random weights of seed 7."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(spec.removeprefix("tiny:")))
        return TinyModel(Network(), Letters(), Preprocessing(SIZE), spec=spec)


FAMILY = Family(load, "tiny:7", "random weights of a seed, for tests")
