"""The likeliest captions of a result before and after verification (CMCV), clean and attacked: who moves where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cmai_core.data.truth import true_texts
from cmai_core.errors import DataError
from cmai_core.lab.pair_in_context import PairAmong
from cmai_core.lab.result import LabResult
from cmai_core.lab.run import Setting, with_sentence
from cmai_core.tasks import DEFAULT_TASK

if TYPE_CHECKING:
    import numpy as np

    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.protocol import VisionLanguageModel

BEST = 10
"""Captions shown of each order."""
NO_HEADS = "This model has no consistency heads, so nothing verifies its answers: the order is the cosine's."


@dataclass(frozen=True)
class Entry:
    """One caption on one side.

    Attributes:
        text: the caption. true: of the picture; None where nobody can say.
        cosine: with the picture. rank: by it, from 1.
        log_v, words: log V_verify and how many words it read; None for a caption that was not verified.
        fused: what the answer goes by (`VerifiedAnswers.rescore`). verified_rank: by that, from 1.
    """

    text: str
    true: bool | None
    cosine: float
    rank: int
    log_v: float | None
    words: int | None
    fused: float
    verified_rank: int


@dataclass(frozen=True)
class Move:
    """Where a caption stands among all, from 1, (clean, attacked); None on a side whose gallery lacks it.

    Attributes:
        ranks: by cosine. verified_ranks: as verified.
    """

    text: str
    true: bool | None
    ranks: tuple[int | None, int | None]
    verified_ranks: tuple[int | None, int | None]


@dataclass(frozen=True)
class ModelShortlist:
    """The captions that one model thinks likeliest.

    Attributes:
        clean, attacked: the ten best by cosine and the ten best as verified together, in the order of the latter.
        moves: every caption of either side, in the attacked order.
        rule: what answers go by (`VerifiedAnswers`). of_card: whether it is the model card's, fitted on validation
            pairs; else the usual one. note: why nothing is verified, "" where it is.
    """

    clean: tuple[Entry, ...]
    attacked: tuple[Entry, ...]
    moves: tuple[Move, ...]
    rule: Mapping[str, Any]
    of_card: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)


def shortlists(
    result: LabResult, models: Mapping[str, VisionLanguageModel], pair: Pair, dataset: PairDataset
) -> dict[str, ModelShortlist]:
    """Return by role the shortlists of every model that was shown an attack.

    Args:
        models, pair, dataset: as the attack had them.

    Raises:
        DataError: a model is another than the one that was attacked.
    """
    pair = with_sentence(pair, result.experiment.caption)
    setting = Setting(pair, PairAmong(pair, dataset), result.target)
    found = {}
    for role, prediction in result.attacked.items():
        if models[role].hash != prediction.hash:
            raise DataError(f"{prediction.name} is not the model that was attacked any more.", "Attack again.")
        found[role] = _shortlist(result, role, models[role], setting)
    return found


def _shortlist(result: LabResult, role: str, model: VisionLanguageModel, setting: Setting) -> ModelShortlist:
    from cmai_core.models.scoring import has_heads
    from cmai_core.tasks.verified import VerifiedAnswers

    example, verified = result.example_for(role), has_heads(model)
    own = VerifiedAnswers.of_card(model).get(DEFAULT_TASK) if verified else None
    rule = own or VerifiedAnswers()
    edited = example.caption not in ("", result.experiment.caption)
    sides = ((setting, example.clean), (setting.saying(example.caption) if edited else setting, example.adversarial))
    tables = [_table(about, model, picture, rule if verified else None) for about, picture in sides]
    clean, attacked = ([e for e in table if min(e.rank, e.verified_rank) <= BEST] for table in tables)
    return ModelShortlist(
        tuple(clean),
        tuple(attacked),
        _moves([e.text for e in (*attacked, *clean)], *({e.text: e for e in table} for table in tables)),
        rule.describe() if verified else {},
        own is not None,
        "" if verified else NO_HEADS,
    )


def _table(setting: Setting, model: VisionLanguageModel, picture: np.ndarray, rule: Any) -> list[Entry]:
    """Return every caption of the gallery, in the order as verified (rule None: by cosine)."""
    import torch

    from cmai_core.evaluation.runs.predictor import encode
    from cmai_core.models.evaluation_mode import evaluation_mode

    task = setting.task(DEFAULT_TASK, model)
    with torch.no_grad(), evaluation_mode(model):
        features = encode(model, [picture]).features
        prepared = task.prepare(model, [setting.pair], setting.dataset)
        scores = task.scores(model, features, prepared)
        read: dict[int, tuple[float, int]] = {}

        def verify(shortlist: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            log_v, words = task.verification(model, features, prepared, shortlist)
            rows = zip(shortlist[0].tolist(), log_v[0].tolist(), words[0].tolist(), strict=True)
            read.update({place: (v, int(n)) for place, v, n in rows})
            return log_v, words

        fused = scores if rule is None else rule.rescore(scores, verify)
        cosines = (scores / model.logit_scale)[0].tolist()
    ranks, verified_ranks = _ranks(scores[0]), _ranks(fused[0])
    truth = true_texts(prepared.options, setting.pair)
    entries = []
    for place, text in enumerate(prepared.options):
        known = text in setting.pair.captions or None if truth is None else bool(prepared.target[0, place])
        v, words = read.get(place, (None, None))
        entry = (text, known, cosines[place], ranks[place], v, words, float(fused[0, place]), verified_ranks[place])
        entries.append(Entry(*entry))
    return sorted(entries, key=lambda entry: entry.verified_rank)


def _ranks(scores: Any) -> list[int]:
    """Return the rank of each score, from 1; of equal ones the first comes first."""
    return (scores.argsort(descending=True, stable=True).argsort() + 1).tolist()


def _moves(texts: list[str], clean: Mapping[str, Entry], attacked: Mapping[str, Entry]) -> tuple[Move, ...]:
    def move(text: str) -> Move:
        both = clean.get(text), attacked.get(text)
        ranks = tuple(None if entry is None else entry.rank for entry in both)
        verified = tuple(None if entry is None else entry.verified_rank for entry in both)
        return Move(text, next(entry.true for entry in both if entry is not None), ranks, verified)

    return tuple(map(move, dict.fromkeys(texts)))
