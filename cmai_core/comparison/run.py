"""Runs the comparison: everything the protocol asks of every model. It goes on where it was stopped.

    cmai compare run                                   # all bundled models
    cmai compare run --models tabletop-cmai --parts main joint
    cmai compare run --models candidate=local-dir:runs/x/model --split validation   # while developing

Adversarial examples lie in an evaluation store; what came of them in one small JSON file a model. With `--publish` the
files are copied to `assets/results`, from where `cmai compare report` prints the tables; what lies
there already is then not measured again. The store has one writer: a second process needs a `--folder` of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmai_core.comparison.protocol import FAMILIES, PROTOCOL, Protocol
from cmai_core.errors import CmaiError, OptionError
from cmai_core.files import atomic, write_json
from cmai_core.paths import assets_dir
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.training.recipes import RECIPES
from cmai_core.versions import library_versions

CLEAN, JOINT, AIMED, DETECTION, POLICIES = "clean", "joint", "aimed", "detection", "policies"
ANSWERED = "answered"
TASKS = ("zero-shot", "retrieval", "vqa", "nlvr")


def part_names(protocol: Protocol = PROTOCOL) -> tuple[str, ...]:
    """Return all parts, in the order in which they run."""
    grids = tuple(part.name for part in protocol.parts)
    answered = () if protocol.answered is None else (ANSWERED,)
    return (CLEAN, grids[0], POLICIES, grids[1], DETECTION, *grids[2:], JOINT, AIMED, *answered)


def results_dir() -> Path:
    """Return the folder of the published results."""
    return assets_dir() / "results"


class Comparison:
    """The comparison in a folder: `store/` with the examples, and one JSON file a model.

    Args:
        folder: made where there is none. protocol: what is asked. data: split → dataset, in the place of Tabletop's.
        tower: in the place of the protocol's robust tower. device: as in `load_model`.
        published: folder of results that are not measured again; None: whatever is not in `folder` is.
    """

    def __init__(
        self,
        folder: Path,
        protocol: Protocol = PROTOCOL,
        *,
        data: dict[str, Any] | None = None,
        tower: Any = None,
        device: str | None = None,
        published: Path | None = None,
    ):
        self._tower, self._published = tower, published
        self._latest: tuple[tuple[str, str, str], Any] | None = None
        self.folder, self.protocol, self.device = Path(folder) / protocol.hash, protocol, device
        self._data = dict(data or {})
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def results(self, name: str) -> dict[str, Any]:
        """Return what is known of a model so far; {} for nothing.

        What is here, or what is published under this protocol where that is more.
        """
        known: list[dict[str, Any]] = []
        for path in (self.path(name), *(() if self._published is None else (self._published / f"{name}.json",))):
            if path.is_file():
                found = json.loads(path.read_text(encoding="utf-8"))
                if found["protocol"] == self.protocol.hash:
                    known.append(found)
        return max(known, key=lambda found: len(found["parts"]), default={})

    def data(self, split: str) -> Any:
        """Return a whole split of Tabletop."""
        from cmai_core.data import load_dataset

        if split not in self._data:
            self._data[split] = load_dataset("tabletop", split=split)
        return self._data[split]

    def measure(
        self,
        name: str,
        spec: str | None = None,
        parts: Sequence[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> dict[str, Any]:
        """Measure everything that is not known yet of one model.

        Args:
            name: of the model in the results. spec: how to load it (None: a bundled model of that name).
            parts: some of `part_names`.

        Returns:
            The model's results.

        Raises:
            OptionError: unknown part. CmaiError: results of other weights are there. Cancelled: before the end; what is
            finished is kept.
        """
        from cmai_core.models import load_model

        known = part_names(self.protocol)
        if unknown := sorted(set(parts or ()) - set(known)):
            raise OptionError(f"There is no part {', '.join(unknown)}.", f"Accepted: {', '.join(known)}.")
        model = load_model(spec or name, self.device)
        found = self.results(name)
        if found and found["hash"] != model.hash:
            raise CmaiError(
                f"The results of {name} in {self.folder} are of other weights.",
                f"Move {name}.json away, there and in what is published.",
            )
        found = found or {"model": name, "hash": model.hash, "protocol": self.protocol.hash, "parts": {}}
        for part in known:
            if (parts is not None and part not in parts) or part in found["parts"]:
                continue
            found["parts"][part] = self._part(part, model, name, found, progress, cancel)
            found["versions"] = library_versions()
            write_json(self.path(name), found)
        return found

    def _part(
        self,
        part: str,
        model: Any,
        name: str,
        found: dict[str, Any],
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
    ) -> Any:
        protocol = self.protocol
        tools: dict[str, Any] = {"progress": progress, "cancel": cancel}
        test = self.data(protocol.split)
        if part == CLEAN:
            from cmai_core.tasks import get_task
            from cmai_core.tasks.evaluate import evaluate_clean

            applicable = [task for task in TASKS if not get_task(task).applies_to(test, model)]
            tools["gallery"] = protocol.gallery
            asked = evaluate_clean(model, test, applicable, protocol.clean, **tools)["tasks"]
            return asked | evaluate_clean(model, test, ["captioning"], protocol.written, **tools)["tasks"]
        if part == JOINT:
            from cmai_core.comparison.joint import joint_verdicts

            return joint_verdicts(model, test, protocol.joint, seed=protocol.seed, **tools)
        if part == AIMED:
            from cmai_core.comparison.adaptive import aimed_verdicts

            calibration, held_out = self._calibration(model)
            options = {"gallery": protocol.gallery, "seed": protocol.seed, "tower": self._robust_tower()}
            return aimed_verdicts(model, test, held_out, calibration, protocol.aimed, **options, **tools)
        if part == ANSWERED:
            return self._answered(model, name, test, tools)
        from cmai_core.comparison.grids import measured

        wanted = protocol.part({DETECTION: FAMILIES, POLICIES: "main"}.get(part, part))
        given = {name: model}
        asked = (name, model.hash, wanted.name)
        if self._latest is None or self._latest[0] != asked:  # a part's figures follow the part
            self._latest = asked, measured(protocol, wanted, name, self.store, models=given, dataset=test, **tools)
        verdicts, frame = self._latest[1]
        if part == DETECTION:
            from cmai_core.comparison.detection import detection_figures

            return detection_figures(model, name, frame, self.store, protocol, test, self.data("validation"))
        if part == POLICIES:
            from cmai_core.comparison.policies import policy_figures

            calibration, _ = self._calibration(model)
            tower = self._robust_tower()
            return policy_figures(model, name, frame, self.store, protocol, test, calibration, tower)
        return [verdict.to_dict() for verdict in verdicts]

    def _answered(self, model: Any, name: str, test: Any, tools: dict[str, Any]) -> dict[str, Any]:
        """Measure a model inside verified answering; what is known is kept after each attack, and gone on with."""
        from cmai_core.comparison.answered import answered_verdicts

        asked, path = self.protocol.answered, self.folder / f"{name}.{ANSWERED}.json"
        entire = {RECIPES[recipe].model_name for recipe in asked.entire}
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"hash": model.hash}
        if known["hash"] != model.hash:
            raise CmaiError(f"{path} is of other weights.", "Move it away.")
        out = answered_verdicts(
            model, test, self.data("validation"), asked, gallery=self.protocol.gallery,
            limit=asked.full if name in entire else asked.few, seed=self.protocol.seed, known=known.get("found"),
            keep=lambda found: write_json(path, {"hash": model.hash, "found": found}), **tools,
        )  # fmt: skip
        path.unlink(missing_ok=True)  # it stands in the results now
        return out

    def _robust_tower(self) -> Any:
        from cmai_core.models import load_model

        if self._tower is None:
            self._tower = load_model(self.protocol.instruments.robust_tower, self.device)
        return self._tower

    def _calibration(self, model: Any) -> tuple[Any, Any]:
        """Return the card's calibration where it is as the protocol asks, else a new one.

        The second value is the pairs that it was set on.
        """
        from cmai_core.data.subset import Subset
        from cmai_core.defenses.calibration import calibration_of
        from cmai_core.evaluation.verification.cmcv import calibrate_cmcv

        whole = self.data("validation")
        held_out = Subset(whole, range(min(self.protocol.thresholds, len(whole))))
        known = calibration_of(model)
        asked = (f"{whole.name}/{whole.split}", len(held_out), "calibration", tuple(self.protocol.rates))
        if known is not None:
            stored = (known.dataset, known.count, known.guarantee, tuple(t.fpr for t in known.thresholds))
        if known is None or stored != asked:
            known = calibrate_cmcv(model, held_out, self.protocol.rates)
        return known, held_out


def publish(comparison: Comparison, names: Sequence[str], target: Path | None = None) -> Path:
    """Copy the results of some models to where the report reads them.

    Raises:
        CmaiError: a model without complete results.
    """
    target = results_dir() if target is None else target
    wanted = set(part_names(comparison.protocol))
    for name in names:
        if missing := sorted(wanted - set(comparison.results(name).get("parts", {}))):
            raise CmaiError(f"{name} lacks {', '.join(missing)}.", "Run the comparison to its end first.")
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if comparison.path(name).is_file():  # else they have been published already
            with atomic(target / f"{name}.json") as temporary:
                shutil.copy(comparison.path(name), temporary)
    return target


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["compare", "run", *sys.argv[1:]]))
