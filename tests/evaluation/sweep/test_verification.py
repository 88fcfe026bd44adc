"""log V_verify in predictions, store and figures: what the model itself says of the same pairs; none without heads."""

import sqlite3

import pytest
import torch

from cmai_core.evaluation.figures.outcomes import Outcomes
from cmai_core.evaluation.figures.scores import consistency, detection
from cmai_core.evaluation.runs import predictions, setting
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.runner import run
from cmai_core.evaluation.store.address import model_identity
from cmai_core.evaluation.store.store import DATABASE, SINCE_2, Store
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.tasks import get_task
from cmai_core.tasks.retrieval import Retrieval
from cmai_core.tasks.vqa import statements

COLUMNS = ("verification_clean", "verification", "answer_verification_clean", "answer_verification")
TASKS = ("zero-shot", "retrieval", "vqa", "captioning")
PICTURES = {"tasks": TASKS, "recipes": ["fgsm"]}
OTHERS = {"tasks": ["zero-shot"], "recipes": ["seq:steps=2", "char:candidates=5,rounds=1", "deepfool:steps=4"]}


def grid(**changes):
    values = {"models": ["plain", "headed"], "epsilons": [16], "captions": 2, "limit": 3, "validation": 0}
    return Grid.from_dict(values | changes)


@pytest.fixture(scope="module")
def both(fresh):
    """A small model without consistency heads, and one with a verifier that has doubts."""
    plain, headed = fresh(2).values()
    headed.heads = ConsistencyHeads(headed.head_sizes(8), torch.Generator().manual_seed(4))
    with torch.no_grad():
        headed.heads.word_mlp[-1].weight.mul_(30)
    headed.heads.eval().requires_grad_(False)
    return {"plain": plain, "headed": headed}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, both, pairs):
    """The store's folder, and a frame for attacks on pictures, one for the others."""
    folder = tmp_path_factory.mktemp("store")
    with Store.write(folder) as store:
        reports = [run(grid(**values), store, models=both, dataset=pairs) for values in (PICTURES, OTHERS)]
        assert not any(report.failed for report in reports)
        return folder, *(predictions.frame(store, report.plan) for report in reports)


def log_v(model, picture, texts):
    """Mean log V_verify of one picture (uint8 H×W×3) with some texts."""
    with torch.no_grad(), evaluation_mode(model):
        return float(model.verify(model.preprocess([picture]), list(texts), [0] * len(texts), log=True).mean())


def said(model, name, place, dataset, picture):
    """The text that a model's answer about one picture amounts to, from the plain prediction."""
    task = Retrieval(len(dataset)) if name == "retrieval" else get_task(name)
    with torch.no_grad(), evaluation_mode(model):
        batch = task.prepare(model, [dataset[k] for k in range(3)], dataset)  # which answers there are, it decides
        prepared = batch.select_rows(torch.tensor([place]))
        answer = task.predict(model, model.image_features(model.preprocess([picture])), prepared)[0].answer
    if name == "zero-shot":
        return prepared.prompts[prepared.options.index(answer)]
    return statements(dataset[place], prepared.asked[0], [answer])[0] if name == "vqa" else answer


