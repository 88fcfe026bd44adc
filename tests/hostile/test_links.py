"""Links as strangers make them: every value is kept exactly or refused in words, by the reader and in the page."""

from __future__ import annotations

import math
import random
import string
from dataclasses import fields
from pathlib import Path

import pytest

from cmai_core.budget import NORMS
from cmai_core.data.plain import plain_line
from cmai_core.errors import CmaiError
from cmai_core.lab.experiment import MAX_CAPTION, RANGES, Experiment

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"pair": "tabletop/test/3", "caption": "a white cube"}
NAMES = [field.name for field in fields(Experiment)]
BAD = {
    "pair": ["", "../../etc/passwd", "tabletop/test/²", "tabletop/train/1", "photos/test/.b", "coco/test/1", "\x00",
             "a" * 5000, "tabletop/test/" + "9" * 300, "javascript:alert(1)", "tabletop//3", "scene",
             "TABLETOP/test/1"],
    "caption": ["", "   ", "\u200b\u202e\u2066", "x" * (MAX_CAPTION + 1), "y" * 50_000, "\x00\x01\x1b", "\u3164\u3164"],
    "a": ["", " ", "\u202e", "m" * 400, "tabletop\n", "tab\x00letop"],
    "b": ["d" * 400, "\x07", "tabletop-cmai\u200b"],
    "craft_on": ["", "both", "EACH", "A "],
    "norm": ["", "l3", "linf\x00", "L2", "[]", "None"],
    "objective": ["", "x", "own combination", "both "],
    "task": ["", "vqa2", "__class__"],
    "recipe": ["", "own combination", "pgd;", "universal"],
    "truth": ["", "yes"],
    "scene": ["null", "[]", "{}", "x" * 10_000],
    "epsilon": ["", "-1", "65", "nan", "inf", "1e999", "4/255", "0x4", "1_0", "４", "true", "1e-", "9" * 400, "4,0",
                " 4"],
    "steps": ["", "0", "500", "-5", "2.5", "1e9", "nan", "0x10", "1_0", "٣", "9" * 5000, "many"],
    "step_size": ["-0.1", "65", "nan", "-inf", "1e400", "a"],
    "restarts": ["0", "11", "1.0", ""],
    "seed": ["-1", "2147483648", "1e3", "none"],
    "alpha": ["-1", "101", "nan", "one"],
    "beta": ["-1", "1e3", "inf"],
    "queries": ["9", "10001", "1000.5", "-0"],
    "words": ["0", "6", "1.5", "two"],
}  # fmt: skip
BAD_LINKS = [(name, value) for name, values in BAD.items() for value in values]
NEEDED = {"scene": {"pair": "scene"}, "words": {"norm": "text", "objective": "consistency", "recipe": "char"}}


def refused(query: dict[str, str]) -> CmaiError:
    """The error of a link, which is short, whatever the link is."""
    with pytest.raises(CmaiError) as caught:
        Experiment.from_query(query)
    assert 0 < len(str(caught.value)) < 1200
    return caught.value


@pytest.mark.parametrize(("name", "value"), BAD_LINKS, ids=[f"{name}-{k}" for k, (name, _) in enumerate(BAD_LINKS)])
def test_a_value_that_cannot_be_is_refused(name, value):
    assert len(BAD_LINKS) >= 100
    refused(GOOD | NEEDED.get(name, {}) | {name: value})


def test_a_seeded_mutator_finds_no_traceback():
    rng = random.Random(8)
    alphabet = string.printable + "é²４\u202e\u200d\u0000\ud800𝟘"
    kept = 0
    for _ in range(1000):
        query = dict(GOOD)
        for name in rng.sample(NAMES, rng.randint(1, 4)):
            values = [*BAD.get(name, []), str(rng.uniform(-5, 70)), str(rng.randrange(300)), "", query.get(name, "1")]
            value = rng.choice(values)
            if rng.random() < 0.3:
                place = rng.randrange(len(value) + 1)
                value = value[:place] + "".join(rng.choices(alphabet, k=rng.randint(1, 4))) + value[place:]
            query[name] = value
        try:
            found = Experiment.from_query(query)
        except CmaiError as error:
            assert error.message and len(str(error)) < 1200
            continue
        kept += 1
        assert Experiment.from_query(found.to_query()) == found  # what was taken comes back exactly
        for name, value in query.items():
            if name in RANGES or name == "epsilon":
                assert float(value) == getattr(found, name) and math.isfinite(float(value))
            else:
                assert getattr(found, name) == (plain_line(value) if name == "caption" else value)
    assert kept >= 20


