"""Anybody's network as a vision-language model: the numbers are the network's own."""

import numpy as np
import pytest
import torch
from torch import nn

from cmai_core.data.memory import InMemory
from cmai_core.errors import DataError, ModelError, OptionError
from cmai_core.models.classifier import ClassTokenizer
from cmai_core.models.wrap import wrap
from cmai_core.tasks import get_task

CLASSES = ["cat", "dog", "big dog", "cow"]


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, len(CLASSES))
        return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 36, 3), dtype=np.uint8) for _ in range(6)]
    return InMemory(images, labels=[CLASSES[k % 4] for k in range(6)], classes=CLASSES)


def test_a_classifiers_logits_and_gradients_are_its_own(network, data):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    model = wrap(network, classes=CLASSES, image_size=32, mean=mean, std=std)
    pairs = [data[k] for k in range(len(data))]
    pixels = model.preprocess([pair.image for pair in pairs]).requires_grad_(True)
    task = get_task("zero-shot")
    prepared = task.prepare(model, pairs, data)
    logits = task.logits(model, model.image_features(pixels), prepared)
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = network(normalised)
    assert torch.allclose(logits, expected, atol=1e-5)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((logits * weights).sum(), pixels, retain_graph=True)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), pixels)
    assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()) + 1e-8)


def test_a_text_is_the_class_that_it_names_the_longest_first(network):
    model = wrap(network, classes=CLASSES, image_size=32)
    vectors = model.encode_text(["a photo of a Big Dog", "dog.", "a cow on a meadow", "a cow and a big dog"])
    assert vectors.argmax(dim=1).tolist() == [2, 1, 3, 2]
    letters = ClassTokenizer(["a", "b"])
    assert [letters.decode(ids) for ids in letters(["a photo of a a", "a photo of a b"]).tolist()] == ["a", "b"]
    assert model.detokenize(model.tokenize(["a big dog"])[0].tolist()) == "big dog"
    with pytest.raises(DataError, match="dogma"):
        model.encode_text(["a dogma"])


def test_the_network_is_left_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    flags = [p.requires_grad for p in network.parameters()]
    model = wrap(network, classes=CLASSES, image_size=32)
    assert not any(part.training for part in model.modules())
    assert [p.requires_grad for p in network.parameters()] == flags
    assert not hasattr(network, "preprocess_cfg")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


class _Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(300, 8)

    def forward(self, ids):
        return (self.table(ids) * (ids != 0).unsqueeze(-1)).sum(dim=1)


def _bytes(texts):
    longest = max(len(t.encode()) for t in texts)
    return {"input_ids": [[*(b + 3 for b in t.encode()), *[0] * (longest - len(t.encode()))] for t in texts]}


def test_a_pair_of_encoders(network):
    image = nn.Sequential(*list(network)[:4], nn.Linear(64, 8)).eval()
    text = _Texts().eval()
    model = wrap(image, text, tokenizer=_bytes, image_size=32, temperature=0.1)
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    captions = ["a cat", "two dogs", "x"]
    wanted = torch.cosine_similarity(image(pixels), text(torch.tensor(_bytes(captions)["input_ids"])))
    assert torch.allclose(model.consistency(pixels, captions), wanted, atol=1e-6)
    assert float(model.logit_scale) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("changes", "error", "names"),
    [
        ({"classes": None}, OptionError, "classes"),
        ({"classes": ["one"]}, OptionError, "one"),
        ({"classes": ["a", "A"]}, OptionError, "classes"),
        ({"std": (0.0, 1.0, 1.0)}, OptionError, "std"),
        ({"mean": (0.0, 1.0)}, OptionError, "mean"),
        ({"image_size": 0}, OptionError, "image_size"),
        ({"classes": ["a", "b", "c"]}, ModelError, "3 classes"),
    ],
)
def test_what_cannot_be_is_refused_at_once(network, changes, error, names):
    with pytest.raises(error, match=names):
        wrap(network, **({"classes": CLASSES, "image_size": 32} | changes))


def test_a_network_that_cannot_read_the_size_is_refused_at_once():
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval()
    assert wrap(fixed, classes=["a", "b"], image_size=8).image_size == 8
    with pytest.raises(ModelError, match="16"):
        wrap(fixed, classes=["a", "b"], image_size=16)
