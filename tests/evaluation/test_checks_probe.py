"""Probing self-checks: an honest attack on an honest model passes; planted flaws are caught."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.engine.transforms import Noise
from cmai_core.attacks.objectives.classes import Margin
from cmai_core.attacks.objectives.objective import TaskObjective
from cmai_core.attacks.objectives.success import Untargeted
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.defenses.pathways import Smoothing
from cmai_core.defenses.preprocessing import Quantise
from cmai_core.defenses.system import System
from cmai_core.errors import OptionError
from cmai_core.evaluation.checks import comparison, effort, gradients, inference, probe, sameness, strength, verdict
from cmai_core.evaluation.checks.check import Check, worst
from cmai_core.progress import CancelToken

_SPEC = importlib.util.spec_from_file_location("cmai_test_planted", Path(__file__).with_name("planted.py"))
planted = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = planted
_SPEC.loader.exec_module(planted)

TASK = planted.Task()
EPSILON = 4 / 255


@pytest.fixture(scope="module")
def model():
    return planted.kit.conv_model()


@pytest.fixture(scope="module")
def data(model):
    return planted.pictures(model)


def pgd(dataset, objective=None, epsilon=EPSILON, search=None):
    return Attack(
        threat=ThreatModel("linf", epsilon),
        objective=objective or Margin(TASK, dataset=dataset),
        search=search or GradientSearch(steps=8),
        success=Untargeted(TASK, dataset=dataset),
        name="pgd",
    )


def run(model, dataset, *only, attack=None, **options):
    """Checks by name (all, or only some)."""
    options = {"samples": 24, "queries": 60, "only": only or None} | options
    found = probe(model, TASK, dataset, attack=attack or pgd(dataset), **options)
    return {check.name: check for check in found}


def statuses(found):
    return {name: check.status for name, check in found.items()}


def bad(found):
    return {name: check for name, check in found.items() if check.status in ("warn", "fail")}


def test_an_honest_attack_on_an_honest_model_passes_every_check(model, data):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = run(model, data, surrogates={"another": planted.kit.conv_model(seed=1)})
    assert set(statuses(found).values()) == {"pass"}, bad(found)
    assert 5 < found[strength.GROWS].numbers["fooled"][1] < 20  # neither all nor none: the comparisons say something
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_an_honest_function_of_somebody_else_passes(model, data):
    found = run(model, data, attack=planted.honest, epsilon=EPSILON)
    assert not bad(found), bad(found)
    assert found[strength.GROWS].status == "pass"  # its budget is set through its argument


@pytest.mark.parametrize("recipe", ["apgd:steps=10", "deepfool:norm=linf,steps=10", "square:queries=60"])
def test_recipes_go_through_without_a_false_failure(model, data, recipe):
    found = run(model, data, attack=recipe, epsilon=EPSILON)
    assert not [check for check in found.values() if check.status == "fail"]


@pytest.mark.parametrize("kind", [planted.Rounding, planted.Saturated])
def test_masked_gradients_are_caught(model, data, kind):
    only = (gradients.PRESENT, strength.LARGE, comparison.SCORES, comparison.NOISE)
    attack = pgd(data, TaskObjective(TASK, dataset=data), epsilon=16 / 255)
    found = run(kind(model), data, *only, attack=attack)
    assert found[gradients.PRESENT].status == "fail" and found[gradients.PRESENT].numbers["zero"] > 12
    assert found[strength.LARGE].status == "fail"  # more budget does not help who sees no slope
    assert found[comparison.SCORES].status == "fail"  # who asks for scores does better
    assert found[comparison.NOISE].status in ("warn", "fail")


def test_a_model_that_lets_no_gradient_through_is_caught(model, data):
    found = run(planted.Detached(model), data, gradients.PRESENT, strength.LARGE)
    assert found[gradients.PRESENT].status == "fail"
    assert found[strength.LARGE].status == "skipped" and "cannot be run" in found[strength.LARGE].evidence


def test_a_system_that_rounds_is_caught_without_bpda_and_flagged_with_it(model, data):
    system = System(planted.Wrapped(model), preprocessing=(Quantise(levels=32),), bpda=False)
    assert run(system, data, gradients.PRESENT)[gradients.PRESENT].status == "fail"
    straight_through = System(planted.Wrapped(model), preprocessing=(Quantise(levels=16),))
    found = run(straight_through, data, gradients.PRESENT)
    assert statuses(found) == {gradients.PRESENT: "pass", gradients.SLOPE: "warn"}
    assert "stand-in" in found[gradients.SLOPE].evidence


def test_a_gradient_that_leads_astray_is_caught(model, data):
    found = run(planted.Misleading(model), data, gradients.PRESENT, comparison.SCORES)
    assert found[gradients.SLOPE].status == "fail"
    assert found[comparison.SCORES].status == "fail"


def test_gradients_that_are_not_numbers_are_caught(model, data):
    found = run(planted.NotANumber(model), data, gradients.PRESENT)
    assert found[gradients.PRESENT].status == "fail" and found[gradients.PRESENT].numbers["not_finite"] > 0


def test_quantised_gradients_are_caught(model, data):
    found = run(planted.Coarse(model), data, gradients.PRESENT)
    assert found[gradients.PRESENT].status == "fail"
    assert found[gradients.PRESENT].numbers["distinct"] == 1


def test_a_random_model_is_caught_unless_the_attack_averages(model, data):
    random = planted.Random(model, sigma=0.02)
    assert run(random, data, inference.RANDOM)[inference.RANDOM].status == "fail"
    averaging = pgd(data, search=GradientSearch(steps=5, eot=8))
    averaged = run(random, data, inference.RANDOM, attack=averaging)[inference.RANDOM]
    assert averaged.status == "pass" and averaged.numbers["gradients_averaged"] == 8
    loud = run(planted.Random(model, sigma=20.0), data, inference.RANDOM, attack=averaging)[inference.RANDOM]
    assert loud.status == "warn"  # it averages, and too little
    outside = run(random, data, inference.RANDOM, attack=planted.honest, epsilon=EPSILON)[inference.RANDOM]
    assert outside.status == "warn"  # nobody can see whether it does


def test_a_randomised_system_is_caught(model, data):
    noise = Smoothing(transform=Noise(sigma=0.05), copies=1)
    found = run(System(planted.Wrapped(model), smoothing=noise), data, inference.RANDOM, gradients.PRESENT)
    assert found[inference.RANDOM].status == "fail"
    assert found[gradients.SLOPE].status == "skipped"


def test_another_clean_accuracy_under_the_harness_is_caught(model, data):
    assert run(planted.BatchDependent(model), data, inference.CLEAN)[inference.CLEAN].status == "fail"
    dropping = planted.kit.conv_model()
    dropping.train()  # as somebody hands it over: plain inference drops units, the harness does not
    assert run(dropping, data, inference.CLEAN)[inference.CLEAN].status == "fail"
    assert dropping.training


def test_a_model_that_optimises_at_inference_is_flagged(model, data):
    assert run(planted.Adapting(model), data, inference.OPTIMISES)[inference.OPTIMISES].status == "fail"
    followed = run(planted.Adapting(model, followed=True), data, inference.OPTIMISES)[inference.OPTIMISES]
    assert followed.status == "warn" and followed.numbers["cut"] == 0
    by_scores = run(planted.Adapting(model), data, inference.OPTIMISES, attack="square:queries=9", epsilon=EPSILON)
    assert by_scores[inference.OPTIMISES].status == "warn"  # who asks for scores sees all of it


def test_a_counter_perturbation_in_a_worker_thread_is_caught(model, data):
    """It makes twice as many samples stand, and takes its gradients where the check's own thread does not look."""
    defended = planted.Countering(model)
    found = run(defended, data, inference.OPTIMISES, comparison.TARGETED, verdict.TOGETHER)
    assert found[inference.OPTIMISES].status == "fail"
    numbers = found[inference.OPTIMISES].numbers
    assert numbers["other_threads"] == 1 and numbers["gradient_calls"] == defended.steps * numbers["passes"]
    plain = run(model, data, comparison.TARGETED)[comparison.TARGETED]
    assert found[comparison.TARGETED].numbers["samples"] == 24 and plain.status == "pass"
    assert worst([check.status for check in found.values()]) == "fail"


