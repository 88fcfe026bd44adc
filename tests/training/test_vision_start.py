"""The vision-only start and the patch loss that it rests on."""

import importlib.util
from pathlib import Path

import pytest
import torch

from cmai_core.training.losses import IGNORED, PATCH_CLASSES, PatchHead
from cmai_core.training.recipes import get_recipe
from cmai_core.training.trainer import RunOptions, train

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

PARTS = ("visual", "text.", "text_decoder")


def targets(shapes):
    """Patch targets 1×P×6 of these shapes (0: background, which has no other attribute)."""
    rows = [[shape, *([IGNORED if shape == 0 else 0] * (len(PATCH_CLASSES) - 1))] for shape in shapes]
    return torch.tensor([rows])


def test_a_background_patch_counts_a_tenth_of_one_with_an_object():
    head = PatchHead(4)
    torch.nn.init.zeros_(head.linear.weight)
    with torch.no_grad():
        head.linear.bias.zero_()
        head.linear.bias[0] = 3.0  # everything looks like background
    logits = head.linear.bias.split(PATCH_CLASSES)
    background = -torch.log_softmax(logits[0], 0)[0]
    thing = -torch.log_softmax(logits[0], 0)[1]
    others = sum(torch.log(torch.tensor(float(n))) for n in PATCH_CLASSES[1:])
    expected = ((9 * 0.1 * background + thing) / 1.9 + others) / len(PATCH_CLASSES)
    loss = head(torch.zeros(1, 10, 4), targets([0] * 9 + [1]))
    assert torch.isclose(loss, expected, atol=1e-6)


def test_a_batch_without_any_object_has_a_finite_loss():
    assert torch.isfinite(PatchHead(4)(torch.randn(1, 3, 4), targets([0, 0, 0])))


@pytest.mark.parametrize(("share", "texts_moved"), [(0.999, False), (0.5, True)])
def test_only_the_image_tower_learns_until_the_texts_join(share, texts_moved, tmp_path):
    model = helpers.model()
    before = {name: value.clone() for name, value in model.clip.state_dict().items()}
    recipe = get_recipe("base", batch=8, vision_share=share, precision="fp32")
    train(
        recipe,
        out_dir=tmp_path,
        model=model,
        arrays=helpers.arrays(),
        options=RunOptions(pairs=4 * recipe.batch, validate_every=0),
    )
    after = model.clip.state_dict()
    moved = {part: any(not torch.equal(before[n], after[n]) for n in before if n.startswith(part)) for part in PARTS}
    assert moved == {"visual": True, "text.": texts_moved, "text_decoder": texts_moved}
