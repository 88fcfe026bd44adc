"""Makers of the recipes on texts, and on image and text together: from options to a `TextAttack` or `JointAttack`.

    attack = get_recipe("sga").build(epsilon=Budget("linf", 4), truth="scene")
    result = attack(model, batch, seed=0)

Every maker takes

- `objective` and `success` (default: −S_c of the pair as it is; success where it rose); or `tau` in place of `success`
  (success where S_c is below it); or `task` (and `dataset`) in place of both: the task's loss on the edited text,
  success where its prediction is wrong (for retrieval: another picture of the batch comes before the right ones);
- the options of `TextThreat` by name (words, characters, truth, …), for joint attacks `threat` (a `ThreatModel`) and
  `keep`, and the options of its search or schedule; `proposer` is one, or one of the names in `PROPOSERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cmai_core.attacks.joint_attack import JointAttack
from cmai_core.attacks.joint_schedules.best_response import BestResponse
from cmai_core.attacks.joint_schedules.schedules import SGA, Alternating, Scales, Separate, Sequential
from cmai_core.attacks.objectives.success import Raised
from cmai_core.attacks.objectives.text import (
    Divergence,
    Mismatch,
    Misretrieved,
    PairConsistency,
    PairFlagged,
    TextTask,
    TextTaskWrong,
)
from cmai_core.attacks.recipes.makers.maker import Maker, option_names
from cmai_core.attacks.text_attack import TextAttack
from cmai_core.attacks.text_searches.masked_lm import MaskedLMProposer
from cmai_core.attacks.text_searches.proposers import (
    Characters,
    Eda,
    Homoglyphs,
    Injection,
    Paraphrases,
    Several,
    Synonyms,
)
from cmai_core.attacks.text_searches.search import BeamSearch, ImportanceSearch
from cmai_core.attacks.text_searches.tokens import HotFlip, RelaxedPGD
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.errors import OptionError
from cmai_core.options import one_of

PROPOSERS: dict[str, Callable[[], Any]] = {
    "synonyms": Synonyms,
    "eda": Eda,
    "characters": Characters,
    "homoglyphs": Homoglyphs,
    "masked-lm": MaskedLMProposer,
    "paraphrases": Paraphrases,
}
"""Proposers that can be named by a word."""

_GOAL = ("objective", "success", "tau", "task", "dataset")
_THREAT = option_names(TextThreat)
_MASKED_LM = {"masked_lm": "model", "mode": "mode", "top": "top", "least": "least", "lexicon": "lexicon"}
_SCHEDULED = ("proposer", "mask", *_MASKED_LM)


def _threat(options: dict[str, Any]) -> TextThreat:
    """Make the threat on texts; its options are taken out of the others."""
    return TextThreat(**{name: options.pop(name) for name in _THREAT if name in options})


def _goal(options: dict[str, Any]) -> dict[str, Any]:
    """Make objective and criterion; their options are taken out of the others."""
    given = {name: value for name in _GOAL if (value := options.pop(name, None)) is not None}
    task, dataset = given.get("task"), given.get("dataset")
    for one, others in (("task", ("objective", "success", "tau")), ("tau", ("success",))):
        if one in given and (clash := [name for name in others if name in given]):
            raise OptionError(f"{one} contradicts {', '.join(clash)}.", f"Accepted: {one}, or {', '.join(clash)}.")
    if task is None:
        if dataset is not None:
            raise OptionError("A dataset without a task.", "Give the task it belongs to.")
        success = PairFlagged(given["tau"]) if "tau" in given else given.get("success", Raised())
        return {"objective": given.get("objective", -PairConsistency()), "success": success}
    if isinstance(task, str):
        from cmai_core.tasks import get_task

        task = get_task(task)
    if task.text_field == "query":
        return {"objective": Mismatch("image"), "success": Misretrieved("image")}
    goal = (task, task.text_field, dataset)
    return {"objective": TextTask(*goal), "success": TextTaskWrong(*goal)}


def _text(make: Callable[..., Any], kind: type, *parts: type, names: tuple[str, ...] = ()) -> Maker:
    """Make the maker of an attack on texts.

    Args:
        make: options → search. kind: the search, whose options it takes. names: further options, of its parts.
    """

    def build(**options: Any) -> TextAttack:
        region, goal = _threat(options), _goal(options)
        return TextAttack(threat=region, search=make(**options), **goal)

    accepted = dict.fromkeys((*_GOAL, *_THREAT, *option_names(kind), *names))
    return Maker(build, tuple(accepted), (TextThreat, kind, *parts))


def _joint(make: Callable[..., Any], kind: type, *parts: type, names: tuple[str, ...] = _SCHEDULED) -> Maker:
    """Make the maker of an attack on image and text; arguments as in `_text`, with a schedule for the search."""

    def build(threat: ThreatModel, keep: str = "best", **options: Any) -> JointAttack:
        region, goal = _threat(options), _goal(options)
        return JointAttack(threat=threat, text_threat=region, schedule=make(**options), keep=keep, **goal)

    accepted = dict.fromkeys((*_GOAL, *_THREAT, *option_names(kind), *names, "keep"))
    return Maker(build, tuple(accepted), (TextThreat, kind, *parts, MaskedLMProposer))


def _proposer(value: Any) -> Any:
    """Return a proposer, or the one of a name."""
    if isinstance(value, str):
        one_of("proposer", value, tuple(PROPOSERS))
        return PROPOSERS[value]()
    return value


def _masked_lm(options: dict[str, Any]) -> Any:
    """Return the proposer given, or masked-LM substitutes as asked for by `masked_lm`, `mode`, `top` and `least`."""
    given = {target: options.pop(name) for name, target in _MASKED_LM.items() if name in options}
    proposer = _proposer(options.pop("proposer", None))
    if proposer is not None and given:
        raise OptionError(f"A proposer contradicts {', '.join(given)}.", "Accepted: a proposer, or options of its own.")
    return proposer or MaskedLMProposer(**given)


def _bert_attack(**options: Any) -> ImportanceSearch:
    proposer = _masked_lm(options)
    return ImportanceSearch(proposer=proposer, **options)


def _with_proposer(make: Callable[..., Any], proposer: Callable[..., Any], *names: str) -> Callable[..., BeamSearch]:
    """Make the maker of a candidate search whose proposer takes some of the options."""

    def build(**options: Any) -> Any:
        own = {name: options.pop(name) for name in names if name in options}
        given = _proposer(options.pop("proposer", None))
        if given is not None and own:
            raise OptionError(f"A proposer contradicts {', '.join(own)}.", "Accepted: one of the two.")
        return make(proposer=given or proposer(**own), **options)

    return build


def _schedule(make: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """Make the maker of a schedule whose text search is BERT-Attack's with the options meant for it."""

    def build(**options: Any) -> Any:
        text = options.pop("text", None)
        if text is None:
            proposer = _masked_lm(options)
            text = ImportanceSearch(proposer=proposer, mask=options.pop("mask", ""))
        return make(text=text, **{**fixed, **options})

    return build


