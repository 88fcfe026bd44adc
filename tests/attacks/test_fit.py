"""What options alone decide is refused when an attack is made, with the accepted values; not when it runs."""

from __future__ import annotations

import pytest
import torch

from cmai_core.attacks import Attack, Consistency, GradientSearch, TaskObjective, ThreatModel
from cmai_core.attacks.objectives.classes import DLR, ClassLoss, Divergence, Margin, Misclassified
from cmai_core.attacks.recipes.registry import get_recipe
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.searches.carlini_wagner import CarliniWagner
from cmai_core.attacks.searches.deepfool import DeepFool
from cmai_core.attacks.searches.ensemble import Cascade, EachTarget, Member
from cmai_core.attacks.searches.fab import FAB
from cmai_core.attacks.searches.hopskipjump import HopSkipJump
from cmai_core.attacks.searches.jsma import JSMA, Saliency
from cmai_core.attacks.searches.square import Square
from cmai_core.attacks.searches.transfer import Transfer
from cmai_core.budget import NORMS
from cmai_core.errors import OptionError

BUDGET = {"linf": 4 / 255, "l2": 1.0, "l1": 3.0, "l0": 10, "patch": 0.05}


def make(kit, norm, search, objective=None, epsilon=None):
    threat = ThreatModel(norm, BUDGET[norm] if epsilon is None else epsilon)
    return Attack(threat=threat, objective=objective or Margin(kit.ScoredTask()), search=search)


@pytest.mark.parametrize("norm", tuple(NORMS))
@pytest.mark.parametrize("kind", (APGD, FAB, DeepFool, Square, HopSkipJump, CarliniWagner))
def test_a_search_goes_with_its_norms_alone(kit, kind, norm):
    norms = kind.norms() if callable(kind.norms) else kind.norms
    if norm in norms:
        assert make(kit, norm, kind()).threat.norm == norm
        return
    accepted = ", ".join(norms)
    for search in (kind(), Cascade(members=(Member(name="inner", search=kind()),))):
        with pytest.raises(OptionError, match=f"{kind.__name__}.*norm='{norm}'") as caught:
            make(kit, norm, search)
        assert accepted in caught.value.hint


def test_a_search_inside_another_is_looked_at(kit):
    task, model = kit.ScoredTask(), kit.linear_model()
    with pytest.raises(OptionError, match=r"APGD.*norm='l0'"):
        make(kit, "l0", EachTarget(search=APGD(), objective=DLR(task)))
    with pytest.raises(OptionError, match=r"APGD.*norm='l0'"):
        make(kit, "l0", Transfer(surrogate=model, search=APGD(), objective=DLR(task)))


def test_jsma_takes_saliency_alone(kit):
    task = kit.ScoredTask()
    assert make(kit, "l0", JSMA(), Saliency(task)).search == JSMA()
    member = Member(name="jsma", search=JSMA(), objective=Saliency(task))
    assert make(kit, "l0", Cascade(members=(member,)), Margin(task)).threat.norm == "l0"
    for objective in (Margin(task), 2 * Saliency(task)):
        with pytest.raises(OptionError, match="JSMA") as caught:
            make(kit, "l0", JSMA(), objective)
        assert "Saliency" in caught.value.hint
    with pytest.raises(OptionError, match=r"JSMA.*norm='linf'"):
        make(kit, "linf", JSMA(), Saliency(task))


def test_one_perturbation_for_all_has_one_epsilon_and_a_norm_that_fits(kit):
    search = GradientSearch(universal=True)
    assert make(kit, "linf", search, epsilon=[0.1, 0.1]).search.universal
    with pytest.raises(OptionError, match="epsilon"):
        make(kit, "linf", search, epsilon=[0.1, 0.2])
    with pytest.raises(OptionError, match="norm='l0'"):
        get_recipe("pgd").build(norm="l0", epsilon=10, universal=True)


def test_a_start_at_a_corner_is_for_linf(kit):
    for norm in ("l2", "l0", "patch"):
        with pytest.raises(OptionError, match="start='sign'") as caught:
            get_recipe("pgd").build(norm=norm, epsilon=BUDGET[norm], start="sign")
        assert "linf" in caught.value.hint
    get_recipe("pgd").build(norm="l2", epsilon=1.0, start="sign", random_start=False)


def test_a_mask_covers_at_most_epsilon():
    mask = torch.zeros(2, 10, 10, dtype=torch.bool)
    mask[1, :5] = True
    assert ThreatModel("patch", 0.5, mask=mask).mask is mask
    for epsilon in (0.4, [0.5, 0.4]):
        with pytest.raises(OptionError, match=r"0\.5"):
            ThreatModel("patch", epsilon, mask=mask)
    assert ThreatModel("patch", [0.1, 0.5], mask=mask)
    with pytest.raises(OptionError, match=r"2.*3"):
        ThreatModel("patch", [0.5, 0.5, 0.5], mask=mask)


@pytest.mark.parametrize("kind", (Margin, DLR, ClassLoss, Divergence, Misclassified, Saliency))
def test_a_task_without_class_scores_is_refused(kit, kind):
    with pytest.raises(OptionError, match=kit.LabelTask().name):
        kind(kit.LabelTask())


def test_weights_that_are_all_nothing(kit):
    objective = 0 * TaskObjective(kit.LabelTask()) - 0 * Consistency()
    with pytest.raises(OptionError, match="weight"):
        make(kit, "linf", GradientSearch(), objective)
    with pytest.raises(OptionError, match="weight"):
        get_recipe("mbat-pgd").build(alpha=0, beta=0)


@pytest.mark.parametrize("slug", ("hotflip", "relaxed-pgd"))
def test_a_gradient_in_the_text_is_asked_of_objectives_that_have_one(slug):
    with pytest.raises(OptionError) as caught:
        get_recipe(slug).build(task="vqa")
    assert "PairConsistency" in caught.value.hint
    get_recipe(slug).build()
    get_recipe("synonym").build(task="vqa")


@pytest.mark.parametrize("steps", (1, 3))
def test_alternating_needs_a_step_for_each_round(steps):
    with pytest.raises(OptionError, match=f"rounds=4.*{steps}") as caught:
        get_recipe("alternating").build(steps=steps)
    assert "Accepted" in caught.value.hint
    get_recipe("alternating").build(steps=steps, rounds=steps)
