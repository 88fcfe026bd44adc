"""Policies at inference: which there are, what is measured of them, and which is chosen."""

from __future__ import annotations

import json

import pytest
import torch
from small_models import small_coca

from cmai_core import cli
from cmai_core.attacks.engine.transforms import Noise
from cmai_core.data import load_dataset
from cmai_core.defenses import ConsistencyDetector, Smoothing
from cmai_core.errors import OptionError
from cmai_core.evaluation.verification.policies import NONE, PolicyFigures, candidates, choose, measure_policies
from cmai_core.models import save_local_dir
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.tasks.retrieval import Retrieval

TASK = Retrieval(8)


@pytest.fixture(scope="module")
def model():
    found = small_coca()
    found.heads = ConsistencyHeads(found.head_sizes(8), torch.Generator().manual_seed(3))
    found.clip.eval()
    return found


@pytest.fixture(scope="module")
def data():
    return load_dataset("tabletop", split="validation", limit=8)


def share(hits, total=10):
    return {"hits": hits, "total": total, "share": hits / total, "low": 0.0, "high": 1.0}


def figures(name, cost, clean, held, flagged=0, full=None):
    full = cost if full is None else full
    return PolicyFigures(name, True, cost, full, 1.0, share(clean), share(flagged), share(held), share(0))


def test_the_best_within_the_budget_is_chosen():
    found = [
        figures(NONE, 1.0, 9, 2),
        figures("cheap", 1.5, 9, 4),
        figures("dear", 8.0, 9, 8),
        figures("refuses", 1.2, 0, 10),
        figures("as good", 2.0, 9, 4),
    ]
    assert choose(found, 1.0).name == NONE
    assert choose(found, 2.0).name == "cheap"
    assert choose(found, 10.0).name == "dear"
    assert choose(found, 2.0, loss=1.0).name == "refuses"
    with pytest.raises(OptionError, match="budget"):
        choose(found, 0.5)


def test_cost_is_that_of_clean_traffic():
    """Three of ten clean pictures are flagged: they cost eleven, the others one."""
    assert figures("pathway", 1.0, 9, 5, flagged=3, full=11.0).expected == pytest.approx(4.0)


def test_policies_stand_alone_and_combine(model, data):
    detectors = {"CMCV": ConsistencyDetector(0.0)}
    systems = candidates(model, TASK, data, detectors, tower=small_coca(seed=2), base=small_coca(seed=0))
    assert {NONE, "reject by CMCV", "search", "reject + search", "review", "verified answers"} < set(systems)
    assert {"flagged: verified", "flagged: smoothed", "smoothing of all"} < set(systems)
    bare = candidates(small_coca(), TASK, data, detectors)
    assert not any("verified" in name or "shifted" in name for name in bare)
    with pytest.raises(OptionError, match="detector"):
        candidates(model, TASK, data, {})


def test_flags_cost_what_is_done_about_them(model, data):
    """What is measured of a pathway of many passes: nothing without a flag, its passes with one."""
    smooth = Smoothing(Noise(sigma=0.01), copies=24)
    systems = candidates(model, TASK, data, {"CMCV": ConsistencyDetector(-1.0)}, smoothing=smooth)
    some = {name: systems[name] for name in (NONE, "reject by CMCV", "flagged: smoothed")}
    found = {one.name: one for one in measure_policies(some, TASK, data, count=4, epsilon=8, steps=2)}
    assert found["flagged: smoothed"].flagged_cost > 1.5 * found["flagged: smoothed"].cost
    assert found[NONE].cost == 1.0 and found[NONE].clean["total"] == 4
    assert found["reject by CMCV"].clean_flagged["hits"] == 0  # nothing lies below −1
    assert found["reject by CMCV"].clean == found[NONE].clean
    for one in found.values():
        assert one.held["hits"] <= one.clean["hits"] + one.clean_flagged["hits"]
    with pytest.raises(OptionError, match="bare model"):
        measure_policies({"reject": systems["reject by CMCV"]}, TASK, data, count=4, epsilon=8)


def test_a_rejected_picture_is_held(model, data):
    systems = candidates(model, TASK, data, {"CMCV": ConsistencyDetector(1.0)})
    some = {name: systems[name] for name in (NONE, "reject by CMCV", "review")}
    found = {one.name: one for one in measure_policies(some, TASK, data, count=4, epsilon=8, steps=2)}
    for name, answered in (("reject by CMCV", 0), ("review", found[NONE].clean["hits"])):
        assert found[name].held["hits"] == 4 and found[name].attacked_flagged["hits"] == 4
        assert found[name].clean["hits"] == answered  # a person looks at it, and it is answered all the same


def test_the_command_prints_the_table_and_the_choice(model, tmp_path, capsys):
    folder = save_local_dir(model, tmp_path / "model", {"name": "m", "domain": "tabletop"})
    out = tmp_path / "policies.json"
    options = ["--limit", "4", "--steps", "2", "--policy", "reject by CMCV", "--quiet", "--json", str(out)]
    assert cli.main(["policies", f"local-dir:{folder}", "--budget", "50", *options]) == 0
    printed, document = capsys.readouterr().out, json.loads(out.read_text())
    assert {one["name"] for one in document["policies"]} == {NONE, "reject by CMCV"}
    assert f": {document['best']}" in printed and "robust accuracy of the bare model at 1/255" in printed
    assert cli.main(["policies", f"local-dir:{folder}", "--policy", "prayer", "--quiet"]) == 2
