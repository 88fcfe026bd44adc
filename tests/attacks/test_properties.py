"""What holds for every setting of the gradient search, by hypothesis."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmai_core.attacks import Attack, Consistency, GradientSearch, TaskObjective, ThreatModel, Untargeted

SETTINGS = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 6),
        "step_size": st.one_of(st.none(), st.floats(0.001, 0.5)),
        "momentum": st.sampled_from([0.0, 0.9, 1.0]),
        "micro_batch": st.sampled_from([None, 1, 2, 3]),
    }
)
KINDS = st.sampled_from(
    [
        {"random_start": False},
        {"random_start": True},
        {"random_start": True, "restarts": 3},
        {"random_start": True, "restarts": 2, "stop_on_success": True},
        {"random_start": True, "keep": "last"},
    ]
)
RADII = {"linf": st.floats(0, 0.3), "l2": st.floats(0, 3)}


@pytest.fixture(scope="module")
def subject(kit):
    model = kit.conv_model()
    return model, kit.make_batch(model, 5, size=8, seed=11)


def build(kit, norm, epsilon, options):
    task = kit.LabelTask()
    objective = TaskObjective(task) - 0.5 * Consistency()
    search = GradientSearch(**options)
    return Attack(threat=ThreatModel(norm, epsilon), objective=objective, search=search, success=Untargeted(task))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), norm=st.sampled_from(["linf", "l2"]), common=SETTINGS, kind=KINDS, seed=st.integers(0, 2**40))
def test_every_setting_keeps_the_promises(kit, subject, data, norm, common, kind, seed):
    model, batch = subject
    epsilon = data.draw(st.lists(RADII[norm], min_size=5, max_size=5))
    attack = build(kit, norm, epsilon, common | kind)
    before = batch.pixels.clone()
    result = attack(model, batch, seed=seed)
    radius = torch.tensor(epsilon, dtype=torch.float64)
    norms = result.linf if norm == "linf" else result.l2
    assert (norms <= radius + 1e-9).all()
    assert result.pixels.min() >= 0 and result.pixels.max() <= 1
    assert torch.equal(batch.pixels, before)
    assert not model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    # What is reported is what a fresh pass gives.
    wrong = model(result.pixels).argmax(dim=1) != torch.tensor([int(p.label) for p in batch.pairs])
    assert torch.equal(result.success, wrong)
    if attack.search.keep == "best":
        # Nothing is given up: never worse than the clean image.
        kept = result.success & ~result.clean_success
        assert (kept | (result.objective >= result.clean_objective - 1e-12)).all()
    # Independent of order and split (and of what else is in the batch).
    order = data.draw(st.permutations(range(5)))
    cut = data.draw(st.integers(1, 4))
    for rows in (list(order[:cut]), list(order[cut:])):
        part = build(kit, norm, [epsilon[i] for i in rows], common | kind)
        again = part(model, kit.take(batch, rows), seed=seed)
        assert torch.allclose(again.pixels, result.pixels[rows], atol=1e-9)
        assert torch.equal(again.forwards, result.forwards[rows])


@settings(max_examples=30, deadline=None)
@given(norm=st.sampled_from(["linf", "l2"]), epsilon=st.floats(1e-4, 0.5), seed=st.integers(0, 2**40))
def test_random_starts_are_two_sided_and_inside(subject, norm, epsilon, seed):
    from cmai_core.seeds import sample_generators

    _, batch = subject
    region = ThreatModel(norm, epsilon).around(batch.pixels)
    start = region.random_start(sample_generators(seed, batch.ids, 0))
    delta = start - batch.pixels
    assert start.min() >= 0 and start.max() <= 1
    assert (delta > 0).flatten(1).any(dim=1).all() and (delta < 0).flatten(1).any(dim=1).all()
    size = delta.abs().amax() if norm == "linf" else delta.flatten(1).norm(dim=1).amax()
    assert size <= epsilon + 1e-12
    other = region.random_start(sample_generators(seed, batch.ids, 1))
    assert not torch.equal(start, other)
