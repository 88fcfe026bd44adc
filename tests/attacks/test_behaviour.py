"""Progress, cancellation, early stopping, failures of device and gradients, options, and what a result can do."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from cmai_core.attacks import (
    Attack,
    AttackResult,
    Consistency,
    Flagged,
    GradientSearch,
    Objective,
    Raised,
    TaskObjective,
    ThreatModel,
    Untargeted,
    fgsm,
    pgd,
    task_pgd,
)
from cmai_core.attacks.result import round_to_8bit
from cmai_core.data.pair import Batch
from cmai_core.errors import CmaiError, DataError, OptionError
from cmai_core.models.oom import is_out_of_memory
from cmai_core.progress import CancelToken
from cmai_core.seeds import sample_seed

EPSILON = 8 / 255


class Recorder:
    """Collects progress; cancels when told how many messages to wait for."""

    def __init__(self, cancel_after=None):
        self.messages, self.token, self.cancel_after = [], CancelToken(), cancel_after

    def __call__(self, progress):
        self.messages.append(progress)
        if len(self.messages) == self.cancel_after:
            self.token.cancel()


class Scaled(Objective):
    """−S_c of a linear model times a per-sample factor, to bring chosen samples to NaN."""

    def __init__(self, factors, inner=None):
        self.factors, self.inner = factors, inner or Consistency()

    def bind(self, model, batch, shared=None):
        return Scaled(self.factors, self.inner.bind(model, batch, shared))

    def select(self, rows):
        return Scaled(self.factors[rows], self.inner.select(rows))

    def __call__(self, model, pixels, features):
        return -self.factors * self.inner(model, pixels, features)

    def describe(self):
        return "scaled"


# Progress and cancellation


def test_progress_carries_growing_traces_and_the_current_image(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 3, size=8)
    recorder = Recorder()
    result = pgd(-Consistency(), epsilon=EPSILON, steps=6)(model, batch, progress=recorder, progress_interval=0)
    steps = [m for m in recorder.messages if m.data]
    assert [m.data["step"] for m in steps] == list(range(7))
    assert [m.done for m in steps] == list(range(7)) and {m.total for m in steps} == {6}
    for k, message in enumerate(steps):
        assert message.data["objective"].shape == (k + 1, 3)
        # Sent data is never changed afterwards: row k still is the objective of the image sent with it.
        with torch.no_grad():
            value = -(model(message.data["pixels"]) * model.encode_text(list(batch.texts))).sum(dim=1)
        assert torch.allclose(message.data["objective"][k], value)
        assert torch.allclose(message.data["consistency"][k], -value)
    assert torch.equal(steps[-1].data["objective"], result.objective_trace)
    assert recorder.messages[-1].fraction == 1.0


def test_progress_is_throttled_but_first_and_last_come(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    recorder = Recorder()
    pgd(-Consistency(), steps=50)(model, batch, progress=recorder, progress_interval=1000)
    assert [m.done for m in recorder.messages] == [0, 50, 50]


def test_cancel_stops_within_one_step_and_returns_the_best_so_far(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 3, size=8)
    recorder = Recorder(cancel_after=4)
    attack = pgd(-Consistency(), epsilon=EPSILON, steps=500, step_size=1 / 255)
    result = attack(model, batch, progress=recorder, cancel=recorder.token, progress_interval=0)
    assert result.cancelled and result.steps_done == 4
    assert result.backwards.tolist() == [4, 4, 4]
    assert torch.isnan(result.objective_trace[4:]).all() and not torch.isnan(result.objective_trace[:4]).any()
    assert torch.allclose(result.objective, result.objective_trace[:4].amax(dim=0))
    assert (result.objective > result.clean_objective).all()


def test_cancel_before_the_start_returns_the_clean_image(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    token = CancelToken()
    token.cancel()
    result = pgd(-Consistency())(model, batch, cancel=token)
    assert result.cancelled and torch.equal(result.pixels, batch.pixels) and not result.success.any()


def test_an_attack_that_has_finished_is_not_called_cancelled(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    recorder = Recorder(cancel_after=6)  # with the message of the last step
    result = pgd(-Consistency(), steps=5)(model, batch, progress=recorder, cancel=recorder.token, progress_interval=0)
    assert not result.cancelled and result.steps_done == 5


def test_a_failing_listener_leaves_the_model_as_found(kit):
    model = kit.conv_model().train()

    def listener(progress):
        raise RuntimeError("listener broke")

    with pytest.raises(RuntimeError, match="listener broke"):
        pgd(-Consistency())(model, kit.make_batch(model, 2, size=8), progress=listener)
    assert all(m.training for m in model.modules()) and all(p.requires_grad for p in model.parameters())


# The search


def test_texts_are_encoded_once_whatever_the_steps(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    pgd(0.5 * Consistency() - Consistency(), steps=15)(model, batch)
    assert model.text_encodings == 1


def test_no_parameter_gradients(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 2, size=8)
    seen = []
    original = model.image_features

    def watched(pixels):
        seen.append([p.requires_grad for p in model.parameters()])
        return original(pixels)

    model.image_features = watched
    pgd(TaskObjective(kit.LabelTask()), steps=2)(model, batch)
    assert seen and not any(any(flags) for flags in seen)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_best_iterate_is_kept_and_the_last_is_counted(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=8)
    # A step this long overshoots, so the best iterate is often not the last.
    options = {"epsilon": 64 / 255, "steps": 8, "step_size": 0.5, "random_start": False}
    best = pgd(TaskObjective(kit.LabelTask()), **options)(model, batch)
    last = pgd(TaskObjective(kit.LabelTask()), keep="last", **options)(model, batch)
    assert torch.allclose(best.objective, best.objective_trace.amax(dim=0))
    assert torch.allclose(last.objective, best.objective_trace[-1])
    assert torch.allclose(last.objective_trace, best.objective_trace)
    assert (best.objective > last.objective + 1e-6).any()
    improving = pgd(-Consistency(), steps=1, step_size=EPSILON, epsilon=EPSILON, random_start=False)
    linear = kit.linear_model()
    linear_batch = kit.make_batch(linear, 2)
    assert torch.equal(improving(linear, linear_batch).pixels, kit.linear_optimum(linear, linear_batch, EPSILON)[0])


def test_restarts_help_and_keep_a_success(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 24, size=8)
    task = kit.LabelTask()
    rates = []
    previous = None
    for restarts in (1, 2, 6):
        attack = task_pgd(task, epsilon=20 / 255, steps=1, step_size=2 / 255, restarts=restarts)
        result = attack(model, batch, seed=0)
        rates.append(result.success_rate(rounded=False).hits)
        if previous is not None:
            # A success of the earlier restarts stays exactly what it was.
            assert torch.equal(result.pixels[previous.success], previous.pixels[previous.success])
            assert result.success[previous.success].all()
        previous = result
    assert rates == sorted(rates) and rates[0] < rates[-1]


def test_success_comes_before_the_objective(kit):
    """An iterate that succeeds is kept although a later one scores higher but does not succeed."""
    model = kit.linear_model(scale=0.02)
    model.tower[1].bias.data.zero_()
    batch = kit.make_batch(model, 1)
    with torch.no_grad():
        start = float((model(batch.pixels) * model.encode_text(list(batch.texts))).sum())
    wanted = Flagged(start - 0.05) & ~Flagged(start - 0.15)
    attack = pgd(-Consistency(), epsilon=0.5, steps=40, step_size=0.01, random_start=False, success=wanted)
    result = attack(model, batch)
    assert result.consistency_trace[-1].item() < start - 0.3
    assert bool(result.success) and start - 0.15 <= result.consistency.item() < start - 0.05


def test_a_task_that_judges_on_the_device_is_asked_at_every_step(kit):
    class Judged(kit.LabelTask):
        asked = 0

        def wrong(self, model, features, prepared):
            self.asked += 1
            return features.embedding.argmax(dim=1) != prepared

        def predict(self, model, features, prepared):
            raise AssertionError("not needed")

    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 12, size=8)
    options = {"epsilon": 10 / 255, "steps": 12, "step_size": 3 / 255}
    task = Judged()
    result = task_pgd(task, **options)(model, batch, seed=4)
    assert task.asked == 1 + 13 + 2  # clean; every iterate; the final image before and after rounding
    decoded = task_pgd(kit.LabelTask(), **options)(model, batch, seed=4)
    assert (result.success | ~decoded.success).all() and result.success.any()


def test_early_stop_compacts_and_agrees_with_the_full_run(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 12, size=8)
    sizes = []
    original = model.image_features

    def watched(pixels):
        sizes.append(len(pixels))
        return original(pixels)

    model.image_features = watched
    for task in (kit.LabelTask(), kit.SelectableTask()):
        sizes.clear()
        options = {"epsilon": 10 / 255, "steps": 12, "step_size": 1 / 255}
        early = task_pgd(task, stop_on_success=True, **options)(model, batch, seed=4)
        used = list(sizes)
        full = task_pgd(task, **options)(model, batch, seed=4)
        assert torch.equal(early.success, full.success) and 0 < int(early.success.sum()) < 12
        assert min(used[1:-2]) < 12
        assert (early.backwards < full.backwards).any() and int(early.backwards.sum()) < int(full.backwards.sum())
        failed = ~early.success
        assert torch.allclose(early.pixels[failed], full.pixels[failed])
        # Where it stopped, the trace ends.
        stopped = torch.isnan(early.objective_trace[-1])
        assert torch.equal(stopped, early.success)


def test_samples_wrong_when_clean_are_not_attacked_and_leave_the_denominator(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 6, size=8)
    wrong = tuple(
        type(p)(p.id, p.image, p.captions, label=str((int(p.label) + (i < 2)) % kit.CLASSES))
        for i, p in enumerate(batch.pairs)
    )
    batch = Batch(batch.ids, batch.pixels, batch.texts, batch.image_of_text, wrong)
    result = task_pgd(kit.LabelTask(), epsilon=0.2, steps=10, stop_on_success=True)(model, batch)
    assert result.clean_success.tolist() == [True, True, False, False, False, False]
    assert result.forwards[:2].tolist() == [0, 0] and torch.equal(result.pixels[:2], batch.pixels[:2])
    rate = result.success_rate()
    assert rate.total == 4 and rate.hits == int(result.success_8bit[2:].sum())
    assert result.robust_rate().hits == 4 - rate.hits and result.robust_rate().total == 6


def test_seed_generator_and_sample_seed(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 2, size=8)
    attack = pgd(-Consistency(), steps=2)
    first = attack(model, batch, generator=torch.Generator().manual_seed(1))
    again = attack(model, batch, seed=first.seed)
    other = attack(model, batch, seed=first.seed + 1)
    assert torch.equal(first.pixels, again.pixels) and not torch.equal(first.pixels, other.pixels)
    with pytest.raises(OptionError):
        attack(model, batch, seed=1, generator=torch.Generator())
    # Fixed for good: results are replayed from these.
    assert sample_seed(0, "tabletop/test/17", 0) == 6962675797855699308


# Failures


def test_a_nan_gradient_marks_its_sample_and_the_others_finish(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 3)
    factors = torch.tensor([1.0, float("nan"), 1.0], dtype=torch.float64)
    for keep in ("best", "last"):
        result = pgd(Scaled(factors), epsilon=EPSILON, random_start=False, keep=keep)(model, batch)
        assert torch.equal(result.pixels[1], batch.pixels[1])
        best, _ = kit.linear_optimum(model, batch, EPSILON)
        assert torch.equal(result.pixels[[0, 2]], best[[0, 2]])
        assert result.notes[0] == result.notes[2] == "" and "not finite at step 0" in result.notes[1]
        assert json.loads(result.to_json())["samples"][1]["objective"] is None


def test_a_gradient_that_turns_nan_later_keeps_the_best_before_it(kit):
    class Cliff(Scaled):
        def bind(self, model, batch, shared=None):
            return Cliff(self.factors, self.inner.bind(model, batch, shared))

        def select(self, rows):
            return Cliff(self.factors[rows], self.inner.select(rows))

        def __call__(self, model, pixels, features):
            value = super().__call__(model, pixels, features)
            moved = (pixels - start).abs().flatten(1).amax(dim=1) > 2.5 / 255
            return value + torch.where(moved & (self.factors > 1), torch.nan, 0.0)

    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    start = batch.pixels
    attack = pgd(
        Cliff(torch.tensor([1.0, 2.0], dtype=torch.float64)),
        epsilon=EPSILON, steps=8, step_size=1 / 255, random_start=False,
    )  # fmt: skip
    result = attack(model, batch)
    assert result.notes[0] == "" and "step 3" in result.notes[1]
    assert result.linf[1].item() == pytest.approx(2 / 255) and result.objective[1] > result.clean_objective[1]
    assert result.linf[0].item() == pytest.approx(EPSILON)


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 7, size=8)
    expected = pgd(-Consistency(), steps=3)(model, batch)
    original, sizes = model.image_features, []

    def tight(pixels):
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        sizes.append(len(pixels))
        return original(pixels)

    model.image_features = tight
    result = pgd(-Consistency(), steps=3)(model, batch)
    assert torch.allclose(result.pixels, expected.pixels, atol=1e-12) and max(sizes) == 1

    def hopeless(pixels):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    model.image_features = hopeless
    with pytest.raises(CmaiError, match="memory"):
        pgd(-Consistency())(model, batch)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_other_runtime_errors_pass_through(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    model.image_features = lambda pixels: (_ for _ in ()).throw(RuntimeError("mat1 and mat2 shapes"))
    with pytest.raises(RuntimeError, match="mat1"):
        pgd(-Consistency())(model, batch)


def test_normalised_pixels_are_refused(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    for bad in (batch.pixels * 4 - 2, batch.pixels * float("nan")):
        with pytest.raises(DataError, match=r"\[0, 1\]"):
            pgd(-Consistency())(model, Batch(batch.ids, bad, batch.texts, batch.image_of_text))
    with pytest.raises(DataError):
        pgd(-Consistency())(model, Batch(("a", "a"), batch.pixels, batch.texts, batch.image_of_text))


def test_an_objective_without_gradient_is_named(kit):
    class Constant(Scaled):
        def bind(self, model, batch, shared=None):
            return self

        def __call__(self, model, pixels, features):
            return torch.ones(len(pixels))

    model = kit.linear_model()
    with pytest.raises(OptionError, match="gradient"):
        pgd(Constant(torch.ones(2)))(model, kit.make_batch(model, 2))


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"step_size": float("nan")}, "step_size=nan"),
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"keep": "first"}, "best, last"),
        ({"random_start": 1}, "True, False"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"restarts": 3, "random_start": False}, "restarts=1"),
        ({"restarts": 3, "keep": "last"}, "keep='best'"),
        ({"stop_on_success": True, "keep": "last"}, "keep='best'"),
        ({"stepsize": 0.1}, "steps, step_size"),
    ],
)
def test_search_options_are_checked_at_construction(options, words):
    with pytest.raises(OptionError) as caught:
        GradientSearch(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("norm", "epsilon", "words"),
    [
        ("l7", 0.1, "linf, l2"),
        ("linf", 4, "epsilon=4"),
        ("linf", -0.1, "epsilon=-0.1"),
        ("linf", [0.1, float("nan")], "epsilon=[0.1, nan]"),
        ("linf", "four", "epsilon='four'"),
        ("linf", [[0.1]], "(1, 1)"),
        ("l2", float("inf"), "epsilon=inf"),
    ],
)
def test_threat_options_are_checked_at_construction(norm, epsilon, words):
    with pytest.raises(OptionError) as caught:
        ThreatModel(norm, epsilon)
    assert words in str(caught.value)


def test_a_region_without_a_distance_is_not_made():
    from cmai_core.attacks.threats.regions.region import Region

    class Nowhere(Region):
        """Everything but `distance`."""

        def project(self, pixels):
            return pixels

        def steepest_step(self, gradient, pixels=None):
            return gradient

        def random_start(self, generators):
            return self.centre

    zeros = torch.zeros(1, 3, 2, 2)
    with pytest.raises(TypeError, match="distance"):
        Nowhere(zeros, zeros[:, :1, :1, :1], zeros, zeros)


def test_attack_options_are_checked(kit):
    with pytest.raises(OptionError, match="objective"):
        Attack(threat=ThreatModel(), objective=kit.LabelTask(), search=GradientSearch())
    with pytest.raises(OptionError, match="search"):
        Attack(threat=ThreatModel(), objective=Consistency(), search=None)
    with pytest.raises(OptionError, match=r"budget.*threat"):
        Attack(threat=ThreatModel(), objective=Consistency(), search=GradientSearch(), budget=3)
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    with pytest.raises(OptionError, match=r"3 .*epsilon.* 2 "):
        pgd(-Consistency(), epsilon=[0.1, 0.1, 0.1])(model, batch)
    with pytest.raises(OptionError, match=kit.LabelTask().name):
        pgd(TaskObjective(kit.LabelTask()))(model, Batch(batch.ids, batch.pixels, (), ()))
    with pytest.raises(OptionError, match=re.escape(repr(batch.ids[1]))):
        pgd(-Consistency())(model, Batch(batch.ids, batch.pixels, batch.texts[:1], (0,)))
    with pytest.raises(OptionError, match="weight"):
        pgd(0 * Consistency())(model, batch)
    with pytest.raises(OptionError):
        Consistency() * float("nan")
    with pytest.raises(OptionError):
        Flagged(2.0)


# Objectives and criteria


def test_objectives_add_and_scale(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 3, size=8)
    task = kit.LabelTask()
    objective = 2 * TaskObjective(task) - 0.5 * (Consistency() - 3 * TaskObjective(task))
    assert objective.describe() == "2*task:labels - 0.5*consistency + 1.5*task:labels"
    bound = objective.bind(model, batch)
    features = model.image_features(batch.pixels)
    loss = task.loss(model, features, task.prepare(model, batch.pairs))
    score = (features.embedding * model.encode_text(list(batch.texts))).sum(dim=1)
    assert torch.allclose(bound(model, batch.pixels, features), 3.5 * loss - 0.5 * score)
    rows = torch.tensor([2, 0])
    part = bound.select(rows)(model, batch.pixels[rows], model.image_features(batch.pixels[rows]))
    assert torch.allclose(part, (3.5 * loss - 0.5 * score)[rows])
    assert (0 * TaskObjective(task) - Consistency()).bind(model, batch).describe() == "-consistency"


def test_consistency_averages_an_images_captions(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    many = Batch(batch.ids, batch.pixels, ("text 1", "text 2", "text 3"), (1, 0, 1))
    bound = Consistency().bind(model, many)
    features = model.image_features(batch.pixels)
    value = bound(model, batch.pixels, features)
    each = model.encode_text(["text 1", "text 2", "text 3"])
    expected = torch.stack([features.embedding[0] @ each[1], features.embedding[1] @ (each[0] + each[2]) / 2])
    assert torch.allclose(value, expected)


def test_criteria_combine(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 12, size=8)
    task = kit.LabelTask()
    options = {"epsilon": 10 / 255, "steps": 10}
    plain = task_pgd(task, **options)(model, batch)
    tau = float(plain.consistency.median())
    evasive = pgd(TaskObjective(task), success=Untargeted(task) & ~Flagged(tau), **options)(model, batch)
    assert torch.equal(evasive.success, (plain.success | evasive.success) & evasive.success)
    wrong = model(evasive.pixels).argmax(dim=1) != torch.tensor([int(p.label) for p in batch.pairs])
    assert torch.equal(evasive.success, wrong & (evasive.consistency >= tau))
    either = pgd(TaskObjective(task), success=Untargeted(task) | Flagged(tau), **options)(model, batch)
    assert either.success.sum() >= evasive.success.sum()
    assert (Untargeted(task) & ~Flagged(0.25)).describe() == "(labels wrong and not S_c < 0.25)"
    margin = pgd(-Consistency(), success=Raised(1e9), **options)(model, batch)
    assert not margin.success.any()


def test_a_batch_without_texts_has_no_consistency(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 2, size=8, texts=False)
    result = pgd(TaskObjective(kit.LabelTask()), steps=2)(model, batch)
    assert result.consistency is None and result.consistency_trace is None
    assert json.loads(result.to_json())["samples"][0]["consistency"] is None


# Results


def test_rounding_is_to_the_nearest_level_and_reported_apart(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 3)
    epsilon = 0.4 / 255  # rounds away to nothing
    result = pgd(-Consistency(), epsilon=epsilon, steps=3)(model, batch)
    assert result.success.all() and not result.success_8bit.any()
    assert result.linf.max() == pytest.approx(epsilon) and result.linf_8bit.max() == 0
    assert torch.equal(result.pixels_8bit, batch.pixels)
    assert round_to_8bit(torch.tensor([0.4999 / 255, 0.5001 / 255])).tolist() == [0.0, pytest.approx(1 / 255)]
    images = result.images()
    assert images.dtype == np.uint8 and images.shape == (3, 6, 6, 3)
    strong = pgd(-Consistency(), epsilon=EPSILON)(model, batch)
    assert strong.success_8bit.all() and strong.linf_8bit.max() <= EPSILON + 1e-12


def test_json_and_pngs(kit, tmp_path):
    model = kit.conv_model()
    batch = kit.make_batch(model, 2, size=8)
    batch = Batch(("set/test/1", "../../set:test:1"), batch.pixels, batch.texts, batch.image_of_text)
    result = pgd(-Consistency(), epsilon=EPSILON, steps=2)(model, batch, seed=9)
    data = json.loads(result.to_json())
    assert data["seed"] == 9 and data["attack"]["epsilon"] == EPSILON and data["attack"]["steps"] == 2
    record = data["samples"][0]
    assert record["id"] == "set/test/1" and len(record["objective_trace"]) == 3 and record["note"] == ""
    assert record["linf"] == pytest.approx(result.linf[0].item()) and record["success"] is True
    paths = result.save(tmp_path / "out")
    assert [p.name for p in paths] == ["set_test_1.png", "set_test_1-2.png"]
    assert {p.parent for p in paths} == {tmp_path / "out"}
    for path, image in zip(paths, result.images(), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), image)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "file"))):
        result.save(tmp_path / "file" / "below")


def test_results_of_batches_concatenate(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 5, size=8)
    attack = pgd(-Consistency(), steps=3)
    whole = attack(model, batch, seed=1)
    parts = [attack(model, kit.take(batch, rows), seed=1) for rows in ([0, 1], [2, 3, 4])]
    joined = AttackResult.concatenate(parts)
    assert joined.ids == whole.ids and torch.allclose(joined.pixels, whole.pixels)
    assert torch.allclose(joined.objective_trace, whole.objective_trace) and len(joined.notes) == 5
    with pytest.raises(DataError):
        AttackResult.concatenate([])


def test_fgsm_with_no_budget_returns_the_clean_image(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    for attack in (fgsm(-Consistency(), epsilon=0.0), pgd(-Consistency(), epsilon=0.0)):
        result = attack(model, batch)
        assert torch.equal(result.pixels, batch.pixels) and not result.success.any()
