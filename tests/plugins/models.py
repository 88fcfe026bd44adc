"""A model family of another package: `tiny:7` is a small classifier with random weights of seed 7."""

from __future__ import annotations

import torch
from torch import nn

import cmai_core as cmai
from cmai_core.models.families.family import Family

CLASSES = ("red", "green", "blue")


def load(spec: str):
    """Make the network; its specification is its name."""
    with torch.random.fork_rng():
        torch.manual_seed(int(spec.partition(":")[2]))
        layers = nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
        network = nn.Sequential(*layers).eval()
    return cmai.wrap(network, classes=CLASSES, image_size=16, name=spec)


FAMILY = Family(load=load, example="tiny:7", note="a small classifier")


def use() -> object:
    """Load it by its specification, also from `cmai.attack`."""
    from other.pictures import noise

    report = cmai.attack("tiny:7", noise(), recipe="fgsm", epsilon=8)
    return list(report.data["summary"]) == ["tiny:7"] and report.data["summary"]["tiny:7"]["samples"] == 4
