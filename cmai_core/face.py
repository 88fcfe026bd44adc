"""What `import cmai_core as cmai` offers: seven functions that take names, objects or files and do one thing each.

    model = cmai.load_model("tabletop")
    report = cmai.attack(model, "tabletop", recipe="pgd", epsilon=4, limit=16)
    print(report)

Everything below is a short way to the library's own parts, which stay there for whoever needs more.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cmai_core.data.registry import DEFAULT_DATASET
from cmai_core.errors import OptionError
from cmai_core.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from cmai_core.data.pair import PairDataset
    from cmai_core.evaluation.runs.attack_run import AttackReport
    from cmai_core.explanations.result import Explanation
    from cmai_core.models.protocol import VisionLanguageModel

    Model = str | VisionLanguageModel
    Data = str | Path | PairDataset
    Picture = str | Path | np.ndarray | Image.Image

METHODS = ("integrated-gradients", "relevance", "grad-cam", "attention-flow")


def attack(
    model: Model,
    data: Data = DEFAULT_DATASET,
    *,
    recipe: str = "pgd",
    epsilon: float | None = None,
    norm: str | None = None,
    task: str | None = None,
    targets: Sequence[Model] = (),
    limit: int | None = 64,
    seed: int = 0,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    **options: Any,
) -> AttackReport:
    """Attack the pairs of a dataset by a named recipe, as `cmai attack` does.

    Args:
        model: the examples are crafted on it. targets: models that are shown them too.
        data: a dataset, its name or its path. limit: only the first so many pairs (None: all).
        recipe: a name of `cmai recipes`. options: of the recipe, in its own units.
        epsilon: in units of 1/255 (l0: pixel positions; patch: share of the area). norm: "linf", "l2", "l1", "l0" or
            "patch". None: the recipe's own.
        task: what is judged; None: the first of retrieval and zero-shot that goes with data and model.
        seed: of the random starts. progress, cancel: as everywhere in the library.

    Returns:
        the report: `data` has every sample as plain values, `result` the adversarial pictures and texts.

    Raises:
        CmaiError: something that cannot be used or does not fit; the hint says what to do.
    """
    from cmai_core.evaluation.runs.attack_run import run_experiment
    from cmai_core.evaluation.runs.experiment import AttackExperiment

    models = _models([model, *targets], device)
    names, dataset = list(models), _dataset(data, limit)
    experiment = AttackExperiment(
        model=names[0],
        targets=tuple(names[1:]),
        dataset=dataset.name,
        split=dataset.split,
        limit=limit,
        recipe=recipe,
        options=options,
        task=task or _fitting_task(dataset, models[names[0]]),
        norm=norm,
        epsilon=epsilon,
        seed=seed,
    )
    return run_experiment(experiment, progress=progress, cancel=cancel, device=device, models=models, dataset=dataset)


def evaluate(
    models: Model | Sequence[Model],
    data: Data = DEFAULT_DATASET,
    *,
    recipes: str | Sequence[str] = ("pgd",),
    epsilons: Sequence[float] = (4.0,),
    tasks: Sequence[str] | None = None,
    limit: int | None = 64,
    store: str | Path | None = None,
    outside: Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Measure models under a grid of attacks, as `cmai evaluate` does.

    Args:
        models: one or several. data, limit: as for `attack`.
        recipes: one name or several, each with options where wanted ("pgd:steps=50"). epsilons: in units of 1/255.
        tasks: names; None: as for `attack`. settings: further ones of `evaluation.runs.grid.Grid`.
        store: a folder in which every example is kept, so that the same call goes on where it stopped; None: nowhere.
        outside: name → attacker of your own, a function of model and batch that returns pixels; it runs where `recipes`
            has "name@".

    Returns:
        one row a figure: accuracies and attack success rates with their counts and 95 % intervals, the worst case over
        recipes last. A recipe that cannot be run on a model leaves no row, and is named in a warning.

    Raises:
        CmaiError: as for `attack`.
    """
    from cmai_core.evaluation.figures import tables
    from cmai_core.evaluation.figures.outcomes import Outcomes
    from cmai_core.evaluation.runs import predictions
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.runs.setting import Setting
    from cmai_core.evaluation.store.store import Store

    several: Sequence[Model] = models if isinstance(models, (list, tuple)) else [cast("Model", models)]
    if not several:
        raise OptionError("No model named.", "Give one or several.")
    loaded = _models(several, device)
    dataset = _dataset(data, None)
    grid = Grid(
        models=tuple(loaded),
        tasks=tuple(tasks) if tasks is not None else (_fitting_task(dataset, next(iter(loaded.values()))),),
        recipes=(recipes,) if isinstance(recipes, str) else tuple(recipes),
        epsilons=tuple(epsilons),
        dataset=dataset.name,
        split=dataset.split,
        limit=limit,
        **{"validation": 0, **settings},
    )
    with ExitStack() as stack:
        folder = Path(store) if store is not None else Path(stack.enter_context(TemporaryDirectory(prefix="cmai-")))
        opened = stack.enter_context(Store.write(folder))
        setting = Setting(grid, models=loaded, dataset=dataset, outside=outside)
        report = run(setting, opened, progress=progress, cancel=cancel)
        frame = predictions.frame(opened, report.plan)
    for cell in report.plan.cells:
        if reason := cell.skipped or report.failed.get(cell.address):
            warnings.warn(f"{cell.recipe} on {cell.source}, {cell.task or 'no task'}: {reason}", stacklevel=2)
    return tables.summary_table(Outcomes.of(frame, frame.attrs["epsilons"]))


