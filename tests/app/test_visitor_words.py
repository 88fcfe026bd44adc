"""What a visitor is told names no path of the server and no command line."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from app.components.common.visitor_words import OWNER, for_visitors, plain_reason
from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.errors import CmaiError, StoreError
from cmai_core.evaluation.store.store import DATABASE, Store
from cmai_core.lab.benchmark.runs import existing, known_runs, live_cells
from cmai_core.lab.choices import SEARCHES, THREATS, why_not
from cmai_core.tasks import DEFAULT_TASK

BAD = re.compile(r"(^|\s)~?/\w|cmai [a-z]+ |python -m|--[a-z]|HOST=|`make ")


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("The evaluation store /home/lab/.local/share/cmai/store is empty.", "Run `cmai evaluate` with it first."),
        ("There is no evaluation store in /srv/x y.", "`cmai evaluate --store FOLDER` makes one."),
        ("~/lab/review.sqlite cannot be used: file is not a database.", "Move it away."),
        ("Folders cannot be named.", "Start it without HOST= to load local-dir: models."),
        ("C:\\lab\\card.json is not valid JSON.", "Restore it. python -m cmai_core.showcase makes it again."),
        ("No model.", "`make models` trains them."),
    ],
)
def test_paths_and_commands_are_left_out(message, hint):
    said = " ".join(for_visitors(CmaiError(message, hint)))
    assert said.strip() and not BAD.search(said) and "root" not in said and "\\" not in said, said


def test_what_a_visitor_can_do_stays():
    kept = ("steps is 500.", "It lies between 1 and 200.")
    assert for_visitors(CmaiError(*kept)) == kept
    assert for_visitors(CmaiError("There is no pair 'a/b'.", "Pairs are named like tabletop/test/17.")) == (
        "There is no pair 'a/b'.", "Pairs are named like tabletop/test/17."
    )  # fmt: skip
    assert "ViT-B-32/laion2b_s34b_b79k" in plain_reason("Try ViT-B-32/laion2b_s34b_b79k at 4/255.")
    assert "https://example.org/a" in plain_reason("See https://example.org/a for it.")
    assert for_visitors(CmaiError("It is full.", "Use `cmai evaluate`."))[1] == OWNER


def test_no_reason_of_the_choosers_names_a_command():
    for threat, objective, search in product(THREATS, OBJECTIVES, SEARCHES):
        reason = why_not(threat, objective, search, DEFAULT_TASK)
        assert not BAD.search(reason) and "cmai" not in reason, reason


def test_a_store_that_is_just_being_made_has_no_runs(tmp_path: Path):
    (tmp_path / DATABASE).touch()
    with pytest.raises(StoreError):
        Store.read(tmp_path)
    assert existing(tmp_path) is None and known_runs(tmp_path) == [] and live_cells(tmp_path, "a") == []
