"""What a grid names, loaded: models, dataset, tasks; and its items, each read from the dataset once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cmai_core.data.pair import item_id
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.store.address import (
    FORMAT,
    dataset_identity,
    digest,
    item_version,
    model_identity,
    plain,
    task_identity,
)
from cmai_core.models.truncation import warn_truncated

if TYPE_CHECKING:
    from cmai_core.data.pair import Batch, Pair, PairDataset

VALIDATION = "validation"
KEPT_BATCHES, KEPT_PAIRS = 64, 1024


class RememberingTask:
    """A task that keeps what it has prepared for the last batches, so that every attack on a batch shares it."""

    def __init__(self, task: Any):
        self.task = task
        self._kept: OrderedDict[tuple, tuple] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        if name in ("task", "_kept") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.task, name)

    def prepare(self, model: Any, pairs: Sequence[Pair], dataset: PairDataset | None = None) -> Any:
        """Prepare as the task does."""
        key = (id(model), tuple(map(id, pairs)), id(dataset))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        prepared = self.task.prepare(model, pairs, dataset)
        # The objects are kept with it: as long as they are, nothing else can have their ids.
        self._kept[key] = (prepared, model, tuple(pairs), dataset)
        if len(self._kept) > KEPT_BATCHES:
            self._kept.popitem(last=False)
        return prepared


class Items:
    """The first items of a split, with the dataset and the tasks they are asked about with.

    Attributes:
        dataset: the whole split, whatever the limit: galleries and two-image statements come from it. tasks: by name.
        keys: (id, version) of each item, in order.

    Args:
        gallery: captions of the retrieval gallery, at least as many as items; None: that, and at least 200.
    """

    def __init__(
        self,
        dataset: PairDataset,
        count: int | None,
        tasks: Sequence[str],
        captions: int,
        gallery: int | None = None,
    ):
        from cmai_core.tasks import get_task

        self.dataset, self.captions = dataset, captions
        size = len(dataset) if count is None else min(count, len(dataset))
        self.tasks = {name: RememberingTask(get_task(name).for_items(size, gallery)) for name in tasks if name}
        self._identities: dict[str, dict] = {}
        self._pairs: OrderedDict[int, Pair] = OrderedDict()
        self._batches: OrderedDict[tuple, Batch] = OrderedDict()
        self.keys = tuple((item_id(dataset, k), item_version(dataset, k)) for k in range(size))
        self.place = {key: k for k, key in enumerate(self.keys)}

    def identity(self, task: str) -> dict[str, Any]:
        """Return `task_identity` of one of the tasks ("": none), worked out once."""
        if task not in self._identities:
            self._identities[task] = task_identity(self.tasks.get(task), self.dataset)
        return self._identities[task]

    def pair(self, index: int) -> Pair:
        """Return an item of the dataset; the last ones are kept."""
        found = self._pairs.get(index)
        if found is None:
            found = self._pairs[index] = self.dataset[index]
            if len(self._pairs) > KEPT_PAIRS:
                self._pairs.popitem(last=False)
        return found

    def batch(self, model: Any, keys: Sequence[tuple[str, str]]) -> Batch:
        """Return some items as a batch of the model's pixels, rounded to 8 bits."""
        from cmai_core.evaluation.runs.predictor import make_batch

        key = (id(model), tuple(keys))
        if key not in self._batches:
            pairs = [self.pair(self.place[item]) for item in keys]
            self._batches[key] = make_batch(model, pairs, self.captions)
            if len(self._batches) > KEPT_BATCHES:
                self._batches.popitem(last=False)
        return self._batches[key]


