"""Where both models look and why, on the clean and on the adversarial pair of one result; with checks beside every map.

A pair is a picture with its sentence: where the attack edited the sentence, the adversarial side has the edited one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cmai_core.errors import ModelError, OptionError
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import content_key
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    import torch

    from cmai_core.explanations.result import Explanation, TextExplanation
    from cmai_core.models.protocol import VisionLanguageModel

METHODS = ("attention flow", "relevance", "integrated gradients")


@dataclass(frozen=True)
class MapCheck:
    """How faithful one map is, for one fill: areas under the curves of S_c, and that of random orders.

    A good map's deletion area is lower and its insertion area higher than the random one.
    """

    fill: str
    deletion: float
    insertion: float
    random: float


@dataclass(frozen=True)
class RoleExplanation:
    """One model's maps. Rows of each map: 0 clean, 1 adversarial, 2 clean with random noise of the same strength.

    Row 1 is of the adversarial picture with the attacked sentence; rows 0 and 2 are of the clean sentence.

    Attributes:
        maps: method → Explanation; missing: method → why the model has none.
        words: integrated gradients of each row's own sentence (0, 1), None where the text tower gives none.
        attacked: the sentence of row 1; "" where only the picture was attacked.
        checks: method → (checks of the clean map, checks of the adversarial map).
        similarity: method → rank correlation of the two maps, in [−1, 1]. control: the same of the clean map with the
            map under random noise as strong as the attack; empty where the picture was not attacked.
        kept_answers: whether every task's answer stayed the same under the attack (None: no answers known).
        warnings: method → why its maps are not to be trusted, where they are not.
    """

    name: str
    clean: np.ndarray
    adversarial: np.ndarray
    maps: Mapping[str, Explanation]
    missing: Mapping[str, str] = field(default_factory=dict)
    words: TextExplanation | None = None
    checks: Mapping[str, tuple[tuple[MapCheck, ...], tuple[MapCheck, ...]]] = field(default_factory=dict)
    similarity: Mapping[str, float] = field(default_factory=dict)
    control: Mapping[str, float] = field(default_factory=dict)
    kept_answers: bool | None = None
    warnings: Mapping[str, str] = field(default_factory=dict)
    attacked: str = ""


@dataclass(frozen=True)
class LabExplanation:
    """Explanations of one result, by role.

    Attributes:
        scales: method → the one largest absolute value for all maps compared.
        experiment, key: of the result that is explained (`lab.verdict.content_key`). methods, steps: as asked for.
    """

    caption: str
    roles: Mapping[str, RoleExplanation]
    scales: Mapping[str, float]
    seconds: float = 0.0
    experiment: Experiment | None = None
    key: str = ""
    methods: tuple[str, ...] = ()
    steps: int = 0


def explain_result(
    result: LabResult,
    models: Mapping[str, VisionLanguageModel],
    *,
    methods: Sequence[str] = METHODS,
    steps: int = 20,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LabExplanation:
    """Explains S_c for each model that was shown an attack, of the clean and of the adversarial picture and sentence.

    Args:
        models: role → model, of the result's roles.
        methods: some of METHODS.
        steps: nodes of the integrated gradients.

    Raises:
        OptionError: no method, or an unknown one. Cancelled: when told to stop.
    """
    from cmai_core.explanations.result import shared_scale

    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise OptionError(f"Unknown explanation {unknown[:1]}.", f"Choose some of: {', '.join(METHODS)}.")
    start = time.perf_counter()
    roles = {}
    total = len(result.attacked) * (2 * len(methods) + 1)
    done = 0

    def tell(words: str) -> None:
        nonlocal done
        if cancel is not None:
            cancel.check()
        if progress is not None:
            progress(Progress(done, total, words, {}))
        done += 1

    for role, model in models.items():
        if role not in result.attacked:
            continue
        roles[role] = _explain_role(result, role, model, methods, steps, tell, cancel)
    scales = {}
    for method in methods:
        found = [r.maps[method] for r in roles.values() if method in r.maps]
        if found:
            scales[method] = shared_scale([e.map[:2] for e in found], 99.5)
    return LabExplanation(
        result.experiment.caption,
        roles,
        scales,
        round(time.perf_counter() - start, 2),
        result.experiment,
        content_key(result),
        tuple(methods),
        steps,
    )


def _explain_role(
    result: LabResult, role: str, model: VisionLanguageModel, methods: Sequence[str], steps: int, tell, cancel
) -> RoleExplanation:
    from cmai_core.explanations import explanation_moved_but_prediction_did_not, token_attribution

    example = result.example_for(role)
    pictures = [example.clean, example.adversarial, _noisy(example.clean, example.adversarial)]
    pixels = model.preprocess(pictures)
    caption = result.experiment.caption
    texts = [caption, example.caption or caption, caption]
    changed = not np.array_equal(example.clean, example.adversarial)
    answers = result.predictions[role].answers
    kept = all(c.text == a.text for c, a in answers.values()) if answers else None
    maps, missing, checks, similarity, control, warnings = {}, {}, {}, {}, {}, {}
    for method in methods:
        tell(f"{method.capitalize()}, model {role}")
        try:
            found = _map(method, model, pixels, texts, steps)
        except ModelError as error:
            missing[method] = str(error)
            tell(f"{method.capitalize()} is not available for model {role}")
            continue
        shift = explanation_moved_but_prediction_did_not(
            found.map[:1], found.map[1:2], [bool(kept)], control=found.map[2:3] if changed else None
        )
        maps[method] = found
        similarity[method] = float(shift.correlation[0])
        if shift.control is not None:
            control[method] = float(shift.control[0])
        if shift.warn[0]:
            warnings[method] = shift.messages[0]
        tell(f"Checking {method}, model {role}")
        checks[method] = _faithfulness(model, pixels[:2], texts[:2], found.map[:2], result.experiment.seed, cancel)
    tell(f"Words, model {role}")
    words = None
    try:
        words = token_attribution(model, pixels[:2], texts[:2], n_steps=steps)
    except ModelError as error:
        missing["words"] = str(error)
    return RoleExplanation(
        model.name,
        example.clean,
        example.adversarial,
        maps,
        missing,
        words,
        checks,
        similarity,
        control,
        kept,
        warnings,
        attacked=example.caption,
    )


def _noisy(clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """Return the clean picture with the attack's own changes in random order: as strong, and meaning nothing."""
    change = (adversarial.astype(np.int16) - clean.astype(np.int16)).ravel()
    shuffled = np.random.default_rng(0).permutation(change).reshape(clean.shape)
    return np.clip(clean.astype(np.int16) + shuffled, 0, 255).astype(np.uint8)


def _map(method: str, model: VisionLanguageModel, pixels: torch.Tensor, texts: list[str], steps: int) -> Explanation:
    from cmai_core.explanations.attention import attention_flow
    from cmai_core.explanations.attribution import pixel_attribution
    from cmai_core.explanations.relevance import relevance

    if method == "attention flow":
        return attention_flow(model, pixels)
    if method == "relevance":
        return relevance(model, pixels, texts)
    return pixel_attribution(model, pixels, texts, n_steps=steps)


def _faithfulness(model, pixels, texts, maps, seed: int, cancel) -> tuple[tuple[MapCheck, ...], tuple[MapCheck, ...]]:
    """Check the clean and the adversarial map, with two fills each."""
    import torch

    from cmai_core.explanations import deletion_insertion

    found = deletion_insertion(
        model, pixels, texts, maps, generator=torch.Generator().manual_seed(seed), controls=4, steps=12, cancel=cancel
    )
    clean, adversarial = (
        tuple(
            MapCheck(fill, *(float(v[row]) for v in (d.deletion, d.insertion, d.random))) for fill, d in found.items()
        )
        for row in (0, 1)
    )
    return clean, adversarial
