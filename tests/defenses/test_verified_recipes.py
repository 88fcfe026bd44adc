"""Attacks that know verified answering: what each stage's margin says, and recipes by name."""

from __future__ import annotations

import pytest
import torch
from small_models import small_coca, small_verifier

from cmai_core.attacks.recipes.registry import RECIPES, get_recipe
from cmai_core.data import load_dataset
from cmai_core.data.pair import Batch
from cmai_core.defenses.system import System
from cmai_core.defenses.verified import VerifiedAnswers
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.attack_run import run_experiment
from cmai_core.evaluation.runs.experiment import AttackExperiment
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.plan import plan
from cmai_core.evaluation.runs.setting import Setting
from cmai_core.evaluation.store.address import plain
from cmai_core.tasks import get_task
from cmai_core.tasks.retrieval import Retrieval
from cmai_core.tasks.stages import answered, first_stage, known_rule, outside, second_stage
from cmai_core.tasks.text_to_image import TextToImage

COUNT = 5
SLUGS = [slug for slug, recipe in RECIPES.items() if "heads" in recipe.needs]
RULE = VerifiedAnswers(shortlist=3, temperature=0.8, gamma=4.0, kappa=0.5)
TASKS = {"retrieval": Retrieval(12), "zero-shot": get_task("zero-shot"), "text-to-image": TextToImage(12)}


@pytest.fixture(scope="module")
def model():
    return small_verifier()


@pytest.fixture(scope="module")
def data():
    return load_dataset("tabletop", limit=12)


@pytest.fixture(scope="module")
def batch(model, data):
    pairs = tuple(data[k] for k in range(COUNT))
    captions = tuple(pair.captions[0] for pair in pairs)
    pixels = model.preprocess([p.image for p in pairs])
    return Batch(tuple(p.id for p in pairs), pixels, captions, tuple(range(COUNT)), pairs)


def margin(logits, target):
    return logits.masked_fill(target, -torch.inf).amax(dim=1) - logits.masked_fill(~target, -torch.inf).amax(dim=1)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("shortlist", [1, 3, 100, None])
def test_the_margin_outside_says_whether_nothing_true_is_shortlisted(model, data, batch, name, shortlist):
    task, rule = TASKS[name], VerifiedAnswers(shortlist=shortlist)
    with torch.no_grad():
        prepared = task.prepare(model, batch.pairs, data)
        features = model.image_features(batch.pixels)
        logits = outside(task, rule).logits(model, features, prepared)
        scores = task.scores(model, features, prepared)
    chosen = rule.chosen(scores)
    shut_out = ~prepared.target.gather(1, chosen).any(dim=1)
    enough = (~prepared.target).sum(dim=1) >= (shortlist or scores.shape[1])
    assert torch.equal((margin(logits, prepared.target) > 0)[enough], shut_out[enough]) and not shut_out[~enough].any()
    for row in range(COUNT):  # the k-th false option, or the last there is
        false = scores[row][~prepared.target[row]].sort(descending=True).values
        kth = false[min(shortlist or len(false), len(false)) - 1]
        assert logits[row].masked_fill(prepared.target[row], -torch.inf).amax() == kth


@pytest.mark.parametrize("name", TASKS)
def test_a_stage_of_a_bare_model_is_that_of_a_system(model, data, batch, name):
    task, system = TASKS[name], System(model, answering=RULE)
    with torch.no_grad():
        prepared = task.prepare(model, batch.pairs, data)
        features = model.image_features(batch.pixels)
        as_given = answered(task, RULE).logits(model, features, prepared)
        assert torch.equal(as_given, task.logits(system, features, prepared))
        assert torch.equal(as_given, answered(task).logits(system, features, prepared))
        alone = second_stage(task, RULE).logits(model, features, prepared)
        assert torch.equal(alone, second_stage(task).logits(system, features, prepared))


def test_whose_rule_it_is(model):
    card = {"model": model.hash, "dataset": "d", "tasks": {"vqa": {"rule": RULE.describe()}, "nlvr": {"rule": None}}}
    carded = model.with_network(model._network)
    carded.card = {"answering": card}
    assert known_rule(carded, "vqa") == RULE
    assert known_rule(carded, "nlvr") == known_rule(model, "vqa") == VerifiedAnswers()
    own = VerifiedAnswers(gamma=9.0)
    system = System(carded, answering={"vqa": own})
    assert known_rule(system, "vqa") == own and known_rule(system, "vqa", RULE) == RULE


def test_stages_have_addresses_of_their_own():
    task = get_task("vqa")
    found = [plain(made) for made in (task, first_stage(task), outside(task), second_stage(task), answered(task))]
    found += [plain(answered(task, RULE)), plain(answered(task, VerifiedAnswers()))]
    assert all(a != b for k, a in enumerate(found) for b in found[:k])
    assert plain(answered(task, RULE)) == plain(answered(task, VerifiedAnswers(**RULE.describe())))


@pytest.mark.parametrize("slug", SLUGS)
def test_a_recipe_attacks_the_system_as_it_answers(model, data, batch, slug):
    """Against a system, and against its model with the rule given, it is the same; success is judged by the system."""
    task, system = TASKS["zero-shot"], System(model, answering=RULE)
    options = {"task": task, "dataset": data, "epsilon": 8 / 255, "steps": 4}
    result = get_recipe(slug).build(**options)(system, batch, seed=0)
    given = get_recipe(slug).build(**options, **RULE.describe())(model, batch, seed=0)
    assert torch.equal(result.pixels, given.pixels) and torch.equal(result.success, given.success)
    assert (result.pixels - batch.pixels).abs().max() <= 8 / 255 + 1e-6
    with torch.no_grad():
        prepared = task.prepare(system, batch.pairs, data)
        wrong = task.wrong(system, system.image_features(result.pixels), prepared)
    assert torch.equal(result.success, wrong)
    if slug != "shortlist-verifier":  # whose members raise other things than it ends with
        assert (result.objective >= result.clean_objective - 1e-6).all()