def test_purification_whose_inner_gradient_is_cut_is_caught_from_the_model_inside(model, data):
    """No answer changes, so what is made on the bare model fools it; through the purification hardly anything does."""
    only = (comparison.TRANSFER, inference.OPTIMISES, gradients.PRESENT)
    found = run(planted.Purifying(model), data, *only)
    assert found[comparison.TRANSFER].status == "fail"
    assert found[comparison.TRANSFER].numbers["other"] > 2 * found[comparison.TRANSFER].numbers["fooled"]
    assert found[inference.OPTIMISES].status == "pass"  # its steps are written out: nobody asks for a gradient
    assert found[gradients.SLOPE].status != "pass"
    assert run(planted.Wrapped(model), data, *only)[comparison.TRANSFER].status == "pass"


@pytest.mark.parametrize("attack", [None, planted.unaware])
def test_a_picture_that_the_model_moves_itself_is_caught_whoever_attacks(model, data, attack):
    """It looks twice as robust, to who attacks the bare model and to who takes the movement for a constant."""
    defended, options = planted.Returning(model), {} if attack is None else {"epsilon": EPSILON}
    found = run(defended, data, inference.OPTIMISES, strength.GROWS, attack=attack, **options)
    assert found[inference.OPTIMISES].status == "fail" and found[inference.OPTIMISES].numbers["cut"] == 8
    plain = run(model, data, strength.GROWS)[strength.GROWS].numbers
    fooled = found[strength.GROWS].numbers
    assert fooled["fooled"][1] / fooled["samples"] < 0.8 * plain["fooled"][1] / plain["samples"]


