"""Side by side with torchattacks, Foolbox and ART: element by element where the algorithms agree, else by strength.

PGD, APGD, DeepFool, C&W, FAB and Square against torchattacks and Foolbox stand with those attacks' own tests.
"""

import numpy as np
import pytest
import torch

from cmai_core.attacks.recipes.registry import RECIPES

EPSILON = 8 / 255
PEERS = ("torchattacks", "foolbox", "art")


@pytest.fixture(scope="module")
def double(kit):
    """Float64, for exact agreement."""
    model = kit.conv_model()
    batch = kit.make_batch(model, 6, size=8, seed=5)
    return model, batch, labels_of(batch)


@pytest.fixture(scope="module")
def single(kit):
    """Float32, which ART insists on."""
    model = kit.conv_model()
    batch = kit.make_batch(model, 6, size=8, seed=5)
    batch = type(batch)(batch.ids, batch.pixels.float(), (), (), batch.pairs)
    return model.float(), batch, labels_of(batch)


@pytest.fixture(autouse=True)
def numpys_state():
    """ART draws from numpy's global generator."""
    state = np.random.get_state()
    np.random.seed(0)
    yield
    np.random.set_state(state)


def labels_of(batch):
    return torch.tensor([int(pair.label) for pair in batch.pairs])


def ours(kit, slug, model, batch, **options):
    return RECIPES[slug].build(task=kit.ScoredTask(), **options)(model, batch)


