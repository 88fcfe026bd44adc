from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmai_core.errors import ModelError
from cmai_core.models import bundled_models, load_model, save_local_dir
from cmai_core.models.families import bundled
from cmai_core.models.integrity import record, verify
from cmai_core.models.save import WEIGHTS_FILE
from cmai_core.paths import assets_dir
from cmai_core.training.bundle import SIZE_LIMIT

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """A saved small model; copy it before changing it."""
    return save_local_dir(small, tmp_path_factory.mktemp("saved") / "m", {"name": "m", "domain": "tabletop"})


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def assets(folder, tmp_path, monkeypatch):
    """Assets with three bundled models and the vocabulary's folder."""
    root = tmp_path / "assets"
    for name, defended in (("tabletop-z", False), ("tabletop-a-defended", True), ("tabletop-a", False)):
        shutil.copytree(folder, root / "models" / name)
        card = {"name": name, "defended": defended, "description": f"About {name}.", "domain": "tabletop"}
        (root / "models" / name / "card.json").write_text(json.dumps(card | {"training": {"seed": 3}}))
    (root / "models" / "_tokenizer").mkdir()
    monkeypatch.setattr(bundled, "assets_dir", lambda: root)
    return root


# --- bundled ----------------------------------------------------------------------------------------------------------


def test_bundled_models_are_found_by_folder(assets):
    cards = bundled_models()
    assert [card.name for card in cards] == ["tabletop-a", "tabletop-z", "tabletop-a-defended"]
    assert (
        cards[2].defended and cards[2].description == "About tabletop-a-defended." and cards[0].training == {"seed": 3}
    )
    model = load_model("tabletop-a-defended", device="cpu")
    assert model.name == model.spec == "tabletop-a-defended" and model.defended and model.domain == "tabletop"
    assert not model.clip.training and not any(p.requires_grad for p in model.clip.parameters())


def test_names_never_leave_the_bundled_folder(assets):
    for spec in ("../models/tabletop-a", "_tokenizer", ".", "..", "tabletop-a/", "/etc"):
        with pytest.raises(ModelError):
            load_model(spec, device="cpu")


def test_a_broken_card_is_named_and_the_others_are_listed(assets):
    (assets / "models" / "tabletop-z" / "card.json").write_text("{")
    cards = {card.name: card for card in bundled_models()}
    assert "tabletop-z" in cards["tabletop-z"].problem and "not valid JSON" in cards["tabletop-z"].problem
    assert cards["tabletop-a-defended"].defended and not cards["tabletop-a"].problem
    with pytest.raises(ModelError, match=r"tabletop-z.*json"):
        load_model("tabletop-z", device="cpu")


def test_every_bundled_model_of_this_checkout_loads():
    for card in bundled_models():
        model = load_model(card.name, device="cpu")
        assert model.has_decoder and model.domain == "tabletop" and model.defended == card.defended
        sizes = {path.name: path.stat().st_size for path in card.path.iterdir()}
        most = SIZE_LIMIT if card.name == "tabletop-2" else 4.5e6
        assert sizes.pop(WEIGHTS_FILE) <= most and sum(sizes.values()) <= 0.4e6, card.name  # the rest: heads, card
        assert card.verifier == (model.heads is not None)


def test_everything_that_is_shipped_stays_small():
    # The base of the second comparison lies beside the models of the first, which leave when it is done.
    assert sum(path.stat().st_size for path in assets_dir().rglob("*") if path.is_file()) <= 125e6


