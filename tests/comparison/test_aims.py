"""What counts as a first place, as surviving and as common ground, on results made by hand."""

from __future__ import annotations

from dataclasses import replace

from cmai_core.comparison.goals import NOT_COMPARED, aims
from cmai_core.comparison.protocol import PROTOCOL
from cmai_core.comparison.report import report
from cmai_core.comparison.results import Result
from cmai_core.comparison.tables import BEST, steps_table, transfer_table
from cmai_core.comparison.verdicts import Verdict

N = 1000


def result(name: str, part: str, *verdicts: Verdict) -> Result:
    return Result(name, "", PROTOCOL.hash, {part: [verdict.to_dict() for verdict in verdicts]})


def main(name: str, held: str, **parts: str) -> Result:
    found = result(name, "main", Verdict("retrieval", "linf", 2.0, "1" * len(held), held))
    for part, own in parts.items():
        found.parts[part] = [Verdict("retrieval", "linf", 2.0, "1" * len(own), own).to_dict()]
    return found


def met(results: list[Result], words: str) -> tuple[str, bool]:
    ((said, met),) = [
        (said, met) for aim, said, met in aims({r.name: r for r in results}, PROTOCOL) if aim.startswith(words)
    ]
    return said, met


def test_a_first_place_is_before_everybody_and_not_only_the_next():
    best = main(BEST, "1" * 600 + "0" * 400)
    close = main("tabletop-mbat", "1" * 570 + "0" * 430)  # right nowhere else: a narrow interval
    apart = main("tabletop-tecoa", "0" * 400 + "1" * 569 + "0" * 31)  # nearly as good, on other scenes: a wide one
    assert met([best, close], "robust at 2/255: highest")[1]
    said, first = met([best, close, apart], "robust at 2/255: highest")
    assert "tabletop-mbat" in said and not first


def test_what_a_part_does_is_told_where_both_were_measured():
    one, other = main("tabletop-mbat", "1110"), main("tabletop-mbat-beta0", "1100")
    assert steps_table({r.name: r for r in (one,)}, "main", "retrieval", (2.0,)) == ""
    row = steps_table({r.name: r for r in (one, other)}, "main", "retrieval", (2.0,)).splitlines()[-1]
    what = "−β·S_c in the inner problem, S_c being the cosine (no heads yet)"
    assert row.startswith(f"| {what} | `tabletop-mbat` − `tabletop-mbat-beta0` | +25.0 [")


def test_nobody_wins_against_its_own_replay():
    best, replay = main(BEST, "1" * 500 + "0" * 500), main(NOT_COMPARED[0], "1" * N)
    other = main("tabletop-mbat", "0" * N)
    assert met([best, replay, other], "robust at 2/255: highest")[1]
    page = report({r.name: r for r in (best, replay, other)})
    assert f"among the 2 models compared (`{NOT_COMPARED[0]}`: measured" in page


def test_a_scene_won_back_does_not_make_up_for_one_that_is_lost():
    said, survived = met([main(BEST, "110" + "0" * 57, stronger="101" + "0" * 57)], "robust at 2/255 survives stronger")
    assert not survived and said == "1 of 2 scenes that stood are lost"


def test_the_model_s_own_adaptive_attacks_count_against_it():
    best = main(BEST, "1110")
    best.parts["aimed"] = {name: {"held": held} for name, held in (("given", "1011"), ("retrieved", "1111"))}
    known = aims({BEST: replace(best, parts=best.parts)}, PROTOCOL)
    ((said, survived),) = [(said, met) for aim, said, met in known if "own adaptive" in aim]
    assert not survived and said == "1 of 3 scenes that stood are lost"


def test_the_common_ground_of_transfer_is_the_same_in_aim_and_table():
    source = PROTOCOL.part("transfer").sources[0]

    def shown(name: str, clean: str, held: str) -> Result:
        return result(name, "transfer", Verdict("retrieval", "linf", 2.0, clean, held, source))

    models = [
        shown(BEST, "1111", "1110"),
        shown("tabletop-mbat", "1111", "1100"),
        shown(NOT_COMPARED[0], "1110", "1110"),
    ]
    aim = next(a for a, _, _ in aims({r.name: r for r in models}, PROTOCOL) if a.startswith("transfer"))
    assert "success rate of 3" in aim and "(of 3)" in transfer_table({r.name: r for r in models}, PROTOCOL)
