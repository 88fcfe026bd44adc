"""Joint attacks: known optima, published schedules step by step, and what every joint attack promises."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from cmai_core.attacks.joint_attack import JointAttack
from cmai_core.attacks.joint_schedules.best_response import BestResponse
from cmai_core.attacks.joint_schedules.schedules import SGA, Alternating, Scales, Separate, Sequential
from cmai_core.attacks.objectives.text import Divergence, Mismatch, Misretrieved, PairConsistency
from cmai_core.attacks.text_result import concatenate
from cmai_core.attacks.text_searches.proposers import Eda, Synonyms, Vocabulary
from cmai_core.attacks.text_searches.search import BeamSearch
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.data.words import Words
from cmai_core.errors import DataError, OptionError
from cmai_core.progress import CancelToken
from cmai_core.seeds import sample_generators

TEXTS = ["a red cube and a ball", "two large rings", "the small cone", "blue things"]
EPSILON = 16 / 255
CHOICES = ("ring", "cone", "table", "large", "picture", "blue")
SEARCH = BeamSearch(proposer=Vocabulary(words=CHOICES))
SCHEDULES = {
    "separate": Separate(text=SEARCH, steps=4),
    "sequential": Sequential(text=SEARCH, steps=4),
    "co-attack": Sequential(text=SEARCH, steps=4, image_objective=Divergence("image", "clean")),
    "sga": SGA(text=SEARCH, steps=4, scales=Scales(ratios=(0.5, 1.0))),
    "alternating": Alternating(text=SEARCH, steps=4, rounds=2),
    "best-response": BestResponse(text=SEARCH, steps=6, refresh=1),
}


def attack(schedule, **options):
    options = {"threat": ThreatModel("linf", EPSILON), "text_threat": TextThreat(words=1)} | options
    return JointAttack(schedule=SCHEDULES.get(schedule, schedule), **options)


def joint_optimum(model, batch, row):
    """Exact maximum of −S_c over the L∞ ball ∩ box and all single substitutions: S_c is linear in each."""
    text = Words.split(batch.texts[row])
    options = [batch.texts[row]] + [str(text.spell(i, w)) for i in range(len(text)) for w in CHOICES]
    pixels = batch.pixels[row].double()
    lower, upper = (pixels - EPSILON).clamp(min=0), (pixels + EPSILON).clamp(max=1)
    best = -torch.inf
    with torch.no_grad():
        for embedding in model.encode_text(options):
            gradient = -(model.image @ embedding).view_as(pixels)
            found = torch.where(gradient > 0, upper, lower)
            best = max(best, float(((found - 0.5) * gradient).sum()))
    return best


def test_best_response_comes_near_the_joint_optimum(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    batch = type(batch)(batch.ids, batch.pixels.double(), batch.texts, batch.image_of_text, batch.pairs)
    result = attack(BestResponse(text=SEARCH, steps=40))(model, batch, seed=1)
    optimum = torch.tensor([joint_optimum(model, batch, row) for row in range(4)], dtype=torch.float64)
    gap = (optimum - result.objective) / (optimum - result.clean_objective)
    # A maximum over texts is convex in the pixels, so a climb may end on the wrong side: near, not always exact.
    assert (gap > -1e-9).all() and gap.max() < 0.05 and gap.median() < 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_every_schedule_promises(name, tools):
    model, batch = tools.BagOfWords().train(), tools.text_batch([*TEXTS, "a box"], owners=(0, 1, 2, 3, 3))
    model.image.grad = torch.ones_like(model.image)
    before, random_state = batch.pixels.clone(), torch.get_rng_state()
    result = attack(name)(model, batch, seed=3)
    assert (result.pixels - before).abs().max() <= EPSILON + 1e-6
    assert result.pixels.min() >= 0 and result.pixels.max() <= 1
    assert max(result.words_changed) <= 1
    assert model.training and model.image.requires_grad and bool((model.image.grad == 1).all())
    assert torch.equal(batch.pixels, before) and torch.equal(torch.get_rng_state(), random_state)
    owner = list(batch.image_of_text)
    with torch.no_grad():
        texts = model.encode_text(list(result.texts))
        values = [
            -(model.image_features(p).embedding[owner] * texts).sum(dim=1) for p in (result.pixels, result.pixels_8bit)
        ]
    assert torch.allclose(values[0], result.objective) and torch.allclose(values[1], result.objective_8bit)
    assert torch.equal(result.success_8bit, values[1] > result.clean_objective)
    assert torch.allclose(result.linf, (result.pixels - before).flatten(1).abs().amax(dim=1))
    per_image = torch.zeros(4, dtype=torch.float64).index_add(0, torch.tensor(owner), result.objective)
    clean = torch.zeros(4, dtype=torch.float64).index_add(0, torch.tensor(owner), result.clean_objective)
    # Co-Attack's image climbs on something else than the objective.
    assert (per_image >= clean).all() if name == "co-attack" else (per_image > clean).all()
    assert result.success_rate().hits >= 3
    assert torch.equal(result.objective_trace[-1], result.objective)
    assert (result.backwards_image > 0).all() and (result.queries > 0).all()
    record = json.loads(result.to_json())["pairs"][4]
    assert record["image"] == 3 and record["linf"] <= EPSILON + 1e-6 and "pixels" not in record


@pytest.mark.parametrize("name", SCHEDULES)
def test_order_and_split_do_not_matter(name, tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    run = attack(name)
    whole = run(model, batch, seed=5)
    order = [3, 0, 2, 1]
    shuffled = run(model, tools.rows_of(batch, order), seed=5)
    assert shuffled.texts == tuple(whole.texts[k] for k in order)
    assert torch.allclose(shuffled.pixels, whole.pixels[order], atol=1e-6)
    parts = [run(model, tools.rows_of(batch, rows), seed=5) for rows in ([0], [1, 2, 3])]
    joined = concatenate(parts)
    assert joined.texts == whole.texts and torch.allclose(joined.pixels, whole.pixels, atol=1e-6)
    assert joined.image_of_text == (0, 1, 2, 3) and len(joined.objective_trace) == len(whole.objective_trace)


def test_the_seed_decides_the_start(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    run = attack(Separate(text=SEARCH, steps=1, step_size=1e-3))
    first, again, other = (run(model, batch, seed=s).pixels for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)


def test_the_controls_would_be_noticed(tools):
    """No budget changes nothing; the flipped sign does the opposite."""
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    still = attack("sga", threat=ThreatModel("linf", 0.0), text_threat=TextThreat(words=0))(model, batch)
    assert torch.equal(still.pixels, batch.pixels) and still.texts == batch.texts
    assert still.success_rate().hits == 0
    up = attack("best-response", objective=PairConsistency())(model, batch)
    down = attack("best-response")(model, batch)
    assert (up.consistency > down.consistency).all() and (up.consistency > up.clean_consistency).all()


def test_sga_step_by_step(tools):
    """A plain SGA of one image with two captions, written out, gives the same picture and the same texts."""
    model = tools.BagOfWords()
    batch = tools.text_batch(["a red cube and a ball", "two large rings"], owners=(0, 0), size=4)
    ratios, steps, size = (0.5, 1.0, 1.5), 5, 2 / 255

    def attack_texts(pixels):
        out = []
        with torch.no_grad():
            image = model.image_features(pixels).embedding[0]
            for text in batch.texts:
                words = Words.split(text)
                options = [text, *(str(words.replace(i, w)) for i in range(len(words)) for w in CHOICES)]
                out.append(options[int((-(model.encode_text(options) @ image)).argmax())])
        return out

    clean = batch.pixels
    texts = attack_texts(clean)
    lower, upper = (clean - EPSILON).clamp(min=0), (clean + EPSILON).clamp(max=1)
    generator = sample_generators(7, batch.ids, 0)[0]
    x = lower[0] + torch.rand(clean.shape[1:], generator=generator) * (upper - lower)[0]
    x = x.unsqueeze(0).clamp(lower, upper)
    for step in range(steps):
        x = x.detach().requires_grad_(True)
        noise = sample_generators(7, batch.ids, step + 1)[0]
        loss = 0.0
        for ratio in ratios:
            seen = (x + 0.05 * torch.randn(x.shape[1:], generator=noise)).clamp(0, 1)
            if ratio != 1:
                scaled = F.interpolate(seen, size=(int(4 * ratio),) * 2, mode="bicubic", antialias=True)
                seen = F.interpolate(scaled, size=(4, 4), mode="bicubic", antialias=True).clamp(0, 1)
            loss = loss - (model.encode_text(texts) @ model.image_features(seen).embedding[0]).sum()
        gradient = torch.autograd.grad(loss, x)[0]
        x = (x.detach() + size * gradient.sign()).clamp(lower, upper)
    texts = attack_texts(x)
    schedule = SGA(text=SEARCH, steps=steps, step_size=size, scales=Scales(ratios=ratios))
    result = attack(schedule, keep="last", text_threat=TextThreat(words=1, keep_case=False))(model, batch, seed=7)
    assert torch.allclose(result.pixels, x, atol=1e-6)
    assert result.texts == tuple(texts)
    assert result.backwards_image.tolist() == [steps * len(ratios)]


def test_sequential_image_step_is_pgd_on_its_own_objective(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS[:2])
    objective = Divergence("image", "clean") + 3.0 * Divergence("image", "other")
    schedule = Sequential(text=SEARCH, steps=3, step_size=0.01, random_start=False, image_objective=objective)
    result = attack(schedule, keep="last")(model, batch)
    clean = batch.pixels
    with torch.no_grad():
        reference = model.image_features(clean).embedding.softmax(dim=1)
        other = model.encode_text(list(result.texts)).softmax(dim=1)
    x = clean
    for _ in range(3):
        x = x.detach().requires_grad_(True)
        logits = model.image_features(x).embedding.log_softmax(dim=1)
        loss = F.kl_div(logits, reference, reduction="sum") + 3 * F.kl_div(logits, other, reduction="sum")
        step = 0.01 * torch.autograd.grad(loss, x)[0].sign()
        x = (x.detach() + step).clamp(clean - EPSILON, clean + EPSILON).clamp(0, 1)
    assert torch.allclose(result.pixels, x, atol=1e-6)


def test_best_is_never_worse_than_last(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    for name in SCHEDULES:
        best, last = (attack(name, keep=keep)(model, batch, seed=2).objective for keep in ("best", "last"))
        assert (best >= last - 1e-9).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_progress_and_cancel(name, tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    token, seen = CancelToken(), []

    def listen(update):
        seen.append((update.done, update.total))
        assert len(update.data["texts"]) == 4 and update.data["pixels"].shape == batch.pixels.shape
        if update.done == 2:
            token.cancel()

    result = attack(name)(model, batch, progress=listen, cancel=token, progress_interval=0.0)
    total = SCHEDULES[name].image_steps
    assert (
        result.cancelled and result.steps_done == 2 and [*dict.fromkeys(seen)] == [(0, total), (1, total), (2, total)]
    )
    assert (result.objective >= result.clean_objective).all()
    before = CancelToken()
    before.cancel()
    idle = attack(name)(model, batch, cancel=before)
    assert idle.cancelled and idle.texts == batch.texts and torch.equal(idle.pixels, batch.pixels)


@pytest.mark.parametrize("name", SCHEDULES)
def test_too_little_memory_takes_fewer_images_at_once_and_changes_nothing(name, tools):
    owners, texts = (0, 0, 1, 2, 3), [*TEXTS[:1], *TEXTS]
    expected = attack(name)(tools.BagOfWords(), tools.text_batch(texts, owners), seed=2)
    model, refused = tools.BagOfWords(), []
    whole = model.image_features

    def tight(pixels):
        if len(pixels) > 2:
            refused.append(len(pixels))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(pixels)

    model.image_features = tight
    result = attack(name)(model, tools.text_batch(texts, owners), seed=2)
    assert refused and result.texts == expected.texts
    assert torch.allclose(result.pixels, expected.pixels, atol=1e-9)


def test_a_real_model_with_true_captions_and_l2(coca, tools):
    batch = tools.tabletop_batch(3, each=2)
    search = BeamSearch(proposer=Synonyms())
    for schedule in (SGA(text=search, steps=2), BestResponse(text=search, steps=4)):
        result = JointAttack(
            threat=ThreatModel("l2", 0.5),
            text_threat=TextThreat(words=1, truth="scene"),
            objective=Mismatch("both") - 0.5 * PairConsistency(),
            success=Misretrieved("image"),
            schedule=schedule,
        )(coca, batch, seed=0)
        assert set(result.label_changed) == {False} and result.l2.max() <= 0.5 + 1e-5
        assert result.objective.mean() > result.clean_objective.mean()


def test_scales_are_the_identity_without_noise_at_one():
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    (view,) = Scales(ratios=(1.0,), noise=0.0).draw(0, ["a", "b"], 0)
    assert torch.equal(view(pixels), pixels)
    views = Scales().draw(0, ["a", "b"], 0)
    assert [v(pixels).shape for v in views] == [pixels.shape] * 5
    again = Scales().draw(0, ["b", "a"], 0)[0]
    assert torch.equal(again(pixels.flip(0)).flip(0), Scales().draw(0, ["a", "b"], 0)[0](pixels))


def test_refusals(tools):
    for make in (
        lambda: SGA(steps=0),
        lambda: SGA(step_size=0.0),
        lambda: Scales(ratios=()),
        lambda: Scales(noise=-1.0),
        lambda: Alternating(steps=2, rounds=3),
        lambda: BestResponse(pool=0),
        lambda: BestResponse(text=object()),
        lambda: JointAttack(keep="first"),
        lambda: JointAttack(threat="linf"),
        lambda: JointAttack(schedule=SEARCH.proposer),
        lambda: Divergence("both"),
        lambda: Separate(scales=Scales()),
    ):
        with pytest.raises(OptionError):
            make()
    with pytest.raises(DataError):
        concatenate([])


def test_recipes_are_built_and_cited(tools):
    from cmai_core.attacks.recipes.registry import RECIPES

    recipes = {slug: recipe for slug, recipe in RECIPES.items() if recipe.modality != "image"}
    assert len(recipes) >= 14
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS[:2])
    for slug, recipe in recipes.items():
        assert recipe.slug == slug and recipe.compare and recipe.constants and recipe.threat
        assert bool(recipe.paper) == bool(recipe.year) == recipe.url.startswith("https://")
        own = {} if slug in ("hotflip", "relaxed-pgd", "injection") else {"proposer": Eda(count=2)}
        if recipe.modality == "joint":
            own |= {"steps": 4, "epsilon": 4 / 255}
        built = recipe.build(protected=("cube",), **own)
        result = built(model, batch)
        assert built.name == slug == result.attack["name"] and "cube" in result.texts[0]
        json.dumps(built.describe())
        with pytest.raises(OptionError):
            recipe.build(colour="red")
    assert RECIPES["sga"].build().describe()["step_size"] == 0.5 / 255
