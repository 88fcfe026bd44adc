"""Projections onto the simplex and towards an entropy."""

from __future__ import annotations

import pytest
import torch

from cmai_core.attacks.text_searches.simplex import project_entropy, project_simplex
from cmai_core.errors import OptionError


def bisected(x):
    """Reference: the threshold found by bisection."""
    low, high = x.min() - 1, x.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (x - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (x - low).clamp(min=0)


def gini(x):
    """Gini entropy of each row."""
    return 1 - x.square().sum(dim=-1)


@pytest.fixture
def points():
    return torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_simplex_projection_against_bisection(points):
    found = project_simplex(points)
    assert torch.allclose(found, torch.stack([bisected(row) for row in points]), atol=1e-9)
    assert torch.allclose(project_simplex(found), found, atol=1e-12)


def test_support_is_respected(points):
    support = torch.rand(points.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    support[:, 2] = True
    found = project_simplex(points, support)
    assert (found[~support] == 0).all() and torch.allclose(found.sum(dim=1), torch.ones(40, dtype=torch.float64))
    for row, there, result in zip(points, support, found, strict=True):
        assert torch.allclose(result[there], bisected(row[there]), atol=1e-9)
    with pytest.raises(OptionError):
        project_simplex(points, torch.zeros_like(points, dtype=torch.bool))


def test_entropy_projection(points):
    start = (3 * points).softmax(dim=1)
    for target in (0.0, 0.3, 0.6):
        found = project_entropy(start, target)
        assert torch.allclose(found.sum(dim=1), torch.ones(40, dtype=torch.float64)) and (found >= 0).all()
        low = gini(start) <= target
        assert torch.equal(found[low], start[low])
        assert (gini(found) <= gini(start) + 1e-12).all()
        repeated = found
        for _ in range(50):
            repeated = project_entropy(repeated, target)
        assert (gini(repeated) <= target + 1e-6).all()


def test_entropy_is_the_target_where_the_pushed_point_stays_inside():
    start = torch.tensor([[0.4, 0.35, 0.25]], dtype=torch.float64)
    assert torch.allclose(gini(project_entropy(start, 0.6)), torch.tensor([0.6], dtype=torch.float64))
    one_hot, uniform = torch.eye(3, dtype=torch.float64), torch.full((1, 3), 1 / 3, dtype=torch.float64)
    assert torch.equal(project_entropy(one_hot, 0.0), one_hot)
    assert torch.equal(project_entropy(uniform, 0.1), uniform)
