"""`cmai cmcv`: thresholds, what they flag elsewhere, the card, and mistakes."""

import json

import pytest
import torch
from PIL import Image
from small_models import small_coca

from cmai_core import cli
from cmai_core.commands.cmcv import other_splits
from cmai_core.data import load_dataset
from cmai_core.data.registry import DATASETS
from cmai_core.data.subset import Subset
from cmai_core.defenses import calibration_of
from cmai_core.evaluation.verification.cmcv import by_vagueness, calibrate_cmcv, pair_scores
from cmai_core.models import load_model, save_local_dir
from cmai_core.models.heads import ConsistencyHeads


@pytest.fixture
def folder(tmp_path):
    """A model with consistency heads and a card, saved."""
    model = small_coca()
    model.heads = ConsistencyHeads(model.head_sizes(8), torch.Generator().manual_seed(4))
    return save_local_dir(model, tmp_path / "model", {"name": "m", "domain": "tabletop", "training": {"seed": 3}})


def test_what_is_printed_written_and_stored(folder, tmp_path, capsys):
    spec, out = f"local-dir:{folder}", tmp_path / "cmcv.json"
    options = ["--fpr", "0.25", "0.1", "--limit", "20", "--splits", "test", "--store", "--quiet"]
    assert cli.main(["cmcv", spec, *options, "--json", str(out)]) == 0
    (printed, err), document = capsys.readouterr(), json.loads(out.read_text())
    assert "Stored in the card" in err
    assert document["format"] == "cmai-cmcv/1" and document["setting"]["fpr"] == [0.1, 0.25]
    model = load_model(spec, device="cpu")
    found = calibration_of(model)
    assert found.to_dict() == document["calibration"] and model.card["training"] == {"seed": 3}
    assert set(found.rates) == {"validation", "vague", "specific", "test"} and found.count == 20

    validation = load_dataset("tabletop", split="validation")
    expected = calibrate_cmcv(model, Subset(validation, range(20)), (0.1, 0.25))
    assert found.thresholds == expected.thresholds and found.scaling == expected.scaling
    fresh = Subset(validation, range(20, 40))
    for name, pairs in {"validation": fresh, "test": load_dataset("tabletop", limit=20), **by_vagueness(fresh)}.items():
        s_c, log_v = pair_scores(model, pairs)
        for fpr in (0.1, 0.25):
            at, entry = found.at(fpr), {rule: of[f"{fpr:g}"] for rule, of in found.rates[name].items()}
            assert entry["S_c"]["flagged"] == (s_c < at.tau).sum() and entry["S_c"]["count"] == len(pairs)
            assert entry["V"]["flagged"] == (log_v < at.log_tau_v).sum()
            either = (s_c < at.both_tau) | (log_v < at.both_log_tau_v)
            assert entry["either"]["flagged"] == either.sum()
            row = next(
                line.split()
                for line in printed.splitlines()
                if line.startswith(f"{name} ") and line.split()[1:3] == ["either", f"{100 * fpr:g}"]
            )
            assert row[-1] == f"{either.sum()}/{len(pairs)}" and row[4].startswith("[")


def test_pairs_of_ones_own_without_heads_and_without_further_pairs(tmp_path, capsys):
    folder = save_local_dir(small_coca(), tmp_path / "plain", {"name": "plain"})
    rows = ["image,caption"]
    for k, colour in enumerate(("red", "green", "blue", "black")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,a {colour} square")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    arguments = ["cmcv", f"local-dir:{folder}", "--dataset", str(tmp_path / "pairs.csv"), "--fpr", "0.5", "--quiet"]
    assert cli.main([*arguments, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["calibration"]
    assert found["rates"] == {} and found["count"] == 4 and found["thresholds"][0]["log_tau_v"] is None
    assert found["thresholds"][0]["realised"] == {"S_c": 0.5} and "2/4" in err
    assert "no further pairs" in err and "V <" not in err
    assert calibration_of(load_model(f"local-dir:{folder}")) is None, "nothing is stored unless it is asked for"


def test_progress_counts_every_pair(folder):
    from cmai_core.commands.cmcv import calibrated

    seen = []
    validation = load_dataset("tabletop", split="validation", limit=15)
    calibrated(load_model(f"local-dir:{folder}"), validation, [validation], (0.2,), limit=10, progress=seen.append)
    assert [update.done for update in seen] == list(range(1, seen[0].total + 1))


def test_the_usual_sets_are_there():
    tried = set(other_splits("tabletop"))
    assert tried < set(DATASETS["tabletop"].splits) and not {"test", "train", "validation"} & tried
    assert other_splits("photos") == other_splits("some/folder") == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fpr", "0"], "between 0 and 1"),
        (["--fpr", "0.05", "1"], "between 0 and 1"),
        (["--limit", "1"], "from 2"),
        (["--guarantee", "never"], "calibration, new"),
        (["--splits", "validation"], "Leave it out"),
        (["--splits", "nowhere"], "holdout"),
        (["--json", "/nowhere/at/all.json"], "existing folder"),
        (["--limit", "20", "--splits", "--guarantee", "new"], "more pairs"),
    ],
)
def test_mistakes_are_two_lines_and_status_two(folder, options, words, capsys):
    assert cli.main(["cmcv", f"local-dir:{folder}", "--quiet", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 2, err


def test_a_model_without_a_folder_has_no_card(capsys):
    assert cli.main(["cmcv", "ViT-B-32/random", "--store", "--quiet"]) == 2
    assert "local-dir:FOLDER" in capsys.readouterr().err
    assert cli.main(["cmcv", "no-such-model", "--quiet"]) == 2
    assert "no-such-model" in capsys.readouterr().err
