"""Consistency verification in the lab: verdicts of both models on both pairs, what disagrees, policies, and sending."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from app.components.attack_lab.disagreement import (
    disagreeing,
    marked_words,
    patch_map,
    patch_scale,
    place_line,
    spans,
    words_line,
)
from app.components.attack_lab.policies import span
from app.components.attack_lab.verification_words import basis_line, card_words, decision, percent
from app.components.common.theme import number
from app.services import thresholds
from app.services.models import model_cache
from app.services.thresholds import ThresholdCache, basis_of
from app.services.verdicts import VerdictCache, verdict_cache
from cmai_core.data import load_dataset
from cmai_core.data.registry import kind_of
from cmai_core.defenses import Cmcv, ReviewQueue, Smoothing, store_calibration
from cmai_core.defenses.basis import Basis
from cmai_core.defenses.disagreement import LEAVE_ONE_OUT, VERIFIER, Disagreement
from cmai_core.errors import Cancelled, DataError
from cmai_core.evaluation.verification.cmcv import calibrate_cmcv
from cmai_core.lab.cached_dataset import KeptItems
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.policies import pathway_answer
from cmai_core.lab.run import run_attack
from cmai_core.lab.verdict import content_key, judge_result
from cmai_core.models import load_model, new_model, save_local_dir
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.progress import CancelToken

PAIR = dict(pair="tabletop/test/3", caption="a white cube", steps=2, objective="consistency")
QUIET = (lambda update: None, CancelToken())


@pytest.fixture(scope="module")
def pairs():
    return KeptItems(load_dataset("tabletop", split="test", limit=40))


@pytest.fixture(scope="module")
def models(tmp_path_factory, pairs):
    """A folder of two random models: tabletop (nothing else), tabletop-cmai (heads, calibrated)."""
    folder = tmp_path_factory.mktemp("verified")
    for name, seed in (("tabletop", 2), ("tabletop-cmai", 3)):
        model = new_model("tabletop", torch.Generator().manual_seed(seed))
        model.card.update(defended=name != "tabletop", description="random weights", domain="tabletop")
        if model.card["defended"]:
            model.heads = ConsistencyHeads(model.head_sizes(8), torch.Generator().manual_seed(seed))
        save_local_dir(model, folder / name)
    headed = load_model(f"local-dir:{folder / 'tabletop-cmai'}", device="cpu")
    store_calibration(calibrate_cmcv(headed, pairs), folder / "tabletop-cmai")
    return folder


@pytest.fixture(scope="module")
def loaded(models):
    names = {"A": "tabletop", "B": "tabletop-cmai"}
    return {role: load_model(f"local-dir:{models / name}", device="cpu") for role, name in names.items()}


@pytest.fixture(scope="module")
def attacked(loaded, pairs):
    return run_attack(Experiment(**PAIR), pairs[3], loaded, dataset=pairs)


@pytest.fixture(scope="module")
def made(attacked, loaded, pairs):
    cache = ThresholdCache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "calibration_pairs", lambda kind: pairs)
        bases = {role: cache.get(model, "tabletop", *QUIET) for role, model in loaded.items()}
    return judge_result(attacked, loaded, bases, pair=pairs[3], dataset=pairs)


@pytest.fixture
def lab(app, models, pairs, monkeypatch, tmp_path):
    """`app` with these models, few calibration pairs, and a review queue of its own."""
    import cmai_core.models.families.bundled as bundled

    monkeypatch.setattr(bundled, "bundled_dir", lambda: models)
    monkeypatch.setattr(thresholds, "calibration_pairs", lambda kind: pairs)
    monkeypatch.setenv("CMAI_DATA", str(tmp_path))
    model_cache.clear()
    yield app
    model_cache.clear()


@pytest.fixture
def verified(lab, finished):
    """verified(**values): the attack lab after an attack and its verification."""

    def run(**values):
        at = lab(**{**PAIR, "result_tabs": "Verification", **values})
        at.button(key="start_attack").click().run()
        finished(at, "attack_job")
        return finished(at, "verdict_job")

    return run


def shown(at):
    """The verdict on show; one of the same content may have been made in an earlier test."""
    return at.session_state["verdict"] or verdict_cache().get(content_key(at.session_state["result"]))


# --- what is computed -------------------------------------------------------------------------------------------------


def test_verdicts_are_those_of_cmcv(made, attacked, loaded):
    for role, found in made.roles.items():
        model = loaded[role]
        judge = Cmcv(model, found.basis.calibration)
        for side, picture in enumerate((attacked.first_example.clean, attacked.first_example.adversarial)):
            expected = judge(model.preprocess([picture]), [PAIR["caption"]])[0]
            verdict = found.verdicts[side]
            assert verdict.s_c == pytest.approx(expected.s_c) and verdict.log_v == expected.log_v
            assert found.consistent(side, 0.05) == expected.consistent == verdict.consistent
            assert found.consistent(side, 0.01) == found.basis.calibration.at(0.01).accepts(verdict.s_c, verdict.log_v)
            assert np.allclose(verdict.parts.patches, expected.parts.patches, atol=1e-6)
        assert found.consistent(0, 0.5) is None and found.tau(0.5) is None
    undefended, defended = made.roles["A"], made.roles["B"]
    assert (undefended.has_heads, undefended.basis.stored) == (False, False)
    assert undefended.basis.calibration.count == 40
    assert (defended.has_heads, defended.basis.stored) == (True, True) and defended.tau_v(0.05) is not None
    for role, found in made.roles.items():  # one τ of S_c: the owner's
        assert found.tau(0.05) == found.basis.calibration.at(0.05).tau, role
    assert undefended.bounds(0.05) is None and defended.bounds(0.05)[0] <= defended.tau(0.05)
    assert defended.verdicts[0].parts.words_by == VERIFIER != undefended.verdicts[0].parts.words_by == LEAVE_ONE_OUT


def test_a_verdict_is_kept_as_plain_values(made):
    again = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert again["B"]["adversarial"]["consistent"].keys() == {"0.01", "0.05"}
    assert again["A"]["clean"]["words"] == ["a", "white", "cube"]


def test_content_alone_makes_the_key(attacked):
    key = content_key(attacked)
    assert content_key(replace(attacked, seconds=99.0, created="later")) == key
    example = attacked.first_example
    other = example.adversarial.copy()
    other[0, 0, 0] ^= 1
    assert content_key(replace(attacked, examples={"A": replace(example, adversarial=other)})) != key
    assert content_key(replace(attacked, examples={"A": replace(example, caption="a black cube")})) != key


def test_other_weights_and_a_cancellation_are_noticed(attacked, loaded):
    bases = dict.fromkeys(loaded, Basis("tabletop"))
    with pytest.raises(DataError, match=attacked.predictions["A"].name):
        judge_result(attacked, dict.fromkeys(loaded, loaded["B"]), bases)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        judge_result(attacked, loaded, bases, cancel=cancel)


def test_the_edited_sentence_is_judged_with_the_attacked_picture(attacked, loaded):
    example = replace(attacked.first_example, caption="a black cube")
    edited = replace(attacked, examples={"A": example}, predictions={"A": attacked.predictions["A"]})
    found = judge_result(edited, loaded, {"A": Basis("tabletop")}).roles["A"]
    assert found.texts == ("a white cube", "a black cube")
    assert [verdict.text for verdict in found.verdicts] == list(found.texts)
    assert found.verdicts[0].probability is None and found.rates == () and found.pathway is None


def test_the_pathway_s_answer_is_that_of_the_averaged_copies(loaded, pairs):
    from cmai_core.seeds import sample_generators
    from cmai_core.tasks import get_task

    model, pair = loaded["A"], pairs[3]
    tried = pathway_answer(model, pair, pairs, "zero-shot", pair.image, PAIR["caption"], PAIR["caption"])
    task = get_task("zero-shot")
    with torch.no_grad():
        prepared = task.prepare(model, [pair], pairs)
        pixels = model.preprocess([pair.image])
        features = Smoothing().features(model, pixels, sample_generators(0, [pair.id], 0))
        assert tried.robust.score == pytest.approx(task.predict(model, features, prepared)[0].score)
        assert tried.plain.score == pytest.approx(task.predict(model, model.image_features(pixels), prepared)[0].score)
    assert tried.copies == 8 and tried.robust_seconds > tried.plain_seconds > 0


def test_the_cache_keeps_the_verdicts_that_were_used_last():
    cache = VerdictCache(capacity=2)
    for key in "ab":
        cache.put(SimpleNamespace(key=key))
    assert cache.get("a").key == "a"
    cache.put(SimpleNamespace(key="c"))
    assert cache.get("a") and cache.get("c") and cache.get("b") is None


def test_a_calibration_is_the_card_s_else_the_lab_s_and_photographs_have_none(loaded, pairs, monkeypatch):
    calls = []
    monkeypatch.setattr(thresholds, "calibration_pairs", lambda kind: calls.append(1) or pairs)
    cache = ThresholdCache()
    assert [kind_of(n) for n in ("scene", "tabletop/test/1", "tabletop/holdout", "photos/test/coffee", "upload/0")] == [
        "tabletop", "tabletop", "tabletop", "photographs", "photographs"
    ]  # fmt: skip
    assert cache.get(loaded["B"], "tabletop", *QUIET).stored and not calls
    first = cache.get(loaded["A"], "tabletop", *QUIET)
    assert not first.stored and first.calibration.dataset == "tabletop/test"
    assert cache.get(loaded["A"], "tabletop", *QUIET) is first and len(calls) == 1
    for model in loaded.values():
        none = cache.get(model, "photographs", *QUIET)
        assert none.calibration is None and none.tau() is None and "photographs" in none.note
    monkeypatch.setitem(loaded["B"].card["cmcv"], "model", "other weights")
    mended = ThresholdCache().get(loaded["B"], "tabletop", *QUIET)
    assert not mended.stored and mended.calibration.model == loaded["B"].hash
    assert "of other weights" in mended.note and "made anew" in mended.note


# --- what is said -----------------------------------------------------------------------------------------------------


def parts(words=("a", "<b>red</b>", "cube"), values=(0.0, 0.9, 0.6), by=VERIFIER, peak=(0, 2), height=1.0):
    patches = np.zeros((3, 3), np.float32)
    patches[peak] = height
    return Disagreement(tuple(words), np.array(values, np.float32), patches, by, by)


def test_words_are_marked_where_they_stand_and_nothing_is_injected():
    said = marked_words("A  <b>Red</b>\tcube!", parts())
    assert "A  " in said and said.endswith("</mark>!")
    assert "&lt;b&gt;Red&lt;/b&gt;" in said and "<b>" not in said
    assert said.count("cm-disagree-named") == 2
    assert "cm-disagree-named" not in marked_words("a <b>red</b> cube", parts(), True)
    assert "<b>&lt;b&gt;red&lt;/b&gt;</b> (90%), <b>cube</b> (60%)" in words_line(parts())
    assert "<b>" not in words_line(parts(values=(0, 0.05, 0)))
    elsewhere = marked_words("nothing of it", parts())
    assert "&lt;b&gt;red&lt;/b&gt;" in elsewhere and "nothing" not in elsewhere


def test_words_left_out_are_named_only_where_the_score_gains():
    gains = parts(values=(-0.2, 0.004, 0.003), by=LEAVE_ONE_OUT, height=0.005)
    assert disagreeing(gains) == () and "gains nothing" in words_line(gains)
    assert place_line(gains).startswith("No single")
    gains = parts(values=(-0.2, 0.3, 0.02), by=LEAVE_ONE_OUT, height=0.05)
    assert "(+0.300)" in words_line(gains) and "upper right part (+0.050)" in place_line(gains)


@pytest.mark.parametrize(
    ("peak", "words"), [((0, 0), "upper left"), ((1, 1), "middle"), ((2, 1), "lower"), ((1, 2), "right")]
)
def test_the_place_of_disagreement_is_told_in_words(peak, words):
    assert f"the {words} part" in place_line(parts(peak=peak))


def test_a_map_without_disagreement_is_pale_and_one_scale_serves_both():
    picture = np.full((16, 16, 3), 128, np.uint8)
    none, much = parts(values=(0, 0.001, 0)), parts()
    scale = patch_scale([none, much])
    assert scale == pytest.approx(1.5) and patch_scale([none]) == pytest.approx(0.1)
    calm, loud = (patch_map(picture, found, scale) for found in (none, much))
    assert calm.shape == loud.shape == (288, 288, 3)
    assert np.ptp(calm.astype(int), axis=(0, 1)).max() <= 2 < np.ptp(loud.astype(int), axis=(0, 1)).max()
    assert loud[:96, 192:].mean() > loud[192:, :96].mean()


def test_spans_do_not_trip_over_letters_whose_case_changes_their_length():
    assert spans("Red, red.", ["red", "red", "."]) == [(0, 3), (5, 8), (8, 9)]
    assert spans("İ red", ["red"]) is None and spans("blue", ["red"]) is None


def test_small_words():
    assert [percent(p) for p in (None, 0.0, 0.004, 0.5, 0.999)] == ["–", "<1%", "<1%", "50%", ">99%"]
    assert (span(0.0412), span(2.04)) == ("41 ms", "2.0 s")
    assert "flagged" in decision(False) and "consistent" in decision(True) and "no verdict" in decision(None)


def test_the_score_card_says_what_both_scores_decide(made, attacked):
    prediction = attacked.predictions["B"]
    assert card_words(None, prediction) == "" == card_words(made, attacked.predictions["A"])
    found = made.roles["B"]
    low, high = (replace(found.verdicts[0], s_c=s, log_v=v) for s, v in ((-1.0, -99.0), (1.0, 0.0)))

    def said(*verdicts):
        roles = {"B": replace(found, verdicts=verdicts)}
        # without a session, Streamlit's state is that of the first run
        return card_words(replace(made, roles=roles), prediction)

    import streamlit as st

    st.session_state["verdict_fpr"] = 0.05
    assert "flagged after the attack" in said(high, low) and "accepted" in said(high, high)
    assert "even when clean" in said(low, low)
    words = basis_line(found, 0.05)
    assert all(part in words for part in ("40 ", "tabletop/test", "5%"))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_an_attack_is_followed_by_its_verification(verified, texts):
    at = verified()
    assert not at.error and not at.exception, texts(at)
    made, said = shown(at), texts(at).replace("&#x27;", "'")
    assert "in the model's card" in said and "made here" in said and "no verifier" in said
    assert said.count("Heat map over the") == 4 and "P(consistent)" in said
    for role, found in made.roles.items():
        for side, verdict in enumerate(found.verdicts):
            assert words_line(verdict.parts) in said and place_line(verdict.parts) in said
            if found.consistent(side, 0.05) is False:
                assert "answer by way of 8 noisy copies" in said, role
    assert said.count('cm-tag-flagged"') + said.count('cm-tag-passed"') == 4
    at.button_group(key="verdict_fpr").set_value(0.01).run()
    assert "flag at most 1% of those pairs" in texts(at) and not at.error
    for role, prediction in at.session_state["result"].predictions.items():  # cards and verification show one τ
        tau = number(basis_of(prediction.spec, prediction.hash, "tabletop").tau(0.01))
        assert tau == number(shown(at).roles[role].tau(0.01)) and f">τ {tau}<" in texts(at)
    at.session_state["verdict"] = None  # as in another session: it is found by its content
    at.run()
    assert at.session_state["verdict_job"] is None and "P(consistent)" in texts(at)


def test_a_pair_is_sent_to_review_once(verified, texts, tmp_path):
    at = verified(objective="consistency")
    made = shown(at)
    at.button(key="send_B_adversarial").click().run()
    assert not at.error and at.button(key="send_B_adversarial").disabled
    at.session_state["sent_to_review"] = {}  # another session, or a second click that was on its way
    at.run()
    at.button(key="send_B_adversarial").click().run()
    (entry,) = ReviewQueue(tmp_path / "review.sqlite").entries()
    found = made.roles["B"]
    assert (entry.item, entry.model, entry.texts) == (PAIR["pair"], found.name, ("a white cube",))
    assert (entry.score, entry.tau) == (found.verdicts[1].s_c, found.tau(0.05))
    assert (entry.picture == found.pictures[1]).all()
    assert all(part in entry.reason for part in ("PGD", "L∞", "model A", "5%", "V_verify"))
    at.button(key="send_A_clean").click().run()
    assert ReviewQueue(tmp_path / "review.sqlite").counts()["open"] == 2


def test_a_queue_that_cannot_be_used_is_explained(verified, texts, tmp_path):
    at = verified()
    (tmp_path / "review.sqlite").write_text("not a database, but long enough to be read as the header of one" * 4)
    at.button(key="send_A_clean").click().run()
    assert any("cannot be used" in e.value for e in at.error) and not at.exception
    assert not at.button(key="send_A_clean").disabled
    (tmp_path / "review.sqlite").unlink()


def test_models_that_are_not_bundled_are_verified_on_request(lab, models, finished, texts, monkeypatch):
    import streamlit as st

    asked = st.get_option
    monkeypatch.setattr(st, "get_option", lambda name: "localhost" if name == "server.address" else asked(name))
    own = {"a": "other", "a_spec": f"local-dir:{models / 'tabletop'}", "b": "none"}
    at = lab(**PAIR, result_tabs="Verification", **own)
    at.button(key="start_attack").click().run()
    finished(at, "attack_job")
    assert at.session_state["verdict_job"] is None and "done on request" in texts(at)
    at.button(key="start_verdict").click().run()
    finished(at, "verdict_job")
    assert not at.error and set(shown(at).roles) == {"A"}, texts(at)


def test_photographs_get_scores_without_a_verdict(verified, texts):
    at = verified(pair="photos/test/coffee", caption="a cup of coffee")
    said = texts(at)
    assert not at.error and said.count("no verdict") >= 4 and "Scores without a verdict" in said, said
    assert "No threshold is known for photographs" in said
    assert not [b for b in at.get("button_group") if b.key == "verdict_fpr"]


def test_a_new_attack_gives_up_the_verification_under_way(lab, finished, monkeypatch):
    at = lab(**PAIR)
    cancelled = []
    at.session_state["verdict_job"] = SimpleNamespace(owner="", cancel=lambda: cancelled.append(1), snapshot=_running)
    at.button(key="start_attack").click().run()
    assert cancelled == [1] and at.session_state["verdict_job"] is None
    finished(at, "attack_job")
    finished(at, "verdict_job")


def _running():
    return SimpleNamespace(finished=False, state="running", progress=None, eta=None, position=0)
