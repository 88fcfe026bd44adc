"""Every recipe: cited, built from options, and held to the same checks (image recipes here, the others in text/)."""

import json

import pytest
import torch

from cmai_core.attacks import Attack, Consistency, GradientSearch
from cmai_core.attacks.objectives.classes import Margin, Misclassified
from cmai_core.attacks.objectives.success import Raised
from cmai_core.attacks.recipes.registry import RECIPES, get_recipe
from cmai_core.attacks.specs import FAMILIES, KNOWLEDGE, MODALITIES
from cmai_core.budget import NORMS
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError

WANTED = (
    "pgd mbat-pgd fgsm r-fgsm mi-fgsm di-fgsm eot apgd apgd-dlr apgd-t autoattack patch jsma universal transfer "
    "fab deepfool cw square nes spsa genetic hopskipjump typographic adaptive detector-pgd accept-false reject-true "
    "verified-pgd shortlist-verifier verifier-pgd "
    "bert-attack synonym eda hotflip relaxed-pgd char homoglyph injection sep seq co-attack sga alternating joint-cmai"
)

# Options that make a recipe quick, and budgets at which some samples give way.
SMALL = {
    "pgd": {"steps": 5},
    "mi-fgsm": {"steps": 4},
    "di-fgsm": {"steps": 4},
    "apgd": {"steps": 6},
    "apgd-dlr": {"steps": 6},
    "apgd-t": {"steps": 4, "targets": 3},
    "fab": {"steps": 3},
    "deepfool": {"steps": 6},
    "cw": {"steps": 12, "searches": 2, "initial": 1.0, "step_size": 0.03},
    "jsma": {"steps": 6, "epsilon": 8},
    "autoattack": {"steps": 3, "queries": 10, "targets": 2},
    "universal": {"steps": 5},
    "patch": {"steps": 6, "epsilon": 0.2},
    "typographic": {"words": ("ab", "c"), "queries": 6},
    "square": {"queries": 20, "share": 0.5},
    "nes": {"queries": 31, "samples": 6},
    "spsa": {"queries": 31, "samples": 6, "sigma": 0.02},
    "genetic": {"queries": 31},
    "hopskipjump": {"queries": 70, "first": 6, "tries": 20},
    "transfer": {"steps": 3},
    "eot": {"steps": 3, "eot": 2},
    "mbat-pgd": {"steps": 5},
    "adaptive": {"steps": 3, "tau": -0.9},
    "detector-pgd": {"steps": 5, "tau": -0.9},
    "accept-false": {"steps": 5, "tau": 0.9},
    "reject-true": {"steps": 5, "tau": -0.9},
}
# Those that need heads are in tests/defenses/test_verified_recipes.py: the kit's models have none.
IMAGE_RECIPES = [slug for slug, recipe in RECIPES.items() if recipe.modality == "image" and "heads" not in recipe.needs]
LAST = ("fgsm", "r-fgsm")  # return their last iterate, as published
# The best is the nearest; the best for all; the surrogate's.
OTHERWISE = ("fab", "deepfool", "cw", "hopskipjump", "universal", "transfer")
WEAK = ("transfer", "nes", "spsa", "genetic", "square", "hopskipjump", "mbat-pgd")  # at so small a budget


def build(kit, slug, **options):
    task = {"task": kit.ScoredTask()} if "task" in RECIPES[slug].options else {}
    options = {**task, **SMALL.get(slug, {}), **options}
    if slug == "transfer":
        options.setdefault("surrogate", kit.conv_model(seed=2))
    if RECIPES[slug].norm == "linf" and "norm" not in options:
        options.setdefault("epsilon", 10 / 255)
    return RECIPES[slug].build(**options)


@pytest.fixture
def subject(kit):
    model = kit.conv_model(seed=1)
    return model, kit.make_batch(model, 5, size=8)


def test_the_registry_is_complete_and_cited():
    assert " ".join(RECIPES) == WANTED
    for slug, recipe in RECIPES.items():
        assert recipe.slug == slug and recipe.title and recipe.threat and recipe.constants and recipe.compare
        assert recipe.modality in MODALITIES and recipe.family in FAMILIES and recipe.knowledge in KNOWLEDGE
        assert bool(recipe.paper) == bool(recipe.year) == recipe.url.startswith("https://")
        assert (recipe.norm is None) == (recipe.budget() is None) == (recipe.modality == "text")
        assert len(set(recipe.options)) == len(recipe.options)
        json.dumps(recipe.describe())
    with pytest.raises(OptionError, match="pgd, mbat-pgd"):
        get_recipe("magic")
    assert get_recipe("sga") is RECIPES["sga"]


