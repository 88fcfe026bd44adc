"""What is computed once, what is shared, what a cascade saves, and what the frame then says."""

import numpy as np
import pytest
import torch

from cmai_core.evaluation.runs import predictions
from cmai_core.evaluation.runs.cost import cost
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.runner import run
from cmai_core.evaluation.runs.setting import Setting
from cmai_core.evaluation.store.store import Store
from cmai_core.progress import CancelToken

RECIPES = ("fgsm", "pgd:steps=3", "deepfool:steps=4", "char:candidates=5,rounds=1", "seq:steps=2", "universal:steps=2")


def grid(**changes):
    values = {"models": ["small-0", "small-1"], "tasks": ["zero-shot", "vqa"], "recipes": RECIPES, "epsilons": [2, 16]}
    return Grid.from_dict(values | {"limit": 6, "batch_size": 4, "captions": 2, **changes})


@pytest.fixture(scope="module")
def swept(tmp_path_factory, models, pairs):
    """A store with a whole sweep, its report and its frame."""
    folder = tmp_path_factory.mktemp("store")
    with Store.write(folder) as store:
        report = run(grid(), store, models=models, dataset=pairs)
        return folder, report, predictions.frame(store, report.plan)


def rows(frame, recipe, **wanted):
    keep = frame["recipe"].str.startswith(recipe)
    for name, value in wanted.items():
        keep &= frame[name] == value
    return frame[keep]


def test_the_frame_is_complete(swept):
    _, report, frame = swept
    assert tuple(frame.columns) == predictions.COLUMNS and not report.failed and not report.cancelled
    clean = rows(frame, "clean")
    assert len(clean) == 2 * (2 * 6 + 12)  # two models; two tasks, and two texts an item
    assert (clean["source"] == clean["target"]).all() and (clean["cell"] == "").all()
    assert len(rows(frame, "pgd")) == 2 * 2 * 2 * 2 * 6  # sources, targets, tasks, ε, items
    assert len(rows(frame, "deepfool")) == 2 * 2 * 2 * 6 and rows(frame, "deepfool")["epsilon"].isna().all()
    assert len(rows(frame, "char")) == 2 * 2 * 12 and (rows(frame, "char")["task"] == "").all()
    assert len(rows(frame, "seq")) == 2 * 2 * 2 * 2 * 12
    assert not frame.duplicated(["cell", "target", "task", "recipe", "item", "text_index"]).any()


def test_what_stands_in_the_frame(swept):
    _, _, frame = swept
    pixels = rows(frame, "pgd", epsilon=16.0)
    assert pixels["linf"].between(0, 16 / 255 + 1e-9).all() and pixels["linf"].max() > 15 / 255
    assert pixels["ssim"].between(0, 1).all() and (pixels["psnr"] > 20).all()
    own = pixels["source"] == pixels["target"]
    assert pixels[own]["correct_float"].notna().all() and pixels[~own]["correct_float"].isna().all()
    assert pixels["minimum_norm"].isna().all() and pixels["words_changed"].isna().all()
    texts = rows(frame, "char")
    assert texts["linf"].isna().all() and texts["correct"].isna().all() and (texts["words_changed"] >= 0).all()
    mine = texts[texts["source"] == texts["target"]]
    assert (mine["consistency"] <= mine["consistency_clean"] + 1e-5).all()
    assert (mine["consistency"] < mine["consistency_clean"]).any()
    joint = rows(frame, "seq", epsilon=16.0, task="vqa")
    assert joint[joint["text_index"] == 0]["correct"].notna().all()
    assert joint[joint["text_index"] == 1]["correct"].isna().all() and joint["consistency_clean"].notna().all()
    nearest = rows(frame, "deepfool")
    found = nearest[(nearest["source"] == nearest["target"]) & nearest["correct_clean"]]
    assert (found["correct"].astype(bool) == ~np.isfinite(found["minimum_norm"])).all()
    one = rows(frame, "universal", epsilon=16.0, source="small-0", target="small-0", task="vqa")
    assert one["example"].str.rsplit(":").str[0].nunique() == 1  # all items in one batch


