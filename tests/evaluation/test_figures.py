"""Transfer, detection, sizes, effort, curves, comparisons: against counts made by hand and against other libraries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures.compare import compare_models, holm, paired_test
from cmai_core.evaluation.figures.curves import accuracy_curves
from cmai_core.evaluation.figures.effort import minimal_epsilon, queries
from cmai_core.evaluation.figures.modalities import consistency_by_modality, modalities, word_budget
from cmai_core.evaluation.figures.perturbation import picture_sizes, word_edits
from cmai_core.evaluation.figures.scores import auroc_bounds, consistency, detection
from cmai_core.evaluation.figures.transfer import architecture_of, transfer_matrix
from cmai_core.evaluation.runs import image_quality


def one(table: pd.DataFrame, **where) -> pd.Series:
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


# --- transfer ---------------------------------------------------------------------------------------------------------


def test_transfer_counts_what_all_models_get_right(made):
    a, b = "111101", "111011"  # both right: items 0, 1, 2 and 5
    table = made.frame(
        made.clean(a, target="a"), made.clean(b, target="b"),
        made.attacked(a, "000011", source="a", target="a"), made.attacked(b, "100001", source="a", target="b"),
        made.attacked(a, "111001", source="b", target="a"), made.attacked(b, "010010", source="b", target="b"),
    )  # fmt: skip
    found = transfer_matrix(table, {"a": "x", "b": "y"})
    counts = {(r.source, r.target): (r.hits, r.total) for r in found.itertuples()}
    assert counts == {("a", "a"): (3, 4), ("a", "b"): (2, 4), ("b", "a"): (0, 4), ("b", "b"): (3, 4)}
    assert one(found, source="a", target="b").value == 0.5
    assert one(found, source="a", target="b").kind == "other architecture"
    assert one(found, source="a", target="a").kind == "same model"
    assert (found["models"] == 2).all() and not found["note"].any()


def test_transfer_of_a_part_is_unknown(made):
    table = made.frame(
        made.clean("111"), made.clean("111", target="b"), made.attacked("111", "000"),
        made.attacked("111", "00-", target="b"),
    )  # fmt: skip
    row = one(transfer_matrix(table), target="b")
    assert (row.hits, row.total) == (2, 2) and np.isnan(row.value) and "2 of 3" in row.note
    assert row.kind == "other model"


def test_architectures_are_read_from_cards_and_names():
    assert architecture_of("tabletop") == architecture_of("tabletop-tecoa") == "tabletop"
    assert architecture_of("ViT-B-32/laion2b_s34b_b79k") == "ViT-B-32"
    assert architecture_of("local-dir:/models/mine") == ""


# --- scores -----------------------------------------------------------------------------------------------------------


def scored(made, validation: bool = True) -> pd.DataFrame:
    clean = [0.9, 0.8, 0.7, 0.6, 0.5]
    after = [0.1, 0.2, 0.95, 0.55, 0.65]
    parts = [
        made.clean("11110", consistency_clean=clean),
        made.attacked("11110", "00110", consistency_clean=clean, consistency=after),
    ]
    if validation:
        parts.append(made.clean("1" * 40, split="validation", consistency_clean=np.linspace(0.52, 0.91, 40)))
    return made.frame(*parts)


def test_detection_by_hand(made):
    found = detection(scored(made), intervals=False)
    value = {row.metric: (row.value, row.hits, row.total) for row in found.itertuples()}
    # attacked 0.1 and 0.2 lie below all 5 clean scores, 0.55 below 4, 0.65 below 3, 0.95 below none
    assert value["auroc"][0] == pytest.approx((5 + 5 + 4 + 3 + 0) / 25)
    assert value["auroc_success"][0] == 1.0 and value["auroc_success"][2] == 2
    # of 40 validation pairs 5 % are 2: τ is the third smallest, 0.54; 1 % is none: τ is the smallest, 0.52
    assert value["tau_5"][0] == pytest.approx(0.54) and value["tau_1"][0] == pytest.approx(0.52)
    assert value["tpr_5"][1:] == (2, 5) and value["tpr_5_success"][1:] == (2, 2)
    assert value["fpr_5"][1:] == (1, 5)
    # right before and after: 2 and 3; flagged: 0 and 1; wrong and accepted: 4
    assert value["correct_or_rejected"][1:] == (4, 5)
    assert value["correct_and_accepted"][1:] == (4, 5)
    assert (found["score"] == "pair").all() and not found["note"].any()


def test_without_validation_the_threshold_says_so(made):
    found = detection(scored(made, validation=False))
    assert found["note"].str.contains("no validation pairs").all()
    assert one(found, metric="tau_5").value == 0.5
    row = one(found, metric="auroc")
    assert row.low <= row.value <= row.high


def test_units_without_a_known_outcome_are_not_called_rejected(made):
    scores = {"consistency_clean": 0.6, "consistency": [0.1, 0.1, 0.9]}
    found = detection(made.frame(made.clean("1?1", consistency_clean=0.6), made.attacked("1?1", "0?1", **scores)))
    assert one(found, metric="correct_or_rejected")[["hits", "total"]].tolist() == [2, 2]


def test_no_score_gives_no_row_and_no_success_no_rate(made):
    assert not len(detection(made.frame(made.attacked("11", "01"))))
    table = made.frame(made.attacked("11", "11", consistency_clean=0.5, consistency=0.4))
    row = one(detection(table), metric="tpr_5_success")
    assert row.total == 0 and np.isnan(row.value)
    assert np.isnan(one(detection(table), metric="auroc_success").value)


def test_the_interval_of_auroc_is_that_of_resampled_pairs():
    rng = np.random.default_rng(0)
    clean, attacked = np.round(rng.normal(0.6, 0.1, 60), 2), np.round(rng.normal(0.5, 0.1, 60), 2)
    unit = rng.permutation(60)
    low, high = auroc_bounds(clean, np.arange(60), attacked[unit], unit)
    counts = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=1000)
    wins = (clean[:, None] > attacked) + 0.5 * (clean[:, None] == attacked)
    drawn = [c @ wins @ c / 60**2 for c in counts]
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_means_of_s_c(made):
    found = consistency(scored(made))
    assert one(found, metric="consistency_clean").value == pytest.approx(0.7)
    row = one(found, metric="consistency")
    assert row.value == pytest.approx(0.49) and row.q50 == 0.55 and row.total == 5
    row = one(found, metric="consistency_change")
    assert row.value == pytest.approx(-0.21) and row.low <= -0.21 <= row.high


# --- sizes ------------------------------------------------------------------------------------------------------------


def pictures(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    from skimage.data import astronaut

    clean = astronaut()[:128, :128]
    noise = np.random.default_rng(seed).integers(-8, 9, clean.shape)
    return clean, np.clip(clean.astype(int) + noise, 0, 255).astype(np.uint8)


def test_psnr_of_known_differences():
    clean, _ = pictures()
    clean = np.clip(clean, 10, 240).astype(np.uint8)
    found = image_quality.psnr(np.stack([clean, clean]), np.stack([clean + np.uint8(4), clean]))
    assert found[0] == pytest.approx(20 * np.log10(255 / 4)) and found[1] == np.inf


def test_ssim_is_the_papers():
    """Against the formula written out with SciPy's Gaussian filter."""
    from scipy.ndimage import gaussian_filter

    clean, adversarial = pictures()
    found = image_quality.ssim(clean, adversarial)
    channels = []
    for k in range(3):
        a, b = clean[..., k].astype(float), adversarial[..., k].astype(float)
        blur = lambda x: gaussian_filter(x, 1.5, truncate=3.5)  # noqa: E731
        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        whole = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        channels.append(whole[5:-5, 5:-5].mean())
    assert found == pytest.approx([np.mean(channels)], abs=1e-6)
    assert image_quality.ssim(clean, clean) == pytest.approx([1.0])
    assert 0.3 < found[0] < 0.999