def test_random_resizing_is_caught_also_where_the_picture_itself_decides_how(model, data):
    only = (inference.RANDOM, gradients.PRESENT, strength.RISES)
    assert run(planted.Resizing(model), data, *only)[inference.RANDOM].status == "fail"
    found = run(planted.Resizing(model, fixed=True), data, *only)
    assert found[inference.RANDOM].status == "pass"  # the same picture is answered alike
    assert found[gradients.SLOPE].status == "fail" and found[strength.RISES].status == "fail"


def test_a_system_around_a_model_is_compared_with_the_model_inside(model, data):
    bits = System(planted.Wrapped(model), preprocessing=(Quantise(levels=64),))
    assert run(bits, data, comparison.TRANSFER)[comparison.TRANSFER].status == "pass"
    assert run(model, data, comparison.TRANSFER)[comparison.TRANSFER].status == "skipped"


def test_gradients_taken_by_another_name_are_counted(model):
    from torch.autograd import grad

    x = torch.ones(3, requires_grad=True)
    with inference.counting_gradients() as calls:
        grad((x**2).sum(), x)
        (x**2).sum().backward()
        torch.func.grad(lambda y: (y**2).sum())(torch.ones(3))
    assert len(calls) == 3
    grad((x**2).sum(), x)
    assert len(calls) == 3  # nothing is left behind


def test_a_gate_before_what_is_not_of_8_bits_is_caught_by_a_check_of_its_own(model, data):
    gated = planted.Gated(model)
    found = run(gated, data, sameness.LATTICE)
    assert found[sameness.LATTICE].status == "fail"
    assert found[sameness.LATTICE].numbers["onto"] > 10 * found[sameness.LATTICE].numbers["beside"]
    several = run(gated, data)
    assert several[verdict.TOGETHER].status == "fail" and several[verdict.ENOUGH].numbers["recommended"] > 24
    bits = System(planted.Wrapped(model), preprocessing=(Quantise(levels=16),))
    assert run(bits, data, sameness.LATTICE)[sameness.LATTICE].status == "pass"  # rounds everything alike


