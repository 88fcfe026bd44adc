"""An attack on a dataset, fully specified in plain values, and its report: what `cmai attack` runs and writes.

Clean images are rounded to 8 bits after preprocessing, and adversarial ones count as rounded to 8 bits: both are what a
picture file can hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cmai_core import budget
from cmai_core.errors import OptionError
from cmai_core.options import number, one_of, strict_options, whole
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.versions import library_versions

if TYPE_CHECKING:
    from cmai_core.attacks.attack import Attack
    from cmai_core.data.pair import Batch, Pair, PairDataset

FORMAT = "cmai-attack/1"
OBJECTIVES = ("task", "margin", "kl", "embedding", "consistency", "both")
NORMS = ("linf", "l2")

# What the attributes are where no recipe is named.
PGD = {
    "objective": "task",
    "alpha": 1.0,
    "beta": 1.0,
    "norm": "linf",
    "epsilon": 4.0,
    "steps": 20,
    "restarts": 1,
    "random_start": True,
    "momentum": 0.0,
    "stop_on_success": False,
}
# Options of recipes that an experiment has as attributes of its own.
ELSEWHERE = ("task", "dataset", "norm", "epsilon", "step_size", "objective", "success")


@strict_options
@dataclass(frozen=True, kw_only=True)
class AttackExperiment:
    """A recipe, or PGD, on the first `limit` pairs of a dataset.

    Attributes:
        model: specification of the model the examples are crafted on.
        targets: specifications of models that are then shown the same pictures and texts (transfer).
        dataset, split, limit: which pairs; limit None: all. captions: texts taken of each pair (joint attacks use more
            than one).
        recipe: a name of `recipes.RECIPES`; "": PGD as the other attributes say.
        options: the recipe's own, as plain values (lists for tuples; a surrogate by its specification).
        task: the task whose predictions are judged, and whose loss the objective raises.
        objective: "task": the task's loss, or what the recipe makes of the task; "margin": best false less best true
            score; "kl": distance from the clean prediction; "embedding": from the clean embedding (these three: on
            images, the first two of tasks with choices); "consistency": −S_c; "both":
            alpha·loss − beta·S_c. None: the recipe's own ("task" on images, "consistency" on texts).
        norm: "linf": every pixel value changes by at most epsilon/255. "l2": the root mean square change of the pixel
            values is at most epsilon/255 (a ball of radius epsilon/255·√(3·H·W)), so that one ladder serves both norms.
            With a recipe also "l0" and "patch", where it goes with them; None: the recipe's.
        epsilon, step_size: in units of 1/255 for linf and l2; pixel positions for l0, the share of the area for patch.
            epsilon None: 4, or the recipe's budget; step_size None: 2.5·epsilon/steps, or the recipe's.
        alpha, beta, steps, restarts, random_start, momentum, stop_on_success: as in `GradientSearch`; with a recipe
            they are options of it (None: its own values).
        batch_size: pairs attacked together; it does not change the result (but of universal recipes).

    Raises:
        OptionError: a value outside its range; the message lists what is accepted.
    """

    model: str = "tabletop"
    targets: tuple[str, ...] = ()
    dataset: str = "tabletop"
    split: str = "test"
    limit: int | None = 64
    captions: int = 1
    recipe: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    task: str = "retrieval"
    objective: str | None = None
    alpha: float | None = None
    beta: float | None = None
    norm: str | None = None
    epsilon: float | None = None
    steps: int | None = None
    step_size: float | None = None
    restarts: int | None = None
    random_start: bool | None = None
    momentum: float | None = None
    stop_on_success: bool | None = None
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.options and not self.recipe:
            raise OptionError(
                "Options belong to a recipe, and none is named.",
                "Name one (recipe pgd), or give steps and the like by their own names.",
            )
        self._check_weights()
        self._fill(self._recipe_defaults() if self.recipe else PGD)
        if self.objective is not None:
            one_of("objective", self.objective, OBJECTIVES)
        if self.norm is not None:
            one_of("norm", self.norm, tuple(budget.NORMS) if self.recipe else NORMS)
            number("epsilon", self.epsilon, 0.0, budget.norm_of(self.norm).highest)
            if self.recipe:
                self._check_norm()
        for name in ("alpha", "beta"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), 0.0)
        for name in ("steps", "restarts", "batch_size", "captions"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        whole("seed", self.seed, 0)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, 255.0, above_low=True)
        if self.limit is not None:
            whole("limit", self.limit, 1)
        if self.objective == "both" and self.alpha == 0 and self.beta == 0:
            raise OptionError("alpha and beta are both 0.", "At least one part of the objective needs a weight.")
        if self.restarts is not None and self.restarts > 1 and self.random_start is False:
            raise OptionError(
                f"restarts={self.restarts} without a random start would repeat one and the same run.",
                "Accepted: restarts=1, or a random start.",
            )

    def _check_weights(self) -> None:
        """Refuses weights that nothing would be weighed by (1, the default, stands in every stored experiment)."""
        given = [name for name in ("alpha", "beta") if getattr(self, name) not in (None, 1.0)]
        if given and not self.recipe and self.objective != "both":
            raise OptionError(f"{given[0]} weighs nothing here.", "It goes with objective='both', or with a recipe.")

    def _fill(self, defaults: Mapping[str, Any]) -> None:
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _recipe_defaults(self) -> dict[str, Any]:
        """Checks recipe and options, as far as their names go; its budget."""
        from cmai_core.attacks.recipes.registry import get_recipe

        recipe = get_recipe(self.recipe)
        if not isinstance(self.options, Mapping):
            raise OptionError(f"options={self.options!r} is not accepted.", "Accepted: names with values.")
        if elsewhere := sorted(set(self.options) & set(ELSEWHERE)):
            raise OptionError(
                f"{', '.join(elsewhere)} is no option of a recipe here.",
                "Accepted beside the options, by the same name, in the units of an experiment.",
            )
        unknown = sorted(set(self._given()) - set(recipe.options))
        if recipe.norm is None and (self.norm is not None or self.epsilon is not None):
            unknown += ["norm" if self.norm is not None else "epsilon"]
        if unknown:
            raise OptionError(
                f"The recipe {self.recipe} has no option {', '.join(map(repr, unknown))}.",
                f"Accepted: {', '.join(name for name in recipe.options if name not in ELSEWHERE)}.",
            )
        if recipe.norm is None:
            return {}
        norm = self.norm or recipe.norm
        if norm != recipe.norm or norm == "l2":  # a length over all values says nothing before there is a picture
            return {"norm": norm, "epsilon": budget.NORMS[norm].usual if norm in budget.NORMS else None}
        return {"norm": norm, "epsilon": budget.Budget.of_pixels(norm, recipe.epsilon, 1).amount}

    def _check_norm(self) -> None:
        """Refuses a norm that the recipe does not go with, before a model is loaded."""
        from cmai_core.attacks.recipes.registry import get_recipe

        norms = get_recipe(self.recipe).norms
        if self.norm not in norms:
            raise OptionError(
                f"The recipe {self.recipe} does not go with norm={self.norm!r}.", f"Accepted: {', '.join(norms)}."
            )

    def _given(self) -> dict[str, Any]:
        """Options of the recipe in its own names, but for those whose units depend on the pictures."""
        weights = () if self.objective == "both" else ("alpha", "beta")
        names = ("steps", "restarts", "random_start", "momentum", "stop_on_success", *weights)
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if clash := sorted(set(given) & set(self.options)):
            raise OptionError(f"{', '.join(clash)} was given twice.", "Accepted: once.")
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()}
        return given | plain

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"targets": list(self.targets), "options": dict(self.options)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> AttackExperiment:
        """From JSON values; unknown names raise `OptionError`."""
        known = {f.name for f in fields(AttackExperiment)}
        values = {k: tuple(v) if k == "targets" and k in known else v for k, v in values.items()}
        return AttackExperiment(**values)

    @property
    def modality(self) -> str:
        """What is attacked: "image", "text" or "joint"."""
        if not self.recipe:
            return "image"
        from cmai_core.attacks.recipes.registry import get_recipe

        return get_recipe(self.recipe).modality

    def build(self, task: Any, dataset: Any, value_count: int, load: Callable[[str], Any] | None = None) -> Attack:
        """The attack itself: an `Attack`, `TextAttack` or `JointAttack`.

        Args:
            value_count: 3·H·W of the model's pixels (L2 budgets are per value).
            load: specification → model, for a surrogate.
        """
        from cmai_core.attacks.objectives.success import Untargeted
        from cmai_core.attacks.recipes.presets import pgd
        from cmai_core.attacks.recipes.registry import get_recipe

        unit = budget.norm_of(self.norm).scale(value_count) if self.norm else 1.0
        step_size = None if self.step_size is None else self.step_size * unit
        if self.norm == "l0" and self.epsilon > (positions := value_count // 3):
            raise OptionError(
                f"epsilon={self.epsilon:g} is more than the {positions:,} pixel positions of the model's pictures.",
                f"Accepted for l0: 0, or 1 to {positions}.",
            )
        if not self.recipe:
            names = ("steps", "restarts", "random_start", "momentum", "stop_on_success")
            return pgd(
                self._image_objective(task, dataset),
                norm=self.norm,
                epsilon=self.epsilon * unit,
                success=Untargeted(task, dataset=dataset),
                step_size=step_size,
                **{name: getattr(self, name) for name in names},
            )
        recipe, options = get_recipe(self.recipe), self._given()
        if recipe.norm is not None:
            options |= {"norm": self.norm, "epsilon": self.epsilon * unit}
        if step_size is not None:
            options["step_size"] = step_size
        if isinstance(options.get("surrogate"), str) and load is not None:
            options["surrogate"] = load(options["surrogate"])
        if recipe.modality == "image":
            options |= {name: value for name, value in (("task", task), ("dataset", dataset)) if name in recipe.options}
            if self.objective not in (None, "task"):
                options["objective"] = self._image_objective(task, dataset)
        elif self.objective == "task":
            options |= {"task": task, "dataset": dataset}
        elif self.objective not in (None, "consistency"):
            raise OptionError(
                f"objective={self.objective!r} is for recipes on images.", "Accepted here: consistency, task."
            )
        return recipe.build(**options)

    def _image_objective(self, task: Any, dataset: Any) -> Any:
        from cmai_core.attacks.objectives.classes import Divergence, Margin
        from cmai_core.attacks.objectives.embedding import EmbeddingDeviation
        from cmai_core.attacks.objectives.objective import Consistency, TaskObjective

        loss, consistency = TaskObjective(task, dataset=dataset), Consistency()
        alpha, beta = (1.0 if weight is None else weight for weight in (self.alpha, self.beta))
        return {
            "task": lambda: loss,
            "margin": lambda: Margin(task, dataset=dataset),
            "kl": lambda: Divergence(task, dataset=dataset),
            "embedding": EmbeddingDeviation,
            "consistency": lambda: -consistency,
            "both": lambda: alpha * loss - beta * consistency,
        }[self.objective]()


@dataclass
class AttackReport:
    """What an experiment came to.

    Attributes:
        data: everything but pixels, as JSON values (see `run_experiment`).
        result: the crafting model's outcome over all pairs, with the adversarial images and texts: an `AttackResult`,
            `TextAttackResult` or `JointResult`.
    """

    data: dict[str, Any]
    result: Any = field(repr=False)

    def __str__(self) -> str:
        from cmai_core.evaluation.runs.summary import summary

        return "\n".join(summary(self.data))


def run_experiment(
    experiment: AttackExperiment,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    device: str | None = None,
    models: Mapping[str, Any] | None = None,
    dataset: PairDataset | None = None,
) -> AttackReport:
    """Loads models and data, attacks batch by batch, and shows the rounded pictures and the texts to every model.

    The report's `data` holds: format, experiment, attack, recipe (its card, or None), models (spec, hash, …), versions,
    device, created, seconds, cancelled, `rates` (success on the crafting model by the attack's own criterion; of texts
    also how many became false), `summary` by model (accuracy clean and robust, ASR with its denominator, S_c) and
    `samples`: one a picture, or one a pair of picture and text where texts are attacked.

    Args:
        progress: the whole run's steps, finished and in all.
        cancel: looked at before every step; what was attacked until then is reported.
        device: for example "cpu" or "cuda"; the best there is when None.
        models: specification → model, for those that are loaded already. dataset: the pairs, where they are at hand.

    Raises:
        CmaiError: a model, dataset or task that cannot be used, or does not fit the others.
    """
    from cmai_core.data import load_dataset
    from cmai_core.data.subset import first
    from cmai_core.models import load_model
    from cmai_core.models.truncation import warn_truncated
    from cmai_core.tasks import get_task

    given = dict(models or {})
    task = get_task(experiment.task)
    if dataset is None:
        dataset = load_dataset(experiment.dataset, split=experiment.split, limit=experiment.limit)
    else:
        dataset = first(dataset, experiment.limit)

    def load(spec: str) -> Any:
        model = given.get(spec)
        surrogates[spec] = model if model is not None else load_model(spec, device=device)
        return surrogates[spec]

    surrogates: dict[str, Any] = {}
    models = {spec: load(spec) for spec in (experiment.model, *experiment.targets)}
    source = models[experiment.model]
    for model in models.values():
        warn_truncated(model, dataset)
    attack = experiment.build(task, dataset, 3 * source.image_size**2, load)
    modality = experiment.modality
    for spec, model in (models | surrogates).items():
        if modality != "text" and (reason := task.applies_to(dataset, model)):
            raise OptionError(f"The task {experiment.task} does not apply to {spec} on {experiment.dataset}.", reason)
    token = cancel or CancelToken()
    results, samples = [], []
    count = math.ceil(len(dataset) / experiment.batch_size)
    for index, batch in enumerate(_batches(dataset, source, experiment.batch_size, experiment.captions)):
        if token.cancelled and results:
            break
        listener = None if progress is None else _Offset(progress, index, count)
        result = attack(source, batch, progress=listener, cancel=token, seed=experiment.seed)
        results.append(result)
        records = result.records()
        for spec, model in models.items():
            readings = _read(model, task, dataset, batch, modality, result)
            for record, reading in zip(records, readings, strict=True):
                record.setdefault("models", {})[spec] = reading
        samples += records
    result = _concatenate(modality, results)
    data = {
        "format": FORMAT,
        "experiment": experiment.to_dict(),
        "attack": attack.describe(),
        "recipe": _card(experiment.recipe),
        "models": {spec: _identity(model) for spec, model in (models | surrogates).items()},
        "versions": library_versions(),
        "device": str(source.device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 3),
        "cancelled": token.cancelled,
        "rates": _rates(modality, result),
        "summary": {spec: summarise(samples, spec) for spec in models},
        "samples": samples,
    }
    return AttackReport(data, result)


def _concatenate(modality: str, results: list[Any]) -> Any:
    if modality == "image":
        from cmai_core.attacks.result import AttackResult

        return AttackResult.concatenate(results)
    from cmai_core.attacks.text_result import concatenate

    return concatenate(results)


def _card(slug: str) -> dict[str, Any] | None:
    if not slug:
        return None
    from cmai_core.attacks.recipes.registry import get_recipe

    return {name: value for name, value in get_recipe(slug).describe().items() if name != "options"}


def _rates(modality: str, result: Any) -> dict[str, Any]:
    rates = {"success": result.success_rate().to_dict()}
    if modality != "image":
        true = result.success_rate(truthful=True).to_dict()
        if not result.truth_is_known:
            true |= {"hits": None, "share": None}  # of photographs nobody knows it: not the same as none
        rates["success_text_still_true"] = true
        rates["text_became_false"] = result.label_change_rate().to_dict()
    return rates


def summarise(samples: Sequence[Mapping[str, Any]], spec: str) -> dict[str, Any]:
    """Totals of one model over the samples whose truth is known; every share beside its count and denominator.

    ASR: among the samples right when clean, those wrong on the rounded adversarial picture. Robust accuracy: among all,
    those right when clean and after the attack.
    """
    readings = [sample["models"][spec] for sample in samples]
    judged = [r for r in readings if r["clean_correct"] is not None and r["correct"] is not None]
    intact = [r for r in judged if r["clean_correct"]]
    scored = [r for r in readings if r["clean_consistency"] is not None]
    return {
        "samples": len(readings),
        "accuracy_clean": _share(len(intact), len(judged)),
        "accuracy_robust": _share(sum(r["correct"] for r in intact), len(judged)),
        "asr": _share(sum(not r["correct"] for r in intact), len(intact)),
        "consistency_clean": _mean([r["clean_consistency"] for r in scored]),
        "consistency_attacked": _mean([r["consistency"] for r in scored]),
    }


def _share(hits: int, total: int) -> dict[str, Any]:
    return {"hits": hits, "total": total, "share": hits / total if total else None}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _identity(model: Any) -> dict[str, Any]:
    return {"spec": model.spec, "name": model.name, "hash": model.hash, "defended": bool(model.defended)}


def _batches(dataset: PairDataset, model: Any, size: int, captions: int) -> Iterator[Batch]:
    from cmai_core.evaluation.runs.predictor import make_batch

    for start in range(0, len(dataset), size):
        pairs: list[Pair] = [dataset[i] for i in range(start, min(start + size, len(dataset)))]
        yield make_batch(model, pairs, captions)


def _read(model: Any, task: Any, dataset: PairDataset, batch: Batch, modality: str, result: Any) -> list[dict]:
    """What a model answers before and after the attack, and S_c, by the rows of the result."""
    from cmai_core.evaluation.runs.predictor import pictures, read_images, read_pairs

    clean = pictures(batch.pixels)
    if modality == "image":
        before, after = read_images(model, task, dataset, batch, (clean, result.images()))
    else:
        attacked = result.images() if modality == "joint" else clean
        versions = ((clean, batch.texts), (attacked, result.texts))
        before, after = read_pairs(model, task if modality == "joint" else None, dataset, batch, versions)
    return [
        {
            "clean_answer": b.answer,
            "answer": a.answer,
            "clean_correct": b.correct,
            "correct": a.correct,
            "clean_consistency": b.consistency,
            "consistency": a.consistency,
        }
        for b, a in zip(before, after, strict=True)
    ]


class _Offset:
    """Turns the progress of one batch into that of the whole run, in thousandths of a batch."""

    UNITS = 1000

    def __init__(self, progress: ProgressCallback, index: int, count: int):
        self._progress, self._index, self._count = progress, index, count

    def __call__(self, update: Progress) -> None:
        done = self._index * self.UNITS + round(update.fraction * self.UNITS)
        stage = f"batch {self._index + 1} of {self._count}"
        self._progress(Progress(done, self._count * self.UNITS, stage, update.data))
