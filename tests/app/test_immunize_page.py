"""The page Immunize: every part at once from what is bundled or published, and live work through the queue."""

from __future__ import annotations

import pytest

from app.app_pages.immunize import PARTS


def test_every_part_is_full_at_first_sight(app, texts):
    at = app("immunize")
    assert not at.exception and not at.error and "The bundled example" in texts(at)
    for part in PARTS:
        at.session_state["immunize_part"] = part
        at.run()
        found = at.query_params["part"]
        assert not at.exception and found in (part, [part]), part


def test_a_link_opens_its_part_and_a_hostile_one_the_first(app):
    at = app("immunize")
    for part, shown in (("policies", "policies"), ("<script>", "inner"), ("x" * 9000, "inner")):
        at.query_params["part"] = part
        at.session_state["link_read"] = False
        at.session_state["immunize_part"] = "inner"
        at.run()
        assert at.session_state["immunize_part"] == shown and not at.exception


def test_numbers_out_of_range_are_refused_and_nothing_runs(app):
    at = app("immunize")
    at.number_input(key="inner_steps").set_value(500)
    at.button(key="start_immunize_inner").click().run()
    assert at.session_state["page_immunize_inner_job"] is None
    assert any("between 1 and 20" in e.value for e in at.error)
    at.session_state["immunize_part"] = "answering"
    at.run()
    at.number_input(key="answering_gamma").set_value(-3.0)
    at.button(key="start_immunize_answering").click().run()
    assert at.session_state["page_immunize_answering_job"] is None and at.error


def test_the_form_s_numbers_stand_in_the_address(app):
    at = app("immunize")
    at.number_input(key="inner_beta").set_value(2.5).run()
    assert at.query_params["terms"] in ("1,2.5,2,10", ["1,2.5,2,10"])
    for terms, beta in (
        ("1,0.5,4,3", 0.5),
        ("1,99,4,3", 0.5),
        ("nan,nan,nan,nan", 0.5),
        ("1,1,1", 0.5),
        ("1,,2,3", 0.5),
    ):
        at.query_params["part"], at.query_params["terms"] = "inner", terms
        at.session_state["link_read"] = False
        at.run()
        assert at.session_state["inner_beta"] == beta and not at.exception


@pytest.mark.slow
def test_the_loop_runs_in_the_queue_and_is_dimmed_when_the_form_moves_on(app, finished, texts, monkeypatch):
    import importlib.util
    from pathlib import Path

    from cmai_core.lab.immunize import inner_loop
    from cmai_core.training.batches import draw
    from cmai_core.training.recipes import get_recipe

    path = Path(__file__).resolve().parents[1] / "training" / "helpers.py"
    spec = importlib.util.spec_from_file_location("training_helpers", path)
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    batch = draw(helpers.arrays(), get_recipe("mbat", batch=8, nlvr_share=0.0), 0, 0)
    monkeypatch.setattr(inner_loop, "live_batch", lambda: batch)  # its scenes would have to be rendered
    at = app("immunize")
    at.number_input(key="inner_steps").set_value(2)
    at.button(key="start_immunize_inner").click().run()
    finished(at, "page_immunize_inner_job")
    made = at.session_state["page_immunize_inner_result"]
    assert not at.error and made.asked.steps == 2 and made.name == "tabletop" and len(made.pictures) == 3
    at.number_input(key="inner_beta").set_value(2.0).run()
    assert "Not of what the form says now" in texts(at)


def test_an_answering_without_heads_is_refused_in_words(app, finished):
    at = app("immunize")
    at.session_state["immunize_part"] = "answering"
    at.run()
    at.button(key="start_immunize_answering").click().run()
    finished(at, "page_immunize_answering_job")
    assert any("no consistency heads" in e.value for e in at.error) and not at.exception
