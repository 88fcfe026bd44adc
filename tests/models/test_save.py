import errno
import hashlib
import json
import os
import shutil

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from cmai_core.errors import DataError, ModelError
from cmai_core.models import load_model, save_local_dir
from cmai_core.models.save import write_card


@pytest.fixture
def saved(make, tmp_path):
    return save_local_dir(make(4), tmp_path / "m", {"name": "m", "defended": True, "domain": "tabletop"})


def test_open_clip_alone_loads_it_and_sees_the_same(saved, captions):
    from PIL import Image
    from skimage import data

    ours = load_model(f"local-dir:{saved}", device="cpu")
    theirs, transform = open_clip.create_model_from_pretrained(f"local-dir:{saved}")
    theirs.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{saved}")
    photo = data.cat()[:32, :32].copy()
    assert torch.equal(tokenizer(captions), ours.tokenize(captions))
    image = transform(Image.fromarray(photo))[None]
    with torch.no_grad():
        pixels = ours.preprocess([photo])
        torch.testing.assert_close(ours.normalise(pixels), image, atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.encode_image(pixels), theirs.encode_image(image), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            ours.encode_text(captions), theirs.encode_text(tokenizer(captions)), atol=1e-5, rtol=0
        )
        out = theirs(image.expand(3, -1, -1, -1), tokenizer(captions))
        ids = ours.trim(ours.tokenize(captions))
        logits = ours.fusion_logits(ours.image_features(pixels).tokens, ids)
    used = ids[:, 1:] != 0
    torch.testing.assert_close(logits[:, :-1][used], out["logits"][:, : used.shape[1]][used], atol=1e-5, rtol=0)


def test_stored_in_half_and_computed_in_single_precision(saved, make):
    weights = load_file(saved / "open_clip_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    model = load_model(f"local-dir:{saved}", device="cpu")
    original = make(4).clip.state_dict()
    for name, tensor in model.clip.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, original[name].half().float()), name
    assert not model.clip.training
    assert not any(parameter.requires_grad for parameter in model.clip.parameters())


def test_the_folder_is_complete_and_the_card_comes_back(saved):
    assert {path.name for path in saved.iterdir()} == {
        "card.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model = load_model(f"local-dir:{saved}", device="cpu")
    assert model.defended and model.domain == "tabletop" and model.card["name"] == "m"
    write_card(saved, {"name": "m", "defended": False})
    assert load_model(f"local-dir:{saved}", device="cpu").defended is False
    assert sorted(path.name for path in saved.parent.iterdir()) == ["m"]


def test_the_hash_is_that_of_the_file_until_the_weights_change(saved):
    model = load_model(f"local-dir:{saved}", device="cpu")
    digest = hashlib.sha256((saved / "open_clip_model.safetensors").read_bytes()).hexdigest()
    assert model.hash == digest
    with torch.no_grad():
        model.clip.visual.proj.mul_(1.01)
    changed = model.hash
    assert changed != digest
    with torch.no_grad():
        model.clip.visual.proj.mul_(1.01)
    assert model.hash not in (changed, digest)


def test_saving_a_loaded_model_again_keeps_every_byte(saved, tmp_path):
    again = save_local_dir(load_model(f"local-dir:{saved}", device="cpu"), tmp_path / "again")
    for path in saved.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_replacing_a_model(saved, make):
    before = load_model(f"local-dir:{saved}", device="cpu").hash
    model = make(5)
    save_local_dir(model, saved, {"name": "other"})
    assert load_model(f"local-dir:{saved}", device="cpu").hash != before
    assert json.loads((saved / "card.json").read_text())["name"] == "other"
    assert all(parameter.requires_grad for parameter in model.clip.parameters()), "the saved model is left as found"


@pytest.mark.parametrize("value", [float("nan"), 1e6], ids=["nan", "beyond half precision"])
def test_a_diverged_model_does_not_replace_a_good_one(saved, make, value):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = make(5)
    with torch.no_grad():
        model.clip.visual.proj[0, 0] = value
    with pytest.raises(ModelError, match=r"visual\.proj"):
        save_local_dir(model, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["m"]


def test_a_failure_half_way_leaves_the_old_model(saved, make, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full_disk)
    with pytest.raises(DataError, match=os.strerror(errno.ENOSPC)):
        save_local_dir(make(5), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["m"]


def test_a_folder_of_other_things_is_not_replaced(make, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(ModelError, match="thesis"):
        save_local_dir(make(5), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"
    with pytest.raises(ModelError, match="thesis"):
        write_card(tmp_path / "thesis", {})


def test_a_model_of_unknown_configuration_cannot_be_saved(tmp_path):
    model = load_model("ViT-S-32-alt/random", device="cpu")
    with pytest.raises(ModelError, match="ViT-S-32-alt/random"):
        save_local_dir(model, tmp_path / "x")
