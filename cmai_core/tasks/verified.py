"""Verified answering: the likeliest options are verified, and the answer is the one that the picture supports best.

    system = System(model, answering=VerifiedAnswers(shortlist=10))
    task.predict(system, system.image_features(pixels), prepared)

The k options with the highest scores of the model form the shortlist. Each amounts to a statement about the picture (a
caption, a class's prompt, a question with its answer), V_verify reads it word by word, and the fused score of an option
is s/T + γ · log V / words^κ. All is differentiable in the picture but for the choice of the shortlist, so an attack
on the system climbs through both stages; `tasks.stages` has the objectives of an attacker who aims at one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from cmai_core.errors import ModelError, OptionError
from cmai_core.models.heads import TextStates
from cmai_core.models.scoring import statement_states
from cmai_core.options import number, strict_options, whole

CARD_KEY = "answering"
Verify = Callable[..., tuple[Tensor, Tensor]]
"""Reads the shortlists N×k of all rows, or of the rows (int64) given second: log V_verify and numbers of words, N×k."""
CAPTIONING = "captioning"
LARGEST = 1e4
"""Of a temperature or γ in a card; with larger ones scores are no longer finite in half precision."""
_AGAIN = "Calibrate it again (cmai answering)."
_REMEMBERED = 8192
_ENCODED_TOGETHER = 256


@strict_options
@dataclass(frozen=True, kw_only=True)
class VerifiedAnswers:
    """How a system answers a task whose options are statements about the picture.

    Attributes:
        shortlist: k, how many options are verified; None: all of them.
        temperature: T, by which the model's own score of an option is divided.
        gamma: γ, the weight of log V_verify; 0: the model alone decides.
        kappa: κ, 0 to 1: how far the number of words of a statement is taken out of its log V_verify, which is a sum
            over words (1: the mean of a word).

    Raises:
        OptionError: a value outside its range.
    """

    shortlist: int | None = 10
    temperature: float = 1.0
    gamma: float = 1.0
    kappa: float = 0.0

    def __post_init__(self) -> None:
        if self.shortlist is not None:
            whole("shortlist", self.shortlist, 1)
        number("temperature", self.temperature, 0.0, above_low=True)
        number("gamma", self.gamma, 0.0)
        number("kappa", self.kappa, 0.0, 1.0)

    def describe(self) -> dict[str, Any]:
        """Return plain values for reports."""
        return asdict(self)

    def chosen(self, scores: Tensor) -> Tensor:
        """Return the shortlist of each row: int64 N×k, options with the highest of the scores N×C, best first."""
        count = scores.shape[1] if self.shortlist is None else min(self.shortlist, scores.shape[1])
        return scores.detach().topk(count, dim=1).indices

    def fuse(self, scores: Tensor, log_v: Tensor, words: Tensor) -> Tensor:
        """Return the fused scores of shortlisted options, from N×k scores, log V_verify and numbers of words."""
        return scores / self.temperature + self.gamma * log_v / words.clamp(min=1).to(log_v) ** self.kappa

    def rescore(self, scores: Tensor, verify: Verify, flagged: Tensor | None = None) -> Tensor:
        """Return N×C values to answer by: fused ones of the shortlist, and below them all others in their own order.

        Args:
            scores: N×C, the model's own.
            verify: shortlist N×k → log V_verify of these options and their numbers of words, both N×k
                (`ChoiceTask.verification`). flagged: bool N, which pictures a detector has flagged, where there is one:
                here it changes nothing.
        """
        shortlist = self.chosen(scores)
        log_v, words = verify(shortlist)
        inside = scores.gather(1, shortlist)
        fused = self.fuse(inside, log_v.to(scores), words)
        # Whoever is left out ranks below the least of the shortlist, by as much as the scores say.
        below = fused.detach().amin(dim=1, keepdim=True) + (scores - inside[:, -1:]) / self.temperature
        return below.scatter(1, shortlist, fused)

    @staticmethod
    def of_card(model: Any) -> dict[str, VerifiedAnswers]:
        """Return the rules by task that a model's card holds; {} where it holds none, and so changes nothing.

        Raises:
            ModelError: they belong to other weights, or cannot be read.
        """
        return _card_rules(model)


def _card_rules(model: Any) -> dict[str, VerifiedAnswers]:
    """Read the rules of a card, which may come from strangers."""
    stored = getattr(model, "card", {}).get(CARD_KEY)
    if not stored:
        return {}
    try:
        if stored["model"] != model.hash:
            raise ModelError("The rules of verified answering in the card are of other weights.", _AGAIN)
        rules = {task: entry["rule"] for task, entry in stored["tasks"].items()}
        return {task: rule_from_dict(rule) for task, rule in rules.items() if rule is not None}
    except (AttributeError, KeyError, TypeError, OptionError) as error:
        raise ModelError(f"The rules of verified answering in the card cannot be read: {error}.", _AGAIN) from error


def rule_from_dict(values: Mapping[str, Any]) -> VerifiedAnswers:
    """Return the inverse of `VerifiedAnswers.describe`, for values from a file.

    Raises:
        OptionError: a name that is missing or not known, a value of another kind, or one beyond anything fitted.
    """
    if missing := sorted({field.name for field in fields(VerifiedAnswers)} - set(values)):
        raise OptionError(f"A rule has no {missing[0]}.")
    rule = VerifiedAnswers(**values)
    for name in ("temperature", "gamma"):
        number(name, getattr(rule, name), 0.0, LARGEST)
    number("temperature", rule.temperature, 1 / LARGEST)
    return rule


@strict_options
@dataclass(frozen=True, kw_only=True)
class VerifiedCaptions:
    """How a system writes a caption: of several, the one that the picture supports best (best of n).

    Attributes:
        count: n, how many are written: the greedy one and n − 1 samples.
        temperature: of the sampling.
        kappa: κ, 0 to 1: as in `VerifiedAnswers`. At 0 the caption that says least is supported best.
        seed: of the samples. Every picture draws the same numbers, so that its caption does not depend on the others.

    Raises:
        OptionError: a value outside its range.
    """

    count: int = 8
    temperature: float = 0.7
    kappa: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole("count", self.count, 1)
        whole("seed", self.seed, 0)
        number("temperature", self.temperature, 0.0, above_low=True)
        number("kappa", self.kappa, 0.0, 1.0)

    def describe(self) -> dict[str, Any]:
        """Return plain values for reports."""
        return asdict(self)

    def write(self, model: Any, features: Any, max_tokens: int) -> list[str]:
        """Write a caption of each picture.

        Args:
            model: a system with this rule, of a model with consistency heads and a decoder. features: of N pictures.
            max_tokens: length of a caption.
        """
        generators = [torch.Generator().manual_seed(self.seed) for _ in range(len(features))]
        sampling = {"temperature": self.temperature, "generators": generators}
        texts = model.candidates(features, self.count, max_tokens=max_tokens, **sampling)
        return self.best(model, features, texts)

    @torch.no_grad()
    def best(self, model: Any, features: Any, texts: Sequence[Sequence[str]]) -> list[str]:
        """Return of the texts about each picture (N lists of as many) the one with the highest log V/words^κ.

        One without words claims nothing and is chosen only where no other is there; among equals the first is.
        """
        if not texts:
            return []
        read = statement_states(model, [text for some in texts for text in some])
        log_v = model.verify_options(features, read)
        words = read.counted.sum(dim=1).reshape(log_v.shape)
        value = log_v / words.clamp(min=1).to(log_v) ** self.kappa
        chosen = value.masked_fill(words == 0, -torch.inf).argmax(dim=1).tolist()
        return [some[place] for some, place in zip(texts, chosen, strict=True)]


Rule = VerifiedAnswers | VerifiedCaptions


def check_answering(answering: Any) -> None:
    """Check what a system is to answer by: one rule for all tasks of choices, or rules by task.

    Raises:
        OptionError: anything else, or a rule of another kind than the task's.
    """
    if answering is None or isinstance(answering, VerifiedAnswers):
        return
    if not isinstance(answering, Mapping):
        raise OptionError(
            f"answering={answering!r} is not accepted.",
            "Accepted: VerifiedAnswers, or rules by task, such as {'captioning': VerifiedCaptions()}.",
        )
    for task, rule in answering.items():
        kind = VerifiedCaptions if task == CAPTIONING else VerifiedAnswers
        if not isinstance(rule, kind):
            raise OptionError(f"{task} is not answered by {rule!r}.", f"Accepted: {kind.__name__}.")


def described(answering: VerifiedAnswers | Mapping[str, Rule]) -> dict[str, Any]:
    """Return a rule, or rules by task, as plain values."""
    if isinstance(answering, VerifiedAnswers):
        return answering.describe()
    return {task: rule.describe() for task, rule in answering.items()}


class StatementCache:
    """What V_verify reads of statements, encoded once for each text until the model's weights change.

    Bounded: with more than 8,192 texts it begins anew.
    """

    def __init__(self) -> None:
        self._of: tuple[Any, ...] | None = None
        self._place: dict[str, int] = {}
        self._table: TextStates | None = None

    @torch.no_grad()
    def states(self, model: Any, texts: Sequence[str]) -> TextStates:
        """Return the states of some texts, cut to the longest of them; no gradient reaches the weights."""
        version = (getattr(model, "weights_version", None), model.device)
        if self._of != version or version[0] is None or len(self._place) > _REMEMBERED:
            self._of, self._place, self._table = version, {}, None
        missing = [text for text in dict.fromkeys(texts) if text not in self._place]
        for start in range(0, len(missing), _ENCODED_TOGETHER):
            some = missing[start : start + _ENCODED_TOGETHER]
            self._add(some, model.verification_states(some))
        rows = torch.tensor([self._place[text] for text in texts], device=self._table.states.device)
        found = self._table[rows]
        words = found.counted.any(dim=0).nonzero()
        return found.at_length(int(words[-1]) + 1 if len(words) else 1)

    def _add(self, texts: Sequence[str], read: TextStates) -> None:
        start = len(self._place)
        self._place.update({text: start + k for k, text in enumerate(texts)})
        if self._table is None:
            self._table = read
            return
        length = max(self._table.states.shape[1], read.states.shape[1])
        both = (self._table.at_length(length), read.at_length(length))
        parts = ("states", "counted", "said")
        self._table = TextStates(*(torch.cat([getattr(states, part) for states in both]) for part in parts))