def test_a_model_that_looks_whether_gradients_are_taken_is_caught(model, data):
    assert run(planted.Watching(model), data, sameness.WATCHED)[sameness.WATCHED].status == "fail"
    assert run(model, data, sameness.WATCHED)[sameness.WATCHED].status == "pass"


def test_a_model_of_honest_adversarial_training_passes_what_catches_those_that_hide():
    from cmai_core.data import load_dataset
    from cmai_core.models import load_model

    only = (inference.OPTIMISES, gradients.PRESENT, sameness.WATCHED, sameness.LATTICE, verdict.TOGETHER)
    data = load_dataset("tabletop", split="validation", limit=6)
    found = probe(load_model("tabletop-tecoa"), "retrieval", data, epsilon=2 / 255, samples=6, only=only)
    assert {check.status for check in found} == {"pass"}, found


def test_an_attack_that_only_pushes_away_is_shown_what_aiming_finds(model, data):
    weak = pgd(data, search=GradientSearch(steps=1, step_size=EPSILON / 20, random_start=False))
    found = run(model, data, comparison.TARGETED, attack=weak)[comparison.TARGETED]
    assert found.status == "fail" and found.numbers["only_tested"] == 0


def test_several_warnings_of_strength_are_a_failure_and_one_is_not():
    def checks(*warned):
        return [Check(name, "warn" if name in warned else "pass", "") for name in verdict.STRENGTH]

    assert verdict.together(checks()).status == "pass"
    assert verdict.together(checks(*verdict.STRENGTH[: verdict.SEVERAL - 1])).status == "pass"
    failed = verdict.together(checks(*verdict.STRENGTH[: verdict.SEVERAL]))
    assert failed.status == "fail" and failed.numbers["warnings"] == verdict.SEVERAL
    others = [Check(inference.CLEAN, "warn", ""), *(Check(name, "pass", "") for name in verdict.STRENGTH)]
    assert verdict.together([*others, Check("another", "warn", ""), Check("a third", "warn", "")]).status == "pass"
    assert verdict.together([Check(strength.GROWS, "skipped", "")]).status == "skipped"


def test_few_samples_are_said_to_be_few(model, data):
    few = run(model, data, verdict.ENOUGH, samples=6)[verdict.ENOUGH]
    assert few.status == "warn" and few.numbers["not_fooled"] < verdict.LEAST
    assert few.numbers["recommended"] > 6
    lead = {"only_other": 3, "only_tested": 0, "samples": 24, "p": 0.125}
    assert verdict._times(lead) == 2 and verdict._times(lead | {"only_other": 1}) == 5


@pytest.mark.parametrize(
    ("function", "caught_by"),
    [
        (planted.timid, (effort.BUDGET, comparison.STANDARD)),
        (planted.half, (effort.BUDGET, comparison.STANDARD)),
        (planted.noisy, (comparison.STANDARD,)),
    ],
)
def test_lazy_functions_are_caught(model, data, function, caught_by):
    found = run(model, data, *caught_by, attack=function, epsilon=2 * EPSILON)
    assert statuses(found) == dict.fromkeys(caught_by, "fail")


def test_an_attack_with_a_tenth_of_its_budget_is_caught(model, data):
    search = GradientSearch(steps=1, step_size=EPSILON / 10, random_start=False)
    found = run(model, data, effort.BUDGET, comparison.STANDARD, attack=pgd(data, search=search))
    assert statuses(found) == {effort.BUDGET: "fail", comparison.STANDARD: "fail"}


def test_an_attack_that_takes_fewer_steps_than_it_says_is_caught(model, data):
    found = run(model, data, effort.STEPS, attack=pgd(data, search=planted.Liar(steps=20)))
    assert found[effort.STEPS].status == "fail" and found[effort.STEPS].numbers["least"] == 3


def test_an_attack_that_climbs_the_wrong_loss_is_caught(model, data):
    only = (comparison.STANDARD, strength.LARGE)
    for objective in (planted.WrongLoss(), -1.0 * Margin(TASK, dataset=data)):
        found = run(model, data, *only, attack=pgd(data, objective, epsilon=2 * EPSILON))
        assert statuses(found) == dict.fromkeys(only, "fail")


