"""What a model takes, from its configuration alone."""

from __future__ import annotations

from copy import deepcopy

import open_clip
import pytest
import torch

from cmai_core.errors import ModelError
from cmai_core.models import load_model
from cmai_core.models.sizes import check_memory, estimate, machine_memory

GIGA = 2**30


@pytest.mark.parametrize("architecture", ["RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP", "ViTamin-S"])
def test_the_count_is_that_of_the_architecture(architecture):
    """On the meta device with open_clip's own classes, without ours."""
    config = open_clip.get_model_config(architecture)
    found = estimate(config)
    config.pop("custom_text", None)
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    with torch.device("meta"):
        model = kind(**config)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.weights >= 4 * found.parameters and found.total == found.weights + found.working


def test_a_model_that_is_there_has_the_size_that_was_estimated(small):
    found = estimate(small.config["model_cfg"])
    assert found.parameters == sum(parameter.numel() for parameter in small.clip.parameters())
    assert small.config["model_cfg"]["vision_cfg"].get("timm_model_pretrained") is None, (
        "the configuration is as it was"
    )


def test_the_lower_bound_is_one():
    for architecture in ("ViT-B-32", "RN50", "coca_ViT-B-32"):
        whole, quick = (estimate(open_clip.get_model_config(architecture), memory) for memory in (None, 0))
        assert 0 < quick.parameters < whole.parameters and 0 < quick.working == whole.working


def test_what_is_above_the_memory_is_refused():
    config = open_clip.get_model_config("ViT-B-32")
    assert check_memory(config, "it", memory=2 * GIGA).parameters > 1e8
    with pytest.raises(ModelError, match=r"^it .*\d GiB"):
        check_memory(config, "it", memory=GIGA // 2)
    with pytest.raises(ModelError, match=r"^it .*\d GiB"):
        check_memory(config, "it", memory=2 * GIGA, stored=2 * GIGA)
    assert machine_memory() is None or machine_memory() > GIGA // 4


def test_depth_and_pictures_count():
    config = open_clip.get_model_config("ViT-B-32")
    deep, large = deepcopy(config), deepcopy(config)
    deep["vision_cfg"]["layers"] = 256
    large["vision_cfg"]["image_size"] = 4096
    assert estimate(deep).parameters > 10 * estimate(config).parameters
    assert estimate(large).working > 100 * estimate(config).working


def test_the_loader_asks(monkeypatch):
    monkeypatch.setattr("cmai_core.models.sizes.machine_memory", lambda: GIGA // 4)
    monkeypatch.setattr("open_clip.CustomTextCLIP.__init__", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(ModelError, match="ViT-B-32"):
        load_model("ViT-B-32/random", device="cpu")