def test_pictures_that_cannot_be_compared():
    clean, other = pictures()
    assert np.isnan(image_quality.ssim(clean[:8, :8], other[:8, :8])).all()
    with pytest.raises(DataError, match="uint8"):
        image_quality.ssim(clean / 255, other / 255)
    with pytest.raises(DataError, match="shapes"):
        image_quality.psnr(clean, other[:64])


def test_sizes_of_a_cell(made):
    sizes = {"linf": [4 / 255, 4 / 255, 0.0], "l2": [1.0, 3.0, 0.0], "psnr": [40.0, 30.0, np.inf]}
    found = picture_sizes(made.frame(made.attacked("111", "001", **sizes)))
    assert one(found, metric="l2")[["value", "hits", "total"]].tolist() == [1.0, 2, 3]
    assert one(found, metric="psnr").value == 40.0
    row = one(found, metric="ssim")
    assert np.isnan(row.value) and row.total == 0


def test_word_edits_and_label_changes(made):
    text = {"modality": "text", "norm": None, "epsilon": np.nan, "recipe": "char"}
    table = made.frame(
        made.attacked("1111", "0001", words_changed=[2, 1, 1, 0], label_changed=[True, False, pd.NA, False], **text)
    )
    found = word_edits(table, {(str(k), 0): 8 for k in range(4)})
    assert one(found, metric="words_changed")[["value", "hits", "total"]].tolist() == [1.0, 3, 4]
    assert one(found, metric="word_edit_rate").value == 4 / 32
    row = one(found, metric="label_change_rate")
    assert (row.hits, row.total, row.value) == (1, 2, 0.5) and "1 changed text" in row.note
    assert not len(word_edits(made.frame(made.attacked("1", "0"))))