def test_numbers_off_the_ladder_and_with_many_digits_are_kept():
    for name, value in (
        ("epsilon", 3.0),
        ("epsilon", 1 / 3),
        ("epsilon", 0.1),
        ("step_size", 0.012345678),
        ("alpha", 2 / 7),
    ):
        wanted = Experiment(**GOOD, **{name: value}).checked()
        assert getattr(Experiment.from_query(wanted.to_query()), name) == value
    assert 3.0 not in NORMS["linf"].ladder


def test_a_sentence_is_cleaned_wherever_it_comes_from():
    hidden = "a \u202ered\u202c cu\u200bbe\x00\u2028 on\u200d it\ufeff"
    assert Experiment.from_query(GOOD | {"caption": hidden}).caption == "a red cube on it"
    assert Experiment.from_dict(GOOD | {"caption": hidden}).caption == "a red cube on it"
    assert Experiment(**GOOD | {"caption": hidden}).caption == "a red cube on it"
    for kept in ("👩\u200d🚀 in space", "می\u200cخواهم", "ein roter Würfel"):
        assert Experiment(caption=kept).caption == kept


@pytest.mark.parametrize(
    "values", [None, [], "x", {1: 2}, {"steps": "20"}, {"caption": 5}, {"norm": []}, {"seed": True}]
)
def test_files_of_another_shape_are_refused(values):
    with pytest.raises(CmaiError):
        Experiment.from_dict(values if not isinstance(values, dict) else GOOD | values)


def test_names_that_no_experiment_has_are_told():
    assert Experiment.unknown_in(GOOD | {"epsilom": "4", "embed": "true", "z" * 500: "1"}) == ("epsilom", "z" * 40)


# --- in the page ------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """opened(query): the attack lab as it is with a link; no model is loaded."""
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("CMAI_WARM_UP", "0")

    def run(query: dict[str, str]):
        at = AppTest.from_file(str(ROOT / "app" / "streamlit_app.py"), default_timeout=60)
        for name, value in query.items():
            at.query_params[name] = value
        return at.run()

    yield run
    from app.services.jobs import job_queue

    for job in job_queue()._pending():  # what a link describes is run at once
        job.cancel()


@pytest.mark.parametrize("query", [{"steps": "500"}, {"scene": "null", "pair": "scene"}, {"recipe": "own combination"}])
def test_the_page_says_what_is_wrong_with_a_link_and_takes_nothing_of_it(opened, query):
    at = opened(GOOD | {"seed": "7"} | query)
    assert at.error and not at.exception and at.session_state["seed"] == 0


def test_the_page_keeps_a_budget_off_the_ladder(opened):
    at = opened(GOOD | {"epsilon": "3", "step_size": "0.01", "epsilom": "4"})
    assert not at.exception and not at.error and any("epsilom" in info.value for info in at.info)
    assert (at.session_state["epsilon"], at.session_state["step_size"]) == (3.0, 0.01)
    assert at.select_slider(key="epsilon").value == 3.0
    at.run()
    assert at.session_state["epsilon"] == 3.0
    at.button(key="cancel_attack").click().run()  # what a link describes is run at once
    at.session_state["attack_job"] = None
    at.run()
    at.session_state["all_settings"] = True
    at.run()
    at.number_input(key="steps").set_value(500)
    at.button(key="start_attack").click().run()
    assert at.session_state["steps"] == 500 and any("500" in error.value for error in at.error)
    assert at.session_state["attack_job"] is None and not at.exception
