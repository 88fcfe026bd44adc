"""Where both models look and why, on the clean and on the adversarial pair of one result; with checks beside every map.

A pair is a picture with its sentence: where the attack edited the sentence, the adversarial side has the edited one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cmai_core.errors import OptionError
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import content_key
from cmai_core.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.explanations.causal import CausalTrace
    from cmai_core.explanations.result import Explanation, TextExplanation, TokenMaps
    from cmai_core.models.protocol import VisionLanguageModel

METHODS = (
    "attention flow",
    "relevance",
    "integrated gradients",
    "saliency",
    "input × gradient",
    "GradientSHAP",
    "occlusion",
    "grad-cam",
)
USUAL = METHODS[:3]
"""The methods that are chosen to begin with."""


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
        heads: float32 2×layers×heads×h×w, where each head looks from the class token, clean and adversarial.
        written, said: where the decoder looks, at each word of the caption that it writes, and of the pair's sentence;
            texts 0 and 1 are of the clean and of the adversarial picture. None without a decoder.
        trace: what carries the attack to the answer of `trace_task` ("S_c": of an edit of words); None where `missing`
            says why.
        agreement: method → rank correlation of the adversarial map with the trace's R of the patches before the first
            layer.
        stability: method → the largest relative change of the clean map under noise of 2/255. randomised: method →
            (part, rank correlation with the trained model's map) as the image tower is made random from the top.
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
    heads: np.ndarray | None = None
    written: TokenMaps | None = None
    said: TokenMaps | None = None
    trace: CausalTrace | None = None
    trace_task: str = ""
    agreement: Mapping[str, float] = field(default_factory=dict)
    stability: Mapping[str, float] = field(default_factory=dict)
    randomised: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)

    def difference(self, method: str) -> np.ndarray:
        """Return the adversarial map minus the clean one, H×W."""
        return self.maps[method].map[1] - self.maps[method].map[0]


@dataclass(frozen=True)
class LabExplanation:
    """Explanations of one result, by role.

    Attributes:
        attack: whether there is an adversarial side. scales: method → the one largest absolute value for all maps
            compared. differences: the same for the differences of clean and adversarial maps.
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
    checked: bool = False
    attack: bool = True
    differences: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sides:
    """One model's pictures and sentences, clean and adversarial; equal where nothing was attacked.

    Attributes: kept: whether every answer stayed the same (None: no answers known).
    """

    clean: np.ndarray
    adversarial: np.ndarray
    attacked: str = ""
    kept: bool | None = None

    @property
    def changed(self) -> bool:
        """Whether the picture was attacked."""
        return not np.array_equal(self.clean, self.adversarial)


@dataclass(frozen=True)
class Wanted:
    """How a pair is to be explained.

    Attributes:
        methods: some of METHODS. steps: nodes of the integrated gradients.
        checks: also stability and cascading randomisation, which take long.
        pair, dataset: as the attack had them; without them there is no causal trace of a picture.
    """

    methods: tuple[str, ...] = USUAL
    steps: int = 20
    checks: bool = False
    pair: Pair | None = None
    dataset: PairDataset | None = None

    def checked(self) -> Wanted:
        """Return itself.

        Raises:
            OptionError: no method, or an unknown one.
        """
        unknown = [m for m in self.methods if m not in METHODS]
        if unknown or not self.methods:
            raise OptionError(f"Unknown explanation {unknown[:1]}.", f"Choose some of: {', '.join(METHODS)}.")
        return self


def explain_result(
    result: LabResult,
    models: Mapping[str, VisionLanguageModel],
    wanted: Wanted | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LabExplanation:
    """Explain S_c for each model that was shown an attack, of the clean and of the adversarial picture and sentence.

    Args:
        models: role → model, of the result's roles.

    Raises:
        OptionError: no method, or an unknown one. Cancelled: when told to stop.
    """
    sides = {}
    for role in models:
        if role in result.attacked:
            example, answers = result.example_for(role), result.predictions[role].answers
            kept = all(c.text == a.text for c, a in answers.values()) if answers else None
            sides[role] = Sides(example.clean, example.adversarial, example.caption, kept)
    return _explain(result.experiment, sides, models, wanted or Wanted(), content_key(result), True, progress, cancel)


def explain_pair(
    experiment: Experiment,
    pair: Pair,
    models: Mapping[str, VisionLanguageModel],
    wanted: Wanted | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> LabExplanation:
    """Explain S_c of a pair that nobody has attacked; arguments as for `explain_result`."""
    sides = {role: Sides(pair.image, pair.image) for role in models}
    return _explain(experiment, sides, models, wanted or Wanted(), "", False, progress, cancel)


def _explain(
    experiment: Experiment,
    sides: Mapping[str, Sides],
    models: Mapping[str, VisionLanguageModel],
    wanted: Wanted,
    key: str,
    attack: bool,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> LabExplanation:
    from cmai_core.explanations.result import shared_scale
    from cmai_core.lab.explaining import Course, explain_role

    wanted.checked()
    start = time.perf_counter()
    each = (3 if wanted.checks else 2) * len(wanted.methods) + 3
    course = Course(len(sides) * each, progress, cancel)
    roles = {role: explain_role(experiment, role, one, models[role], wanted, course) for role, one in sides.items()}
    scales, differences = {}, {}
    for method in wanted.methods:
        found = [r for r in roles.values() if method in r.maps]
        if found:
            scales[method] = shared_scale([r.maps[method].map[:2] for r in found], 99.5)
            differences[method] = shared_scale([r.difference(method) for r in found], 99.5)
    return LabExplanation(
        experiment.caption,
        roles,
        scales,
        round(time.perf_counter() - start, 2),
        experiment,
        key,
        wanted.methods,
        wanted.steps,
        wanted.checks,
        attack,
        differences,
    )
