"""Natural shift, linear probe, latency and training overhead, on real models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cmai_core import cli
from cmai_core.data import load_dataset
from cmai_core.data.subset import Subset
from cmai_core.data.tabletop.scene import Scene, SceneObject
from cmai_core.errors import DataError, OptionError
from cmai_core.evaluation.figures.intervals import share_interval
from cmai_core.evaluation.figures.latency import latency, training_overhead
from cmai_core.evaluation.figures.probe import few_shot_probe, label_of
from cmai_core.evaluation.figures.shift import shift_accuracy
from cmai_core.models import load_model
from cmai_core.models.cards import ModelCard
from cmai_core.tasks import evaluate_clean, get_task


@pytest.fixture(scope="module")
def model():
    return load_model("tabletop", "cpu")


@pytest.fixture(scope="module")
def scenes():
    return load_dataset("tabletop", "test", 200)


# --- shift ------------------------------------------------------------------------------------------------------------


def test_a_variant_is_compared_scene_by_scene(model):
    told = []
    splits = ("test", "test-corruption")
    found = shift_accuracy(model, ["zero-shot"], 16, splits=splits, batch=10, progress=told.append)
    plain, shifted = (found[found["split"] == split].iloc[0] for split in splits)
    peer = evaluate_clean(model, load_dataset("tabletop", "test", 16), ["zero-shot"])["tasks"]["zero-shot"]["accuracy"]
    assert plain.value == pytest.approx(peer["value"]) and plain.total == 16
    assert (plain.low, plain.high) == tuple(float(b) for b in share_interval(plain.hits, 16))
    assert shifted.change == pytest.approx(shifted.value - plain.value)
    assert shifted.change_low <= shifted.change <= shifted.change_high and 0 < shifted.p <= 1
    assert np.isnan(plain.change)
    assert told[-1].done == told[-1].total == 32


def test_unknown_variants_and_tasks_are_refused(model):
    with pytest.raises(OptionError, match="test-light"):
        shift_accuracy(model, ["zero-shot"], 4, splits=("test-rain",))
    with pytest.raises(OptionError, match="chess"):
        shift_accuracy(model, ["chess"], 4, splits=("test",))


# --- probe ------------------------------------------------------------------------------------------------------------


class Told:
    """A model whose embedding is the mean colour of a picture: linear in it, whatever the scene."""

    spec = "told"
    device = torch.device("cpu")

    def preprocess(self, images):
        return torch.tensor(np.stack([image.mean(axis=(0, 1)) for image in images]))

    def image_features(self, pixels):
        from cmai_core.models.features import ImageFeatures

        return ImageFeatures(pixels, pixels, None)


class Painted:
    """Pictures of one colour a class, with a little noise."""

    name, classes, statements = "painted", (), ()

    def __init__(self, split: str, count: int, classes: int = 3):
        self.split, self.count, self.number = split, count, classes

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        from cmai_core.data.pair import Pair

        rng = np.random.default_rng(index + 1000 * (self.split == "test"))
        image = rng.integers(0, 20, (8, 8, 3), dtype=np.uint8)
        image[..., index % self.number] += 100
        return Pair(f"{self.split}/{index}", image, ("x",), label=f"class {index % self.number}")


def test_what_is_linear_is_read_perfectly_and_noise_is_not():
    found = few_shot_probe(Told(), Painted("train", 60), Painted("test", 31), "label", (1, 8), seeds=3)
    assert found["value"].tolist() == [1.0, 1.0] and found["total"].tolist() == [93, 93]
    assert found["chance"].tolist() == pytest.approx([11 / 31] * 2)

    class Shuffled(Painted):
        def __getitem__(self, index):
            from dataclasses import replace

            label = np.random.default_rng(index + 7 * len(self.split)).integers(3)
            return replace(super().__getitem__(index), label=f"class {label}")

    row = few_shot_probe(Told(), Shuffled("train", 90), Shuffled("test", 200), "label", (8,), seeds=5).iloc[0]
    assert 0.2 < row.value < 0.47 and row.low < row.value < row.high


def test_the_probe_reads_colours_from_the_bundled_model(model, scenes):
    train, test = Subset(scenes, range(120)), Subset(scenes, range(120, 200))
    found = few_shot_probe(model, train, test, "contains a red", (2, 16), seeds=3)
    assert found["value"].iloc[1] > found["chance"].iloc[1] + 0.05
    again = few_shot_probe(model, train, test, "contains a red", (2,), seeds=3)
    assert again["value"].iloc[0] == found["value"].iloc[0]  # the shots do not depend on the other k
    assert not any(module.training for module in model.clip.modules())


def test_leaks_and_shortages_are_refused(model, scenes):
    with pytest.raises(DataError, match=r"^10 "):
        few_shot_probe(model, Subset(scenes, range(20)), Subset(scenes, range(10, 30)), "contains a red")
    with pytest.raises(DataError, match=r"^50 "):
        few_shot_probe(model, Subset(scenes, range(20)), Subset(scenes, range(20, 30)), "contains a red", (50,))
    with pytest.raises(OptionError, match="attribute"):
        label_of(scenes[0].scene, None, "weight")


def test_labels_come_from_the_scene():
    one = Scene((SceneObject("cube", "red", "matte", "small", 0, 0),))
    two = Scene((*one.objects, SceneObject("ring", "blue", "shiny", "large", 3, 3)))
    assert label_of(one, None, "shape") == "cube" and label_of(two, None, "shape") is None
    assert label_of(two, None, "contains a ring") == "yes" and label_of(one, None, "contains a shiny") == "no"
    assert label_of(None, "cat", "label") == "cat" and label_of(None, "cat", "colour") is None


# --- cost -------------------------------------------------------------------------------------------------------------


def test_latency_of_embeddings_and_answers(model, scenes):
    pairs = [scenes[k] for k in range(3)]
    images = [pair.image for pair in pairs]
    found = latency(model, images, (1, 4), repeats=5, warm_up=1)
    assert found["batch"].tolist() == [1, 4] and found["peak_mib"].isna().all()
    assert (found["low_quartile"] <= found["milliseconds"]).all()
    assert (found["milliseconds"] <= found["high_quartile"]).all() and (found["milliseconds"] > 0.01).all()
    assert found["images_per_second"].to_numpy() == pytest.approx(1000 / found["milliseconds"].to_numpy())
    task = get_task("vqa")
    answered = latency(model, images, (4,), task=task, pairs=pairs, dataset=scenes, repeats=2, warm_up=0)
    assert answered["task"].tolist() == ["vqa"] and answered["repeats"].tolist() == [2]
    with pytest.raises(OptionError, match="pairs"):
        latency(model, images, task=task)
    with pytest.raises(OptionError, match=r"^0 "):
        latency(model, [], (1,))


def test_training_overhead_is_relative_to_the_base():
    base = {"seconds": 1000.0, "pairs": 10_000, "precision": "bf16", "device": "CPU"}
    tuned = {"seconds": 500.0, "pairs": 1_000, "precision": "fp32", "device": "CPU", "start": base}
    cards = [ModelCard("plain", False, "", base), ModelCard("tuned", True, "", tuned | {"recipe": {"start": "plain"}})]
    found = training_overhead([*cards, ModelCard("silent", False, "")]).set_index("target")
    assert found.loc["tuned", ["base", "overhead", "overhead_per_pair"]].tolist() == ["plain", 0.5, 5.0]
    assert "precision: fp32, base bf16" in found.loc["tuned", "note"]
    assert np.isnan(found.loc["plain", "overhead"]) and found.loc["plain", "milliseconds_per_pair"] == 100.0
    assert np.isnan(found.loc["silent", "seconds"])


def test_the_bundled_cards_tell_their_training():
    found = training_overhead().set_index("target")
    assert found.loc["tabletop", "seconds"] > 0 and found.loc["tabletop-tecoa", "overhead"] > 0
    assert found.loc["tabletop-tecoa", "base"] == "tabletop"


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        ("shift --tasks zero-shot --splits test test-light --limit 4 --quiet", {"change", "p"}),
        ("probe --attribute colour --shots 1 --seeds 1 --limit 100", {"shots", "chance"}),
        ("latency --batch-sizes 1 2 --repeats 1 --task zero-shot", {"milliseconds"}),
        ("training", {"overhead_per_pair"}),
    ],
)
def test_each_figure_has_a_command(words, columns, tmp_path, capsys):
    file = tmp_path / "figure.json"
    assert cli.main(["measure", *words.split(), "--json", str(file)]) == 0
    printed, made = capsys.readouterr().out.splitlines(), json.loads(file.read_text())
    assert columns <= set(made["columns"]) == set(printed[0].split())
    assert len(printed) == len(made["rows"]) + 1 > 1
