"""Attacks of the lab on small random models, without a page."""

from __future__ import annotations

from cmai_core.data import load_dataset
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.run import run_attack
from cmai_core.models import load_model


def setting_of(folder):
    """(12 test pairs, role → model) with the models of a folder in the places A and B."""
    items = load_dataset("tabletop", split="test", limit=12)
    names = {"A": "tabletop", "B": "tabletop-cmai"}
    return items, {role: load_model(f"local-dir:{folder / name}") for role, name in names.items()}


def run(setting, *, tell=None, cancel=None, **options):
    """An attack on the first pair, of four steps unless the options say otherwise."""
    items, models = setting
    experiment = Experiment(pair=items[0].id, caption=items[0].captions[0], **{"steps": 4, **options})
    models = {role: model for role, model in models.items() if role in experiment.models}
    return run_attack(experiment, items[0], models, dataset=items, progress=tell, cancel=cancel)
