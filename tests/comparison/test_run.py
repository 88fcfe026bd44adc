"""The whole comparison, small: every part on two models, stopped and gone on with, reported, and held to weights."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from cmai_core.comparison import report as page
from cmai_core.comparison import results as published
from cmai_core.comparison.goals import aims
from cmai_core.comparison.policies import flagging
from cmai_core.comparison.protocol import DRIFTING, PROTOCOL, Aimed, Joint
from cmai_core.comparison.results import read_results
from cmai_core.comparison.run import Comparison, part_names, publish
from cmai_core.comparison.seeds import measure_seeds, read_seeds, seeds_table
from cmai_core.comparison.verdicts import rights
from cmai_core.data import load_dataset
from cmai_core.defenses import ConsistencyDetector, Smoothing, System
from cmai_core.errors import CmaiError, DataError
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.files import write_json
from cmai_core.models import load_model
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.models.save import save_local_dir
from cmai_core.tasks import get_task

N = 5
BASE, OURS = "tabletop", "tabletop-cmai"
SOME = ("main", "policies", "joint")
SHORT = {
    "main": ("fgsm", "pgd:steps=1,stop_on_success=true"),
    "families": ("fgsm", DRIFTING),
    "l2": ("pgd:steps=1,norm=l2",),
    "stronger": ("fgsm", "square:queries=3"),
}
SMALL = replace(
    PROTOCOL,
    split="validation",
    clean=N,
    written=N,
    parts=tuple(
        replace(PROTOCOL.part(name), limit=N, recipes=recipes, tasks=PROTOCOL.part(name).tasks[:2])
        for name, recipes in SHORT.items()
    ),
    joint=Joint(limit=4, passes=5, free=3),
    aimed=Aimed(steps=1, targeted=3, limit=3, smoothed=2, copies=2),
    gallery=12,
    thresholds=24,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(comparison that was run on both models, name → specification)."""
    folder = tmp_path_factory.mktemp("comparison")
    specs = {}
    for name in (BASE, OURS):
        model = load_model(BASE)  # a trained one: what gets nothing right is not attacked
        if name == OURS:
            model.clip.visual.proj.data *= 0.9
            model.heads = ConsistencyHeads(model.head_sizes(), torch.Generator().manual_seed(1))
        specs[name] = f"local-dir:{save_local_dir(model, folder / name, {'name': name})}"
    data = {"validation": load_dataset("tabletop", split="validation", limit=48)}
    comparison = Comparison(folder / "runs", SMALL, data=data, tower=load_model(BASE))
    comparison.measure(OURS, specs[OURS])
    comparison.measure(BASE, specs[BASE], SOME)
    return comparison, specs


def test_every_part_is_there_with_a_verdict_on_every_scene(made):
    comparison, _ = made
    for name in (BASE, OURS):
        parts = comparison.results(name)["parts"]
        assert tuple(parts) == (part_names(SMALL) if name == OURS else SOME)
        verdicts = read_results(comparison.folder, [name], SMALL)[name].verdicts("main")
        assert [v.epsilon for v in verdicts] == [2.0, 4.0]
        for verdict in verdicts:
            clean, held = rights(verdict.clean), rights(verdict.held)
            assert len(clean) == len(held) == N and not (held & ~clean).any()
        assert len(parts["joint"]["scene"]["held"]) == 4 and parts["joint"]["scene"]["false"] == 0
        assert parts["policies"]["none"]["attacked"] == verdicts[0].held[:3]  # the same scenes, lost ones included
        assert (
            parts["policies"]["robust pathway"]["flagged_ratio"] > 0
            and "flagged_ratio" not in parts["policies"]["none"]
        )
        assert parts["policies"]["none"]["ratio"] == 1.0 and "0" in parts["policies"]["none"]["clean_rejected"]
    names = {entry["detector"] for entry in comparison.results(OURS)["parts"]["detection"]["detectors"]}
    if names:  # an untrained model may be fooled by nothing
        assert {"CMCV, given", "V, retrieved", "energy", "Mahalanobis", "feature squeezing"} <= names
    assert set(comparison.results(OURS)["parts"]["detection"]["aligned"]) == {"clean", "2", "4"}


def test_what_is_finished_is_not_done_again_and_other_weights_are_refused(made):
    comparison, specs = made
    before = comparison.path(BASE).stat().st_mtime_ns
    comparison.measure(BASE, specs[BASE], SOME)
    assert comparison.path(BASE).stat().st_mtime_ns == before
    with pytest.raises(CmaiError, match=rf"{BASE}.*{re.escape(str(comparison.folder))}"):
        comparison.measure(BASE, specs[OURS], SOME)
    with pytest.raises(CmaiError, match="magic"):
        comparison.measure(BASE, specs[BASE], ["magic"])


