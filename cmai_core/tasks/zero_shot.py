"""Zero-shot classification: the class whose prompt lies nearest to the image (CLIP: Radford et al. 2021, sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cmai_core.data.registry import DATASETS, DatasetInfo
from cmai_core.data.truth import true_texts
from cmai_core.errors import OptionError
from cmai_core.tasks.base import Choices, ChoiceTask, Option
from cmai_core.tasks.consistency import AnswerTexts, option_texts

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
    """Return a class as a sentence: "a red cube" on Tabletop, "a photo of a cat" where a dataset says nothing else."""
    info = DATASETS.get(dataset_name)
    return (DatasetInfo.prompt if info is None else info.prompt).format(_with_article(name))


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _bare(text: str) -> str:
    """Return a text as people compare them: without case, outer marks and doubled spaces."""
    return " ".join(text.casefold().split()).strip(" .!?,;:\"'“”")


class ZeroShot(ChoiceTask):
    """The nearest class: right when the scene holds one, or without ground truth, when it is the pair's label."""

    name = "zero-shot"
    verifiable = True
    option_word = "a class"

    def _missing(self, dataset: PairDataset) -> str:
        return "" if len(dataset.classes) > 1 else f"{dataset.name} has no classes to choose from."

    def identity(self, dataset: PairDataset) -> dict[str, Any]:
        """Return the classes, with the dataset that gives their prompts."""
        return {"classes": [dataset.name, list(dataset.classes)]}

    def answer_texts(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], prepared: ZeroShotChoices, *, encode: bool = True
    ) -> AnswerTexts:
        """Return the classes' prompts."""
        return option_texts(model, prepared, prepared.prompts, prepared.embeddings, encode=encode)

    def option_of(self, text: str, pair: Pair, dataset: PairDataset) -> Option | None:
        """Return the class that a text names: by its name, with or without an article, or by its prompt."""
        said = _bare(text)
        for name in dataset.classes:
            if said in (_bare(name), _bare(_with_article(name)), _bare(prompt(name, dataset.name))):
                truth = true_texts([_with_article(name)], pair)
                known = None if pair.label is None else name == pair.label
                return Option(name, known if truth is None else bool(truth[0]))
        return None

    @torch.no_grad()
    def prepare(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None
    ) -> ZeroShotChoices:
        """Encode the prompts of the dataset's classes (of the pairs' own labels without a dataset).

        Raises:
            OptionError: fewer than two classes.
        """
        classes = tuple(dataset.classes) if dataset is not None else tuple(sorted({p.label for p in pairs if p.label}))
        if len(classes) < 2:
            raise OptionError("Zero-shot classification needs at least two classes.", "Give a dataset with classes.")
        prompts = tuple(prompt(name, dataset.name if dataset is not None else "") for name in classes)
        plain = [_with_article(name) for name in classes]
        target = np.zeros((len(pairs), len(classes)), bool)
        known = np.zeros(len(pairs), bool)
        for row, pair in enumerate(pairs):
            truth = true_texts(plain, pair)
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

    def statement(self, prepared: ZeroShotChoices, row: int, option: int) -> str:
        """Return the class's prompt."""
        return prepared.prompts[option]

    def scores(self, model: VisionLanguageModel, features: ImageFeatures, prepared: ZeroShotChoices) -> Tensor:
        """Return the cosines with the prompts, at the model's scale."""
        return model.logit_scale * features.embedding @ prepared.embeddings.T
