"""What an attack may raise, by name; it imports no torch.

    OBJECTIVES.find("both").build(task, dataset, alpha=1.0, beta=0.5)

Command line, grid and lab offer these. A package adds one by an entry point of the group "cmai.objectives" whose value
is an `ObjectiveDescription`, and whose name is the objective's slug.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cmai_core.registry import Registry, imported

if TYPE_CHECKING:
    from cmai_core.attacks.objectives.objective import Objective
    from cmai_core.attacks.objectives.success import Criterion
    from cmai_core.data.pair import PairDataset
    from cmai_core.tasks.base import Task

OBJECTIVE_NEEDS = ("task", "classes", "sentence", "detector", "attention")
CRITERIA = ("wrong", "wrong and accepted", "accepted", "rejected")
EARLIER_NAMES = {"deviation": "embedding"}
"""Name in links and files of earlier versions → name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectiveDescription:
    """An objective as plain data.

    Attributes:
        slug, word: its name, and the word that a page shows. note: what it is, in a sentence.
        formula: how it is written, with {task}, {alpha} and {beta} to be filled in.
        make: "module:function" that makes it from the keywords task, dataset, alpha and beta.
        needs: of `OBJECTIVE_NEEDS`: "task"; "classes" (a task with class scores); "sentence" (texts of the pair);
            "detector" (around the model); "attention" (an image tower that gives it out).
        success: when an attack on it has succeeded, of `CRITERIA`. "wrong": the task's answer; without a task there is
            nothing to be right, and it has succeeded where the objective rose.
        judged: whether it is raised for the sake of that success; others are raised as far as they go.
        flat_at_clean: whether its gradient is zero at the clean picture.
    """

    slug: str
    word: str
    note: str
    formula: str
    make: str
    needs: tuple[str, ...] = ("task",)
    success: str = "wrong"
    judged: bool = True
    flat_at_clean: bool = False

    @cached_property
    def maker(self) -> Callable[..., Objective]:
        """The function that makes it."""
        return imported(self.make)

    def build(
        self, task: Task | None = None, dataset: PairDataset | None = None, *, alpha: float = 1.0, beta: float = 1.0
    ) -> Objective:
        """Make the objective.

        Args:
            task: an object of `cmai_core.tasks`, None where it needs none. dataset: handed to the task's `prepare`.
            alpha, beta: weights of the task's loss and of S_c, where it has them.

        Raises:
            OptionError: the task has no class scores, which the objective compares.
        """
        return self.maker(task=task, dataset=dataset, alpha=alpha, beta=beta)

    def criterion(self, task: Task | None = None, dataset: PairDataset | None = None) -> Criterion:
        """Make the criterion of success (`success`)."""
        from cmai_core.attacks.objectives.makers import criterion

        return criterion(self.success, task, dataset)


def _refuse(name: str, objective: object) -> str:
    """Say why a package's objective cannot be used; "" where it can."""
    if not isinstance(objective, ObjectiveDescription):
        return "it is no ObjectiveDescription (cmai_core.attacks.objectives.registry)."
    if objective.slug != name:
        return f"its slug is {objective.slug!r}."
    if unknown := [need for need in objective.needs if need not in OBJECTIVE_NEEDS]:
        return f"needs={unknown[0]!r}; accepted: {', '.join(OBJECTIVE_NEEDS)}."
    return "" if objective.success in CRITERIA else f"success={objective.success!r}; accepted: {', '.join(CRITERIA)}."


_MAKERS = "cmai_core.attacks.objectives.makers"
_CLASSES = ("task", "classes")

_ROWS = (
    ObjectiveDescription(
        slug="task",
        word="task loss",
        note="The loss of the attacked task; of searches that bring an objective of their own, that.",
        formula="loss({task})",
        make=f"{_MAKERS}:task_loss",
    ),
    ObjectiveDescription(
        slug="consistency",
        word="S_c",
        note="−S_c: picture and sentence drift apart. No task is needed.",
        formula="−S_c",
        make=f"{_MAKERS}:inconsistency",
        needs=("sentence",),
        judged=False,
    ),
    ObjectiveDescription(
        slug="both",
        word="both",
        note="α·task loss − β·S_c, the inner problem of MBAT.",
        formula="{alpha:g}·loss({task}) − {beta:g}·S_c",
        make=f"{_MAKERS}:both",
        needs=("task", "sentence"),
        judged=False,
    ),
    ObjectiveDescription(
        slug="margin",
        word="margin",
        note="Best false score minus best true score (Carlini and Wagner): positive where the answer is wrong.",
        formula="margin({task})",
        make=f"{_MAKERS}:margin",
        needs=_CLASSES,
    ),
    ObjectiveDescription(
        slug="dlr",
        word="DLR",
        note="The difference of logits ratio (Croce and Hein): a margin that does not know the scale of the scores.",
        formula="DLR({task})",
        make=f"{_MAKERS}:dlr",
        needs=_CLASSES,
    ),
    ObjectiveDescription(
        slug="kl",
        word="KL",
        note="The divergence of the answer's probabilities from the clean ones: needs no right answer.",
        formula="KL({task}) from the clean answer",
        make=f"{_MAKERS}:divergence",
        needs=_CLASSES,
        flat_at_clean=True,
    ),
    ObjectiveDescription(
        slug="embedding",
        word="embedding",
        note="How far the picture's embedding moves from the clean one: needs neither task nor sentence.",
        formula="distance from the clean embedding",
        make=f"{_MAKERS}:embedding",
        needs=(),
        judged=False,
        flat_at_clean=True,
    ),
    ObjectiveDescription(
        slug="attention",
        word="attention",
        note="How far the image tower's attention moves from where it looks in the clean picture: needs neither task "
        "nor sentence, but a transformer that gives out its attention.",
        formula="1 − cosine with the clean attention",
        make=f"{_MAKERS}:attention",
        needs=("attention",),
        judged=False,
        flat_at_clean=True,
    ),
    ObjectiveDescription(
        slug="aware",
        word="loss, S_c above τ",
        note="The task loss while the detector accepts: success is an answer that is wrong and accepted.",
        formula="loss({task}) while S_c ≥ τ",
        make=f"{_MAKERS}:aware",
        needs=("task", "detector"),
        success="wrong and accepted",
    ),
    ObjectiveDescription(
        slug="accept",
        word="get accepted",
        note="S_c − τ: a pair that the detector rejects, such as a false sentence, gets accepted.",
        formula="S_c − τ",
        make=f"{_MAKERS}:slack",
        needs=("sentence", "detector"),
        success="accepted",
    ),
    ObjectiveDescription(
        slug="reject",
        word="get rejected",
        note="τ − S_c: a pair that the detector accepts, such as a true sentence, gets rejected.",
        formula="τ − S_c",
        make=f"{_MAKERS}:shortfall",
        needs=("sentence", "detector"),
        success="rejected",
    ),
)

OBJECTIVES: Registry[ObjectiveDescription] = Registry(
    "objective", "cmai.objectives", {row.slug: row for row in _ROWS}, _refuse
)
"""Every objective by slug, in the order in which they are offered."""


def present_name(name: Any) -> Any:
    """Return the name of today for one of an earlier version; anything else as it is."""
    return EARLIER_NAMES.get(name, name) if isinstance(name, str) else name
