"""A run as it is looked through: known answers, and controls that must find nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmai_core.data import load_dataset
from cmai_core.errors import OptionError
from cmai_core.lab.explore import order, rates
from cmai_core.lab.explore.attributes import attributes_of
from cmai_core.lab.explore.colours import coloured, colourings
from cmai_core.lab.explore.layout import beyond_control, mean_moved, modality_gap, with_maps
from cmai_core.lab.explore.predictors import newcombe, predictors
from cmai_core.lab.explore.run import OUTCOMES
from cmai_core.lab.explore.where import Where, slices_from_text, slices_to_text
from tests.app.explored import made_run


@pytest.fixture(scope="module")
def run():
    return made_run(400)


ALL = slice(None)


def every(run):
    return np.ones(len(run), bool)


def test_outcomes_follow_from_what_was_right_before_and_after(run):
    part = run.part("A")
    for level in (0, 1):
        before, after = part.clean.right, part.attacked[level].right
        words = np.array(OUTCOMES)[part.outcome(level)]
        assert ((words == "wrong") == (before == 0)).all()
        assert ((words == "held") == ((before == 1) & (after == 1))).all()
        assert ((words == "fooled") == ((before == 1) & (after == 0))).all()
    unknown = replace(part, clean=replace(part.clean, right=np.full(len(run), -1, np.int8)))
    assert (unknown.outcome(0) == OUTCOMES.index("open")).all()


def test_rates_are_counts_of_the_selection(run):
    mask = Where(facets={"shape": ("cube",)}).mask(run, 1)
    one, outcome = rates.success(run, "A", 1, mask), run.part("A").outcome(1)[mask]
    assert one.hits == (outcome == 1).sum() and one.total == (outcome <= 1).sum() and one.low < one.rate < one.high
    none = rates.success(run, "A", 1, ~every(run))
    assert none.total == 0 and none.rate != none.rate


def test_confusion_and_area_at_thresholds_with_known_answers(run):
    low, high = rates.score_range(run)
    nobody, everybody = (rates.confusion(run, "A", 1, tau, every(run)) for tau in (low, high))
    assert (nobody.clean_flagged, nobody.attacked_flagged) == (0, 0) and nobody.undetected == (
        run.part("A").outcome(1) == 1
    ).sum()
    assert everybody.false_positive_rate == everybody.true_positive_rate == 1 and everybody.undetected == 0
    assert rates.area(run, "A", 1, every(run)).value == 1.0  # A loses far more than clean scores differ
    part = run.part("A")
    same = replace(run, parts={"A": replace(part, attacked=(part.clean, part.clean))})
    assert rates.area(same, "A", 1, every(run)).value == pytest.approx(0.5)
    assert rates.area(run, "A", 1, ~every(run)) is None


def test_histograms_share_their_bins_and_lose_no_pair(run):
    found = {role: rates.score_histogram(run, role, 0, every(run)) for role in run.parts}
    assert (found["A"].edges == found["B"].edges).all()
    assert all(counts.sum() == len(run) for one in found.values() for counts in one.counts.values())


def test_orders_with_known_answers(run):
    part = run.part("A")
    hardest = order.sorted_rows(run, "hardest", "A", 1, every(run))
    assert (np.diff(part.attacked[1].score[hardest]) >= 0).all()
    first = order.sorted_rows(run, "first fails, second holds", "A", 1, every(run))
    apart = (part.outcome(1) == 1) & (run.part("B").outcome(1) == 0)
    assert apart[first[: apart.sum()]].all() and 0 < apart.sum() < len(run)
    smallest = order.smallest_epsilon(part, run.epsilons)
    assert (smallest[part.outcome(0) == 1] == 2.0).all() and np.isinf(smallest[part.outcome(1) == 2]).all()
    mask = Where(outcomes={"A": ("fooled",)}).mask(run, 1)
    assert set(order.sorted_rows(run, "disagreement", "A", 1, mask)) == set(np.flatnonzero(mask))
    alone = replace(run, parts={"A": part})
    assert "disagreement" not in order.orders(alone)
    with pytest.raises(OptionError, match="compares two"):
        order.sorted_rows(alone, "disagreement", "A", 1, every(run))


def test_the_pair_itself_is_most_like_it(run):
    for by in order.BY:
        assert order.alike(run, "B", 7, by, every(run))[0] == 7
    with pytest.raises(OptionError):
        order.alike(run, "B", 7, "smell", every(run))


def test_a_planted_attribute_is_first_and_luck_predicts_nothing(run):
    found = predictors(run, "A", 1, every(run), generator=np.random.default_rng(0))
    assert (found[0].name, found[0].value) == ("shape", "cube") and found[0].p < 0.01 and found[0].low > 0.2
    assert all(p.p > 0.05 for p in found if p.name == "luck")
    of_b = predictors(run, "B", 1, every(run), generator=np.random.default_rng(0))
    assert all(p.p > 0.05 for p in of_b)  # nothing was planted in B
    fooled = Where(outcomes={"A": ("fooled",)}).mask(run, 1)
    for nothing in (~every(run), fooled):  # no pairs, or all of one outcome
        assert predictors(run, "A", 1, nothing, generator=np.random.default_rng(0)) == ()


def test_the_correction_holds_its_rate():
    """Of runs in which nothing predicts anything, about one in twenty may say otherwise; of 12, hardly three."""
    alarms = 0
    for seed in range(12):
        made = made_run(150, seed=seed)
        found = predictors(made, "B", 1, every(made), generator=np.random.default_rng(seed))
        alarms += any(p.p < 0.05 for p in found)
    assert alarms <= 3


def test_newcombe_as_published():
    # Newcombe 1998, table II, method 10: 56/70 against 48/80 and 9/10 against 3/10
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert newcombe(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=1e-4)


def test_a_filter_reads_back_from_its_text(run):
    where = Where(
        "red cube", {"shape": ("cube", "ring")}, {"A": ("fooled",), "B": ("held", "wrong")},
        {("A", "adversarial"): (-0.1, 0.25)}, frozenset({0, 3, 399}),
    )  # fmt: skip
    text = where.to_text(run)
    assert Where.from_text(text, run) == where and len(text) < 400
    kept = Where("", {"shape": ("cube",)}, {"A": ("fooled",)}).mask(run, 1)
    cubes = np.array(["cube" in shapes for shapes in run.attributes["shape"]])
    assert (kept == (cubes & (run.part("A").outcome(1) == 1))).all()
    words = Where(words="RED").mask(run, 1)
    assert 0 < words.sum() < len(run) and all("red" in run.captions[k] for k in np.flatnonzero(words))


def test_rows_of_another_run_and_what_is_unknown_are_left_out(run):
    text = Where(rows=frozenset({1, 2})).to_text(run)
    assert Where.from_text(text, made_run(60)) == Where()
    for hostile in (
        "shape=<script>", "nobody=cube", "A=conquered", "A.adversarial=0.9..0.1", "A.adversarial=nan..1", "C=held",
        "rows=x", f"rows={run.key[:8]}.!!!", f"rows={run.key[:8]}.", "&" * 2900, "x" * 100_000, "=&=&", "%ff%fe=1",
    ):  # fmt: skip
        assert not Where.from_text(hostile, run), hostile
    assert Where.from_text("text=" + "a" * 2000, run).words == "a" * 100


def test_a_bomb_in_the_address_stays_small(run):
    import base64
    import zlib

    bomb = base64.urlsafe_b64encode(zlib.compress(b"\xff" * 1_500_000, 9)).decode().rstrip("=")
    assert len(bomb) < 2500
    found = Where.from_text(f"rows={run.key[:8]}.{bomb}", run)
    assert found.rows is None or max(found.rows) < len(run)


def test_slices_read_back_and_are_bounded():
    slices = {"cubes & co": "shape=cube", "B holds": "B=held&A=fooled"}
    assert slices_from_text(slices_to_text(slices)) == slices
    many = slices_to_text({str(k): "A=held" for k in range(30)})
    assert len(slices_from_text(many)) == 8 and slices_from_text("&".join(["a=b"] * 50)) == {}


def test_attributes_come_from_the_truth_or_from_the_pair():
    items = load_dataset("tabletop", split="test", limit=40)
    found = attributes_of([items[k] for k in range(40)])
    assert {"shape", "colour", "size", "material", "things"} <= set(found)
    for k in range(40):
        assert found["things"][k] == (str(len(items[k].scene.objects)),)
        assert set(found["colour"][k]) == {thing.colour for thing in items[k].scene.objects}
    photos = load_dataset("photos", split="test")
    known = attributes_of([photos[k] for k in range(len(photos))])
    assert "shape" not in known and "words" in known


def test_layouts_keep_what_makes_them_honest(run):
    some = with_maps(made_run(40), ("pca", "umap"))
    part = some.part("A")
    assert part.maps["pca"]["text"].shape == (40, 3) and part.maps["umap"]["adversarial 1"].shape == (40, 2)
    note = part.notes["pca"]
    assert len(note["variance"]) == 3 and note["variance"] == sorted(note["variance"], reverse=True)
    assert set(note["beyond"]) == {"adversarial 0", "adversarial 1"}
    assert beyond_control(part, "pca", 1).mean() > beyond_control(part, "pca", 0).mean() * 0.5
    assert mean_moved(part, 1, every(some)) > mean_moved(part, 0, every(some)) > 0
    same = replace(part, text=part.clean.image)
    assert modality_gap(same, 0, every(some))["clean"] == 0 < modality_gap(part, 0, every(some))["clean"]


def test_points_can_be_coloured_by_anything(run):
    for by in colourings(run):
        assert len(coloured(run, "A", 1, by)) == len(run)
    assert set(coloured(run, "A", 1, "outcome")) <= set(OUTCOMES)
    with pytest.raises(OptionError):
        coloured(run, "A", 1, "taste")


def test_an_experiment_of_the_run_is_one_that_the_lab_reads(run):
    from cmai_core.lab.experiment import Experiment

    wanted = run.experiment_of(5, 0)
    assert (wanted.pair, wanted.caption, wanted.epsilon) == (run.ids[5], run.captions[5], 2.0)
    assert Experiment.from_query(wanted.to_query()) == wanted and wanted.craft_on == "each"


def test_a_run_is_made_on_real_models(tiny_models):
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.explore.make import make_run
    from cmai_core.models import load_model
    from cmai_core.progress import CancelToken

    models = {
        role: load_model(f"local-dir:{tiny_models / name}")
        for role, name in (("A", "tabletop"), ("B", "tabletop-cmai"))
    }
    items, seen = load_dataset("tabletop", split="test", limit=12), []
    made = make_run(
        models, items, count=12, experiment=Experiment(steps=2, objective="consistency"), epsilons=(8, 2, 2),
        progress=lambda p: seen.append(p.fraction),
    )  # fmt: skip
    assert len(made) == 12 and made.epsilons == (2.0, 8.0) and seen == sorted(seen)
    for role, part in made.parts.items():
        assert part.hash == models[role].hash
        lost = [(part.clean.score - reading.score).mean() for reading in part.attacked]
        assert 0 < lost[0] < lost[1]  # more budget, more of S_c
        norms = np.linalg.norm(part.attacked[1].image.astype(np.float32), axis=1)
        assert np.allclose(norms, 1, atol=0.01)
        assert set(np.unique(part.clean.right)) <= {0, 1} and all(made.said(part.clean, k) for k in range(12))
    token = CancelToken()
    token.cancel()
    with pytest.raises(OptionError, match="Cancelled"):
        make_run(models, items, count=12, experiment=Experiment(steps=2), epsilons=(4,), cancel=token)
    with pytest.raises(OptionError):
        make_run(models, items, count=0, experiment=Experiment(steps=2), epsilons=(4,))