def test_readings_are_those_of_plain_inference(swept, models, pairs):
    """Clean and attacked answers, read by hand from the stored pictures."""
    from cmai_core.tasks import get_task

    folder, _, frame = swept
    model, task = models["small-1"], get_task("zero-shot")
    shown = rows(frame, "pgd", epsilon=16.0, source="small-0", target="small-1", task="zero-shot")
    with Store.read(folder) as store:
        for number, row in enumerate(shown.itertuples()):
            pair = pairs[number]
            clean = (models["small-0"].preprocess([pair.image])[0] * 255).round().byte().permute(1, 2, 0).numpy()
            picture, text = predictions.adversarial(store, row.example, clean)
            assert row.item == pair.id and text is None
            assert np.abs(picture.astype(int) - clean).max() / 255 == pytest.approx(row.linf)
            with torch.no_grad():
                prepared = task.prepare(model, [pair], pairs)
                for image, answer, correct in (
                    (clean, row.answer_clean, row.correct_clean),
                    (picture, row.answer, row.correct),
                ):
                    said = task.predict(model, model.image_features(model.preprocess([image])), prepared)[0]
                    assert (said.answer, said.correct) == (answer, correct)


def test_a_second_run_computes_nothing_and_a_larger_one_only_what_is_new(swept, models, pairs):
    folder, first, frame = swept
    with Store.write(folder) as store:
        again = run(grid(), store, models=models, dataset=pairs)
        assert (again.attacked, again.shown, again.clean, again.run) == (0, 0, 0, first.run)
        assert predictions.frame(store, again.plan).equals(frame)
        small = {"recipes": ["fgsm"], "epsilons": [2, 16, 32], "limit": 8}
        larger = run(grid(**small), store, models=models, dataset=pairs)
        # per source and task: two new items at the two ε that are there, eight at the new one
        assert larger.attacked == 2 * 2 * (2 * 2 + 8)
        whole = predictions.frame(store, larger.plan)
        common = ["correct", "answer", "linf", "objective", "example"]
        before = rows(frame, "fgsm").set_index(["cell", "target", "item"])[common]
        after = rows(whole, "fgsm").set_index(["cell", "target", "item"])[common]
        assert after.loc[before.index].equals(before)


def test_examples_are_crafted_once_and_shown_to_all(tmp_path, models, pairs):
    alone = grid(models=["small-0"], recipes=["fgsm"], epsilons=[4])
    with Store.write(tmp_path) as store:
        first = run(alone, store, models=models, dataset=pairs)
        assert (first.attacked, first.shown) == (2 * 6, 0)
        both = run(grid(recipes=["fgsm"], epsilons=[4]), store, models=models, dataset=pairs)
        # the new source is attacked, its examples and the stored ones are shown to the other
        assert (both.attacked, both.shown) == (2 * 6, 2 * 2 * 6)


def test_a_file_that_was_taken_away_is_made_anew(tmp_path, models, pairs):
    small = grid(models=["small-0"], recipes=["fgsm"], epsilons=[4], tasks=["vqa"])
    with Store.write(tmp_path) as store:
        before = predictions.frame(store, run(small, store, models=models, dataset=pairs).plan)
        gone = sorted((tmp_path / "examples").rglob("*.parquet"))[0]
        data = gone.read_bytes()
        gone.unlink()
        again = run(small, store, models=models, dataset=pairs)
        assert again.attacked in (2, 4) and gone.read_bytes() == data
        after = predictions.frame(store, again.plan)
        assert after.drop(columns="seconds").equals(before.drop(columns="seconds"))


CONTENDERS = ("square:queries=30", "fgsm", "pgd:steps=5", "deepfool:steps=10,norm=linf")