@pytest.mark.parametrize("slug", IMAGE_RECIPES)
def test_image_recipes_keep_every_promise(kit, subject, slug):
    attack = build(kit, slug)
    best = slug not in (*LAST, *OTHERWISE)
    least = 0 if slug in WEAK else 1
    assert kit.flaws(attack, *subject, least=least, best=best, split=slug != "universal") == []
    described = attack.describe()
    json.dumps(described)
    assert described["name"] == slug and described["norm"] == RECIPES[slug].norm


@pytest.mark.parametrize("slug", [slug for slug in IMAGE_RECIPES if not RECIPES[slug].variant_of])
def test_searches_for_the_nearest_example_say_how_near_it_is(kit, subject, slug):
    result = build(kit, slug)(*subject)
    assert (result.minimum_norm is not None) == RECIPES[slug].minimum_norm


@pytest.mark.parametrize("slug", IMAGE_RECIPES)
def test_unknown_options_and_values_are_refused(kit, slug):
    with pytest.raises(OptionError) as caught:
        build(kit, slug, colour="red")
    assert "'colour'" in str(caught.value) and ", ".join(RECIPES[slug].options) in str(caught.value)
    for wrong in ({"norm": "l7"}, {"epsilon": -1.0}, {"micro_batch": 0}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            build(kit, slug, **wrong)


def test_settings_of_one_gradient_search(kit):
    slugs = ("fgsm", "r-fgsm", "pgd", "mi-fgsm", "di-fgsm", "universal", "patch", "eot", "mbat-pgd")
    assert all(type(build(kit, slug).search) is GradientSearch for slug in slugs)


def test_fgsm_moves_every_value_by_epsilon(kit, subject):
    model, batch = subject
    epsilon = [0.0, 1 / 255, 2 / 255, 3 / 255, 4 / 255]
    result = build(kit, "fgsm", epsilon=epsilon)(model, batch)
    assert torch.allclose(result.linf, torch.tensor(epsilon, dtype=torch.float64))
    inside = (batch.pixels > 5 / 255) & (batch.pixels < 250 / 255)
    moved = (result.pixels - batch.pixels).abs()
    assert torch.allclose(moved[4][inside[4]], torch.tensor(4 / 255, dtype=torch.float64))
    # R+FGSM: half of epsilon at random, the rest by the gradient, so each value ends at 0 or at epsilon.
    ends = (build(kit, "r-fgsm", epsilon=4 / 255)(model, batch).pixels - batch.pixels).abs()[inside] * 255 / 4
    assert ((ends < 1e-9) | ((ends - 1).abs() < 1e-9)).all() and 0.2 < ends.mean() < 0.8


def test_tasks_goals_and_targets(kit, subject):
    model, batch = subject
    named = RECIPES["pgd"].build(task="zero-shot")
    assert named.objective.describe() == "task:zero-shot" and RECIPES["pgd"].build().success.describe()
    with pytest.raises(OptionError, match="levitation"):
        RECIPES["pgd"].build(task="levitation")
    mine = build(kit, "pgd", objective=-Consistency(), success=Raised())
    assert mine.objective.describe() == "-consistency" and mine.success == Raised()
    for slug in ("pgd", "apgd", "fab", "square"):
        aimed = build(kit, slug, rank=2)
        assert aimed.success.describe() == "scored on target" and "rank 2" in aimed.objective.describe()
    aimed = build(kit, "pgd", rank=1, epsilon=0.3, steps=20)
    order = model(batch.pixels).argsort(dim=1, descending=True)
    result = aimed(model, batch)
    assert result.success.any()
    assert torch.equal(model(result.pixels).argmax(dim=1)[result.success], order[:, 1][result.success])
    with pytest.raises(OptionError, match="rank"):
        build(kit, "pgd", rank=1, objective=-Consistency())
    with pytest.raises(OptionError, match="'rank'"):
        build(kit, "autoattack", rank=1)
    weighted = build(kit, "mbat-pgd", alpha=2.0, beta=0.5)
    assert weighted.objective.describe() == "2*task:scored - 0.5*consistency"


@pytest.mark.parametrize("slug", ["apgd-dlr", "apgd-t", "fab", "deepfool", "cw", "jsma", "autoattack"])
def test_a_task_without_classes_is_refused_where_classes_are_needed(kit, slug):
    with pytest.raises(OptionError, match=kit.LabelTask().name):
        build(kit, slug, task=kit.LabelTask())


def test_a_task_without_classes_serves_the_others(kit, subject):
    model, batch = subject
    for slug in ("pgd", "apgd", "square", "hopskipjump"):
        result = build(kit, slug, task=kit.LabelTask())(model, batch)
        assert result.attack["objective"] == "task:labels"


def test_transformations_by_name(kit):
    assert build(kit, "eot").search.transform.describe()["transform"] == "noise"
    posed = build(kit, "eot", transform="pose", degrees=5.0).search.transform
    assert posed.describe()["degrees"] == 5.0
    assert build(kit, "di-fgsm", probability=1.0).search.transform.probability == 1.0
    with pytest.raises(OptionError, match="diversity, noise, pose"):
        build(kit, "eot", transform="fog")
    with pytest.raises(OptionError, match="degrees"):
        build(kit, "eot", transform="noise", degrees=5.0)


def test_words_to_write_come_from_the_dataset(kit):
    class Set(list):
        classes = ()

    class Classes(Set):
        classes = ("cube", "cone")

    pairs = kit.make_batch(kit.linear_model(), 3).pairs
    task = kit.LabelTask()
    assert RECIPES["typographic"].build(task=task, dataset=Classes(pairs)).search.words == ("cube", "cone")
    assert RECIPES["typographic"].build(task=task, dataset=Set(pairs)).search.words == ("text", "0", "1", "2")
    with pytest.raises(OptionError, match="words="):
        RECIPES["typographic"].build(task=task)


# The ensemble of AutoAttack's kind, and its targeted members


def test_autoattack_is_a_cascade_and_its_worst_case_exact(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 14, size=8)
    small = {"steps": 5, "queries": 25, "targets": 3, "epsilon": 7 / 255}
    whole = build(kit, "autoattack", **small)
    result = whole(model, batch, seed=3)
    members = whole.search.members
    assert [member.name for member in members] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    alone = []
    for index, member in enumerate(members):
        objective = member.objective or Margin(kit.ScoredTask())
        attack = Attack(threat=whole.threat, objective=objective, search=member.search, success=whole.success)
        alone.append(attack(model, batch, seed=whole.search.member_seed(3, index)))
    union = torch.stack([part.success for part in alone]).any(dim=0)
    assert torch.equal(result.success, union) and 0 < int(union.sum()) < 14
    # Who fell to the first member costs no more; who stands has paid for every one.
    first = alone[0].success_8bit
    assert first.any() and (result.forwards[first] == alone[0].forwards[first] + 3).all()
    assert (result.forwards[~result.success] > sum(part.forwards[~union].min() for part in alone)).all()


def test_each_target_is_tried_in_order_of_likelihood(kit):
    from cmai_core.attacks.objectives.classes import DLR
    from cmai_core.attacks.searches.apgd import APGD
    from cmai_core.attacks.searches.ensemble import EachTarget
    from cmai_core.attacks.threats.image import ThreatModel

    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 6, size=8)
    task = kit.ScoredTask()
    threat = ThreatModel("linf", 7 / 255)
    search = EachTarget(search=APGD(steps=5), objective=DLR(task), targets=9)
    result = Attack(threat=threat, objective=Margin(task), search=search, success=Misclassified(task))(model, batch)
    left, passes = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.int64)
    for rank in range(1, kit.CLASSES):  # nine are asked for, four there are
        single = Attack(
            threat=threat,
            objective=DLR(task, rank=rank),
            search=SameSeed(search.search, rank),
            success=Misclassified(task),
        )(model, batch)
        passes += torch.where(left, single.forwards + 2 + single.success, 0)
        left &= ~single.success_8bit
    assert torch.equal(result.success_8bit, ~left) and torch.equal(result.forwards, passes)
    with pytest.raises(OptionError, match="objective="):
        EachTarget(search=APGD(), objective=DLR(task, rank=1))
    with pytest.raises(OptionError, match="objective="):
        EachTarget(search=APGD(), objective=-Consistency())


