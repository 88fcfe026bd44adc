"""Addresses do not change when code moves: neither a person's store nor a published hash depends on a module's path."""

import ast
import collections
import json
from pathlib import Path

import pytest

import cmai_core
from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.comparison.protocol import PROTOCOL
from cmai_core.data import load_dataset
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.experiment import AttackExperiment
from cmai_core.evaluation.store.address import dataset_identity, digest, item_version, plain, task_identity
from cmai_core.evaluation.store.stable_names import AmbiguousName, first_modules, stable_name
from cmai_core.tasks import TASKS, get_task

FROZEN = Path(__file__).with_name("addresses.json")
COMMANDS = Path(__file__).with_name("command_addresses.json")
DESCRIBED = ("attacks", "tasks", "defenses")
"""Folders whose classes stand in addresses."""

FIRST = {"l2": 3.0, "l0": 100}
"""ε that `build` took by itself when the file was made; commands and grids have always given theirs."""


class Surrogate:
    """A model, as far as an address looks at it."""

    hash = "0" * 64

    def image_features(self, pixels):
        raise AssertionError("an address asks no model anything")


def addresses() -> dict:
    """What the address of each recipe, task and dataset hashes to."""
    data = load_dataset("tabletop", limit=4)
    found = {"datasets": {}, "tasks": {}, "recipes": {}, "protocol": PROTOCOL.hash}
    for name in ("tabletop", "photos"):
        dataset = load_dataset(name, limit=4)
        found["datasets"][name] = digest([dataset_identity(dataset), item_version(dataset, 0)])
    for name in TASKS:
        found["tasks"][name] = digest(task_identity(get_task(name), data))
    for slug, recipe in RECIPES.items():
        options = {"surrogate": Surrogate()} if slug == "transfer" else {}
        options |= {"epsilon": FIRST[recipe.norm]} if recipe.norm in FIRST else {}
        judged = {"task": get_task("vqa"), "dataset": data}
        options |= {
            name: value for name, value in judged.items() if name in recipe.options and recipe.modality == "image"
        }
        found["recipes"][slug] = digest(plain(recipe.build(**options)))
    return found


def test_addresses_are_those_of_the_first_version():
    frozen, now = json.loads(FROZEN.read_text()), addresses()
    for kind, known in frozen.items():
        if isinstance(known, dict):
            changed = {name for name, value in known.items() if now[kind].get(name) != value}
            assert not changed, f"{kind}: stores of earlier versions would not find these"
        else:
            assert now[kind] == known


def test_every_address_is_frozen():
    """What is new has to be added to the file; the message says the values."""
    frozen, now = json.loads(FROZEN.read_text()), addresses()
    tables = {kind: known for kind, known in now.items() if isinstance(known, dict)}
    missing = {kind: {k: v for k, v in known.items() if k not in frozen[kind]} for kind, known in tables.items()}
    assert not any(missing.values()), missing


def as_commands_build_them() -> dict:
    """What the address of each attack hashes to as `cmai attack` and grids build it: the attacks that stores hold."""
    data, found = load_dataset("tabletop", limit=4), {}
    amounts = {"l0": 30.0, "patch": 0.1}
    for slug, recipe in RECIPES.items():
        own = {"surrogate": "named"} if slug == "transfer" else {}
        asked = {slug: {}, f"{slug} both": {"objective": "both"}}
        for norm in recipe.norms:
            asked[f"{slug} {norm}"] = {"norm": norm}
            asked[f"{slug} {norm} other"] = {"norm": norm, "epsilon": amounts.get(norm, 3.0)}
        for name, values in asked.items():
            if recipe.modality != "image" and "objective" in values:
                continue
            task = get_task("vqa")
            try:
                experiment = AttackExperiment(recipe=slug, options=own, task="vqa", **values)
                attack = experiment.build(task, data, 3 * 128**2, lambda name: Surrogate())
            except OptionError:  # a recipe that takes no objective
                continue
            found[name] = digest(plain(attack))
    return found


def test_attacks_of_commands_and_grids_have_the_addresses_that_stores_hold():
    frozen, now = json.loads(COMMANDS.read_text()), as_commands_build_them()
    assert {name for name, value in frozen.items() if now.get(name) != value} == set()
    missing = {name: value for name, value in now.items() if name not in frozen}
    assert not missing, missing


def test_a_class_keeps_its_name_when_it_moves(monkeypatch):
    class Moved:
        pass

    Moved.__qualname__, Moved.__module__ = "APGD", "cmai_core.attacks.searches.apgd"
    assert stable_name(Moved) == "cmai_core.attacks.apgd.APGD"


def test_new_and_foreign_classes():
    class New:
        pass

    New.__qualname__, New.__module__ = "Brandnew", "cmai_core.attacks.searches.brandnew"
    assert stable_name(New) == "cmai_core.Brandnew"
    New.__module__ = "somebody.attacks"
    assert stable_name(New) == "somebody.attacks.Brandnew"


def test_a_name_that_several_had_must_be_declared():
    class Moved:
        pass

    Moved.__qualname__, Moved.__module__ = "Divergence", "cmai_core.attacks.objectives.objective.divergence"
    with pytest.raises(AmbiguousName):
        stable_name(Moved)
    Moved.stable_name = "cmai_core.attacks.text_objectives.Divergence"
    assert stable_name(Moved) == "cmai_core.attacks.text_objectives.Divergence"


def test_no_two_classes_share_a_name():
    """Found by reading the files: a class that nobody imports yet counts too."""
    places = collections.defaultdict(list)
    for folder in DESCRIBED:
        for file in (Path(cmai_core.__file__).parent / folder).rglob("*.py"):
            for node in ast.parse(file.read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    declares = any(
                        isinstance(line, ast.AnnAssign) and getattr(line.target, "id", "") == "stable_name"
                        for line in node.body
                    )
                    places[node.name].append(declares)
    # Bound objectives are made while an attack runs; none stands in an address.
    shared = {name for name, declares in places.items() if len(declares) > 1 and not all(declares)}
    assert {name for name in shared if not name.startswith("_Bound")} == set()
    assert set(first_modules()) & set(places)
