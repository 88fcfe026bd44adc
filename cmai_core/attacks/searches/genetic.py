"""A genetic search (GenAttack, Alzantot et al. 2019, arXiv 1805.11090, algorithm 1); needs scores only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.options import flag, number, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators


@strict_options
@dataclass(frozen=True, kw_only=True)
class Genetic:
    """A population of allowed images: the fittest survives, the others are crossed and mutated.

    Attributes:
        queries: most queries of a sample; generations are whole: population + generations·(population − 1).
        population: 6 as published. temperature: of the choice of parents by fitness (0.3).
        mutation: share of values mutated (ρ, 0.5 falling to 0.1); span: their largest change as a share of ε (α, 0.4
            falling to 0.15). Both fall by a tenth whenever the best has not risen for `patience` generations (100).
        stop_on_success, micro_batch: as in `GradientSearch`.
    """

    queries: int = 5000
    population: int = 6
    temperature: float = 0.3
    mutation: float = 0.5
    span: float = 0.4
    patience: int = 100
    stop_on_success: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        whole("population", self.population, 2)
        whole("queries", self.queries, self.population)
        whole("patience", self.patience, 1)
        number("temperature", self.temperature, 0.0, above_low=True)
        number("mutation", self.mutation, 0.0, 1.0)
        number("span", self.span, 0.0, 1.0)
        flag("stop_on_success", self.stop_on_success)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        names = ("queries", "population", "temperature", "mutation", "span", "patience", "stop_on_success")
        return {"search": "genetic"} | {name: getattr(self, name) for name in names}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        generations = (self.queries - self.population) // (self.population - 1)
        record = SearchRecord(problem, watch, generations)
        rows = record.unfooled() if self.stop_on_success else record.rows()
        region = problem.region.select(rows)
        generators = sample_generators(seed, [problem.ids[row] for row in rows.tolist()], 0)
        stalled = plateaus = torch.zeros(len(rows), device=rows.device)
        people = fitness = best = None
        for generation in range(generations + 1):
            if len(rows) == 0 or record.stop():
                break
            if people is None:
                people = torch.stack([region.random_start(generators) for _ in range(self.population)], dim=1)
                fitness = self._fitness(record, people, rows)
            else:
                decay = 0.9**plateaus
                mutation = (self.mutation * decay).clamp(min=min(0.1, self.mutation))
                span = (self.span * decay).clamp(min=min(0.15, self.span))
                children = self._children(region, people, fitness, generators, mutation, span)
                elite = fitness.argmax(dim=1)
                at = torch.arange(len(rows), device=rows.device)
                people = torch.cat([people[at, elite].unsqueeze(1), children], dim=1)
                new = self._fitness(record, children, rows)
                fitness = torch.cat([fitness[at, elite].unsqueeze(1), new], dim=1)
            top = fitness.amax(dim=1)
            if best is not None:
                stalled = torch.where(top > best, 0.0, stalled + 1)
                plateaus = plateaus + (stalled >= self.patience)
                stalled = torch.where(stalled >= self.patience, 0.0, stalled)
            best = top
            record.objective_trace[generation, rows] = record.best.value[rows]
            record.steps_done = generation
            record.report(generation)
            keep = ~record.best.success[rows]
            if self.stop_on_success and not bool(keep.all()):
                kept = keep.nonzero().squeeze(1)
                rows, region, people, fitness = rows[kept], region.select(kept), people[kept], fitness[kept]
                stalled, plateaus, best = stalled[kept], plateaus[kept], best[kept]
                generators = [generators[k] for k in kept.tolist()]
        return record.outcome()

    @staticmethod
    def _fitness(record: SearchRecord, people: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return record.score_many(people, rows).value.nan_to_num(nan=-1e30)

    def _children(self, region, people, fitness, generators, mutation, span) -> torch.Tensor:
        count, many = fitness.shape
        shape = people.shape[2:]
        # Scores have no scale of their own: the spread of the population sets it.
        spread = fitness.std(dim=1, keepdim=True).clamp(min=1e-12)
        chance = ((fitness - fitness.amax(dim=1, keepdim=True)) / (self.temperature * spread)).softmax(dim=1)
        drawn = [torch.rand(many - 1, 3, *shape, generator=g, dtype=people.dtype) for g in generators]
        picks = [torch.rand(many - 1, 2, generator=g, dtype=people.dtype) for g in generators]
        drawn, picks = torch.stack(drawn).to(people.device), torch.stack(picks).to(people.device)
        edges = chance.cumsum(dim=1).unsqueeze(1)
        at = torch.arange(count, device=people.device).view(-1, 1)
        parents = [(picks[:, :, k].unsqueeze(2) > edges).sum(dim=2).clamp(max=many - 1) for k in (0, 1)]
        share = chance.gather(1, parents[0]) / (chance.gather(1, parents[0]) + chance.gather(1, parents[1]))
        wide = lambda values: values.view(*values.shape, *[1] * len(shape))  # noqa: E731
        child = torch.where(drawn[:, :, 0] < wide(share), people[at, parents[0]], people[at, parents[1]])
        step = (2 * drawn[:, :, 1] - 1) * (span.view(-1, 1, 1, 1) * region.reach).unsqueeze(1)
        child = torch.where(drawn[:, :, 2] < wide(mutation.view(-1, 1)), child + step, child)
        return torch.stack([region.project(child[:, k]) for k in range(many - 1)], dim=1)