def test_a_part_alone_comes_to_the_same(made, tmp_path):
    comparison, specs = made
    again = Comparison(tmp_path, SMALL, data={"validation": comparison.data("validation")})
    again.measure(OURS, specs[OURS], ["main"])
    assert again.results(OURS)["parts"]["main"] == comparison.results(OURS)["parts"]["main"]
    with pytest.raises(CmaiError, match="aimed, clean"):
        publish(again, [OURS], tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_the_report_has_every_table_and_no_result_of_another_protocol(made, tmp_path):
    comparison, _ = made
    folder = publish(comparison, [OURS], tmp_path / "published")
    with pytest.raises(CmaiError, match=r"tabletop.*aimed"):
        publish(comparison, [BASE, OURS], folder)
    results = read_results(comparison.folder, protocol=SMALL)
    rest = tuple(part for part in PROTOCOL.parts if part.name not in SHORT)
    asked = replace(SMALL, parts=(*SMALL.parts, *rest))  # parts that nothing has been measured of
    text = page.report(results, asked, figures="figures")
    for name in (BASE, OURS):
        held = results[name].verdict("main", 2.0).held
        assert f"({held.count('1')}" in text or f"{100 * held.count('1') / N:.1f} [" in text
    assert "Not measured:" in text and "`tabletop-tecoa`" in text
    assert all(heading in text for heading in ("## L2", "## Picture and one word", "## The attacker who knows"))
    assert len(page.draw(results, tmp_path / "figures", asked)) >= 2
    assert {aim for aim, _, _ in aims(results, asked)} >= {"robust at 2/255 at least 0.75 of clean", "joint: highest"}
    with pytest.raises(DataError, match=SMALL.hash):
        read_results(folder)
    assert list(read_results(folder, protocol=SMALL)) == [OURS]
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        read_results(tmp_path, protocol=SMALL)


def test_a_part_measured_again_after_all_others_says_the_same(made, tmp_path):
    comparison, specs = made
    again = Comparison(tmp_path, SMALL, data={split: comparison.data(split) for split in ("validation", SMALL.split)})
    shutil.copytree(comparison.store, again.store)
    known = comparison.results(OURS)
    kept = {name: part for name, part in known["parts"].items() if name != "policies"}
    write_json(again.path(OURS), known | {"parts": kept})
    found = again.measure(OURS, specs[OURS], ["policies"])["parts"]["policies"]
    for policy, entry in known["parts"]["policies"].items():
        assert {k: v for k, v in found[policy].items() if isinstance(v, str)} == {
            k: v for k, v in entry.items() if isinstance(v, str)
        }


def test_other_seeds_stand_beside_the_shipped_model(made, tmp_path):
    comparison, specs = made
    measure_seeds(comparison, {f"{OURS}@1": specs[OURS]}, tmp_path, quiet=True)
    seeds = read_seeds(tmp_path, SMALL)
    assert list(seeds) == [f"{OURS}@1"] and set(seeds[f"{OURS}@1"].parts) == {"main"}
    shipped = read_results(comparison.folder, [OURS], SMALL)
    table = seeds_table(shipped, seeds, SMALL).splitlines()
    assert len(table) == 5 and table[-1].endswith("| 0.0 | 0.0 | 0.0 |")  # the same weights
    assert read_seeds(tmp_path / "nothing") == {}


def test_results_of_other_weights_are_found_out(made):
    comparison, _ = made
    results = read_results(comparison.folder, [BASE, OURS], SMALL)
    assert published.stale(results) == [OURS]  # the other one was saved anew from the shipped weights: the same bytes
    path = comparison.folder / "damaged.json"
    path.write_text(json.dumps({"model": "damaged"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"damaged\.json"):
        read_results(comparison.folder, ["damaged"], SMALL)


def test_a_pathway_is_timed_with_a_picture_that_takes_it():
    model = load_model(BASE)
    smooth = Smoothing(copies=3)
    asked = System(model, detector=ConsistencyDetector(-1.0), policy="robust pathway", pathway=smooth)
    seen = []
    model.image_features = lambda pixels, real=model.image_features: seen.append(len(pixels)) or real(pixels)
    batch = make_batch(model, [load_dataset("tabletop", split="test", limit=1)[0]], 1)
    dataset = load_dataset("tabletop", split="test", limit=4)
    for system, passes in ((asked, 1), (flagging(asked), 1 + smooth.copies)):
        seen.clear()
        system.respond(get_task("vqa"), batch, dataset=dataset)
        assert len(seen) == passes