def _best_response(**options: Any) -> BestResponse:
    if "text" in options:
        return BestResponse(**options)
    given = _proposer(options.pop("proposer", None))
    proposer = given or Several((_masked_lm(options), Synonyms(), Eda()))
    return BestResponse(text=BeamSearch(proposer=proposer), **options)


def _gradient(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Make the maker of a search by gradients.

    The words it may put in are its option `vocabulary`, as `words` is the threat's budget.
    """

    def build(vocabulary: tuple[str, ...] | None = None, **options: Any) -> Any:
        return kind(words=vocabulary, **options)

    return build


# Options of proposers.
_EDA, _CHARACTERS = ("operations", "count"), ("operations", "inner", "shortest", "letters")
_INJECTION = ("payloads", "end")
# Co-Attack's loss on the picture: away from the clean picture, and three times as much from the attacked text.
_KL = Divergence("image", "clean") + 3.0 * Divergence("image", "other")

bert_attack = _text(_bert_attack, ImportanceSearch, MaskedLMProposer, names=tuple(_MASKED_LM))
eda = _text(_with_proposer(BeamSearch, Eda, *_EDA), BeamSearch, Eda, names=_EDA)
synonym = _text(_with_proposer(BeamSearch, Synonyms, "lexicon"), BeamSearch, Synonyms, names=("lexicon",))
characters = _text(_with_proposer(BeamSearch, Characters, *_CHARACTERS), BeamSearch, Characters, names=_CHARACTERS)
homoglyph = _text(_with_proposer(BeamSearch, Homoglyphs), BeamSearch)
injection = _text(_with_proposer(BeamSearch, Injection, *_INJECTION), BeamSearch, Injection, names=_INJECTION)
hotflip = _text(_gradient(HotFlip), HotFlip, names=("vocabulary",))
relaxed_pgd = _text(_gradient(RelaxedPGD), RelaxedPGD, names=("vocabulary",))

separate = _joint(_schedule(Separate), Separate)
sequential = _joint(_schedule(Sequential), Sequential)
co_attack = _joint(_schedule(Sequential, image_objective=_KL), Sequential)
sga = _joint(_schedule(SGA), SGA, Scales)
alternating = _joint(_schedule(Alternating), Alternating)
best_response = _joint(_best_response, BestResponse, names=tuple(_MASKED_LM))