class TwoOptions:
    """The kit's task with its classes cut down to two, as a statement has."""

    def __new__(cls, kit):
        class Two(kit.ScoredTask):
            def logits(self, model, features, prepared):
                return super().logits(model, features, prepared)[:, :2]

            def true_classes(self, prepared):
                return torch.nn.functional.one_hot(prepared % 2, 2).bool()

        return Two()


@pytest.mark.parametrize("slug", ["apgd-t", "autoattack"])
def test_targets_are_aimed_at_by_the_margin_whatever_the_number_of_options(kit, slug):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 6, size=8)
    result = build(kit, slug, task=TwoOptions(kit), epsilon=7 / 255)(model, batch)
    assert len(result) == 6
    published = build(kit, slug, task=TwoOptions(kit), loss="dlr", epsilon=7 / 255)
    with pytest.raises(OptionError, match="4"):
        published(model, batch)
    with pytest.raises(OptionError, match="margin, dlr"):
        build(kit, slug, loss="levitation")
    described = build(kit, slug).describe()
    assert "margin:scored" in str(described) and "dlr" not in str(described)


def test_texts_are_encoded_once_for_all_targets():
    from cmai_core.data import load_dataset
    from cmai_core.evaluation.runs.predictor import make_batch
    from cmai_core.models import load_model
    from cmai_core.tasks.retrieval import Retrieval

    model, data = load_model("tabletop-tecoa"), load_dataset("tabletop", split="validation", limit=12)
    batch = make_batch(model, [data[k] for k in range(2)], 1)
    asked = []
    model.encode_text = lambda texts, real=model.encode_text: asked.append(len(texts)) or real(texts)
    attack = RECIPES["apgd-t"].build(task=Retrieval(12), dataset=data, epsilon=0.2 / 255, steps=1, targets=4)
    result = attack(model, batch)
    assert asked.count(12) == 1  # the gallery
    assert not result.success.any() and len(set(result.forwards.tolist())) == 1  # so all four targets were tried


