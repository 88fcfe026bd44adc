"""Several attacks one after another, each on what the ones before it did not fool.

AutoAttack (Croce & Hein 2020, arXiv 2003.01690, §5) is such a cascade. Every success of a member that survives rounding
to 8 bits is kept, so the ensemble is never weaker than its best member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.engine.clean_features import clean_features
from cmai_core.attacks.engine.evaluator import Evaluation
from cmai_core.attacks.engine.problem import Outcome, Problem, Search
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.attacks.objectives.classes import ClassScores, _ClassObjective
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.errors import OptionError
from cmai_core.options import strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_seed


@strict_options
@dataclass(frozen=True, kw_only=True)
class Member:
    """One attack of an ensemble.

    Attributes:
        name: for reports. search: how. objective: what it raises; the ensemble's own when None.
    """

    name: str
    search: Search
    objective: Objective | None = None

    def __post_init__(self) -> None:
        if not callable(getattr(self.search, "run", None)):
            raise OptionError(f"search={self.search!r} is not accepted.", "Accepted: a search, such as APGD().")
        if self.objective is not None and not isinstance(self.objective, Objective):
            raise OptionError(f"objective={self.objective!r} is not accepted.", "Accepted: an Objective, None.")

    def describe(self) -> dict:
        objective = {} if self.objective is None else {"objective": self.objective.describe()}
        return {"name": self.name} | objective | self.search.describe()


@strict_options
@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Members in the order given: cheap ones first.

    The result's traces have one row a member (after the clean image): the ensemble's objective of what it left.

    Attributes:
        members: at least one. micro_batch: as in `GradientSearch`.
    """

    members: tuple[Member, ...]
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if not self.members or not all(isinstance(member, Member) for member in self.members):
            raise OptionError("An ensemble needs members.", "Accepted: a tuple of Member.")
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        return {"search": "cascade", "members": [member.describe() for member in self.members]}

    @staticmethod
    def member_seed(seed: int, index: int) -> int:
        """Return the seed of a member: run alone with it, it finds what it finds here."""
        return sample_seed(seed, f"member {index}", 0)

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        record = SearchRecord(problem, watch, len(self.members))
        record.begin()
        firm = record.best.success.clone()
        for index, member in enumerate(self.members):
            rows = record.rows(~firm)
            if len(rows) == 0 or record.stop():
                break
            part = _under(problem, member.objective, rows, record)
            portion = _Portion(watch, record, rows, index, len(self.members), member.name)
            found = member.search.run(part, seed=self.member_seed(seed, index), watch=portion)
            _take(found, rows, index + 1, record, firm)
        return record.outcome()