def test_listing_models_imports_nothing_heavy():
    code = (
        "import sys, cmai_core.models as m; m.bundled_models(); "
        "print([n for n in ('torch', 'open_clip', 'transformers', 'numpy') if n in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert out.stdout.strip() == "[]"


# --- names that are not ----------------------------------------------------------------------------------------------


def test_near_names_are_suggested(assets):
    with pytest.raises(ModelError, match="tabletop-a") as caught:
        load_model("tabeltop-a", device="cpu")
    assert "cmai models" in caught.value.hint and "tabletop-z" in caught.value.hint
    with pytest.raises(ModelError, match="ViT-B-32"):
        load_model("vit-b-32/random", device="cpu")
    with pytest.raises(ModelError, match=r"'laion2b_s34b'.*laion2b_s34b_b79k"):
        load_model("ViT-B-32/laion2b_s34b", device="cpu")


def test_an_architecture_alone_is_not_a_model():
    with pytest.raises(ModelError, match=r"ViT-B-32/openai.*ViT-B-32/random"):
        load_model("ViT-B-32", device="cpu")


@pytest.mark.parametrize("spec", ["", "  ", None, 3])
def test_no_name(spec):
    with pytest.raises(ModelError):
        load_model(spec, device="cpu")


@pytest.mark.parametrize("device", ["gpu0", "nonsense", "", "cuda:99", "meta", "mps", "xla", 99, object()])
def test_devices_that_are_not_there(assets, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(ModelError, match=r"[Dd]evice") as caught:
        load_model("tabletop-a", device=device)
    assert "cpu" in caught.value.hint


def test_the_device_by_itself(assets):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load_model("tabletop-a").device.type == expected


# --- weights that cannot be had ---------------------------------------------------------------------------------------


def test_published_weights_without_a_network_say_what_to_do():
    with pytest.raises(ModelError) as caught:
        load_model("ViT-B-32/laion2b_s34b_b79k", device="cpu")
    assert "open_clip_model.safetensors" in caught.value.message
    assert "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in caught.value.message
    assert "HF_HOME" in caught.value.hint and "local-dir:" in caught.value.hint


def test_hub_repositories_without_a_network_say_what_to_do():
    with pytest.raises(ModelError, match=r"open_clip_config\.json from https://huggingface\.co/chs20/fare4-clip"):
        load_model("hf-hub:chs20/fare4-clip", device="cpu")
    with pytest.raises(ModelError, match=r"\.\./etc"):
        load_model("hf-hub:../../etc", device="cpu")


TOKENIZERS = {"ViT-B-16-SigLIP": "timm/ViT-B-16-SigLIP", "roberta-ViT-B-32": "roberta-base"}


@pytest.mark.parametrize("architecture", TOKENIZERS)
def test_tokenizers_without_a_network_say_which_file_is_missing(architecture):
    with pytest.raises(ModelError) as caught:
        load_model(f"{architecture}/random", device="cpu")
    error = caught.value
    assert "tokenizer" in error.message and f"https://huggingface.co/{TOKENIZERS[architecture]}" in error.message
    assert "tokenizer.json" in error.hint and "HF_HOME" in error.hint and "local-dir:" in error.hint


@pytest.mark.parametrize("spec", ["hf-hub:chs20/fare4-clip", "ViT-B-16-SigLIP/random"])
def test_a_connection_that_fails_is_asked_for_once(monkeypatch, spec):
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    asked = []
    session = get_session()
    send = type(session).request
    monkeypatch.setattr(type(session), "request", lambda self, *a, **k: (asked.append(a), send(self, *a, **k))[1])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=rf"{constants.ENDPOINT} \(\w+\)"):
        load_model(spec, device="cpu")
    assert len(asked) == 1


@pytest.fixture
def hub_cache(folder, tmp_path, monkeypatch):
    """The Hugging Face cache as a download of `someone/model` would leave it."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository / "snapshots" / ("0" * 40)


def test_a_cached_repository_loads_without_a_network(hub_cache, folder):
    model = load_model("hf-hub:someone/model", device="cpu")
    local = load_model(f"local-dir:{folder}", device="cpu")
    assert model.spec == "hf-hub:someone/model" and model.hash == local.hash
    assert torch.equal(model.tokenize(["a red cube"]), local.tokenize(["a red cube"]))


def test_cached_published_weights_load_with_their_own_activation_and_preprocessing(tmp_path, monkeypatch):
    """`ViT-B-32/openai` was trained with QuickGELU; the file is found in the cache."""
    import open_clip
    from huggingface_hub import constants
    from open_clip.transformer import QuickGELU
    from safetensors.torch import save_file

    snapshot = tmp_path / "hub" / "models--timm--vit_base_patch32_clip_224.openai" / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1" * 40)
    source = open_clip.create_model("ViT-B-32", load_weights=False)
    save_file({name: t.half().contiguous() for name, t in source.state_dict().items()}, snapshot / WEIGHTS)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = load_model("ViT-B-32/openai", device="cpu")
    assert isinstance(model.clip.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)
    assert torch.equal(model.clip.visual.proj, source.visual.proj.half().float())
    assert model.clip.visual.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert model.clip.logit_scale.dtype == torch.float32


# --- weights that cannot be read --------------------------------------------------------------------------------------


class Payload:
    """Unpickling this creates a file: a harmless stand-in for code in a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_run_code_are_refused_and_not_run(copy, tmp_path, name, zipped):
    (copy / WEIGHTS).unlink()
    content = {"visual.proj": Payload(tmp_path / "ran")}
    if zipped:
        torch.save(content, copy / name)
    else:
        (copy / name).write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match=r"Refused.*pickle"):
        load_model(f"local-dir:{copy}", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_plain_torch_file_loads(copy, folder):
    torch.save(load_file(copy / WEIGHTS), copy / "open_clip_pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    model = load_model(f"local-dir:{copy}", device="cpu")
    reference = load_model(f"local-dir:{folder}", device="cpu")
    assert torch.equal(model.clip.visual.proj, reference.clip.visual.proj)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_damaged_weights(copy, damage):
    data = (copy / WEIGHTS).read_bytes()
    content = {"cut": data[: len(data) // 2], "empty": b"", "noise": b"not a model" * 50}[damage]
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=WEIGHTS):
        load_model(f"local-dir:{copy}", device="cpu")


def test_weights_of_another_architecture(copy):
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=WEIGHTS):
        load_model(f"local-dir:{copy}", device="cpu")


def test_incomplete_folders(copy, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        load_model(f"local-dir:{tmp_path}/nowhere", device="cpu")
    with pytest.raises(ModelError, match="open_clip_config"):
        load_model(f"local-dir:{tmp_path}", device="cpu")
    (copy / WEIGHTS).rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=re.escape(str(copy))):
        load_model(f"local-dir:{copy}", device="cpu")
    (tmp_path / "elsewhere").rename(copy / WEIGHTS)
    for config in (
        "{",
        "{}",
        "[]",
        '{"model_cfg": {}}',
        '{"model_cfg": {"embed_dim": 3, "text_cfg": {}, "vision_cfg": 1}}',
    ):
        (copy / "open_clip_config.json").write_text(config)
        with pytest.raises(ModelError):
            load_model(f"local-dir:{copy}", device="cpu")


# --- models that are not as they were bundled -------------------------------------------------------------------------


@pytest.fixture
def one_bundled(assets):
    """One of the bundled models of `assets`, with the hashes of its files written down."""
    record(assets / "models" / "tabletop-a")
    return assets / "models" / "tabletop-a"


@pytest.mark.parametrize("name", [WEIGHTS, "open_clip_config.json", "tokenizer.json"])
def test_a_flipped_bit_of_a_bundled_model_is_found(one_bundled, name):
    content = bytearray((one_bundled / name).read_bytes())
    content[-20] ^= 1  # among the last weight's digits, or in white space's place: the file still loads or does not
    (one_bundled / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"tabletop-a.*{name}"):
        load_model("tabletop-a", device="cpu")


def test_files_that_are_missing_or_were_put_there_are_found(one_bundled):
    (one_bundled / "special_tokens_map.json").rename(one_bundled / "map.json")
    with pytest.raises(ModelError, match="tabletop-a"):
        load_model("tabletop-a", device="cpu")


def test_the_card_may_be_written_later_and_other_models_have_no_hashes(one_bundled):
    (one_bundled / "card.json").write_text(json.dumps({"name": "tabletop-a", "description": "Written later."}))
    assert load_model("tabletop-a", device="cpu").card["description"] == "Written later."
    assert load_model("tabletop-z", device="cpu").name == "tabletop-z"


def test_every_bundled_model_of_this_checkout_is_as_it_was_bundled():
    folders = [path for path in bundled.bundled_dir().iterdir() if path.is_dir() and path.name[0] != "."]
    assert len(folders) > 1 and all(WEIGHTS in verify(f) for f in folders if f.name != "_tokenizer")
    assert set(verify(bundled.bundled_dir() / "_tokenizer")) >= {"tokenizer.json"}
