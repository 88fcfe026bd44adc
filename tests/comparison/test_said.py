"""What notes ask for is what the results say, with the range over the models."""

from __future__ import annotations

import re

import pytest

from cmai_core.comparison.correction import with_corrections
from cmai_core.comparison.protocol import PROTOCOL
from cmai_core.comparison.report import NOTES
from cmai_core.comparison.results import Result, read_results
from cmai_core.comparison.run import results_dir
from cmai_core.comparison.said import defended, filled
from cmai_core.comparison.verdicts import Verdict
from cmai_core.errors import DataError


def model(name, *held, **parts):
    verdicts = [Verdict("retrieval", "linf", e, "1" * 4, h).to_dict() for e, h in zip((2.0, 4.0), held, strict=True)]
    return Result(name, "", PROTOCOL.hash, {"main": verdicts, **parts})


def aligned(**scores):
    return {
        "aligned": {"2": {f"{name}, given": {"value": value} for name, value in scores.items()} | {"quantile": 0.1}}
    }


@pytest.fixture
def results():
    base = model("tabletop", "1000", "0000", detection=aligned(V=0.1))
    tecoa = model("tabletop-tecoa", "1110", "1111", detection=aligned(V=0.914, cosine=0.5))
    fare = model("tabletop-fare", "1100", "1000", detection=aligned(V=0.936))
    fare.parts["correction"] = [Verdict("retrieval", "linf", 2.0, "1100", "0100").to_dict()]
    policies = {"none": {"ratio": 1.0, "attacked": "1000"}, "reject": {"ratio": 1.52, "attacked": "1100"}}
    tecoa.parts["policies"] = policies
    return {r.name: r for r in (base, tecoa, fare)}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("asr tabletop-tecoa 2", "25"),
        ("robust tabletop-fare 2", "50.0"),
        ("gained tabletop-fare tabletop-tecoa 2", "50"),
        ("gained tabletop-fare tabletop-tecoa 4", "25"),
        ("taken tabletop-fare 2", "1 of 2"),
        ("taken tabletop-fare 4", "–"),
        ("left tabletop-fare 2", "25.0"),
        ("robust tabletop-mat 2", "–"),
        ("auroc V 2", "0.91 to 0.94"),
        ("auroc cosine 2", "0.50"),
        ("auroc V clean", "–"),
        ("slower reject", "1.5"),
        ("slower reject flagged", "–"),
        ("won reject", "25.0"),
    ],
)
def test_questions_are_answered_from_the_results(results, question, answer):
    assert filled(f"so {{{question}}}.", results) == f"so {answer}."


def test_differences_come_with_their_interval(results):
    said = filled("{gap tabletop-fare tabletop-tecoa 2}", results)
    assert said.startswith("−25.0 [") and filled("{gap tabletop-fare tabletop-mat 2}", results) == "–"


def test_a_question_that_is_not_known_is_refused(results):
    with pytest.raises(DataError, match="levitation"):
        filled("{levitation tabletop 2}", results)


def test_the_published_notes_ask_for_nothing_that_was_not_measured():
    folder = results_dir()
    results = with_corrections(read_results(folder), folder)
    notes = (folder / NOTES).read_text(encoding="utf-8")
    for asked in re.findall(r"\{[^{}]+\}", notes):
        if not asked.startswith(("{taken", "{left")):  # of the models that it was measured of
            assert "–" not in filled(asked, results), asked
    assert "tabletop-tecoa" in defended(results) and not {"tabletop", "tabletop-cmcv"} & set(defended(results))