@strict_options
@dataclass(frozen=True, kw_only=True)
class EachTarget:
    """The same search towards one false class after another, the likeliest first, on what is not fooled yet.

    So the targeted members of AutoAttack work (APGD and FAB, nine classes each). A sample with fewer false classes has
    fewer runs; it does not matter for the others. Traces as in `Cascade`, one row a target.

    Attributes:
        search: how. objective: towards a class: `DLR(task)`, `Margin(task)`, …, without a target of its own.
        targets: most classes tried. micro_batch: as in `GradientSearch`.
    """

    search: Search
    objective: _ClassObjective
    targets: int = 9
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        whole("targets", self.targets, 1)
        if not callable(getattr(self.search, "run", None)):
            raise OptionError(f"search={self.search!r} is not accepted.", "Accepted: a search, such as APGD().")
        kind = self.objective
        if not isinstance(kind, _ClassObjective) or kind.target is not None or kind.rank is not None:
            raise OptionError(
                f"objective={self.objective!r} is not accepted.", "Accepted: a class objective without target and rank."
            )
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        aim = {"each_target": self.targets, "target_objective": self.objective.describe()}
        return self.search.describe() | aim

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        record = SearchRecord(problem, watch, self.targets)
        record.begin()
        firm = record.best.success.clone()
        aims, counts = self._aims(problem)
        for index in range(self.targets):
            rows = record.rows(~firm & (counts > index))
            if len(rows) == 0 or record.stop():
                break
            part = _under(problem, dataclasses.replace(self.objective, target=aims[:, index]), rows, record)
            portion = _Portion(watch, record, rows, index, self.targets, f"target {index + 1}")
            found = self.search.run(part, seed=sample_seed(seed, f"target {index}", 0), watch=portion)
            _take(found, rows, index + 1, record, firm)
        return record.outcome()

    def _aims(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """Return classes by likelihood on the clean image (whole batch: B×targets), and how many each sample has."""
        evaluator, kind = problem.evaluator, self.objective
        model, batch, shared = evaluator.model, evaluator.batch, evaluator.shared
        scores = ClassScores.bind(kind.task, kind.prepared, model, batch, kind.dataset, shared)
        with torch.no_grad():
            false = scores.split(model, clean_features(model, batch, shared))[2]
        best = false.topk(min(self.targets, false.shape[1]), dim=1)
        there = best.values != -torch.inf
        # Where a sample has no such class, any false one stands in: the sample takes no part then.
        aims = torch.where(there, best.indices, best.indices[:, :1])
        counts = there.sum(dim=1)
        return aims, counts if evaluator.rows is None else counts[evaluator.rows.to(counts.device)]


def _under(problem: Problem, objective: Objective | None, rows: torch.Tensor, record: SearchRecord) -> Problem:
    """Return some samples of a problem under another objective, whose clean value costs a pass."""
    part = problem.select(rows)
    if objective is None:
        return part
    evaluator = part.evaluator.with_objective(objective, clean=part.region.centre)
    record.forwards[rows] += evaluator.forward_cost
    clean = Evaluation(evaluator.clean_value, part.clean.consistency, part.clean.success)
    return Problem(part.region, part.ids, evaluator, clean)


def _take(found: Outcome, rows: torch.Tensor, step: int, record: SearchRecord, firm: torch.Tensor) -> None:
    """Enter what a member found for some rows, and in `firm` which successes remain when rounded to 8 bits.

    A search that ends at its first success stands right behind the boundary, where rounding may lead back over it; such
    a sample is left to the next member.
    """
    record.forwards[rows] += found.forwards
    record.backwards[rows] += found.backwards
    old = record.bad_step[rows]
    record.bad_step[rows] = torch.where(old < 0, found.bad_step, old)
    seen = record.score(found.pixels, rows, step)
    if bool(seen.success.any()):
        claimed, pixels, value = (x[seen.success] for x in (rows, found.pixels, seen.value))
        kept = record.score(record.problem.region.select(claimed).round(pixels), claimed, offer=False).success
        record.best.put(pixels, value, torch.ones_like(kept), kept, claimed)
        firm[claimed] = kept
    record.cancelled = record.cancelled or found.cancelled
    record.steps_done += found.steps_done


class _Portion(Watch):
    """Turns the progress of one member on some samples into the ensemble's on all."""

    UNITS = 1000

    def __init__(self, watch: Watch, record: SearchRecord, rows: torch.Tensor, index: int, count: int, name: str):
        self._watch, self._record, self._rows = watch, record, rows
        self._index, self._count, self._name = index, count, name

    @property
    def cancelled(self) -> bool:
        return self._watch.cancelled

    def pace(self, device: torch.device) -> None:
        self._watch.pace(device)

    def report(
        self, done: int, total: int, stage: str, data: Callable[[], Mapping[str, Any]], *, force: bool = False
    ) -> None:
        share = self._index + (done / total if total else 0.0)
        units = int(share * self.UNITS)

        def spread() -> dict:
            inner = dict(data())
            for name in ("objective", "consistency"):
                if inner.get(name) is not None:
                    trace = inner[name]
                    whole = torch.full((len(trace), self._record.count), torch.nan, dtype=trace.dtype)
                    inner[name] = whole.to(trace.device).index_copy(1, self._rows, trace)
            if inner.get("pixels") is not None:
                inner["pixels"] = self._record.best.examples.index_copy(0, self._rows, inner["pixels"])
            return inner

        last = self._index == self._count - 1
        stage = f"{self._name} ({self._index + 1} of {self._count})"
        forced = force and (self._index == 0 or last)
        self._watch.report(units, self._count * self.UNITS, stage, spread, force=forced)
