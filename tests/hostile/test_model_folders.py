"""Model folders and repositories of strangers: damaged and hostile configurations, cards, weights, tokenizers, heads.

Whatever a folder holds, loading it ends in a `CmaiError` or in a model that answers; none runs code, none writes. The
generators are seeded; each mutation is a small function of a folder that loads.
"""

from __future__ import annotations

import builtins
import http.server
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from cmai_core.cli import main
from cmai_core.errors import CmaiError, ModelError
from cmai_core.models import OpenClipModel, bundled_models, load_model, save_local_dir
from cmai_core.models.architectures import build_from_config
from cmai_core.models.families import bundled
from cmai_core.models.families.bundled import bundled_tokenizer
from cmai_core.models.heads import ConsistencyHeads

ROOT = Path(__file__).resolve().parents[2]
CONFIG, CARD, WEIGHTS = "open_clip_config.json", "card.json", "open_clip_model.safetensors"
HEADS, VOCABULARY, SETTINGS = "consistency_heads.safetensors", "tokenizer.json", "tokenizer_config.json"
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {
        **{"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8, "output_tokens": True},
    },
    "text_cfg": {
        **{"context_length": 48, "vocab_size": 1024, "hf_tokenizer_name": "cmai-tabletop", "width": 16, "heads": 2},
        **{"layers": 1, "embed_cls": True, "output_tokens": True, "pad_id": 0, "eos_id": 2},
    },
    "multimodal_cfg": {"context_length": 48, "vocab_size": 1024, "width": 16, "heads": 2, "layers": 1},
    "custom_text": True,
}
PREPROCESS = {
    **{"size": [32, 32], "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "fill_color": 0},
    **{"interpolation": "bicubic", "resize_mode": "shortest"},
}
EVIL = """
open({canary!r}, "w").close()
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
class EvilTokenizer(PreTrainedTokenizerFast): pass
class EvilConfig(PreTrainedConfig): model_type = "evil"
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A small model with heads and a card, as CMAI saves it; copy it before changing it."""
    config = {"model_cfg": deepcopy(SMALL), "preprocess_cfg": deepcopy(PREPROCESS)}
    clip = build_from_config(config["model_cfg"], config["preprocess_cfg"], torch.Generator().manual_seed(5))
    model = OpenClipModel(clip.eval(), bundled_tokenizer(), spec="clean", config=config)
    model.heads = ConsistencyHeads(model.head_sizes(8), torch.Generator().manual_seed(6))
    card = {"name": "clean", "domain": "tabletop", "defended": True, "training": {"seed": 1}}
    return save_local_dir(model, tmp_path_factory.mktemp("clean") / "model", card)


# --- what is done to a folder -----------------------------------------------------------------------------------------

REFUSED, EITHER = "refused", "either"
MUTATIONS: dict[str, tuple[str, object]] = {}


def mutation(outcome, *arguments):
    """Registers `function(folder, argument)` once for each argument: (name, value)."""

    def register(function):
        for name, value in arguments or ((function.__name__, None),):
            assert f"{function.__name__} {name}" not in MUTATIONS
            MUTATIONS[f"{function.__name__} {name}"] = (outcome, lambda folder, value=value: function(folder, value))
        return function

    return register


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def put(content, keys, value):
    for key in keys[:-1]:
        content = content.setdefault(key, {})
    content[keys[-1]] = value


@mutation(
    REFUSED,
    ("remote code", ("model_cfg.text_cfg.tokenizer_kwargs", {"trust_remote_code": True})),
    ("other keywords", ("model_cfg.text_cfg.tokenizer_kwargs", {"cache_dir": "/tmp", "gguf_file": "x"})),
    ("vocabulary of this machine", ("model_cfg.text_cfg.tokenizer_kwargs", {"bpe_path": "/etc/passwd"})),
    ("text tower elsewhere", ("model_cfg.text_cfg.hf_model_name", "someone/else")),
    ("text tower in a folder", ("model_cfg.text_cfg.hf_model_name", "/tmp")),
    ("text tower beside it", ("model_cfg.text_cfg.hf_model_name", "./evil")),
    ("tokenizer in a folder", ("model_cfg.text_cfg.hf_tokenizer_name", "/tmp/evil")),
    ("image tower elsewhere", ("model_cfg.vision_cfg.timm_model_name", "hf-hub:someone/else")),
    ("image tower in a folder", ("model_cfg.vision_cfg.timm_model_name", "local-dir:/tmp")),
    ("unknown image tower", ("model_cfg.vision_cfg.timm_model_name", "no_such_model")),
    ("unknown key", ("model_cfg.anything", 1)),
    ("unknown key of a tower", ("model_cfg.vision_cfg.anything", 1)),
    ("cast", ("model_cfg.cast_dtype", "float16")),
    ("activation", ("model_cfg.text_cfg.act_kwargs", {"inplace": True})),
    ("norm", ("model_cfg.text_cfg.norm_kwargs", {"device": "meta"})),
    ("no towers", ("model_cfg", {"embed_dim": 16})),
    ("list", ("model_cfg", [])),
    ("null", ("model_cfg", None)),
    ("wide", ("model_cfg.text_cfg.width", 10**9)),
    ("as wide and deep as may be", ("model_cfg.text_cfg", {"width": 16384, "layers": 256, "heads": 2})),
    ("long", ("model_cfg.text_cfg.context_length", 10**8)),
    ("many words", ("model_cfg.text_cfg.vocab_size", 1 << 40)),
    ("deep", ("model_cfg.vision_cfg.layers", 10**7)),
    ("huge pictures", ("model_cfg.vision_cfg.image_size", 10**6)),
    ("many patches", ("model_cfg.vision_cfg", {"image_size": 4096, "patch_size": 1, "width": 16, "layers": 1})),
    ("negative", ("model_cfg.vision_cfg.width", -16)),
    ("heads that do not divide", ("model_cfg.text_cfg.heads", 3)),
    ("not square", ("model_cfg.vision_cfg.image_size", [32, 48])),
    ("no side", ("model_cfg.vision_cfg.image_size", 0)),
    ("three sides", ("model_cfg.vision_cfg.image_size", [32, 32, 32])),
    ("words as a number", ("model_cfg.embed_dim", "16")),
    ("deviation 0", ("preprocess_cfg.std", [0.5, 0.0, 0.5])),
    ("deviation negative", ("preprocess_cfg.std", [0.5, -0.5, 0.5])),
    ("deviation tiny", ("preprocess_cfg.std", [1e-40, 1e-40, 1e-40])),
    ("deviation of two channels", ("preprocess_cfg.std", [0.5, 0.5])),
    ("mean of four channels", ("preprocess_cfg.mean", [0.5] * 4)),
    ("mean of 400 digits", ("preprocess_cfg.mean", [10**400, 0, 0])),
    ("share of 400 digits", ("model_cfg.vision_cfg.mlp_ratio", 10**400)),
    ("mean in words", ("preprocess_cfg.mean", ["0", "0", "0"])),
    ("mean huge", ("preprocess_cfg.mean", [1e300, 0, 0])),
    ("one mean", ("preprocess_cfg.mean", 0.5)),
    ("grey", ("preprocess_cfg.mode", "L")),
    ("unknown way", ("preprocess_cfg.interpolation", "random")),
    ("unknown resize", ("preprocess_cfg.resize_mode", {"a": 1})),
    ("colour", ("preprocess_cfg.fill_color", -5)),
    ("unknown preprocessing", ("preprocess_cfg.code", "x")),
)
def configured(folder, argument):
    path, value = argument
    edit(folder / CONFIG, lambda content: put(content, path.split("."), value))


@mutation(
    REFUSED,
    ("empty", b""),
    ("cut", b'{"model_cfg": {"embed_dim": 16'),
    ("not UTF-8", b'\xff\xfe{"model_cfg": {}}'),
    ("a list", b"[1, 2]"),
    ("a number", b"3"),
    ("deep", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    ("NaN", b'{"model_cfg": {"init_logit_scale": NaN}}'),
    ("huge", b'{"a": "' + b"x" * (2 << 20) + b'"}'),
    ("many digits", b'{"model_cfg": {"embed_dim": ' + b"9" * 5000 + b"}}"),
)
def config_bytes(folder, content):
    (folder / CONFIG).write_bytes(content)


@mutation(
    REFUSED,
    ("empty", b""),
    ("cut", b'{"name": "x", "traini'),
    ("not UTF-8", b'{"name": "\xe9"}'),
    ("a list", b"[]"),
    ("a string", b'"card"'),
    ("deep", b"[" * 100_000),
    ("nested", b'{"training": ' + b'{"start": ' * 200 + b"{}" + b"}" * 201),
    ("huge", b'{"description": "' + b"x" * (5 << 20) + b'"}'),
    ("half a character", b'{"description": "\\ud800"}'),
    ("training a list", b'{"training": [["seed", 1]]}'),
    ("results in words", b'{"results": "good"}'),
    ("defended in words", b'{"defended": "no"}'),
    ("description an object", b'{"description": {"a": 1}}'),
    ("figure in words", b'{"results": {"robust": {"2": {"value": "x", "low": 0, "high": 1}}}}'),
    ("figure without interval", b'{"results": {"robust": {"2": {"value": 0.5}}}}'),
    ("thresholds a number", b'{"cmcv": {"thresholds": 3}}'),
    ("infinite", b'{"training": {"seconds": 1e999}}'),
)
def card_bytes(folder, content):
    (folder / CARD).write_bytes(content)


@mutation(REFUSED, ("directory", "directory"), ("pipe", "pipe"), ("device", "device"), ("nowhere", "nowhere"))
def odd_card(folder, kind):
    become(folder / CARD, kind)


@mutation(REFUSED, ("pipe", "pipe"), ("device", "device"), ("directory", "directory"))
def odd_weights(folder, kind):
    become(folder / WEIGHTS, kind)


@mutation(REFUSED, ("pipe", "pipe"), ("directory", "directory"))
def odd_heads(folder, kind):
    become(folder / HEADS, kind)


@mutation(REFUSED, ("vocabulary", VOCABULARY), ("template", "chat_template.jinja"), ("merges", "merges.txt"))
def pipe_among_tokenizer_files(folder, name):
    become(folder / name, "pipe")


def become(path, kind):
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "nowhere": "/no/such/file"}[kind])