class Setting:
    """A grid with everything it names.

    Args:
        models: specification → model, for those not to be loaded by name. dataset: in place of the grid's.
        outside: name → outside attacker, for recipes such as "mine@" (see `outside.adapt`).
        device: as in `load_model`.

    Raises:
        CmaiError: a model, dataset or attacker that cannot be used.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        models: Mapping[str, Any] | None = None,
        dataset: PairDataset | None = None,
        outside: Mapping[str, Any] | None = None,
        device: str | None = None,
    ):
        from cmai_core.evaluation.runs.external import find

        self.grid, self._given, self._device = grid, dict(models or {}), device
        self.outside = {entry.label: find(entry, outside or {}) for entry in grid.entries if entry.where}
        if dataset is None:
            from cmai_core.data import load_dataset

            dataset = load_dataset(grid.dataset, split=grid.split)
        self.dataset = dataset
        self.items = Items(dataset, grid.limit, grid.tasks, grid.captions, grid.gallery)
        self._validation: Items | None = None
        self.models = {spec: self.load(spec) for spec in grid.models}
        for model in self.models.values():
            warn_truncated(model, dataset, len(self.items.keys))
        self._identities: dict[str, dict] = {}

    def load(self, spec: str) -> Any:
        """Return a model by its specification, loaded once (a surrogate too)."""
        if spec not in self._given:
            from cmai_core.models import load_model

            self._given[spec] = load_model(spec, device=self._device)
        return self._given[spec]

    @property
    def validation(self) -> Items | None:
        """Return clean items that thresholds are set on, where the dataset has a split for it."""
        if self._validation is None and self.grid.validation:
            from cmai_core.data.registry import DATASETS

            known = DATASETS.get(self.dataset.name) if self.dataset.name == self.grid.dataset else None
            if known is not None and known.calibration not in ("", self.grid.split):
                dataset = known.dataset(known.calibration)
                self._validation = Items(
                    dataset, self.grid.validation, self.grid.tasks, self.grid.captions, self.grid.gallery
                )
        return self._validation

    def identity(self, spec: str) -> dict[str, Any]:
        """Return `model_identity` of one of the models, worked out once."""
        if spec not in self._identities:
            self._identities[spec] = model_identity(self.models[spec])
        return self._identities[spec]

    def hash(self, spec: str) -> str:
        """Return the weights' hash of a model; of a system around it, of both."""
        identity = self.identity(spec)
        return identity["weights"] if identity["system"] is None else digest(identity)

    def reader(self, spec: str, task: str, items: Items) -> str:
        """Return the address of what a model says about items of a dataset when asked a task ("": only S_c)."""
        content = {
            "model": self.identity(spec),
            "dataset": dataset_identity(items.dataset),
            "task": items.identity(task),
        }
        return digest({"format": FORMAT, "kind": "reader", "captions": items.captions, **content})

    def build(self, entry: Any, epsilon: float | None, task: str, spec: str, seed: int = 0) -> Any:
        """Build the attack of one cell.

        Raises:
            OptionError: it does not go with the task, or an option is not accepted.
        """
        model, grid = self.models[spec], self.grid
        judge = self.items.tasks[task or grid.tasks[0]]
        if entry.where:
            from cmai_core.evaluation.runs.external import attack_of

            options = dict(entry.options) if epsilon is None else {**entry.options, "epsilon": epsilon}
            options |= {"name": entry.slug, "seed": seed}
            return attack_of(self.outside[entry.label], judge, self.dataset, 3 * model.image_size**2, **options)
        experiment = grid.experiment(entry, epsilon, model=spec, task=task or grid.tasks[0])
        return experiment.build(judge, self.dataset, 3 * model.image_size**2, self.load)

    def craft(self, attack: Any, spec: str, task: str, seed: int, universal: bool) -> str:
        """Return the address of an attack's examples. A universal one also depends on the items it is made for."""
        content = {
            "model": self.identity(spec),
            "dataset": dataset_identity(self.dataset),
            "task": self.items.identity(task),
            "attack": plain(attack),
            "seed": seed,
            "captions": self.grid.captions,
            "items": digest([list(key) for key in self.items.keys]) if universal else None,
        }
        return digest({"format": FORMAT, "kind": "examples", **content})
