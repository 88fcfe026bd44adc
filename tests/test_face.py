"""`import cmai_core as cmai`: nothing heavy at import, each name usable in three lines."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import cmai_core as cmai
from cmai_core.errors import OptionError

HEAVY = ("torch", "open_clip", "transformers", "captum", "umap", "numba", "streamlit", "pandas")


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, cmai_core; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_and_stays_a_function():

    assert set(cmai.__all__) <= set(dir(cmai))
    assert all(callable(getattr(cmai, name)) for name in cmai.__all__)
    assert not hasattr(cmai, "no_such_name")


@pytest.fixture(scope="module")
def model():
    return cmai.load_model("tabletop")


def test_attack_consistency_explain_and_evaluate_on_a_bundled_model(model):
    report = cmai.attack(model, "tabletop", recipe="fgsm", epsilon=8, limit=4)
    assert report.data["summary"]["tabletop"]["samples"] == 4 and report.data["experiment"]["epsilon"] == 8
    assert "8/255" in str(report) and "/4)" in str(report)  # with its denominators
    pair = cmai.load_dataset("tabletop", limit=1)[0]
    clean, attacked = cmai.consistency(model, [pair.image, report.result.images()[0]], pair.captions[0])
    assert clean == pytest.approx(report.data["samples"][0]["models"]["tabletop"]["clean_consistency"], abs=1e-4)
    assert attacked == pytest.approx(report.data["samples"][0]["models"]["tabletop"]["consistency"], abs=1e-4)
    assert cmai.explain(model, pair.image, pair.captions[0], method="grad-cam").map.shape == (1, 8, 8)
    table = cmai.evaluate(model, recipes=["fgsm"], epsilons=[8], limit=4)
    row = table[(table["recipe"] == "fgsm") & (table["metric"] == "acc_robust")].iloc[0]
    assert row["total"] == 4 and row["value"] == row["hits"] / 4  # of a larger gallery than the attack's own four


def test_unknown_methods_and_pictures_are_refused(model):
    with pytest.raises(OptionError, match="method"):
        cmai.explain(model, np.zeros((8, 8, 3), np.uint8), "a cube", method="tea-leaves")
    with pytest.raises(OptionError, match="float64"):
        cmai.consistency(model, np.zeros((8, 8, 3)), "a cube")
    with pytest.raises(OptionError, match="model"):
        cmai.evaluate([])


def test_everything_works_with_a_wrapped_classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 5)
        network = nn.Sequential(*layers).eval()
    classes = ["cat", "dog", "cow", "hen", "pig"]
    mine = cmai.wrap(network, classes=classes, image_size=32, name="mine")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(8)]
    with torch.no_grad():  # labelled by itself: right when clean
        labels = [classes[k] for k in network(mine.preprocess(pictures)).argmax(dim=1)]
    data = cmai.InMemory(pictures, labels=labels, classes=classes)
    report = cmai.attack(mine, data, recipe="apgd", epsilon=16)
    totals = report.data["summary"]["mine"]
    assert report.data["experiment"]["task"] == "zero-shot" and totals["accuracy_clean"]["hits"] == 8
    assert totals["asr"]["hits"] > 0
    table = cmai.evaluate(mine, data, recipes=["pgd:steps=5", "apgd:steps=5"], epsilons=[16])
    assert {"clean", "pgd", "apgd", "worst case"} <= {name.partition(":")[0] for name in table["recipe"]}
    shown = cmai.explain(mine, pictures[0], "a cat")
    assert shown.map.shape == (1, 32, 32) and np.abs(shown.map).max() > 0
    assert float(shown.checks["completeness_error"][0]) < 0.05


def test_a_recipe_that_cannot_be_run_is_named():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    mine = cmai.wrap(network, classes=["a", "b"], image_size=4)
    picture = np.full((4, 4, 3), 9, np.uint8)
    with torch.no_grad():
        label = "ab"[int(network(mine.preprocess([picture])).argmax())]
    data = cmai.InMemory([picture], labels=[label], classes=["a", "b"])
    with pytest.warns(UserWarning, match="apgd-dlr"):
        cmai.evaluate(mine, data, recipes="apgd-dlr", epsilons=[1])
