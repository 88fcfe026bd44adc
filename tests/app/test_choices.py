"""Threat model × objective × search in the lab: what is offered runs, what is not has a reason."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest

from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.attacks.recipes.registry import RECIPES, get_recipe
from cmai_core.attacks.specs import PIXELS
from cmai_core.errors import OptionError
from cmai_core.lab import choices
from cmai_core.lab.choices import (
    PRESETS,
    SEARCHES,
    THREATS,
    budget_of,
    home_of,
    parts_of,
    preset_of,
    settled,
    threats_of,
    usual_epsilon,
    why_not,
    why_not_objective,
    why_not_search,
)
from cmai_core.lab.experiment import TASKS, Experiment

EVERY = list(product(THREATS, OBJECTIVES, SEARCHES))


def needed(slug: str) -> dict:
    """What a recipe cannot be built without."""
    return {"words": ("cube", "ball")} if slug == "typographic" else {}


@pytest.fixture(scope="module")
def setting(tiny_models):
    """A random model, and its batch of one pair with what the task prepared."""
    from cmai_core.data import load_dataset
    from cmai_core.data.pair import Batch
    from cmai_core.lab.pair_in_context import PairAmong
    from cmai_core.lab.run import clean_pixels
    from cmai_core.models import load_model
    from cmai_core.tasks import get_task

    model = load_model(f"local-dir:{tiny_models / 'tabletop'}")
    items = load_dataset("tabletop", split="test", limit=4)
    among = PairAmong(items[0], items)
    pixels = clean_pixels(model, [items[0].image])
    batch = Batch((items[0].id,), pixels, (items[0].captions[0],), (0,), (items[0],))
    task = get_task("retrieval")
    return model, among, batch, task, task.prepare(model, [items[0]], among)


@pytest.fixture
def masked_lm(tmp_path, monkeypatch):
    """A masked language model with random weights in the place of the bundled one."""
    import torch

    from cmai_core.attacks.text_searches import masked_lm as module

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module.save_masked_lm(module.TabletopMaskedLM(), tmp_path / "masked_lm")
    monkeypatch.setattr(choices, "assets_dir", lambda: tmp_path)
    monkeypatch.setattr(module, "folder", lambda: tmp_path / "masked_lm")
    module.load_masked_lm.cache_clear()
    yield
    module.load_masked_lm.cache_clear()


def test_the_lab_shows_every_recipe():
    assert set(SEARCHES) | set(PRESETS) == set(RECIPES)
    assert next(iter(SEARCHES)) == "pgd"  # what a choice settles on where several combine
    for slug, recipe in SEARCHES.items():
        assert home_of(recipe) in threats_of(recipe) and set(threats_of(recipe)) <= set(THREATS), slug


def test_tasks_with_class_scores():
    from cmai_core.attacks.objectives.classes import exposes_logits
    from cmai_core.tasks import get_task

    for name, info in TASKS.items():
        assert exposes_logits(get_task(name)) == info.has_classes


def test_the_default_is_what_it_was():
    e = Experiment()
    assert (e.norm, e.objective, e.recipe) == ("linf", "both", "pgd")
    assert preset_of(e.norm, e.objective, e.recipe) == "mbat-pgd"
    assert (e.steps, e.step_size, e.restarts, e.epsilon) == (20, 1.0, 1, 4.0)


def test_the_default_attack_is_pgd_as_ever(setting):
    """The recipe makes bit for bit what `pgd` makes with the same numbers."""
    import torch

    from cmai_core.attacks import Consistency, TaskObjective, Untargeted, pgd

    model, among, batch, task, prepared = setting
    e = Experiment(caption=batch.texts[0], steps=3)
    ours = e.spec().build(task, among, value_count=batch.pixels[0].numel())
    objective = TaskObjective(task, prepared) - Consistency([e.caption])
    success = Untargeted(task, prepared)
    theirs = pgd(objective, epsilon=4 / 255, success=success, steps=3, step_size=1 / 255, random_start=True)
    assert torch.equal(ours(model, batch, seed=0).pixels, theirs(model, batch, seed=0).pixels)


@pytest.mark.parametrize("slug", list(PRESETS))
def test_a_preset_fills_the_three_parts(slug, masked_lm):
    preset = PRESETS[slug]
    parts = parts_of(preset)
    assert why_not(*parts, "retrieval") == ""
    assert preset_of(*parts) == slug
    assert not preset.norms or preset.budget().on_ladder


def test_usual_budgets_are_offered():
    for threat in THREATS:
        epsilon = usual_epsilon(threat)
        assert (epsilon is None) == (threat == "text") == (budget_of(threat, 0.0) is None)
        assert epsilon is None or budget_of(threat, epsilon).on_ladder


@pytest.mark.parametrize("task", TASKS)
def test_a_choice_settles_on_what_combines(task, masked_lm):
    for threat, objective, search in EVERY:
        chosen = settled(threat, objective, search, task)
        assert why_not(threat, *chosen, task) == ""
        if not why_not(threat, objective, search, task):
            assert chosen == (objective, search)


def experiment(setting, threat, objective, search, **options) -> Experiment:
    steps = max(2, SEARCHES[search].least)
    return Experiment(
        caption=setting[2].texts[0], norm=threat, objective=objective, recipe=search, steps=steps, queries=10,
        step_size=1.0, epsilon=usual_epsilon(threat) or 0.0, **options,
    )  # fmt: skip


def attacked(setting, e: Experiment):
    from cmai_core.defenses.detector import ConsistencyDetector
    from cmai_core.defenses.system import System

    model, among, batch, task, _ = setting
    attack = e.spec(True).build(task if e.task_of_attack else None, among, value_count=batch.pixels[0].numel())
    if e.has_detector:
        model = System(model, detector=ConsistencyDetector(0.0))
    return attack(model, batch, seed=0)


@pytest.mark.parametrize("threat", THREATS)
def test_every_offered_combination_runs(setting, threat, masked_lm):
    ran = 0
    for objective, search in product(OBJECTIVES, SEARCHES):
        if why_not(threat, objective, search, "retrieval"):
            continue
        result = attacked(setting, experiment(setting, threat, objective, search).checked())
        clean, epsilon = setting[2].pixels, usual_epsilon(threat)
        if threat != "text":
            change = (result.pixels - clean).abs()
            size = {
                "l2": lambda c: float(c.square().mean().sqrt()) * 255,
                "l1": lambda c: float(c.mean()) * 255,
                "l0": lambda c: int((c.amax(dim=1) > 0).sum()),
                "patch": lambda c: float((c.amax(dim=1) > 0).float().mean()),
            }.get(threat, lambda c: float(c.max()) * 255)(change)
            assert size <= epsilon * 1.001, (objective, search)
        if threat in ("text", "joint"):
            assert result.words_changed[0] <= 1 and result.label_changed[0] is not True, search
        ran += 1
    assert ran >= (6 if threat in ("text", "joint") else 20)


def test_what_is_not_offered_has_a_reason_in_a_sentence(masked_lm):
    for (threat, objective, search), task, pair in product(EVERY, TASKS, ("tabletop/test/1", "photos/test/cat")):
        reason = why_not(threat, objective, search, task, pair)
        assert reason == "" or (len(reason) < 130 and reason[0].isupper() and reason.endswith("."))


@pytest.mark.parametrize("threat", PIXELS)
def test_a_threat_that_is_not_offered_is_refused_by_the_recipe(threat):
    for slug, search in SEARCHES.items():
        if search.modality == "image" and threat not in search.norms and not search.absent:
            assert "goes with" in why_not_search(threat, "task", slug, "vqa")
            with pytest.raises(OptionError):
                get_recipe(slug).build(norm=threat, task="vqa", **needed(slug))


def test_what_needs_class_scores_is_refused_without_them(setting):
    from cmai_core.attacks.recipes.registry import get_recipe
    from cmai_core.tasks import get_task

    model, _, batch, _, _ = setting
    task = get_task("captioning")
    for slug, objective in OBJECTIVES.items():
        if "classes" in objective.needs:
            assert "class scores" in why_not_objective("linf", slug, "captioning")
            with pytest.raises(OptionError, match=task.name):
                objective.build(task).bind(model, batch)
    for slug, search in SEARCHES.items():
        if "classes" in search.needs and not search.minimum_norm and not search.absent:
            assert "class scores" in why_not_search(search.norm, "task", slug, "captioning")
            with pytest.raises(OptionError, match=task.name):
                get_recipe(slug).build(task=task)


def test_flat_objectives_have_no_slope_at_the_clean_picture(setting):
    """The written rule behind the reason: up to rounding, their gradient is zero there."""
    import torch

    model, among, batch, task, _ = setting

    def slope(objective: str) -> float:
        goal = OBJECTIVES[objective].build(task, among)
        pixels = batch.pixels.clone().requires_grad_(True)
        value = goal.bind(model, batch)(model, pixels, model.image_features(pixels)).sum()
        return float(torch.autograd.grad(value, pixels)[0].abs().max())

    for slug, objective in OBJECTIVES.items():
        if "detector" not in objective.needs:
            assert objective.flat_at_clean == ("flat" in why_not("linf", slug, "fgsm", "retrieval"))
            assert objective.flat_at_clean == (slope(slug) < 1e-3 * slope("task")), slug


def test_without_the_masked_language_model_its_recipes_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "assets_dir", lambda: tmp_path)
    assert "masked language model" in why_not("text", "consistency", "bert-attack", "retrieval")
    assert why_not("text", "consistency", "synonym", "retrieval") == ""
    assert settled("text", "both", "pgd", "retrieval")[0] == "consistency"


def test_an_experiment_that_does_not_combine_is_refused_with_the_reason():
    with pytest.raises(OptionError) as caught:
        Experiment(caption="a", recipe="cw").checked()
    assert caught.value.hint == why_not("linf", "both", "cw", "retrieval") != ""


def test_too_few_steps_are_refused_before_anything_runs(masked_lm):
    wanted = Experiment(caption="a", norm="joint", objective="consistency", recipe="alternating", steps=3)
    with pytest.raises(OptionError, match=r"steps.*3") as caught:
        wanted.checked()
    assert "4" in caught.value.hint and "200" in caught.value.hint
    assert dataclasses.replace(wanted, steps=4).checked().steps == 4


def test_a_detector_needs_pairs_of_the_picture_s_kind():
    from cmai_core.data.registry import DATASETS, load_dataset

    assert len(load_dataset("photos")) == DATASETS["photos"].sizes["test"] < 1 / choices.FALSE_POSITIVE_RATE
    for objective in [slug for slug, known in OBJECTIVES.items() if "detector" in known.needs]:
        for pair in ("photos/test/cat", "upload/abc"):
            assert "photographs here are 17" in why_not("linf", objective, "pgd", "retrieval", pair)
        for pair in ("", "scene", "tabletop/test/17"):
            assert why_not("linf", objective, "pgd", "retrieval", pair) == ""
        with pytest.raises(OptionError) as caught:
            Experiment(pair="photos/test/cat", caption="a", objective=objective).checked()
        assert caught.value.hint == why_not("linf", objective, "pgd", "retrieval", "photos/test/cat") != ""
    assert settled("linf", "aware", "pgd", "retrieval", "photos/test/cat")[0] == "task"


@pytest.mark.parametrize("slug", ("adaptive", "detector-pgd", "accept-false", "reject-true"))
def test_a_recipe_against_a_detector_is_what_its_parts_make(slug, setting):
    """Bit for bit what the recipe itself makes, with the same numbers against the same threshold."""
    import torch

    from cmai_core.attacks.recipes.registry import get_recipe
    from cmai_core.defenses.detector import ConsistencyDetector
    from cmai_core.defenses.system import System

    model, among, batch, task, _ = setting
    preset = PRESETS[slug]
    ours = attacked(setting, experiment(setting, *parts_of(preset)))
    goal = {"task": task, "dataset": among} if preset.objective == "aware" else {}
    step = {"step_size": 1 / 255} if SEARCHES[preset.search].step_size else {}
    attack = get_recipe(slug).build(epsilon=4 / 255, steps=2, **step, **goal)
    theirs = attack(System(model, detector=ConsistencyDetector(0.0)), batch, seed=0)
    assert torch.equal(ours.pixels, theirs.pixels) and torch.equal(ours.success_8bit, theirs.success_8bit)
