"""The three choosers and the recipes over them, as the page draws them."""

from __future__ import annotations

import numpy as np

from app import state
from app.components.attack_lab import parts as attack_parts
from app.components.common.caption_diff import caption_diff, truth_words
from app.components.common.fields import one_of
from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.lab.choices import PRESETS, SEARCHES, THREATS, home_of, parts_of, why_not, why_not_search
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import LabResult


def parts(at) -> tuple[str, str, str]:
    return tuple(at.session_state[key] for key in ("norm", "objective", "recipe"))


def button(at, key):
    return next(b for b in at.button if b.key == key)


def test_the_default_is_mbat_s_pgd(app):
    at = app(pair="tabletop/test/3", caption="a white cube")
    assert parts(at) == ("linf", "both", "pgd")
    assert at.selectbox(key="preset").value == "mbat-pgd"
    assert at.session_state["steps"] == 20 and at.session_state["step_size"] == 1.0


def test_a_preset_fills_the_three_parts(app):
    at = app(all_settings=True)
    for slug in ("cw", "square", "synonym", "jsma", "apgd-dlr", "adaptive", "detector-pgd", "reject-true"):
        at.selectbox(key="preset").set_value(slug).run()
        assert not at.exception and not at.error
        preset = PRESETS[slug]
        assert parts(at) == parts_of(preset) and at.selectbox(key="preset").value == slug
        numbers = {n.key for n in at.number_input}
        assert ("steps" in numbers, "queries" in numbers) == (preset.counts == "steps", preset.counts == "queries")
        assert ("words" in numbers) == (home_of(preset) == "text")
        assert bool([s for s in at.select_slider if s.key == "epsilon"]) == (home_of(preset) != "text")
        if preset.norms:
            assert at.session_state["epsilon"] == preset.budget().amount


def test_what_does_not_combine_is_greyed_with_its_reason(app, texts):
    at = app(all_settings=True, norm="l0", objective="margin", task="vqa")
    for slug in OBJECTIVES:
        assert not button(at, f"objective_{slug}").disabled
    for slug, search in SEARCHES.items():
        reason = why_not_search("l0", "margin", slug, "vqa")
        if search.modality == "image":
            assert button(at, f"recipe_{slug}").disabled == bool(reason)
            assert not reason or button(at, f"recipe_{slug}").help == reason
        if reason and not search.absent:
            assert reason in texts(at).replace("&amp;", "&")
    assert not any(button(at, f"norm_{threat}").disabled for threat in THREATS)


def test_an_objective_on_attention_is_not_offered_for_a_model_that_gives_out_none(app, tmp_path):
    from small_models import small_coca

    from app.services.models import model_cache
    from cmai_core.models import save_local_dir

    save_local_dir(small_coca(qk_norm=True), tmp_path / "normed")  # its blocks keep no weights
    spec = f"local-dir:{tmp_path / 'normed'}"
    at = app(all_settings=True, objective="attention", a=state.OTHER_MODEL, a_spec=spec)
    assert at.session_state["objective"] == "attention"  # nobody knows before it has been loaded
    model_cache().get(spec)
    at.run()
    assert button(at, "objective_attention").disabled and at.session_state["objective"] != "attention"
    at.session_state["a"] = "tabletop"
    at.run()
    assert not button(at, "objective_attention").disabled and not at.exception


def test_another_threat_model_settles_on_what_combines(app, texts):
    at = app(all_settings=True)
    button(at, "norm_text").click().run()
    assert not at.exception and not at.error
    assert why_not(*parts(at), at.session_state["task"]) == "" and parts(at)[:2] == ("text", "consistency")
    assert "Changed to what combines" in texts(at)
    button(at, "norm_patch").click().run()
    assert at.session_state["epsilon"] == 0.05 and why_not(*parts(at), "retrieval") == ""
    at.run()
    assert "Changed to what combines" not in texts(at)


def test_a_link_brings_the_parts_back(app):
    wanted = Experiment(
        pair="tabletop/test/3", caption="a white cube", norm="patch", epsilon=0.1, objective="margin", task="vqa",
        recipe="square", queries=300,
    ).checked()  # fmt: skip
    at = app(query=wanted.to_query())
    assert not at.exception and not at.error
    assert parts(at) == ("patch", "margin", "square")
    assert (at.session_state["epsilon"], at.session_state["queries"]) == (0.1, 300)


def test_a_link_to_what_does_not_combine_is_explained(app):
    at = app(query={"pair": "tabletop/test/1", "caption": "a", "recipe": "cw"})
    reason = why_not("linf", "both", "cw", "retrieval")
    assert reason and any(reason in e.value.replace("&amp;", "&") for e in at.error) and not at.exception


def test_a_word_that_is_no_option_any_more_is_not_taken_for_one(monkeypatch):
    """What a browser sends late comes back as the word itself: "own combination" while a recipe is chosen."""
    kept = {"preset": "own combination"}
    monkeypatch.setattr(state, "get", kept.__getitem__)
    monkeypatch.setattr(state, "put", kept.__setitem__)
    attack_parts._take_preset()
    assert kept == {"preset": "own combination"}
    assert one_of("own combination", ["a", "b"]) == "a" and one_of("b", ["a", "b"]) == "b"
    assert one_of("3", range(4)) == 0


def test_changed_words_are_marked():
    said = caption_diff("a red <b> cube left of a ball", "a crimson <b> cube of a ball")
    assert "<del>red</del>" in said and '<ins class="cm-changed">crimson</ins>' in said
    assert "&lt;b&gt;" in said and "left</del>" in said
    assert caption_diff("a cube", "a cube") == "a cube"
    assert "still true" in truth_words("a", "b", True) and "false" in truth_words("a", "b", False)
    assert "nobody can say" in truth_words("a", "b", None) and "stays as it is" in truth_words("a", "a", True)


def test_an_attack_on_words_is_shown_with_its_sentence(app, texts, finished):
    at = app(
        pair="tabletop/test/3", caption="", norm="text", objective="consistency", recipe="char", b="none",
        words=2, truth="free",
    )  # fmt: skip
    from app.services.pairs import lab_pair

    caption = lab_pair("tabletop/test/3", "", None, "").captions[0]
    at.session_state["caption"] = caption
    at.run()
    button(at, "start_attack").click().run()
    finished(at, "attack_job")
    assert not at.error and not at.exception, texts(at)
    made = at.session_state["result"]
    example, prediction = made.first_example, made.predictions["A"]
    assert np.array_equal(example.clean, example.adversarial) and example.caption != caption and example.queries > 0
    assert prediction.adversarial < prediction.clean and abs(prediction.adversarial - example.score_float) < 1e-4
    assert "cm-changed" in texts(at) and truth_words(caption, example.caption, example.true) in texts(at)
    again = LabResult.from_dict(made.to_dict(), {"A": (example.clean, example.adversarial)})
    assert again.first_example.caption == example.caption and again.experiment == made.experiment