# --- effort -----------------------------------------------------------------------------------------------------------


def test_median_minimal_epsilon_of_a_search(made):
    search = {"recipe": "fab", "minimum_norm": [1.0, 2.0, 6.0, np.inf, 0.0]}
    table = made.frame(  # one search, stored at two ε; item 4 is wrong when clean
        made.attacked("11110", "00110", epsilon=4.0, **search), made.attacked("11110", "00010", epsilon=8.0, **search)
    )
    row = one(minimal_epsilon(table), metric="median_minimum_norm")
    assert (row.value, row.hits, row.total) == (4.0, 3, 4) and np.isnan(row.epsilon)
    assert row.shown.startswith("4/255 [1/255, not found]") and np.isnan(row.high)


def test_median_first_epsilon_of_a_ladder(made):
    steps = {2.0: "10111", 4.0: "00111", 8.0: "00011"}
    table = made.frame(*[made.attacked("11111", after, epsilon=e) for e, after in steps.items()])
    row = one(minimal_epsilon(table), metric="median_first_epsilon")
    # first ε: 4, 2, 8, none, none
    assert (row.value, row.hits, row.total) == (8.0, 3, 5)
    table = made.frame(*[made.attacked("1111", after[1:], epsilon=e) for e, after in steps.items()])
    row = one(minimal_epsilon(table), metric="median_first_epsilon")  # 2, 8, none, none: between 8 and more
    assert np.isnan(row.value) and row.shown.startswith("> 8/255") and (row.hits, row.total) == (2, 4)


def test_a_gap_in_a_ladder_is_left_out(made):
    table = made.frame(made.attacked("1111", "1-01", epsilon=2.0), made.attacked("1111", "000-", epsilon=4.0))
    row = one(minimal_epsilon(table), metric="median_first_epsilon")
    assert (row.hits, row.total, row.value) == (2, 2, 3.0) and "2 units" in row.note


def test_queries_of_successes(made):
    table = made.frame(
        made.attacked("11110", "00010", recipe="square", forwards=[10, 30, 80, 500, 1]),
        made.attacked("11110", "11110", recipe="nes", forwards=9),
    )
    found = queries(table)
    assert one(found, metric="queries", recipe="square")[["value", "hits", "total"]].tolist() == [30.0, 3, 4]
    row = one(found, metric="queries", recipe="nes")
    assert np.isnan(row.value) and (row.hits, row.total) == (0, 4)


