"""An objective of another package: the length of the picture's embedding."""

from __future__ import annotations

from typing import Any

from cmai_core.attacks.objectives.registry import ObjectiveDescription

LENGTH = ObjectiveDescription(
    slug="length",
    word="length",
    note="The length of the picture's embedding, before it is normalised.",
    formula="|h_v|",
    make="other.objectives:make",
    needs=(),
    judged=False,
)


def make(**given: Any):
    """Make the objective."""
    from cmai_core.attacks.objectives.objective import Objective

    class Length(Objective):
        """Needs nothing of model and batch but the features."""

        def bind(self, model, batch, shared=None):
            return self

        def select(self, rows):
            return self

        def __call__(self, model, pixels, features):
            return features.pooled.norm(dim=-1)

        def describe(self):
            return "length"

    return Length()


def use() -> object:
    """Raise it by PGD from the command line, and in a grid."""
    import json
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import cmai_core as cmai
    from cmai_core.cli import main

    with TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        options = ["--objective", "length", "--limit", "2", "--steps", "3", "--quiet", "--json", str(out)]
        status = main(["attack", *options])
        data = json.loads(out.read_text())
    table = cmai.evaluate("tabletop", recipes="pgd:steps=2,objective=length", epsilons=[8], limit=2)
    raised = [sample["objective"] > sample["clean_objective"] for sample in data["samples"]]
    return status == 0 and all(raised) and data["attack"]["objective"] == "length" and len(table) > 0
