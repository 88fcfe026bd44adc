import pytest
import torch

from cmai_core.errors import ModelError
from cmai_core.models import new_model, save_local_dir
from cmai_core.models.architectures import ARCHITECTURES, build, model_config


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fits_the_budget_and_runs(name, tmp_path):
    model = new_model(name)
    save_local_dir(model, tmp_path / name, {"name": name})
    size = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
    assert size <= 8e6
    with torch.no_grad():
        features = model.image_features(torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
        ids = model.trim(model.tokenize(["is there a red cube? yes", "a ball"]))
        logits = model.fusion_logits(features.tokens, ids)
    assert features.tokens.shape == (2, {"tabletop-b": 32}.get(name, 64), model.embed_dim)
    assert logits.shape == (2, ids.shape[1], 1024)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_parameter_is_left_uninitialised(name):
    """PyTorch fills `torch.empty` with NaN here, so memory that nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    try:
        model = build(name)
    finally:
        torch.use_deterministic_algorithms(False)
    for parameter_name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), parameter_name


def test_the_decoder_starts_near_the_uniform_prediction():
    model = new_model("tabletop").to("cpu")
    model.clip.eval()
    with torch.no_grad():
        features = model.image_features(torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
        ids = model.trim(model.tokenize(["there is a small red cube on the table"] * 4))
        logits = model.fusion_logits(features.tokens, ids)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert 6.0 < float(loss) < 9.0  # ln 1024 = 6.93


def test_weights_come_from_the_generator_alone():
    before = torch.random.get_rng_state()
    first, again = (build("tabletop", torch.Generator().manual_seed(5)).state_dict() for _ in range(2))
    other = build("tabletop", torch.Generator().manual_seed(6)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["text_decoder.text_projection"], other["text_decoder.text_projection"])


def test_configs_are_copies():
    model_config("tabletop")["model_cfg"]["vision_cfg"]["width"] = 1
    assert ARCHITECTURES["tabletop"]["vision_cfg"]["width"] == 120


def test_unknown_architecture():
    with pytest.raises(ModelError, match=r"tabletop-z.*tabletop-b"):
        build("tabletop-z")