def test_curves_begin_with_clean_accuracy(made):
    table = made.frame(
        made.clean("1110"), made.attacked("1110", "1010"), made.attacked("1110", "0000", epsilon=8.0),
        made.attacked("1110", "0110", recipe="apgd"),
        made.attacked("1110", "0000", recipe="fab", epsilon=np.nan, minimum_norm=[1.0, 3.0, 9.0, 0.0]),
    )  # fmt: skip
    found = accuracy_curves(table, {"linf": [2.0, 4.0, 8.0]})
    lines = {name: list(zip(g["epsilon"], g["hits"], strict=True)) for name, g in found.groupby("recipe")}
    assert lines["pgd"] == [(0.0, 3), (4.0, 2), (8.0, 0)]
    assert lines["fab"] == [(0.0, 3), (2.0, 2), (4.0, 1), (8.0, 1)]
    assert lines["worst case"] == [(0.0, 3), (4.0, 1), (8.0, 0)]
    assert (found["total"] == 4).all()
    assert (accuracy_curves(table, metric="asr")["epsilon"] > 0).all()


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_mcnemar_by_hand():
    a, b = np.array([1] * 10 + [1] * 8 + [0] * 1 + [0] * 6), np.array([1] * 10 + [0] * 8 + [1] * 1 + [0] * 6)
    found = paired_test(a, b)
    assert (found["only_a"], found["only_b"], found["total"]) == (8, 1, 25)
    assert found["p"] == pytest.approx(2 * (1 + 9) / 2**9)  # at most one of nine fair coins
    assert found["value"] == pytest.approx(7 / 25) and found["low"] > 0
    assert paired_test(a, a)["p"] == 1.0
    empty = paired_test(np.zeros(0), np.zeros(0))
    assert np.isnan(empty["p"]) and np.isnan(empty["value"])
    with pytest.raises(DataError, match="pairs"):
        paired_test(a, b[1:])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0]) and len(holm([])) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p):
    found = holm(p)
    assert (found >= np.array(p)).all() and (found <= np.minimum(1, np.array(p) * max(1, len(p))) + 1e-12).all()
    assert (np.diff(found[np.argsort(p, kind="stable")]) >= 0).all()


def test_models_are_compared_on_the_same_items(made):
    table = made.frame(
        made.clean("11111100", target="a"), made.clean("11111101", target="b"),
        made.clean("1", target="a", split="validation"), made.clean("0", target="b", split="validation"),
        made.attacked("11111100", "11110000"), made.attacked("11111101", "10000001", source="b", target="b"),
        made.attacked("11111100", "01111100", recipe="apgd"),
        made.attacked("11111101", "11111101", recipe="apgd", source="b", target="b"),
        made.attacked("11111101", "00000000", target="b"),  # transferred: not asked about here
    )  # fmt: skip
    found = compare_models(table)
    assert one(found, outcome="clean")[["only_a", "only_b", "total"]].tolist() == [0, 1, 8]
    row = one(found, recipe="pgd")
    assert row[["a_hits", "b_hits", "only_a", "only_b", "total"]].tolist() == [4, 2, 3, 1, 8]
    assert (row.value, row.p) == (2 / 8, pytest.approx(2 * (1 + 4) / 2**4))
    row = one(found, recipe="worst case")
    assert row[["a_hits", "b_hits", "only_a", "only_b"]].tolist() == [3, 2, 3, 2]
    assert found["p_holm"].to_numpy() == pytest.approx(holm(found["p"]))
    shown = one(compare_models(table, source="a"), recipe="pgd")
    assert (shown.a_hits, shown.b_hits) == (4, 0)
    with pytest.raises(OptionError, match="'c'"):
        compare_models(table, ["a", "c"])