def worst(frame, epsilon):
    """By hand: right when clean and under every example within ε."""
    clean = rows(frame, "clean").set_index("item")["correct_clean"]
    attacked = frame[frame["recipe"] != "clean"]
    within = attacked["minimum_norm"].fillna(-1) <= epsilon
    counts = attacked[(attacked["epsilon"] == epsilon) | (attacked["epsilon"].isna() & within)]
    lost = set(counts[counts["correct"].eq(False)]["item"])
    return {item: bool(right) and item not in lost for item, right in clean.items()}


def test_a_cascade_finds_the_same_worst_case_with_less(tmp_path, models, pairs):
    values = {"models": ["small-0"], "tasks": ["zero-shot"], "recipes": CONTENDERS, "epsilons": [0.25, 1, 4]}
    values |= {"limit": 16, "batch_size": 5, "captions": 1}
    reports, frames = {}, {}
    for cascade in (False, True):
        with Store.write(tmp_path / str(cascade)) as store:
            reports[cascade] = run(grid(**values, cascade=cascade), store, models=models, dataset=pairs)
            frames[cascade] = predictions.frame(store, reports[cascade].plan)
    robust = [worst(frames[False], epsilon) for epsilon in values["epsilons"]]
    assert robust == [worst(frames[True], epsilon) for epsilon in values["epsilons"]]
    assert any(robust[0].values()) and sum(robust[2].values()) < sum(robust[0].values())
    assert reports[True].attacked < reports[False].attacked == 16 * (3 * 3 + 1)


def test_progress_and_cancelling(tmp_path, models, pairs):
    small = grid(models=["small-0"], recipes=["pgd:steps=4"], tasks=["vqa"], limit=12)
    token, seen = CancelToken(), []

    def listen(update):
        seen.append(update)
        if update.data.get("cells", "").startswith("1 ") and update.done > 0.4 * update.total:
            token.cancel()

    with Store.write(tmp_path) as store:
        stopped = run(small, store, models=models, dataset=pairs, progress=listen, cancel=token)
        assert stopped.cancelled and 0 < stopped.attacked < 24
        assert len(rows(predictions.frame(store, stopped.plan), "pgd")) == stopped.attacked
        seen.clear()
        rest = run(small, store, models=models, dataset=pairs, progress=seen.append)
        assert rest.attacked == 24 - stopped.attacked and not rest.cancelled
    assert seen[-1].done == seen[-1].total and seen[-1].data["eta"] == 0
    assert [u.done for u in seen] == sorted(u.done for u in seen)


def test_cost_before_and_after(tmp_path, models, pairs):
    small = grid(recipes=["fgsm", "pgd:steps=9"], tasks=["vqa"], epsilons=[2], validation=0)
    setting = Setting(small, models=models, dataset=pairs)
    before = cost(setting, None)
    assert before.clean == 12 and not before.measured and before.seconds > 0
    fgsm, pgd = before.cells[:2]
    assert pgd.seconds > 2 * fgsm.seconds
    with Store.write(tmp_path) as store:
        run(setting, store)
        after = cost(setting, store)
        assert after.seconds == 0 and after.clean == 0 and all(c.stored == c.items for c in after.cells)
        more = cost(Setting(grid(recipes=["fgsm"], tasks=["vqa"], epsilons=[4]), models=models, dataset=pairs), store)
    assert more.measured and more.seconds > 0


def test_a_recipe_that_fails_does_not_stop_the_others(tmp_path, models, pairs):
    def broken(model, batch):
        return batch.pixels[:1, :, :1]

    small = grid(models=["small-0"], recipes=["broken@", "fgsm"], tasks=["zero-shot"], epsilons=[2])
    with Store.write(tmp_path) as store:
        report = run(small, store, models=models, dataset=pairs, outside={"broken": broken})
    (reason,) = report.failed.values()
    assert "returned" in reason and report.attacked == 6