def consistency(model: Model, images: Picture | Sequence[Picture], texts: str | Sequence[str]) -> np.ndarray:
    """Score how well each text fits its picture: S_c, float32 in [-1, 1], one value a pair.

    Args:
        model: a model or its specification.
        images: pictures (uint8 arrays H×W×3, PIL images, or paths), one a text, or one for all of them.
        texts: one a picture, or one for all of them.

    Raises:
        CmaiError: a picture that cannot be read, numbers that do not pair up.
    """
    import torch

    (loaded,) = _models([model], None).values()
    pictures = _pictures(images)
    with torch.no_grad():
        scores = loaded.consistency(loaded.preprocess(pictures), [texts] if isinstance(texts, str) else list(texts))
    return scores.float().cpu().numpy()


def explain(
    model: Model,
    images: Picture | Sequence[Picture],
    texts: str | Sequence[str],
    *,
    method: str = "integrated-gradients",
) -> Explanation:
    """Map which parts of a picture make S_c what it is.

    Args:
        model, images, texts: as for `consistency`.
        method: "integrated-gradients" works with every model; "relevance", "grad-cam" and "attention-flow" (which does
            not depend on the text) need open_clip's own vision transformer.

    Returns:
        maps N×h×w with what is needed to read them (see `explanations.Explanation`).

    Raises:
        CmaiError: an unknown method, or one that this model has not the parts for.
    """
    from cmai_core import explanations as methods

    if method not in METHODS:
        raise OptionError(f"method={method!r} is not known.", f"Accepted: {', '.join(METHODS)}.")
    (loaded,) = _models([model], None).values()
    pictures = _pictures(images)
    asked = [texts] if isinstance(texts, str) else list(texts)
    asked = asked * len(pictures) if len(asked) == 1 else asked
    pixels = loaded.preprocess(pictures)
    if method == "attention-flow":
        return methods.attention_flow(loaded, pixels)
    if method in ("relevance", "grad-cam"):
        return {"relevance": methods.relevance, "grad-cam": methods.grad_cam}[method](loaded, pixels, asked)
    return methods.pixel_attribution(loaded, pixels, asked)


def _models(given: Sequence[Model], device: str | None) -> dict[str, VisionLanguageModel]:
    """Name → model; a name that two have is numbered."""
    from cmai_core.models import load_model

    found: dict[str, Any] = {}
    for one in given:
        model = load_model(one, device=device) if isinstance(one, str) else one
        name, number = model.spec, 2
        while name in found and found[name] is not model:
            name, number = f"{model.spec}-{number}", number + 1
        found[name] = model
    return found


def _dataset(data: Data, limit: int | None) -> PairDataset:
    from cmai_core.data import load_dataset
    from cmai_core.data.subset import first

    return load_dataset(data, limit=limit) if isinstance(data, (str, Path)) else first(data, limit)


def _fitting_task(dataset: PairDataset, model: VisionLanguageModel) -> str:
    """Return the task that is asked where none is named.

    The usual one, or where the model knows only its classes, those.
    """
    from cmai_core.tasks import get_task

    order = ("zero-shot", "retrieval") if model.classes else ("retrieval", "zero-shot")
    reasons = []
    for name in order:
        reason = get_task(name).applies_to(dataset, model)
        if not reason:
            return name
        reasons.append(reason)
    raise OptionError(f"Neither {' nor '.join(order)} can be asked of {dataset.name}.", " ".join(reasons))


def _pictures(given: Picture | Sequence[Picture]) -> list[np.ndarray]:
    from cmai_core.data.uploads import decode_image

    several = list(given) if isinstance(given, (list, tuple)) else [given]
    found = []
    for one in several:
        if isinstance(one, (str, Path)):
            found.append(decode_image(Path(one)))
        else:
            array = np.asarray(one.convert("RGB")) if hasattr(one, "convert") else np.asarray(one)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
                raise OptionError(
                    f"A picture is {array.dtype} {array.shape}.", "Accepted: uint8 RGB H×W×3, a PIL image, or a path."
                )
            found.append(array)
    return found