def test_an_attack_that_goes_down_is_caught(model, data):
    found = run(model, data, effort.RAISES, strength.RISES, attack=pgd(data, search=planted.Downhill(steps=8)))
    assert statuses(found) == {effort.RAISES: "fail", strength.RISES: "fail"}


def test_an_attack_that_gets_weaker_with_its_budget_and_steps_is_caught(model, data):
    shy = planted.Shy(steps=8)
    found = run(model, data, strength.GROWS, strength.SINGLE, attack=pgd(data, search=shy, epsilon=2 * EPSILON))
    assert statuses(found) == {strength.GROWS: "fail", strength.SINGLE: "fail"}


def test_an_attack_that_has_not_converged_is_caught(model, data):
    short = GradientSearch(steps=4, step_size=EPSILON / 8, random_start=False)
    found = run(model, data, strength.CONVERGED, attack=pgd(data, search=short, epsilon=4 * EPSILON))
    assert found[strength.CONVERGED].status in ("warn", "fail")


def test_a_transferred_picture_that_does_better_is_caught(model, data):
    attack = pgd(data, TaskObjective(TASK, dataset=data), epsilon=16 / 255)
    surrogates = {"the model itself": model}
    found = run(planted.Saturated(model), data, comparison.TRANSFER, attack=attack, surrogates=surrogates)
    assert found[comparison.TRANSFER].status == "fail"


def test_rounding_that_undoes_the_attack_is_caught(model):
    many = planted.pictures(model, 60)
    found = run(model, many, strength.ROUNDED, attack=pgd(many, epsilon=0.49 / 255), samples=60)
    assert found[strength.ROUNDED].numbers["float"] > 1 and found[strength.ROUNDED].status == "fail"


def test_a_single_start_that_finds_little_is_flagged(model, data):
    # A random corner, kept wherever it is: what it finds is luck, and three seeds find much more together.
    search = GradientSearch(steps=1, step_size=1e-9, start="sign", keep="last")
    found = run(model, data, strength.RESTARTS, attack=pgd(data, search=search, epsilon=32 / 255))
    assert found[strength.RESTARTS].status == "warn"


def test_noise_as_good_as_the_attack_is_caught(model, data):
    lazy = GradientSearch(steps=1, step_size=1e-9, random_start=False)
    found = run(model, data, comparison.NOISE, attack=pgd(data, search=lazy, epsilon=4 * EPSILON))
    assert found[comparison.NOISE].status == "fail"


def test_nothing_right_when_clean_skips_what_needs_an_attack(model):
    some = planted.pictures(model, 4)
    wrong = planted.Pictures(dataclasses.replace(p, label=str((int(p.label) + 1) % 5)) for p in some)
    found = run(model, wrong)
    assert found[inference.CLEAN].status == "pass" and found[comparison.NOISE].status == "skipped"


def test_a_view_without_gradients_skips_their_checks(model, data):
    view = System(planted.Wrapped(model)).view("scores")
    only = (gradients.PRESENT, comparison.STANDARD, effort.STEPS)
    found = run(view, data, *only, attack="square:queries=40", epsilon=EPSILON)
    assert found[gradients.PRESENT].status == found[comparison.STANDARD].status == "skipped"
    assert found[effort.STEPS].status == "pass"


def test_a_cancelled_probe_says_so(model, data):
    token, seen = CancelToken(), []

    def progress(message):
        seen.append(message)
        if message.done == 3:
            token.cancel()

    found = probe(model, TASK, data, attack=pgd(data), progress=progress, cancel=token)
    assert [check.status for check in found].count("skipped") > 5
    assert found[0].status == "pass" and seen[-1].done == seen[-1].total


@pytest.mark.parametrize("options", [{"attack": 3}, {"attack": "hotflip"}, {"samples": 0}, {"only": ["no such"]}])
def test_what_is_not_accepted_is_refused(model, data, options):
    with pytest.raises(OptionError):
        probe(model, TASK, data, **options)