def test_an_open_worst_case_is_not_compared(made):
    table = made.frame(
        made.clean("111", target="a"), made.clean("111", target="b"), made.attacked("111", "01-"),
        made.attacked("111", "011", source="b", target="b"),
    )  # fmt: skip
    row = one(compare_models(table), recipe="pgd")
    assert np.isnan([row.value, row.p]).all() and "1 unit" in row.note


def test_modalities_at_equal_budget(made):
    text = {"modality": "text", "norm": None, "epsilon": np.nan}
    table = made.frame(
        made.attacked("11111110", "01111110", recipe="pgd"), made.attacked("11111110", "10111110", recipe="apgd"),
        made.attacked("11111110", "11011110", recipe="bert-attack", **text),
        made.attacked("11111110", "00000000", recipe="synonym", **text),  # two words: another budget
        made.attacked("11111110", "00000110", recipe="sga", modality="joint"),
        made.attacked("11111110", "00000110", recipe="sga:words=2", modality="joint", epsilon=8.0),
    )  # fmt: skip
    sides, contests = modalities(table)
    at_one = sides[(sides["words"] == 1) & (sides["epsilon"] == 4.0)]
    counts = dict(zip(at_one["modality"], zip(at_one["hits"], at_one["total"], strict=True), strict=True))
    assert counts == {"image": (2, 7), "text": (1, 7), "joint": (5, 7), "image or text": (3, 7)}
    at_one = contests[(contests["words"] == 1) & (contests["epsilon"] == 4.0)]
    row = one(at_one, a="joint", b="text")
    assert (row.value, row.only_a, row.only_b, row.winner) == (4 / 7, 4, 0, "joint")
    assert one(at_one, a="joint", b="image or text").only_a == 2
    assert one(at_one, a="image", b="text").winner == "undecided"
    other = sides[(sides["words"] == 2) & (sides["epsilon"] == 8.0)]
    assert set(other["modality"]) == {"joint", "text"}


def test_modalities_are_compared_by_the_lowest_s_c(made):
    text = {"modality": "text", "norm": None, "epsilon": np.nan, "task": ""}
    table = made.frame(
        made.attacked("1111", "1111", recipe="pgd", consistency=[0.5, 0.2, 0.4, 0.4]),
        made.attacked("1111", "1111", recipe="apgd", consistency=[0.1, 0.6, 0.4, 0.4]),
        made.attacked("????", "????", recipe="bert-attack", consistency=[0.3, 0.1, 0.4, 0.5], **text),
        made.attacked("????", "????", recipe="synonym", consistency=-1.0, **text),  # two words: another budget
        made.attacked("1111", "1111", recipe="sga", modality="joint", consistency=[-0.1, 0.0, 0.0, 0.1]),
    )
    sides, contests = consistency_by_modality(table)
    at_one = sides[sides["words"] == 1].set_index("modality")["value"]
    assert at_one.to_dict() == pytest.approx({"image": 0.275, "text": 0.325, "joint": 0.0, "image or text": 0.25})
    at_one = contests[contests["words"] == 1]
    row = one(at_one, a="joint", b="image or text")
    assert row.value == pytest.approx(-0.25) and row.winner == "joint" and (row.only_a, row.only_b) == (4, 0)
    assert one(at_one, a="image", b="text").winner == "undecided"
    assert one(contests[contests["words"] == 2], a="image", b="text").winner == "text"
    part = table.drop(index=table.index[-1])  # one unit without a joint attack
    sides, _ = consistency_by_modality(part)
    row = one(sides[sides["words"] == 1], modality="joint")
    assert np.isnan(row.value) and "1 of 4" in row.note


def test_word_budgets_are_those_of_the_recipes():
    assert word_budget("sga", "joint") == 1 and word_budget("synonym", "text") == 2
    assert word_budget("sga:words=3,epsilon=2", "joint") == 3 and word_budget("pgd", "image") == 0
    assert word_budget("mine@module:attack", "text") is None
    assert word_budget("synonym", "text", {"synonym": 4}) == 4