@pytest.mark.parametrize("slug", SLUGS)
def test_tasks_without_statements_are_refused(slug):
    for task in ("captioning", "nlvr"):
        with pytest.raises(OptionError):
            get_recipe(slug).build(task=task)
    with pytest.raises(OptionError, match="gamma"):
        get_recipe(slug).build(task="vqa", gamma=-1.0)


def test_command_and_grid_know_them(model, data):
    experiment = AttackExperiment(
        model="mine",
        dataset="tabletop",
        recipe="verified-pgd",
        task="zero-shot",
        limit=2,
        options={"steps": 2, "gamma": 3.0},
    )
    report = run_experiment(experiment, models={"mine": model}, dataset=data)
    assert report.data["attack"]["objective"].startswith("margin:zero-shot")
    bare = small_coca()
    with pytest.raises(OptionError, match="no consistency heads"):
        run_experiment(experiment, models={"mine": bare}, dataset=data)
    grid = Grid.from_dict(
        {
            "recipes": [f"{slug}:steps=2" for slug in SLUGS],
            "tasks": ["zero-shot"],
            "limit": 2,
            "models": ["mine", "bare"],
        }
    )
    cells = plan(Setting(grid, models={"mine": model, "bare": bare}, dataset=data)).cells
    assert {cell.source for cell in cells if not cell.skipped} == {"mine"}
    assert all("no consistency heads" in cell.skipped for cell in cells if cell.source == "bare")


def test_the_gradient_of_text_to_image_is_that_of_finite_differences(model, data, batch):
    """Through the shortlist's scores and V_verify; only the pair's own column depends on its picture."""
    task, system = (
        TASKS["text-to-image"],
        System(model, answering=VerifiedAnswers(shortlist=None, gamma=2.0, kappa=1.0)),
    )
    with torch.no_grad():
        prepared = task.prepare(system, batch.pairs, data)

    def values(pixels):
        return task.logits(system, system.image_features(pixels), prepared)

    pixels = batch.pixels.clone().requires_grad_()
    logits = values(pixels)
    (gradient,) = torch.autograd.grad(logits.gather(1, prepared.own[:, None]).sum(), pixels)
    slope = gradient.flatten(1).norm(dim=1)
    step = 0.02 * gradient / slope.view(-1, 1, 1, 1)
    with torch.no_grad():
        change = values(batch.pixels + step) - values(batch.pixels - step)
    own = change.gather(1, prepared.own[:, None])[:, 0] / 0.04
    assert slope.min() > 1e-3 and torch.allclose(own, slope, rtol=0.05, atol=1e-3)
    others = change.scatter(1, prepared.own[:, None], 0.0)
    assert others.abs().max() < 1e-4


def test_text_to_image_reads_the_caption_against_each_picture(model, data, batch):
    task, rule = TASKS["text-to-image"], VerifiedAnswers(shortlist=4, temperature=0.5, gamma=2.0, kappa=0.5)
    attacked = (batch.pixels + 0.1).clamp(0, 1)
    with torch.no_grad():
        system = System(model, answering=rule)
        prepared = task.prepare(system, batch.pairs, data)
        found = task.logits(system, system.image_features(attacked), prepared)
        for row, pair in enumerate(batch.pairs):
            gallery = model.preprocess([data[k].image for k in range(12)])
            gallery[int(prepared.own[row])] = attacked[row]
            features = model.image_features(gallery)
            scores = model.logit_scale * features.embedding @ model.encode_text([pair.captions[0]])[0]
            read = model.verification_states([pair.captions[0]])
            fused = scores / 0.5 + 2.0 * model.verify(features, read, log=True) / read.counted.sum() ** 0.5
            best = scores.topk(4).indices
            assert torch.allclose(found[row, best], fused[best], rtol=1e-4, atol=1e-4)
            left = torch.ones(12, dtype=torch.bool).scatter(0, best, False)
            assert found[row, left].max() <= fused[best].min() + 1e-4
            assert bool(prepared.target[row, int(prepared.own[row])])


def test_retrieval_is_measured_as_the_system_answers(model, data):
    """Both directions of `evaluate_clean` are those of the two tasks, where every own item is what counts."""
    from cmai_core.tasks.evaluate import evaluate_clean

    system = System(model, answering=RULE)
    found = evaluate_clean(system, data, ["retrieval"], batch=5)["tasks"]["retrieval"]
    pairs = [data[k] for k in range(12)]
    with torch.no_grad():
        features = system.image_features(system.preprocess([pair.image for pair in pairs]))
        for name, task in (("image_to_text", Retrieval(12)), ("text_to_image", TextToImage(12))):
            prepared = task.prepare(system, pairs, data)
            right = task.logits(system, features, prepared).argmax(dim=1)
            hits = prepared.target.gather(1, right[:, None]).float().mean()
            assert found[f"{name}_r1"]["value"] == pytest.approx(float(hits))
    bare = evaluate_clean(model, data, ["retrieval"], batch=5)["tasks"]["retrieval"]
    assert bare == evaluate_clean(System(model, answering={}), data, ["retrieval"], batch=5)["tasks"]["retrieval"]
