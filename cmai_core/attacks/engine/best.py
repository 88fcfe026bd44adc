"""The best example of every sample so far: one that succeeds first, among these the one with the highest objective."""

from __future__ import annotations

import torch

from cmai_core.attacks.threats.regions.region import Region

TIE = 1e-6
"""Relative difference of two objectives of texts below which they are equal (rounding of differently shaped passes)."""


def better(value: float, success: bool, than: float, than_success: bool) -> bool:
    """Compare two scores: success first, then an objective higher by more than `TIE`; NaN loses to any number."""
    if success != than_success:
        return success
    if value != value or than != than:
        return than != than and value == value
    return value > than + TIE * max(1.0, abs(than))


class BestTracker:
    """The best example of every sample so far, with its score.

    Args:
        examples: N×… to begin with; None: the caller keeps them by what `offer` returns.
        value, success: their objective (N) and success (bool N, or how many of several succeed: int64 N).
        tie: relative difference below which two objectives are equal.

    Attributes: the same. They are replaced, never changed, since listeners hold references.
    """

    def __init__(self, examples: torch.Tensor | None, value: torch.Tensor, success: torch.Tensor, tie: float = 0.0):
        self.examples, self.value, self.success, self.tie = examples, value, success, tie

    def improves(self, value: torch.Tensor, success: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Flag the scores that are better than the best so far (bool, one a score); NaN loses to any number."""
        best, best_success = self._at(rows)
        bar = best
        if self.tie:
            value, best = value.double(), best.double()
            bar = best + self.tie * best.abs().clamp(min=1.0)
        higher = ~(value <= bar) & ~value.isnan()
        return (success > best_success) | ((success == best_success) & higher)

    def offer(
        self,
        examples: torch.Tensor | None,
        value: torch.Tensor,
        success: torch.Tensor,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Take over what is better; return which were taken (bool, one an example).

        Args:
            rows: the samples that the examples belong to, each once (None: all, in order).
        """
        taken = self.improves(value, success, rows)
        self.put(examples, value, success, taken, rows)
        return taken

    def put(
        self,
        examples: torch.Tensor | None,
        value: torch.Tensor,
        success: torch.Tensor,
        chosen: torch.Tensor,
        rows: torch.Tensor | None = None,
    ) -> None:
        """Take over the chosen examples (bool, one an example), better or not."""
        if chosen.device.type == "cpu":  # elsewhere, asking which are chosen would wait for the device
            if not bool(chosen.any()):
                return
            if not bool(chosen.all()):
                index = chosen.nonzero().squeeze(1)
                rows = index if rows is None else rows[index]
                examples = None if examples is None else examples[index]
                value, success = value[index], success[index]
        else:
            best, best_success = self._at(rows)
            if examples is not None:
                kept = self.examples if rows is None else self.examples[rows]
                examples = torch.where(column(chosen, examples), examples, kept)
            value, success = torch.where(chosen, value, best), torch.where(chosen, success, best_success)
        self.value, self.success = _placed(self.value, value, rows), _placed(self.success, success, rows)
        if examples is not None:
            self.examples = _placed(self.examples, examples, rows)

    def found(self) -> dict[str, torch.Tensor]:
        """Return what a search hands back of it, by the names of `Outcome`."""
        return {"pixels": self.examples}

    def _at(self, rows: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return (self.value, self.success) if rows is None else (self.value[rows], self.success[rows])


class SharedTracker(BestTracker):
    """The best of perturbations that serve all samples: most successes first, then the highest mean objective.

    All samples' examples are taken, or none.

    Attributes:
        taken: whether the last offer was.
    """

    taken = False

    def offer(
        self,
        examples: torch.Tensor | None,
        value: torch.Tensor,
        success: torch.Tensor,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        taken = super().offer(examples, value, success, rows)
        self.taken = bool(taken.all())
        return taken

    def improves(self, value: torch.Tensor, success: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        gained = success.sum() - self.success.sum()
        higher = value.nan_to_num(nan=-torch.inf).mean() > self.value.nan_to_num(nan=-torch.inf).mean()
        return ((gained > 0) | ((gained == 0) & higher)).expand(len(success))


class NearestTracker(BestTracker):
    """The closest image that succeeds, whatever ε, and its distance; handed back brought into the region.

    One search serves every ε: `AttackResult.success_at`.

    Attributes:
        distance: N, in the units of ε; inf where none succeeds.
    """

    def __init__(self, region: Region, value: torch.Tensor, success: torch.Tensor):
        super().__init__(region.centre.clone(), value, success)
        self.region = region
        self.distance = torch.where(success, 0.0, torch.inf).to(value)
        self._selected: tuple[torch.Tensor | None, Region] = (None, region)

    def offer(
        self,
        examples: torch.Tensor | None,
        value: torch.Tensor,
        success: torch.Tensor,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        distance = self._region_of(rows).distance(examples)
        before = self.distance if rows is None else self.distance[rows]
        taken = success & (distance < before)
        self.distance = _placed(self.distance, torch.where(taken, distance, before), rows)
        self.put(examples, value, success, taken, rows)
        return taken

    def found(self) -> dict[str, torch.Tensor]:
        within = self.distance <= self.region.epsilon.flatten() * (1 + 1e-9)
        inside = torch.where(column(within, self.examples), self.examples, self.region.project(self.examples))
        return {"pixels": inside, "minimum": self.examples, "minimum_norm": self.distance}

    def _region_of(self, rows: torch.Tensor | None) -> Region:
        if rows is None:
            return self.region
        if self._selected[0] is not rows:  # searches keep the tensor while the same samples stay
            self._selected = (rows, self.region.select(rows))
        return self._selected[1]


def _placed(whole: torch.Tensor, part: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return part if rows is None else whole.index_copy(0, rows, part)


def column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape one value a sample so that it goes with pixels."""
    return values.view(-1, *[1] * (like.dim() - 1))