@mutation(
    REFUSED,
    ("NaN", lambda w: w["visual.proj"].view(-1)[3:4].fill_(float("nan"))),
    ("infinite", lambda w: w["text.token_embedding.weight"].view(-1)[-1:].fill_(float("inf"))),
    ("too large for float32", lambda w: w.update({"logit_scale": torch.tensor(1e300, dtype=torch.float64)})),
    ("scale", lambda w: w.update({"logit_scale": torch.tensor(500.0)})),
    ("a missing tensor", lambda w: w.pop("visual.proj")),
    ("a tensor too many", lambda w: w.update({"code": torch.zeros(3)})),
    ("another shape", lambda w: w.update({"visual.proj": torch.zeros(3, 3)})),
    ("no tensors", lambda w: w.clear()),
)
def tensors(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)


@mutation(EITHER, ("as whole numbers", torch.int32), ("as truth values", torch.bool), ("in float64", torch.float64))
def tensors_stored(folder, dtype):
    save_file({name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


@mutation(
    REFUSED,
    ("empty", lambda b: b""),
    ("cut", lambda b: b[: len(b) // 2]),
    ("header beyond the file", lambda b: struct.pack("<Q", 1 << 40) + b[8:]),
    ("header beyond memory", lambda b: struct.pack("<Q", (1 << 63) + 5) + b[8:]),
    ("noise", lambda b: random.Random(3).randbytes(5000)),
    ("HTML", lambda b: b"<html>404</html>" * 100),
)
def weight_bytes(folder, change):
    (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))


class Runs:
    """Unpickling this creates a file: a harmless stand-in for code in a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def loop():
    content = {"state_dict": []}
    content["state_dict"].append(content)
    return content


@mutation(
    REFUSED,
    ("code", lambda folder: {"visual.proj": Runs(canary_of(folder))}),
    ("itself", lambda folder: loop()),
    ("a number repeated", lambda folder: {"visual.proj": torch.zeros(1).expand(1 << 20, 1 << 14)}),
    ("another kind", lambda folder: ["weights"]),
)
def pickled(folder, make):
    (folder / WEIGHTS).unlink()
    torch.save(make(folder), folder / "open_clip_pytorch_model.bin")


@mutation(REFUSED, ("plain", 0), ("of PyTorch before zip", 1), ("compressed", 2), ("numpy", 3))
def pickled_otherwise(folder, kind):
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    target = folder / ("model.pth" if kind != 3 else "model.npz")
    if kind == 0:
        target.write_bytes(pickle.dumps({"w": Runs(canary_of(folder))}))
    elif kind == 1:
        torch.save(weights, target, _use_new_zipfile_serialization=False)
    elif kind == 3:
        target.write_bytes(b"PK")
    else:
        torch.save(weights, folder / "plain")
        with (
            zipfile.ZipFile(folder / "plain") as plain,
            zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for entry in plain.infolist():
                packed.writestr(entry.filename, plain.read(entry))
            packed.writestr("plain/data/9999", bytes(50 << 20))
        (folder / "plain").unlink()


@mutation(
    REFUSED,
    ("code as a list", {"auto_map": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}),
    ("code", {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}}),
    ("code elsewhere", {"auto_map": {"AutoTokenizer": ["someone/else--evil.EvilTokenizer", None]}}),
    ("unknown class", {"tokenizer_class": "EvilTokenizer"}),
    ("class of another kind", {"tokenizer_class": "BertJapaneseTokenizer"}),
    ("class an object", {"tokenizer_class": {"a": 1}}),
    ("file of this machine", {"tokenizer_file": "/etc/passwd"}),
    ("vocabulary of this machine", {"vocab_file": "/etc/passwd"}),
    ("trust", {"trust_remote_code": True}),
    ("tokens without end", {"extra_ids": 10**9}),
    ("sentencepiece", {"sp_model_kwargs": {"model_file": "/etc/passwd"}}),
    ("token an object", {"pad_token": {"content": ["x"]}}),
    ("no padding", {"pad_token": None}),
    ("no end", {"eos_token": None}),
    ("length in words", {"model_max_length": "many"}),
)
def tokenizer_settings(folder, values):
    (folder / "special_tokens_map.json").unlink()
    edit(folder / SETTINGS, lambda content: content.update(values))


@mutation(
    REFUSED,
    ("code", {"auto_map": {"AutoConfig": "evil.EvilConfig"}, "model_type": "evil"}),
    ("code of a known kind", {"auto_map": {"AutoConfig": "evil.EvilConfig"}, "model_type": "bert"}),
    ("another kind", {"model_type": "rag"}),
    ("a class", {"model_type": "bert", "tokenizer_class": "EvilTokenizer"}),
)
def model_settings(folder, values):
    (folder / "config.json").write_text(json.dumps(values))
    edit(folder / SETTINGS, lambda content: content.pop("tokenizer_class"))


GROWS = {"type": "Replace", "pattern": {"String": "e"}, "content": "eeeeeeee"}


@mutation(
    REFUSED,
    ("that never ends", ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"})),
    ("that grows", ("normalizer", {"type": "Sequence", "normalizers": [GROWS] * 12})),
    ("unknown", ("decoder", {"type": "Evil"})),
    ("in words", ("normalizer", "lower")),
    ("nested", ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [[[]]]}]})),
    ("broken table", ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
    ("no vocabulary", ("model", {"type": "BPE"})),
    ("vocabulary a list", ("model", [])),
    ("unknown vocabulary", ("model", {"type": "Evil"})),
    ("tokens a number", ("added_tokens", 5)),
)
def tokenizer_step(folder, argument):
    edit(folder / VOCABULARY, lambda content: content.update([argument]))


@mutation(REFUSED, ("merges at random", 0.5))
def tokenizer_dropout(folder, value):
    edit(folder / VOCABULARY, lambda content: content["model"].update(dropout=value))


@mutation(REFUSED, ("all", 10_000), ("each word", 1))
def tokens_beyond_the_model(folder, offset):
    def change(content):
        vocabulary = content["model"]["vocab"]
        content["model"]["vocab"] = {w: i if i < 3 else i + offset for w, i in vocabulary.items()}

    edit(folder / VOCABULARY, change)
    edit(folder / CONFIG, lambda content: put(content, ["model_cfg", "text_cfg", "vocab_size"], 3))


@mutation(
    REFUSED,
    ("empty", (VOCABULARY, b"")),
    ("cut", (VOCABULARY, b'{"model": {"type"')),
    ("noise", (VOCABULARY, random.Random(9).randbytes(300))),
    ("deep", (VOCABULARY, b"[" * 100_000)),
    ("settings cut", (SETTINGS, b'{"tokenizer_class": ')),
    ("settings a list", (SETTINGS, b"[]")),
    ("settings huge", (SETTINGS, b'{"chat_template": "' + b"x" * (5 << 20) + b'"}')),
    ("added a list", ("added_tokens.json", b'{"a": "b"}')),
    ("map of other keys", ("special_tokens_map.json", b'{"auto_map": "x"}')),
)
def tokenizer_bytes(folder, argument):
    name, content = argument
    (folder / name).write_bytes(content)


@mutation(REFUSED, ("vocabulary", VOCABULARY), ("weights", WEIGHTS), ("configuration", CONFIG))
def missing(folder, name):
    (folder / name).unlink()


@mutation(
    REFUSED,
    ("NaN", lambda w, sizes: w["log_scale"].fill_(float("nan"))),
    ("other tensors", lambda w, sizes: w.pop("log_scale")),
    ("header says more", lambda w, sizes: sizes.update(inner=10**9)),
    ("header of a wide model", lambda w, sizes: sizes.update(tokens=16384, states=16384, embedding=16384)),
    ("header in words", lambda w, sizes: sizes.update(inner="8")),
    ("header of other keys", lambda w, sizes: sizes.update(code="x")),
)
def heads(folder, change):
    weights, sizes = load_file(folder / HEADS), {"embedding": 16, "tokens": 16, "states": 16, "inner": 8}
    change(weights, sizes)
    save_file(weights, folder / HEADS, metadata={"sizes": json.dumps(sizes)})


@mutation(REFUSED, ("deep", "[" * 100_000), ("a list", "[]"), ("no JSON", "x"))
def heads_header(folder, text):
    save_file(load_file(folder / HEADS), folder / HEADS, metadata={"sizes": text})


VALUES = [None, True, -1, 0, 1, 3, 7, 1e308, 10**12, "", "x", "/etc/passwd", [], {}, [1, 2], {"a": {"b": []}}, "\x00"]


@mutation(EITHER, *((str(k), k) for k in range(30)))
def anything_in_the_configuration(folder, seed):
    """Values put in the place of others, keys taken out, at random."""
    chance = random.Random(seed)

    def change(content):
        for _ in range(chance.randint(1, 3)):
            part = chance.choice([content, content["model_cfg"], *map(content["model_cfg"].get, SMALL)])
            if isinstance(part, dict) and part:
                key = chance.choice(sorted(part))
                if chance.random() < 0.3 and part is not content:
                    del part[key]
                else:
                    part[key] = chance.choice(VALUES)
            if not isinstance(content.get("model_cfg"), dict):
                return

    edit(folder / CONFIG, change)


@mutation(EITHER, *((f"{name} {k}", (name, k)) for name in (WEIGHTS, HEADS, VOCABULARY, SETTINGS) for k in range(5)))
def flipped_bits(folder, argument):
    """One to three bits of a file, more often near its start, where headers are."""
    name, seed = argument
    chance = random.Random(f"{name} {seed}")
    content = bytearray((folder / name).read_bytes())
    for _ in range(chance.randint(1, 3)):
        content[chance.randrange(min(len(content), chance.choice([8, 400, len(content)])))] ^= 1 << chance.randrange(8)
    (folder / name).write_bytes(content)


# --- what comes of it -------------------------------------------------------------------------------------------------


def canary_of(folder):
    return folder.parent / "ran"


@pytest.fixture
def hostile(clean, tmp_path, monkeypatch):
    """A copy of the clean folder with Python files beside the weights; nothing may ask whether to run them."""
    folder = Path(shutil.copytree(clean, tmp_path / "model"))
    for name in ("evil.py", "tokenization_evil.py", "__init__.py"):
        (folder / name).write_text(EVIL.format(canary=str(canary_of(folder))))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked whether to run code"))
    return folder


def seen(folder):
    return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(folder.parent.rglob("*")) if p != folder}


def test_there_are_enough_of_them():
    assert len(MUTATIONS) >= 150 and sum(outcome == REFUSED for outcome, _ in MUTATIONS.values()) >= 85


def test_the_folder_they_start_from_loads(hostile):
    model = load_model(f"local-dir:{hostile}", "cpu")
    assert model.heads is not None and model.defended and bool(torch.isfinite(model.encode_text(["a red cube"])).all())


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_damaged_folder_is_refused_or_works_and_runs_and_writes_nothing(hostile, name):
    outcome, change = MUTATIONS[name]
    change(hostile)
    before = seen(hostile)
    try:
        model = load_model(f"local-dir:{hostile}", "cpu")
        assert outcome == EITHER
        texts = model.encode_text(["a red cube left of a ball", "x" * 200])
        images = model.encode_image(torch.rand(1, 3, model.image_size, model.image_size))
        assert bool(torch.isfinite(texts).all()) and bool(torch.isfinite(images).all())
    except CmaiError as error:
        assert error.message and "Traceback" not in str(error)
    assert not canary_of(hostile).exists()
    assert seen(hostile) == before


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name.startswith(("card_bytes", "odd_card"))])
def test_a_damaged_card_takes_no_other_model_out_of_the_list(clean, tmp_path, monkeypatch, name):
    for folder in ("first", "second"):
        shutil.copytree(clean, tmp_path / folder)
    monkeypatch.setattr(bundled, "bundled_dir", lambda: tmp_path)
    MUTATIONS[name][1](tmp_path / "first")
    cards = {card.name: card for card in bundled_models()}
    assert cards["first"].problem and not cards["second"].problem and cards["second"].defended
    assert load_model("second", "cpu").defended
    with pytest.raises(ModelError):
        load_model("first", "cpu")


@pytest.mark.parametrize(
    "name", ["configured remote code", "tokenizer_settings code", "tensors NaN", "configured deviation 0"]
)
def test_the_command_line_says_what_is_wrong_and_writes_no_report(hostile, name, capsys):
    MUTATIONS[name][1](hostile)
    report = hostile.parent / "report.json"
    status = main(["attack", "--model", f"local-dir:{hostile}", "--limit", "2", "--quiet", "--json", str(report)])
    said = capsys.readouterr()
    assert status == 2 and "Traceback" not in said.out + said.err and str(hostile) in said.err
    assert not canary_of(hostile).exists() and not report.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", [CONFIG, CARD, WEIGHTS, VOCABULARY])
def test_files_that_may_not_be_read(hostile, name):
    (hostile / name).chmod(0)
    with pytest.raises(ModelError):
        load_model(f"local-dir:{hostile}", "cpu")


SPECS = [
    *(
        "a" * 5000,
        "a/" * 3000,
        "../tabletop",
        "/etc/passwd",
        "\x00",
        "tabletop\x00",
        "\udcff",
        "\u202etabletop",
        "ViT-B-32/",
    ),
    *("ViT-B-32/random-", "ViT-B-32/random-99999999999999", "ViT-B-32/../../x", "/", "//", ":", "local-dir", "hf-hub"),
    *("local-dir:", "local-dir:" + "x" * 5000, "local-dir:/" + "x/" * 3000, "local-dir:\x00", "local-dir:/dev/null"),
    *(
        "local-dir:/proc/self",
        "local-dir:\udcff",
        "hf-hub:",
        "hf-hub:x",
        "hf-hub:a--b/c",
        "hf-hub:../../etc",
        "hf-hub:/x",
    ),
    *("hf-hub:" + "x" * 300 + "/y", "hf-hub:a/b/c", "hf-hub:a/b@c", "hf-hub:a/\x00", "hf-hub:-a/b", "hf-hub:a/b.git"),
]


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_names_that_name_nothing(spec):
    with pytest.raises(ModelError) as caught:
        load_model(spec, "cpu")
    assert len(str(caught.value)) < 2000


# --- repositories, on a pretend hub -----------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of huggingface.co as downloads ask for; `repositories`: name → folder."""

    repositories: ClassVar[dict[str, Path]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.reply(body=False)

    def do_GET(self):
        self.reply(body=True)

    def log_message(self, *_):
        pass

    def reply(self, body):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        repository, resolved, name = path.lstrip("/").partition("/resolve/main/")
        folder = self.repositories.get(repository)
        if path == "/":
            self.send(200, b"", {})
        elif path.startswith("/api/models/"):
            folder = next((f for r, f in self.repositories.items() if r in path), None)
            siblings = [{"rfilename": p.name, "size": p.stat().st_size} for p in folder.iterdir()] if folder else []
            answer = {"id": "x", "sha": "a" * 40, "siblings": siblings}
            self.send(200 if folder else 404, json.dumps(answer).encode() if body else b"", {})
        elif not resolved or folder is None or not (folder / name).is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound" if folder else "RepoNotFound"})
        else:
            content = (folder / name).read_bytes()
            headers = {"ETag": f'"{hash((repository, name)) & (1 << 60):x}{len(content)}"', "X-Repo-Commit": "a" * 40}
            headers["Content-Length"] = str(len(content))
            self.send(200, content if body else b"", headers)

    def send(self, status, content, headers):
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)


CHILD = """
import builtins, json, sys
def refuse(*_): raise RuntimeError("asked whether to run code")
builtins.input = refuse
from cmai_core.cli import main
from cmai_core.errors import CmaiError
from cmai_core.models import load_model
found = {}
for name in sys.argv[1:]:
    try:
        model = load_model("hf-hub:" + name, "cpu")
        found[name] = "loaded " + model.hash
    except CmaiError as error:
        found[name] = "refused " + error.message
    except BaseException as error:
        found[name] = "failed " + repr(error)
status = main(["attack", "--model", "hf-hub:" + sys.argv[2], "--limit", "2", "--quiet"])
print(json.dumps({"loaded": found, "attack": status}))
"""


def test_repositories_of_a_hub_run_no_code(clean, tmp_path):
    canary = tmp_path / "ran"

    def repository(name, *edits, extra=None):
        folder = Path(shutil.copytree(clean, tmp_path / "hub" / name))
        for path in ("evil.py", "tokenization_evil.py"):
            (folder / path).write_text(EVIL.format(canary=str(canary)))
        for file, change in edits:
            edit(folder / file, change)
        for file, content in (extra or {}).items():
            (folder / file).write_text(json.dumps(content))
        Hub.repositories[name] = folder
        return folder

    auto_map = {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}}
    trust = (CONFIG, lambda c: put(c, ["model_cfg", "text_cfg", "tokenizer_kwargs"], {"trust_remote_code": True}))
    coded = (SETTINGS, lambda c: c.update(auto_map))
    elsewhere = (CONFIG, lambda c: put(c, ["model_cfg", "text_cfg", "hf_tokenizer_name"], "evil/both"))
    tower = (CONFIG, lambda c: put(c, ["model_cfg", "text_cfg", "hf_model_name"], "evil/both"))
    known_tower = (CONFIG, lambda c: put(c, ["model_cfg", "text_cfg", "hf_model_name"], "roberta-base"))
    code = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    names = ["good/model", "evil/both", "evil/tokenizer", "evil/elsewhere", "evil/tower", "evil/known", "evil/config"]
    repository("good/model")
    repository("evil/both", trust, coded)
    repository("evil/tokenizer", coded)
    (repository("evil/elsewhere", elsewhere) / VOCABULARY).unlink()
    repository("evil/tower", tower)
    repository("evil/known", known_tower)
    repository("evil/config", extra={"config.json": code})
    repository("roberta-base", extra={"config.json": code})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
        **{"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")},
        **{"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)},
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *names], env=environment, capture_output=True, text=True, timeout=300
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    loaded = found["loaded"]
    assert loaded.pop("good/model").startswith("loaded")
    assert all(value.startswith("refused") for value in loaded.values()), loaded
    assert found["attack"] == 2 and not canary.exists() and "Traceback" not in done.stderr
    fetched = {path.rpartition("/")[2] for path in Hub.asked}
    assert not any(name.endswith(".py") for name in fetched), fetched
