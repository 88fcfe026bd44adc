"""The worst case that trials are judged by."""

from cmai_core.data.tabletop.arrays import training_arrays
from cmai_core.models import load_model
from cmai_core.models.tokenizer import bundled_tokenizer_dir
from cmai_core.training.trainer import take_apart
from cmai_core.training.validation import QUICK, worst_validation


def test_the_worst_case_is_below_every_attack_and_tells_robust_models_from_others(tmp_path):
    arrays = training_arrays(bundled_tokenizer_dir() / "tokenizer.json", "validation", 24, workers=1, folder=tmp_path)
    found = {}
    for name in ("tabletop", "tabletop-tecoa"):
        model = load_model(name, "cpu")
        found[name] = worst_validation(take_apart(model), arrays, scenes=24, steps=3)
        assert all(parameter.grad is None for parameter in model.trainable().network.parameters())
    for figures in found.values():
        assert figures["scenes"] == 24 and figures["clean"] > 0.5
        for worst, attacks in zip(figures["worst"], figures["attacks"], strict=True):
            assert attacks.keys() == QUICK.keys() and worst <= min(figures["clean"], *attacks.values())
        assert figures["worst"][1] <= figures["worst"][0]
    assert found["tabletop"]["worst"][0] < found["tabletop-tecoa"]["worst"][0] - 0.1
