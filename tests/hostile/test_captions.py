"""Hostile captions, made at random, on their way from a file to a model and onto a terminal."""

from __future__ import annotations

import json
import random
import unicodedata
import warnings

import pytest
import torch
from PIL import Image

from cmai_core import cli
from cmai_core.data import load_dataset
from cmai_core.errors import CmaiError, CmaiWarning
from cmai_core.models import new_model, save_local_dir
from cmai_core.models.truncation import truncated_captions, warn_truncated

NUMBER = 1000
PIECES = (
    *(
        "a cat",
        "red",
        "Ein Käfer",
        "猫",
        "قطة",
        "חתול",
        "👩‍👩‍👧",
        "🇩🇪",
        "e\u0301\u0301",
        "ﬁ",
        "Ⅷ",
        "½",
        "İ",
        "ß",
        "\u00ad",
        "\u180e",
    ),
    *(
        "\0",
        "\x07",
        "\x1b[31m",
        "\x1b]0;t\x07",
        "\r",
        "\n",
        "\t",
        "\x85",
        "\u2028",
        "\u2029",
        "\u200b",
        "\u200d",
        "\ufeff",
    ),
    *("\u202a", "\u202e", "\u2066", "\u2069", "\u061c", "\ud800", "\udfff", "\ue000", "\U000e0041", "\ufff9", "\uffff"),
    *(
        "<eos>",
        "<start_of_text>",
        "<|endoftext|>",
        "</s>",
        "[PAD]",
        "<script>alert(1)</script>",
        "[/EN#1/people A man]",
    ),
    *(
        "$\\LaTeX$",
        "**bold**",
        "![](http://x/y.png)",
        "{{7*7}}",
        "%n%s",
        "; rm -rf /",
        "'\"`",
        "\\",
        "a" * 500,
        "word " * 80,
    ),
)
HIDDEN = ("Cc", "Cs", "Co", "Zl", "Zp")


@pytest.fixture(scope="module")
def model():
    found = new_model("tabletop-b", torch.Generator().manual_seed(0), "cpu")
    found.clip.eval()
    return found


def captions() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(PIECES, k=rng.randrange(1, 12))) for _ in range(NUMBER)]


def folder_of(place, texts):
    Image.new("RGB", (8, 8)).save(place / "a.png")
    (place / "captions.jsonl").write_text("".join(json.dumps({"image": "a.png", "caption": t}) + "\n" for t in texts))
    return place


def test_hostile_captions_are_cleaned_or_refused_and_what_is_left_is_read(tmp_path, model):
    kept = []
    for text in captions():
        try:
            kept += load_dataset(folder_of(tmp_path, [text]))[0].captions
        except CmaiError as error:
            assert error.hint
    assert len(kept) > NUMBER // 2
    for text in kept:
        assert text == text.strip() and "\n" not in text and "EN#" not in text
        assert not any(unicodedata.category(sign) in HIDDEN for sign in text)
        assert not any(sign in text for sign in "\u202a\u202e\u2066\u2069\u200b\ufeff\u061c")
        text.encode()
    ids = model.tokenize(kept)
    _, bos, eos = model.token_ids()
    assert ids.shape == (len(kept), model.context_length) and bool((ids[:, 0] == bos).all())
    # What looks like a mark of the end is text: each row ends once.
    assert bool(((ids == eos).sum(dim=1) <= 1).all())
    with torch.no_grad():
        assert bool(torch.isfinite(model.encode_text(kept[:64])).all())


def test_the_texts_that_are_cut_are_those_that_need_more_tokens(model):
    inner = model.tokenizer.tokenizer
    texts = [text for text in captions() if text.isprintable()] + ["a red cube " * k for k in range(1, 30)]
    lengths = [len(inner(model.tokenizer.clean_fn(text))["input_ids"]) for text in texts]
    cut = [k for k, length in enumerate(lengths) if length > model.context_length]
    assert model.context_length in lengths or len({length > model.context_length for length in lengths}) == 2
    assert truncated_captions(model, texts) == cut and 0 < len(cut) < len(texts)


def test_a_cut_caption_is_said_with_count_and_place(tmp_path, model):
    long = "a small red metal cube is left of the large blue ball " * 8
    data = load_dataset(folder_of(tmp_path, ["a cat", long, long + "and more"]))
    with pytest.warns(CmaiWarning, match="2 of 3") as caught:
        warn_truncated(model, data)
    assert (
        len(caught) == 1 and "a.png" in str(caught[0].message) and str(model.context_length) in str(caught[0].message)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_truncated(model, load_dataset(folder_of(tmp_path, ["a cat"])))


def test_an_attack_says_on_stderr_what_it_cut_and_prints_nothing_hidden(tmp_path, model, capsys):
    folder, place = tmp_path / "model", tmp_path / "pairs"
    save_local_dir(model, folder)
    place.mkdir()
    rows = [
        {"image": f"{k}.png", "caption": text} for k, text in enumerate(("a cat " * 60, "a \x1b[31mdog\u202e", "a fox"))
    ]
    for row in rows:
        Image.new("RGB", (8, 8), (40, 90, 200)).save(place / row["image"])
    (place / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["attack", "--model", f"local-dir:{folder}", "--dataset", str(place), "--steps", "1", "--quiet"]
    assert cli.main([*arguments, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    notes = [line for line in err.splitlines() if line.startswith("note:")]
    assert len(notes) == 1 and "1 of 3" in notes[0] and "0.png" in notes[0]
    assert json.loads(out)["experiment"]["steps"] == 1
    assert not any(sign in out + err for sign in "\x1b\u202e")


def test_truth_that_nobody_knows_is_a_dash(tmp_path, model, capsys):
    folder, place = tmp_path / "model", tmp_path / "pairs"
    save_local_dir(model, folder)
    place.mkdir()
    rows = [
        {"image": f"{k}.png", "caption": f"a photograph of a {name} on the table"}
        for k, name in enumerate(("cat", "dog"))
    ]
    for row in rows:
        Image.new("RGB", (8, 8), (40, 90, 200)).save(place / row["image"])
    (place / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tmp_path / "report.json"
    arguments = ["attack", "--model", f"local-dir:{folder}", "--dataset", str(place), "--recipe", "eda", "--quiet"]
    assert cli.main([*arguments, "--json", str(report)]) == 0
    rate = json.loads(report.read_text())["rates"]["success_text_still_true"]
    assert rate == {"hits": None, "total": rate["total"], "share": None} and rate["total"] > 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "still true" in line)
    assert "still true –" in line