def test_who_is_won_back_by_rounding_is_left_to_the_next_target(kit):
    """The first two targets are reached by pictures that rounding undoes; the third stays."""
    from cmai_core.attacks.searches.ensemble import EachTarget
    from cmai_core.attacks.threats.image import ThreatModel

    class Reaching:
        """Hands back what it was told to, target by target."""

        def __init__(self, *pictures):
            self.left = list(pictures)

        def describe(self):
            return {}

        def run(self, problem, *, seed, watch):
            from cmai_core.attacks.engine.record import SearchRecord

            record = SearchRecord(problem, watch, 1)
            record.score(self.left.pop(0).expand_as(problem.region.centre), record.rows(), 1)
            return record.outcome()

    class Bright(kit.ScoredTask):
        """Fooled where the first pixel lies above 100.4 levels."""

        def logits(self, model, features, prepared):
            return features.embedding

        def true_classes(self, prepared):
            return torch.tensor([[True, False, False, False]])

    class Model:
        def image_features(self, pixels):
            above = (pixels[:, 0, 0, 0] * 255 - 100.4).unsqueeze(1)
            return kit.Features(torch.cat([0 * above, above, above - 9, above - 10], dim=1), None)

    def picture(level):
        return torch.full((1, 3, 2, 2), level / 255, dtype=torch.float64)

    task, prepared = Bright(), torch.tensor([0])
    batch = Batch(("only",), picture(100.0), (), ())
    reaching = Reaching(picture(100.45), picture(100.49), picture(101.0))
    objective = Margin(task, prepared)
    attack = Attack(
        threat=ThreatModel("linf", 1 / 255),
        objective=objective,
        search=EachTarget(search=reaching, objective=objective, targets=3),
        success=Misclassified(task, prepared),
    )
    result = attack(Model(), batch)
    assert not reaching.left and result.success.all() and result.success_8bit.all()


class SameSeed:
    """A search with the seed it has as a target of `EachTarget`."""

    def __init__(self, inner, rank):
        self.inner, self.rank = inner, rank

    def describe(self):
        return {}

    def run(self, problem, *, seed, watch):
        from cmai_core.seeds import sample_seed

        return self.inner.run(problem, seed=sample_seed(seed, f"target {self.rank - 1}", 0), watch=watch)


