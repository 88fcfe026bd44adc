"""A task and a metric of another package: the nearest class by another name, and how sure the model is of it."""

from __future__ import annotations

from cmai_core.tasks import TaskInfo
from cmai_core.tasks.metrics import Metric, bootstrap_interval


def confidence(records):
    """Measure the mean probability of the answers."""
    return bootstrap_interval([p.score for p in records.predictions], seed=records.seed), None


BEST = TaskInfo(name="best-class", title="Best class", word="best class", make="other.best_class:BestClass")
CONFIDENCE = Metric("confidence", "mean confidence", confidence, tasks=("best-class",))


def use() -> object:
    """Measure and attack it, with the metric beside its own, and find it in the lab."""
    import cmai_core as cmai
    from app.components.common.words import TASK_WORDS
    from cmai_core.data.registry import load_dataset
    from cmai_core.lab.choices import why_not_objective
    from cmai_core.lab.experiment import Experiment
    from cmai_core.models import load_model
    from cmai_core.tasks import evaluate_clean

    data, model = load_dataset("photos", limit=4), load_model("tabletop")
    clean = evaluate_clean(model, load_dataset("tabletop", limit=4), ["best-class"])["tasks"]["best-class"]
    report = cmai.attack(model, "tabletop", recipe="fgsm", task="best-class", limit=4)
    Experiment(pair=data[0].id, caption="a picture", task="best-class").checked()
    return (
        set(clean) == {"accuracy", "confidence"}
        and 0 < clean["confidence"]["value"] <= 1
        and report.data["experiment"]["task"] == "best-class"
        and TASK_WORDS["best-class"] == "best class"
        and why_not_objective("linf", "dlr", "best-class") == ""
    )
