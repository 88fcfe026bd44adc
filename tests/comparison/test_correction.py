"""A targeted attack on the scenes that published figures count as standing, kept beside them and reported."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cmai_core.comparison import correction
from cmai_core.comparison.correction import correct, correction_table, correction_words, taken, with_corrections
from cmai_core.comparison.goals import aims
from cmai_core.comparison.protocol import NEXT, PROTOCOL, TARGETED
from cmai_core.comparison.report import report
from cmai_core.comparison.results import Result, read_results
from cmai_core.comparison.tables import BEST
from cmai_core.comparison.verdicts import Verdict, rights
from cmai_core.data import load_dataset
from cmai_core.errors import CmaiError, DataError, OptionError
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.files import write_json
from cmai_core.models import load_model

NAME, N = "tabletop", 6
MAIN = replace(PROTOCOL.part("main"), limit=N)
SMALL = replace(PROTOCOL, split="validation", gallery=12, parts=(MAIN, *PROTOCOL.parts[1:]))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with results of the undefended model that count four of six scenes as standing, and no correction."""
    folder = tmp_path_factory.mktemp("published")
    verdicts = [Verdict("retrieval", "linf", e, "1" * N, "110110").to_dict() for e in (2.0, 4.0)]
    found = {"model": NAME, "hash": load_model(NAME).hash, "protocol": SMALL.hash, "parts": {"main": verdicts}}
    write_json(folder / f"{NAME}.json", found)
    return folder


@pytest.fixture(scope="module")
def corrected(published):
    data = load_dataset("tabletop", split="validation", limit=N)
    correct(published, [NAME], [4.0], SMALL, dataset=data)
    return published, data


def test_what_stands_is_attacked_and_nothing_else(corrected):
    folder, _ = corrected
    results = with_corrections(read_results(folder, [NAME], SMALL), folder, SMALL)
    found = results[NAME].verdict("correction", 4.0)
    assert found.clean == "110110" and results[NAME].verdict("correction", 2.0) is None
    marks = found.recipes[TARGETED]
    assert [mark == "." for mark in marks] == [mark == "0" for mark in found.clean]
    assert not (rights(found.held) & ~rights(found.clean)).any()
    lost, stood = taken(found)
    assert stood == 4 and 0 < lost == marks.count("0")  # it has no defence
    assert f"{lost} of 4" in correction_table(results, SMALL)
    assert "4/255 (1 of 1 models" in correction_words(results, SMALL) and "2/255" not in correction_words(
        results, SMALL
    )


def test_what_is_there_is_not_measured_again(corrected, monkeypatch):
    folder, data = corrected
    monkeypatch.setattr(correction, "measure", None)
    correct(folder, [NAME], [4.0], SMALL, dataset=data)


def test_other_weights_and_budgets_are_refused(corrected, tmp_path):
    folder, data = corrected
    result = read_results(folder, [NAME], SMALL)[NAME]
    with pytest.raises(OptionError, match="3/255"):
        correction.measure(result, load_model(NAME), data, 3.0, SMALL)
    other = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8")) | {"hash": "another"}
    write_json(tmp_path / f"{NAME}.json", other)
    with pytest.raises(CmaiError, match=NAME):
        correct(tmp_path, [NAME], [4.0], SMALL, dataset=data)


def test_a_correction_of_other_results_is_refused(corrected):
    folder, _ = corrected
    results = read_results(folder, [NAME], SMALL)
    (again,) = results.values()
    main = [v | {"held": "100110"} for v in again.parts["main"]]
    for stale in (replace(again, hash="another"), replace(again, parts={"main": main})):
        with pytest.raises(DataError, match=NAME):
            with_corrections({NAME: stale}, folder, SMALL)
    assert with_corrections(results, folder / "none", SMALL) == results


def test_the_page_says_what_is_known():
    def model(name, held, left=None):
        main = Verdict("retrieval", "linf", 2.0, "1111", held).to_dict()
        parts = {"main": [main]}
        if left is not None:
            parts["correction"] = [Verdict("retrieval", "linf", 2.0, held, left).to_dict()]
        return Result(name, "", PROTOCOL.hash, parts)

    results = {r.name: r for r in (model(BEST, "1110", "0110"), model("tabletop-mbat", "1100"))}
    page = report(results)
    assert "are upper bounds" in page and "25.0 points at 2/255 (1 of 2 models" in page and "1 of 3" in page
    ((said, met),) = [(said, met) for aim, said, met in aims(results, PROTOCOL) if "strongest false captions" in aim]
    assert not met and said == "1 of 3 scenes that stood are lost"
    bare = report({name: model(name, "1100") for name in results})
    assert "are upper bounds" in bare and "none has been run" in bare


def test_the_next_protocol_aims_in_every_worst_case_over_options():
    assert PROTOCOL.hash == "222b7be7b767f6b9" != NEXT.hash  # what is published stays readable
    for part in NEXT.parts:
        aimed = [recipe for recipe in part.recipes if recipe.startswith("apgd-t")]
        chosen = part.cascade and part.name not in ("captions", "large", "outside")
        assert bool(aimed) == chosen, part.name
        assert part.recipes[: len(PROTOCOL.part(part.name).recipes)] == PROTOCOL.part(part.name).recipes
        assert all("precision" not in recipe for recipe in aimed)
        grid = Grid(models=["tabletop"], tasks=part.tasks, recipes=part.recipes, epsilons=part.epsilons)
        assert len({entry.norm for entry in grid.entries}) == 1
    assert replace(NEXT, parts=PROTOCOL.parts).hash == PROTOCOL.hash