class Single(torch.nn.Module):
    """Takes the float64 that ART makes of its pictures now and then."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels.float())


def in_art(model):
    classification = pytest.importorskip("art.estimators.classification")
    loss = torch.nn.CrossEntropyLoss()
    return classification.PyTorchClassifier(
        model=Single(model), loss=loss, input_shape=(3, 8, 8), nb_classes=5, clip_values=(0.0, 1.0), device_type="cpu"
    )


def by_art(name, model, batch, labels, **options):
    evasion = pytest.importorskip("art.attacks.evasion")
    attack = getattr(evasion, name)(in_art(model), **{"verbose": False, **options})
    return torch.from_numpy(attack.generate(x=batch.pixels.numpy(), y=labels.numpy()))


def in_foolbox(model):
    return pytest.importorskip("foolbox").PyTorchModel(model, bounds=(0, 1))


def wrong(model, pixels, labels):
    with torch.no_grad():
        return model(pixels).argmax(dim=1) != labels


def loss(model, pixels, labels):
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(pixels), labels, reduction="none").double().mean()


# Element by element


def test_fgsm_of_all_three(kit, double, single):
    torchattacks, foolbox = (pytest.importorskip(name) for name in PEERS[:2])
    model, batch, labels = double
    mine = ours(kit, "fgsm", model, batch, epsilon=EPSILON).pixels
    assert torch.equal(mine, torchattacks.FGSM(model, eps=EPSILON)(batch.pixels, labels))
    theirs = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    assert torch.allclose(mine, theirs(in_foolbox(model), batch.pixels, labels, epsilons=EPSILON)[1], atol=1e-14)
    l2 = foolbox.attacks.L2FastGradientAttack(random_start=False)
    theirs = l2(in_foolbox(model), batch.pixels, labels, epsilons=0.3)[1]
    mine = ours(kit, "fgsm", model, batch, norm="l2", epsilon=0.3).pixels
    assert torch.allclose(mine, theirs, atol=1e-12)
    model, batch, labels = single
    evasion = pytest.importorskip("art.attacks.evasion")
    for norm, epsilon in (("linf", EPSILON), ("l2", 0.3)):
        attack = evasion.FastGradientMethod(in_art(model), norm={"linf": np.inf, "l2": 2}[norm], eps=epsilon)
        theirs = torch.from_numpy(attack.generate(x=batch.pixels.numpy(), y=labels.numpy()))
        mine = ours(kit, "fgsm", model, batch, norm=norm, epsilon=epsilon).pixels
        assert torch.allclose(mine, theirs, atol=2e-7)


@pytest.mark.parametrize(("norm", "epsilon", "step"), [("linf", EPSILON, 1 / 255), ("l2", 0.3, 0.05)])
def test_pgd_of_art(kit, single, norm, epsilon, step):
    model, batch, labels = single
    if norm == "l2":  # the two differ in the order of ball and box: away from the box's edge
        batch = type(batch)(batch.ids, batch.pixels * 0.5 + 0.25, (), (), batch.pairs)
    kind = {"linf": np.inf, "l2": 2}[norm]
    theirs = by_art(
        "ProjectedGradientDescent", model, batch, labels, norm=kind, eps=epsilon, eps_step=step, max_iter=12
    )
    options = {"steps": 12, "step_size": step, "random_start": False, "keep": "last"}
    mine = ours(kit, "pgd", model, batch, norm=norm, epsilon=epsilon, **options)
    assert torch.allclose(mine.pixels, theirs, atol=2e-6) and mine.linf.min() > 0.01


def test_momentum_of_torchattacks_and_art(kit, double, single):
    torchattacks = pytest.importorskip("torchattacks")
    options = {"steps": 10, "step_size": 2 / 255, "keep": "last", "epsilon": EPSILON}
    model, batch, labels = double
    mine = ours(kit, "mi-fgsm", model, batch, **options).pixels
    peer = torchattacks.MIFGSM(model, eps=EPSILON, alpha=2 / 255, steps=10, decay=1.0)
    assert torch.allclose(mine, peer(batch.pixels, labels), rtol=0, atol=1e-14)
    plain = ours(kit, "mi-fgsm", model, batch, **options, momentum=0.0).pixels
    assert not torch.allclose(mine, plain, atol=1e-3)  # momentum matters here
    model, batch, labels = single
    theirs = by_art(
        "MomentumIterativeMethod", model, batch, labels, eps=EPSILON, eps_step=2 / 255, max_iter=10, decay=1.0
    )
    assert torch.allclose(ours(kit, "mi-fgsm", model, batch, **options).pixels, theirs, atol=2e-6)


# By strength: at least as strong at an equal budget


def distance(pixels, clean, norm="l2"):
    delta = (pixels - clean).flatten(1).double()
    return delta.norm(dim=1) if norm == "l2" else delta.abs().amax(dim=1)


def test_input_diversity_is_as_strong_as_torchattacks(kit, double):
    torchattacks = pytest.importorskip("torchattacks")
    model, batch, labels = double
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = torchattacks.DIFGSM(model, eps=EPSILON, alpha=2 / 255, steps=10, decay=0.0, resize_rate=0.9)
        theirs = peer(batch.pixels, labels)
    mine = ours(kit, "di-fgsm", model, batch, epsilon=EPSILON, steps=10, step_size=2 / 255).pixels
    clean = loss(model, batch.pixels, labels)
    assert loss(model, mine, labels) - clean > 0.95 * (loss(model, theirs, labels) - clean) > 0


@pytest.mark.parametrize("peer", PEERS)
def test_deepfool_comes_as_near(kit, single, peer):
    model, batch, labels = single
    pytest.importorskip(peer)
    if peer == "torchattacks":
        import torchattacks

        theirs = torchattacks.DeepFool(model, steps=50, overshoot=0.02)(batch.pixels, labels)
    elif peer == "foolbox":
        import foolbox

        theirs = foolbox.attacks.L2DeepFoolAttack()(in_foolbox(model), batch.pixels, labels, epsilons=None)[0]
    else:
        theirs = by_art("DeepFool", model, batch, labels, max_iter=50, epsilon=0.02, batch_size=8)
    mine = ours(kit, "deepfool", model, batch, epsilon=1e3)
    assert mine.success.all()
    # The peer may end on the boundary itself, on either side of it: as near, whatever its last bits make of it.
    assert (mine.minimum_norm.double() / distance(theirs, batch.pixels)).median() < 1.02


def test_carlini_wagner_comes_as_near_as_torchattacks_and_nearer_than_art(kit, single):
    torchattacks = pytest.importorskip("torchattacks")
    model, batch, _ = single
    batch = kit.take(batch, [1, 2, 3, 4])
    labels = labels_of(batch)
    # torchattacks has one weight for all samples and does not search for it.
    mine = ours(kit, "cw", model, batch, epsilon=1e3, searches=1, steps=60, step_size=0.03, initial=0.5)
    theirs = torchattacks.CW(model, c=0.5, kappa=0, steps=60, lr=0.03)(batch.pixels, labels)
    found = wrong(model, theirs, labels)
    assert mine.success.sum() > 2 and mine.success[found].all()  # nothing of how many the peer finds
    assert (mine.minimum_norm.double()[found] / distance(theirs, batch.pixels)[found] <= 1.02).all()
    # ART tries several lengths in every step: compared at an equal number of passes, not of steps.
    seen = []
    hook = model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    theirs = by_art(
        "CarliniL2Method", model, batch, labels, binary_search_steps=2, max_iter=15, learning_rate=0.03,
        initial_const=0.5, batch_size=8,
    )  # fmt: skip
    hook.remove()
    mine = ours(kit, "cw", model, batch, epsilon=1e3, searches=3, steps=30, step_size=0.03, initial=0.5)
    found = wrong(model, theirs, labels)
    assert int((mine.forwards + mine.backwards).sum()) < sum(seen)
    assert mine.success.sum() > 2 and mine.success[found].all()  # nothing of how many the peer finds
    ratios = mine.minimum_norm.double()[found] / distance(theirs, batch.pixels)[found]
    assert not len(ratios) or ratios.median() <= 1.0


def test_auto_pgd_is_as_strong_as_arts(kit, single):
    model, batch, labels = single
    theirs = by_art(
        "AutoProjectedGradientDescent", model, batch, labels, norm=np.inf, eps=EPSILON, eps_step=2 * EPSILON,
        max_iter=20, nb_random_init=1, loss_type="cross_entropy", batch_size=8,
    )  # fmt: skip
    mine = ours(kit, "apgd", model, batch, epsilon=EPSILON, steps=20, stop_on_success=False).pixels
    assert loss(model, mine, labels) >= 0.99 * loss(model, theirs, labels) > loss(model, batch.pixels, labels)


def test_square_is_as_strong_as_arts(kit, single):
    model, batch, labels = single
    theirs = by_art(
        "SquareAttack", model, batch, labels, norm=np.inf, eps=16 / 255, max_iter=60, p_init=0.5, nb_restarts=1,
        batch_size=8,
    )  # fmt: skip
    attack = RECIPES["square"].build(task=kit.ScoredTask(), epsilon=16 / 255, queries=60, share=0.5)
    mine = [attack(model, batch, seed=seed) for seed in range(3)]
    assert sum(int(r.success.sum()) for r in mine) / 3 >= int(wrong(model, theirs, labels).sum()) - 0.5


def test_saliency_changes_no_more_than_arts(kit, single):
    """ART and we raise one chosen class; the number of values it takes."""
    model, batch, _ = single
    with torch.no_grad():
        second = model(batch.pixels).topk(2, dim=1).indices[:, 1]
    evasion = pytest.importorskip("art.attacks.evasion")
    attack = evasion.SaliencyMapMethod(in_art(model), theta=1.0, gamma=0.3, batch_size=8, verbose=False)
    theirs = torch.from_numpy(attack.generate(x=batch.pixels.numpy(), y=np.eye(5)[second]))
    mine = ours(kit, "jsma", model, batch, epsilon=64, rank=1, top=192)
    reached = torch.from_numpy(np.asarray(model(theirs).argmax(dim=1) == second))
    assert mine.success.any() and mine.success[reached].all()
    values = [(x != batch.pixels).flatten(1).sum(dim=1)[reached].double().sum() for x in (mine.pixels, theirs)]
    assert values[0] <= values[1]


@pytest.mark.parametrize("peer", ["foolbox", "art"])
def test_decisions_alone_lead_as_near(kit, single, peer):
    """HopSkipJump at equal queries, from random starts."""
    model, batch, labels = single
    pytest.importorskip(peer)
    clean = batch.pixels
    if peer == "foolbox":
        import foolbox

        with torch.random.fork_rng():
            torch.manual_seed(0)
            start = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=20)
            attack = foolbox.attacks.HopSkipJumpAttack(
                init_attack=start, steps=4, initial_gradient_eval_steps=30, max_gradient_eval_steps=100
            )
            theirs = attack(in_foolbox(model), clean, labels, epsilons=None)[0]
    else:
        theirs = by_art("HopSkipJump", model, batch, labels, max_iter=4, init_eval=30, max_eval=100, init_size=20)
    found = wrong(model, theirs, labels)
    near = distance(theirs, clean)[found]
    mine = ours(kit, "hopskipjump", model, batch, epsilon=1e3, queries=450, first=30)
    assert mine.success.all() and found.any()
    assert mine.minimum_norm.double()[found].median() < 1.25 * near.median()