def seen(model, pair):
    """The picture as a model sees it, in 8 bits."""
    return (model.preprocess([pair.image])[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def place_of(item):
    return int(item.rpartition("/")[2])


def test_pictures_with_given_texts_and_with_answers(swept, both, pairs):
    folder, frame, _ = swept
    model = both["headed"]
    shown = frame[(frame["recipe"] != "clean") & (frame["target"] == "headed")]
    assert len(shown) == 2 * 4 * 3 and set(shown["task"]) == set(TASKS) and set(shown["source"]) == set(both)
    with Store.read(folder) as store:
        for row in shown.itertuples():
            pair = pairs[place_of(row.item)]
            attacked, _ = predictions.adversarial(store, row.example, seen(both[row.source], pair))
            pictures = (seen(model, pair), attacked)
            expected = [log_v(model, picture, pair.captions[:2]) for picture in pictures]
            expected += [log_v(model, x, [said(model, row.task, place_of(row.item), pairs, x)]) for x in pictures]
            assert [getattr(row, name) for name in COLUMNS] == pytest.approx(expected, abs=1e-4), row.task
            assert row.verification < -0.01, "not the probability"
    clean = frame[(frame["recipe"] == "clean") & (frame["target"] == "headed")]
    assert clean["answer_verification"].notna().all() and clean["verification"].equals(clean["verification_clean"])


def test_pairs_whose_texts_are_attacked(swept, both, pairs):
    folder, _, frame = swept
    model = both["headed"]
    shown = frame[frame["modality"].isin(["text", "joint"]) & (frame["target"] == "headed")]
    assert len(shown) == 2 * 2 * 3 * 2 and shown["answer_verification"].isna().all()
    with Store.read(folder) as store:
        for row in shown.itertuples():
            pair = pairs[place_of(row.item)]
            attacked, text = predictions.adversarial(store, row.example, seen(both[row.source], pair))
            assert row.verification == pytest.approx(log_v(model, attacked, [text]), abs=1e-4)
            before = log_v(model, seen(model, pair), [pair.captions[row.text_index]])
            assert row.verification_clean == pytest.approx(before, abs=1e-4)


def test_without_heads_it_is_not_known(swept):
    for frame in swept[1:]:
        plain = frame[frame["target"] == "plain"]
        assert len(plain) and plain[list(COLUMNS)].isna().all(axis=None) and plain["consistency"].notna().all()


def test_figures_of_the_verifier_stand_beside_those_of_s_c(swept):
    outcomes = [Outcomes.of(frame, frame.attrs["epsilons"]) for frame in swept[1:]]
    means, found = consistency(outcomes[0]), detection(outcomes[0], intervals=False)
    for table in (means, found):
        scores = table.groupby("target")["score"].agg(set)
        assert scores["headed"] == {"pair", "answer", "verification", "answer verification"}
        assert scores["plain"] == {"pair", "answer"}
    of_v = means[(means["score"] == "verification") & (means["metric"] == "consistency")]
    frame = swept[1]
    by_hand = frame[(frame["recipe"] == "fgsm") & (frame["target"] == "headed")]
    for row in of_v.itertuples():
        its = by_hand[(by_hand["task"] == row.task) & (by_hand["source"] == row.source)]
        assert row.value == pytest.approx(its["verification"].mean())
    # A search for the nearest example that found none within ε left the pair, and so its scores, as they were.
    cells = outcomes[1].cells
    nearest = outcomes[1].rows[cells["recipe"].str.startswith("deepfool").to_numpy()[outcomes[1].rows["cell"]]]
    far = nearest[~(nearest["minimum_norm"] <= 16) & nearest["verification_clean"].notna()]
    assert far["verification"].equals(far["verification_clean"].rename("verification"))


def as_format_1(folder):
    """What a store was before V_verify was stored."""
    with sqlite3.connect(folder / DATABASE) as db:
        for table in ("readings", "clean"):
            for name in SINCE_2:
                db.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'format'")
    db.close()


def test_a_store_of_format_1_opens_and_only_models_with_heads_are_measured_anew(tmp_path, both, pairs, monkeypatch):
    small = grid(tasks=["zero-shot"], recipes=["fgsm"], transfer=False)
    with monkeypatch.context() as before, Store.write(tmp_path) as store:
        before.setattr(setting, "model_identity", lambda m: {k: model_identity(m)[k] for k in IDENTITY_1})
        old = run(small, store, models=both, dataset=pairs).plan
    as_format_1(tmp_path)
    with Store.read(tmp_path) as store:
        frame = predictions.frame(store, old)
        assert len(frame) == 2 * 2 * 3 and frame[list(COLUMNS)].isna().all(axis=None)
        assert store.query("SELECT value FROM meta WHERE key = 'format'") == [("1",)], "reading changes nothing"
    with Store.write(tmp_path) as store:
        assert predictions.frame(store, old).equals(frame)
        report = run(small, store, models=both, dataset=pairs)
        assert (report.attacked, report.clean) == (3, 3)
        again = predictions.frame(store, report.plan)
    plain = again["target"] == "plain"
    assert again[plain].equals(frame[frame["target"] == "plain"])
    assert again.loc[~plain, "verification"].notna().all()
    with Store.write(tmp_path) as store:
        assert run(small, store, models=both, dataset=pairs).attacked == 0


IDENTITY_1 = ("weights", "preprocessing", "system")