def test_samples_with_fewer_false_classes_take_part_as_far_as_they_can(kit):
    class Several(kit.ScoredTask):
        """The first sample has three true classes of five, the others one."""

        def true_classes(self, prepared):
            true = super().true_classes(prepared)
            best = self.scores.topk(3, dim=1).indices
            wide = torch.zeros_like(true).scatter(1, best, True)
            return torch.where((torch.arange(len(true)) == 0).unsqueeze(1), wide, true)

    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 3, size=8)
    task = Several()
    task.scores = model(batch.pixels).detach()
    result = build(kit, "apgd-t", task=task, targets=4, epsilon=1e-6)(model, batch)
    assert not result.success.any()
    # A run: one pass for its objective's clean value, one for its result, steps + 1 of its own.
    assert result.forwards.tolist() == [2 * 7, 4 * 7, 4 * 7]


# Transfer


def test_transfer_asks_nothing_of_the_attacked_model(kit, subject):
    model, batch = subject
    surrogate = kit.conv_model(seed=2)
    asked = []
    original = model.image_features
    model.image_features = lambda pixels: (asked.append(len(pixels)), original(pixels))[1]
    attack = build(kit, "transfer", surrogate=surrogate, epsilon=0.1)
    result = attack(model, batch)
    assert asked == [5, 5, 5]  # the clean, the final and the rounded images
    made = RECIPES["di-fgsm"].build(
        task=kit.ScoredTask(), steps=3, momentum=1.0, epsilon=0.1, success=Raised(1e9)
    )(surrogate, batch)  # fmt: skip
    assert torch.equal(result.pixels, made.pixels) and torch.equal(result.forwards, made.forwards)
    # On itself it is the white-box attack.
    itself = build(kit, "transfer", surrogate=model, epsilon=0.1)(model, batch)
    assert itself.objective.mean() > result.objective.mean()


def test_a_surrogate_of_another_size_sees_resized_pictures(kit, subject):
    model, batch = subject
    small = kit.linear_model(size=6, scale=0.3)
    small.image_size = 6
    result = build(kit, "transfer", surrogate=small, epsilon=0.1)(model, batch)
    assert result.linf.max() <= 0.1 + 1e-12 and result.linf.min() > 0.01
    with pytest.raises(OptionError, match="surrogate"):
        RECIPES["transfer"].build(task=kit.ScoredTask())
    with pytest.raises(OptionError, match="image_features"):
        RECIPES["transfer"].build(task=kit.ScoredTask(), surrogate=3)


@pytest.mark.parametrize("slug", [slug for slug, recipe in RECIPES.items() if recipe.norm])
def test_norms_that_a_recipe_does_not_go_with_are_refused_at_every_entrance(kit, slug):
    from cmai_core.evaluation.runs.experiment import AttackExperiment
    from cmai_core.evaluation.runs.grid import Grid

    recipe = RECIPES[slug]
    small = {"surrogate": kit.conv_model()} if slug == "transfer" else {}
    small |= {"words": ("ab",)} if slug == "typographic" else {}
    assert recipe.norm in recipe.norms
    for norm in (*NORMS, "l7", 3):
        named = {"words": ["ab"]} if slug == "typographic" else {}
        given = {slug: {"norm": norm, **named, **({"surrogate": "tabletop"} if slug == "transfer" else {})}}
        entrances = [
            lambda norm=norm: recipe.build(norm=norm, **small),
            lambda norm=norm, named=named: AttackExperiment(recipe=slug, norm=norm, options=named),
            lambda given=given: Grid(recipes=(slug,), options=given),
        ]
        for enter in entrances:
            if norm in recipe.norms:
                enter()
                continue
            with pytest.raises(OptionError) as caught:
                enter()
            assert "norm" in str(caught.value) and caught.value.hint
    for norm in recipe.norms:  # a budget meant for another norm would let nothing change
        least = {"linf": 1 / 255, "l2": 0.5, "l1": 5.0, "l0": 1, "patch": 0.01}[norm]
        assert float(recipe.build(norm=norm, **small).threat.sized(3 * 128**2).epsilon) >= least


def test_a_part_of_a_position_is_no_budget():
    from cmai_core.evaluation.runs.experiment import AttackExperiment

    for epsilon in (0.5, 4 / 255, -1, float("nan")):
        with pytest.raises(OptionError, match="epsilon"):
            get_recipe("pgd").build(norm="l0", epsilon=epsilon)
    with pytest.raises(OptionError, match="16,384"):
        AttackExperiment(recipe="pgd", norm="l0", epsilon=20_000).build(None, None, 3 * 128**2)
