"""A classifier as two encoders: its logits on the unit sphere, and a vector for each class.

A text stands for the class that it names, and the cosine of picture and class, times the temperature, is exactly the
classifier's own logit. So that a cosine can be an unbounded logit, the logits z are lifted onto the unit sphere with
one coordinate more, (z/R, √(1 − |z|²/R²)), and a class is a coordinate vector: R · cos = z_c, gradients included, as
long as |z| ≤ R.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmai_core.errors import DataError, ModelError, OptionError

RADIUS = 1000.0
"""R: logits whose norm exceeds it come out smaller than they are."""
BOS, EOS, FIRST = 1, 2, 3
"""Ids of the tokens around a class, and of the first class."""


class LiftedLogits(nn.Module):
    """A classifier whose logits are lifted onto the unit sphere (see the module)."""

    def __init__(self, classifier: nn.Module, count: int):
        super().__init__()
        self.classifier, self.count = classifier, count
        self.training = classifier.training

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.classifier(pixels)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != self.count:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"The classifier gives {shape} for {self.count} classes.", "It should give N×C logits.")
        point = logits.float() / RADIUS
        rest = (1 - point.square().sum(dim=1, keepdim=True)).clamp(min=1e-12).sqrt()
        return torch.cat([point, rest], dim=1)


class ClassVectors(nn.Module):
    """The coordinate vectors of classes, by ids of `ClassTokenizer`."""

    vectors: Tensor

    def __init__(self, count: int):
        super().__init__()
        self.register_buffer("vectors", torch.eye(count, count + 1))
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.vectors[ids[:, 1] - FIRST]


class ClassTokenizer:
    """A vocabulary of classes: a text is the class whose name stands in it.

    Where several do it is the longest, of equally long ones the last ("a photo of a b" is b).

    Raises:
        OptionError: fewer than two classes, or a name twice.
    """

    sot_token_id, eot_token_id = BOS, EOS

    def __init__(self, classes: Sequence[str]):
        self.classes = tuple(str(name).strip().lower() for name in classes)
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes) or not all(self.classes):
            raise OptionError(f"classes={list(classes)!r} is not accepted.", "Accepted: two or more different names.")
        longest_first = sorted(self.classes, key=len, reverse=True)
        self._pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)")

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        """Ids, int64 T×3.

        Raises:
            DataError: a text that names none of the classes.
        """
        return torch.tensor([[BOS, FIRST + self._class_of(text), EOS] for text in texts], dtype=torch.int64)

    def _class_of(self, text: str) -> int:
        found = self._pattern.findall(text.lower())
        if not found:
            some = ", ".join(self.classes[:8]) + (", …" if len(self.classes) > 8 else "")
            raise DataError(f"{text!r} names none of the classifier's classes.", f"It knows {some}.")
        return self.classes.index(max(reversed(found), key=len))

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.classes[k - FIRST] for k in ids if k >= FIRST)
