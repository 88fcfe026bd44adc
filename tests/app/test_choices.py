"""Threat model × objective × search in the lab: what is offered runs, what is not has a reason."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest

from cmai_core.errors import OptionError
from cmai_core.lab import choices
from cmai_core.lab.build import attack_for, image_objective, success_of, words_attack_for
from cmai_core.lab.choices import (
    BUDGETS,
    OBJECTIVES,
    PIXELS,
    PRESETS,
    SEARCHES,
    TASKLESS,
    THREATS,
    USUAL_BUDGET,
    preset_of,
    settled,
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
    from cmai_core.attacks.recipes.registry import RECIPES

    assert set(SEARCHES) | set(PRESETS) == set(RECIPES)
    assert set(SEARCHES) <= set(RECIPES)


@pytest.mark.parametrize("slug", [s for s in SEARCHES if not SEARCHES[s].absent])
def test_facts_of_a_search_are_those_of_its_recipe(slug):
    from cmai_core.attacks.recipes.registry import get_recipe

    search, recipe = SEARCHES[slug], get_recipe(slug)
    counts = {name: name in recipe.options and recipe.constants.get(name) != 1 for name in ("steps", "queries")}
    if slug == "autoattack":
        counts["queries"] = False  # those of one of its members
    assert (bool(search.steps), bool(search.queries)) == (counts["steps"], counts["queries"])
    assert search.threats == ({"image": search.threats}.get(recipe.modality) or (recipe.modality,))
    if recipe.modality != "image":
        return

    def built(**options):
        return recipe.build(task="vqa", **needed(slug), **options)

    def accepted(**options) -> bool:
        try:
            built(**options)
        except OptionError:
            return False
        return True

    assert search.threats == tuple(norm for norm in PIXELS if accepted(norm=norm))
    assert search.threat == recipe.norm
    assert search.restarts == accepted(restarts=2)
    assert search.from_clean == (getattr(built().search, "random_start", None) is False)
    assert search.own or "objective" in recipe.options
    assert search.detector == ("detectors" in recipe.options)
    if search.scores or search.boundary:
        assert built().objective.describe() == "margin:vqa"
    if search.classes or search.boundary:
        with pytest.raises(OptionError):
            recipe.build(task="captioning")


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

    from cmai_core.attacks import Untargeted, pgd

    model, among, batch, task, prepared = setting
    e = Experiment(caption=batch.texts[0], steps=3)
    objective, success = image_objective(e, task, prepared), Untargeted(task, prepared)
    ours = attack_for(e, objective, success, batch.pixels[0].numel(), task=task, dataset=among)
    theirs = pgd(objective, epsilon=4 / 255, success=success, steps=3, step_size=1 / 255, random_start=True)
    assert torch.equal(ours(model, batch, seed=0).pixels, theirs(model, batch, seed=0).pixels)


@pytest.mark.parametrize("slug", list(PRESETS))
def test_a_preset_fills_the_three_parts(slug, masked_lm):
    preset = PRESETS[slug]
    assert why_not(*preset.parts, "retrieval") == ""
    assert preset_of(*preset.parts) == slug
    assert preset.threat == "text" or preset.epsilon in BUDGETS[preset.threat]


def test_usual_budgets_are_offered():
    assert set(BUDGETS) == set(THREATS) - {"text"} == set(USUAL_BUDGET)
    assert all(USUAL_BUDGET[threat] in BUDGETS[threat] for threat in BUDGETS)


@pytest.mark.parametrize("task", TASKS)
def test_a_choice_settles_on_what_combines(task, masked_lm):
    for threat, objective, search in EVERY:
        chosen = settled(threat, objective, search, task)
        assert why_not(threat, *chosen, task) == ""
        if not why_not(threat, objective, search, task):
            assert chosen == (objective, search)


def experiment(setting, threat, objective, search, **options) -> Experiment:
    steps = max(2, SEARCHES[search].least_steps)
    return Experiment(
        caption=setting[2].texts[0], norm=threat, objective=objective, recipe=search, steps=steps, queries=10,
        step_size=1.0, epsilon=USUAL_BUDGET.get(threat, 0.0), **options,
    )  # fmt: skip


def attacked(setting, e: Experiment):
    from cmai_core.defenses.detector import ConsistencyDetector
    from cmai_core.defenses.system import System

    model, among, batch, task, prepared = setting
    if e.edits_words:
        return words_attack_for(e, True)(model, batch, seed=0)
    plain = e.objective in TASKLESS
    task, prepared = (None, None) if plain else (task, prepared)
    goal, success = image_objective(e, task, prepared), success_of(e, task, prepared)
    if e.has_detector:
        model = System(model, detector=ConsistencyDetector(0.0))
    attack = attack_for(e, goal, success, batch.pixels[0].numel(), task=task, dataset=among)
    return attack(model, batch, seed=0)


@pytest.mark.parametrize("threat", THREATS)
def test_every_offered_combination_runs(setting, threat, masked_lm):
    ran = 0
    for objective, search in product(OBJECTIVES, SEARCHES):
        if why_not(threat, objective, search, "retrieval"):
            continue
        result = attacked(setting, experiment(setting, threat, objective, search).checked())
        clean, budget = setting[2].pixels, USUAL_BUDGET.get(threat, 0.0)
        if threat != "text":
            change = (result.pixels - clean).abs()
            size = {
                "l2": lambda c: float(c.square().mean().sqrt()) * 255,
                "l0": lambda c: int((c.amax(dim=1) > 0).sum()),
                "patch": lambda c: float((c.amax(dim=1) > 0).float().mean()) * 100,
            }.get(threat, lambda c: float(c.max()) * 255)(change)
            assert size <= budget * 1.001, (objective, search)
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
    from cmai_core.attacks.recipes.registry import get_recipe

    for slug, search in SEARCHES.items():
        if set(search.threats) <= set(PIXELS) and threat not in search.threats and not search.absent:
            assert "goes with" in why_not_search(threat, "task", slug, "vqa")
            with pytest.raises(OptionError):
                get_recipe(slug).build(norm=threat, task="vqa", **needed(slug))


def test_what_needs_class_scores_is_refused_without_them(setting):
    from cmai_core.attacks.recipes.registry import get_recipe
    from cmai_core.tasks import get_task

    model, _, batch, _, _ = setting
    task = get_task("captioning")
    for objective in choices.CLASS_OBJECTIVES:
        assert "class scores" in why_not_objective("linf", objective, "captioning")
        with pytest.raises(OptionError, match="class scores"):
            image_objective(Experiment(objective=objective), task, None).bind(model, batch)
    for slug, search in SEARCHES.items():
        if search.classes:
            assert "class scores" in why_not_search(search.threat, "task", slug, "captioning")
            with pytest.raises(OptionError, match="class scores"):
                get_recipe(slug).build(task=task)


def test_flat_objectives_have_no_slope_at_the_clean_picture(setting):
    """The written rule behind the reason: up to rounding, their gradient is zero there."""
    import torch

    model, _, batch, task, prepared = setting

    def slope(objective: str) -> float:
        goal = image_objective(Experiment(caption=batch.texts[0], objective=objective), task, prepared)
        pixels = batch.pixels.clone().requires_grad_(True)
        value = goal.bind(model, batch)(model, pixels, model.image_features(pixels)).sum()
        return float(torch.autograd.grad(value, pixels)[0].abs().max())

    for objective in choices.FLAT_AT_CLEAN:
        assert "flat" in why_not("linf", objective, "fgsm", "retrieval")
        assert slope(objective) < 1e-3 * slope("task")


def test_without_the_masked_language_model_its_recipes_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "assets_dir", lambda: tmp_path)
    assert "masked language model" in why_not("text", "consistency", "bert-attack", "retrieval")
    assert why_not("text", "consistency", "synonym", "retrieval") == ""
    assert settled("text", "both", "pgd", "retrieval")[0] == "consistency"


def test_an_experiment_that_does_not_combine_is_refused_with_the_reason():
    with pytest.raises(OptionError, match="do not combine") as caught:
        Experiment(caption="a", recipe="cw").checked()
    assert "C&W goes with L2" in caught.value.hint


def test_the_fewest_steps_are_those_of_the_recipe():
    from cmai_core.attacks.recipes.registry import get_recipe

    for slug, search in SEARCHES.items():
        if not search.absent and search.steps:
            least = {"task": "vqa", **needed(slug)} if set(search.threats) <= set(PIXELS) else {}
            get_recipe(slug).build(steps=search.least_steps, **least)
            if search.least_steps > 1:
                with pytest.raises(OptionError):
                    get_recipe(slug).build(steps=search.least_steps - 1, **least)


def test_too_few_steps_are_refused_before_anything_runs(masked_lm):
    wanted = Experiment(caption="a", norm="joint", objective="consistency", recipe="alternating", steps=3)
    with pytest.raises(OptionError, match="steps is 3") as caught:
        wanted.checked()
    assert "between 4 and 200" in caught.value.hint
    assert dataclasses.replace(wanted, steps=4).checked().steps == 4


def test_a_detector_needs_pairs_of_the_picture_s_kind():
    from cmai_core.data.registry import DATASETS, load_dataset

    assert len(load_dataset("photos")) == DATASETS["photos"].sizes["test"] < 1 / choices.FALSE_POSITIVE_RATE
    for objective in choices.DETECTOR_OBJECTIVES:
        for pair in ("photos/test/cat", "upload/abc"):
            assert "photographs here are 17" in why_not("linf", objective, "pgd", "retrieval", pair)
        for pair in ("", "scene", "tabletop/test/17"):
            assert why_not("linf", objective, "pgd", "retrieval", pair) == ""
        with pytest.raises(OptionError, match="do not combine"):
            Experiment(pair="photos/test/cat", caption="a", objective=objective).checked()
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
    ours = attacked(setting, experiment(setting, *preset.parts))
    goal = {"task": task, "dataset": among} if preset.objective == "aware" else {}
    step = {} if SEARCHES[preset.search].detector else {"step_size": 1 / 255}
    attack = get_recipe(slug).build(epsilon=4 / 255, steps=2, **step, **goal)
    theirs = attack(System(model, detector=ConsistencyDetector(0.0)), batch, seed=0)
    assert torch.equal(ours.pixels, theirs.pixels) and torch.equal(ours.success_8bit, theirs.success_8bit)
