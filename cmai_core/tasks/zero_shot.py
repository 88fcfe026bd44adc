"""Zero-shot classification: the class whose prompt lies nearest to the image (CLIP: Radford et al. 2021, sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cmai_core.errors import OptionError
from cmai_core.tasks.base import Choices, ChoiceTask, true_of

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel


@dataclass(frozen=True)
class ZeroShotChoices(Choices):
    """Attributes: prompts: the options as sentences; embeddings: C×D, of the prompts, unit length."""

    prompts: tuple[str, ...] = ()
    embeddings: Tensor = field(default_factory=lambda: torch.empty(0), metadata={"rows": False})


def prompt(name: str, dataset_name: str) -> str:
    """A class as a sentence: "a red cube" on Tabletop, "a photo of a cat" elsewhere."""
    phrase = f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
    return phrase if dataset_name == "tabletop" else f"a photo of {phrase}"


class ZeroShot(ChoiceTask):
    """On Tabletop a class ("red cube") is right when the scene holds one; elsewhere when it is the pair's label."""

    name = "zero-shot"

    def _missing(self, dataset: PairDataset) -> str:
        return "" if len(dataset.classes) > 1 else f"{dataset.name} has no classes to choose from."

    @torch.no_grad()
    def prepare(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None
    ) -> ZeroShotChoices:
        """Encodes the prompts of the dataset's classes (of the pairs' own labels without a dataset).

        Raises:
            OptionError: fewer than two classes.
        """
        classes = tuple(dataset.classes) if dataset is not None else tuple(sorted({p.label for p in pairs if p.label}))
        if len(classes) < 2:
            raise OptionError("Zero-shot classification needs at least two classes.", "Give a dataset with classes.")
        prompts = tuple(prompt(name, dataset.name if dataset is not None else "") for name in classes)
        plain = [prompt(name, "tabletop") for name in classes]
        target = np.zeros((len(pairs), len(classes)), bool)
        known = np.zeros(len(pairs), bool)
        for row, pair in enumerate(pairs):
            truth = true_of(pair, plain)
            if truth is None:
                truth = np.array([name == pair.label for name in classes])
            target[row], known[row] = truth, truth.any()
        prepared = ZeroShotChoices(
            options=classes,
            target=torch.from_numpy(target).to(model.device),
            known=torch.from_numpy(known).to(model.device),
            asked=("",) * len(pairs),
            prompts=prompts,
            embeddings=model.encode_text(list(prompts)),
        )
        return self.stand_in(model, pairs, prepared)

    def logits(self, model: VisionLanguageModel, features: ImageFeatures, prepared: ZeroShotChoices) -> Tensor:
        return model.logit_scale * features.embedding @ prepared.embeddings.T
