"""Other people's attackers as cells: functions, Foolbox and torchattacks, judged by the same measure."""

import pytest
import torch

from cmai_core.errors import OptionError
from cmai_core.evaluation.runs import predictions
from cmai_core.evaluation.runs.external import Classifier
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.runner import run
from cmai_core.evaluation.runs.setting import Setting
from cmai_core.evaluation.store.store import Store


def sweep(folder, models, pairs, outside, recipes, **changes):
    values = {"models": ["small-0"], "tasks": ["zero-shot"], "epsilons": [8], "limit": 12, "batch_size": 6}
    with Store.write(folder) as store:
        grid = Grid.from_dict(values | {"recipes": recipes, **changes})
        report = run(grid, store, models=models, dataset=pairs, outside=outside)
        return report, predictions.frame(store, report.plan)


def noise(model, batch):
    """Uniform noise far beyond the budget, drawn from the global generator."""
    return batch.pixels + torch.rand_like(batch.pixels) - 0.5


def test_a_function_is_projected_and_repeats(tmp_path, models, pairs):
    state = torch.random.get_rng_state()
    report, frame = sweep(tmp_path / "a", models, pairs, {"noise": noise}, ["noise@"])
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    _, again = sweep(tmp_path / "b", models, pairs, {"noise": noise}, ["noise@"])
    attacked = frame[frame["recipe"] == "noise@"]
    right = attacked[attacked["correct_clean"]]
    assert report.attacked == 12 and right["linf"].max() == pytest.approx(8 / 255)
    assert (attacked["knowledge"] == "outside").all()
    assert frame.drop(columns="seconds").equals(again.drop(columns="seconds"))


def test_a_function_by_its_place(tmp_path, models, pairs, monkeypatch):
    (tmp_path / "theirs.py").write_text("def attack(model, batch):\n    return 1 - batch.pixels\n")
    monkeypatch.syspath_prepend(tmp_path)
    report, _ = sweep(tmp_path / "store", models, pairs, {}, ["flip@theirs:attack"])
    assert report.attacked == 12 and not report.failed
    for wrong, name in (("flip@theirs:nothing", "flip@theirs:nothing"), ("mine@", "'mine'")):
        with pytest.raises(OptionError, match=name):
            sweep(tmp_path / "store", models, pairs, {}, [wrong])


def test_the_code_is_part_of_the_address(models, pairs):
    values = {"models": ["small-0"], "tasks": ["zero-shot"], "recipes": ["mine@"], "limit": 4}
    from cmai_core.evaluation.runs.plan import plan

    def craft(function):
        setting = Setting(Grid.from_dict(values), models=models, dataset=pairs, outside={"mine": function})
        return plan(setting).cells[0].craft

    def other(model, batch):
        return batch.pixels

    assert craft(noise) == craft(noise) != craft(other)


def test_foolbox_and_torchattacks_are_as_strong_as_ours(tmp_path, models, pairs):
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")

    class Nothing(torch.nn.Module):
        """The model a torchattacks object was made for does not matter."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixels):
            return pixels.mean(dim=(2, 3)) * self.weight

    theirs = {
        "fb": foolbox.attacks.LinfPGD(steps=10, rel_stepsize=0.25),
        "ta": torchattacks.PGD(Nothing(), eps=1.0, alpha=2 / 255, steps=10),
        "square": torchattacks.Square(Nothing(), eps=1.0, n_queries=20),  # drops what is fooled on the way
    }
    report, frame = sweep(tmp_path, models, pairs, theirs, ["fb@", "ta@", "square@", "pgd:steps=10"])
    assert not report.failed and report.attacked == 4 * 12
    left = frame[frame["correct_clean"]].groupby("recipe")["correct"].sum()
    assert left["clean"] > 0
    assert left["fb@"] <= left["pgd:steps=10"] + 1 and left["ta@"] <= left["pgd:steps=10"] + 1
    assert left["square@"] <= left["clean"]
    attacked = frame[frame["recipe"] != "clean"]
    fooled = attacked[attacked["correct_clean"] & ~attacked["correct"]]
    assert (attacked["linf"] <= 8 / 255 + 1e-9).all() and len(fooled) and (fooled["linf"] > 0).all()


def test_they_need_class_scores(models, pairs):
    foolbox = pytest.importorskip("foolbox")
    from cmai_core.evaluation.runs.plan import plan

    grid = Grid.from_dict({"models": ["small-0"], "tasks": ["captioning"], "recipes": ["fb@"], "limit": 4})
    setting = Setting(grid, models=models, dataset=pairs, outside={"fb": foolbox.attacks.LinfPGD()})
    assert "no class scores" in plan(setting).cells[0].skipped


def test_the_classifiers_view(models, pairs):
    from cmai_core.evaluation.runs.predictor import make_batch
    from cmai_core.tasks.retrieval import Retrieval

    model, task = models["small-0"], Retrieval()
    batch = make_batch(model, [pairs[k] for k in range(5)], 1)
    view = Classifier(model, task, pairs, batch)
    with torch.no_grad():
        scores = view(batch.pixels)
        prepared = task.prepare(model, list(batch.pairs), pairs)
        plain = task.logits(model, model.image_features(batch.pixels), prepared)
    assert prepared.target.gather(1, view.labels[:, None]).all()
    others = prepared.target.clone()
    others[torch.arange(5), view.labels] = False
    assert torch.equal(scores[~others], plain[~others]) and (scores.amin(1) >= plain.amin(1) - 10.001).all()
    # fewer pictures, moved a little: each is taken for its own
    with torch.no_grad():
        some = view((batch.pixels[[3, 1]] + 0.02).clamp(0, 1))
        whole = view((batch.pixels + 0.02).clamp(0, 1))
    assert torch.allclose(some, whole[[3, 1]], atol=1e-4)
