"""Joint projections: determinism, the drift control, PCA against its definition, errors."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cmai_core.errors import DataError, OptionError
from cmai_core.projection import project, warm_up
from cmai_core.projection.drift import cosine_distances, noisy_copies, usual_distance

pytestmark = pytest.mark.timeout(900)  # the first UMAP of a process is compiled, minutes on a busy machine


def clusters(per=12, count=3, width=16, spread=0.15, seed=0):
    """Unit vectors around `count` random directions, and the number of the direction of each."""
    source = np.random.default_rng(seed)
    centres = source.standard_normal((count, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    labels = np.repeat(np.arange(count), per)
    x = centres[labels] + spread * source.standard_normal((len(labels), width)) / np.sqrt(width)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.fixture(scope="module")
def groups():
    """36 clean points; adversarial ones, of which the last 12 left their cluster; 5 texts."""
    clean, _ = clusters()
    adversarial = noisy_copies(clean, 1e-5, np.random.default_rng(1))
    adversarial[24:] = clean[:12] + 0.01
    texts, _ = clusters(per=1, count=5, seed=4)
    return {"clean": clean, "adversarial": adversarial, "text": texts}


@pytest.fixture(scope="module")
def umap_map(groups):
    return project(groups, method="umap", seed=3)


def test_noisy_copies_have_exactly_the_stated_distance_and_keep_their_length():
    x = 3.0 * clusters()[0].astype(np.float64)
    for distance in (1e-6, 0.01, 1.0):
        copies = noisy_copies(x, distance, np.random.default_rng(0))
        np.testing.assert_allclose(cosine_distances(x, copies), distance, rtol=1e-7)
        np.testing.assert_allclose(np.linalg.norm(copies, axis=1), np.linalg.norm(x, axis=1))


def test_the_usual_distance_is_a_tenth_of_that_to_the_nearest_neighbour():
    angles = np.array([0.0, 0.1, 0.2, 0.3])
    x = np.c_[np.cos(angles), np.sin(angles)]
    assert usual_distance(x) == pytest.approx(0.1 * (1 - np.cos(0.1)))
    assert usual_distance(np.eye(3)) == 0.01 == usual_distance(np.eye(3)[:1])


def test_umap_is_the_same_for_the_same_seed_and_touches_no_global_state(groups, umap_map):
    np.random.seed(5)
    random.seed(5)
    expected = np.random.random(), random.random()
    np.random.seed(5)
    random.seed(5)
    again = project(groups, method="umap", seed=3)
    assert (np.random.random(), random.random()) == expected
    for name in groups:
        np.testing.assert_array_equal(again.points[name], umap_map.points[name])
    np.testing.assert_array_equal(again.control.points, umap_map.control.points)
    other = project(groups, method="umap", seed=4)
    assert not np.allclose(other.points["clean"], umap_map.points["clean"])


def test_umap_keeps_clusters_together(umap_map):
    _, labels = clusters()
    placed = umap_map.points["clean"]
    gaps = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert (labels[gaps.argmin(axis=1)] == labels).all()
    assert umap_map.trustworthiness > 0.85


def test_arrows_count_only_beyond_the_drift_control(umap_map, groups):
    moved = umap_map.displacements["clean", "adversarial"]
    assert set(umap_map.displacements) == {("clean", "adversarial")}  # five texts do not pair with 36 images
    np.testing.assert_allclose(moved.cosine[:24], 1e-5, rtol=1e-5)
    assert (moved.cosine[24:] > 0.1).all()
    assert moved.beyond_control[24:].all()
    assert moved.beyond_control[:24].mean() < 0.25
    control = umap_map.control
    assert control.group == "clean" and len(control.rows) == len(control.displacement) == 36
    assert control.quantile(0.5) <= control.quantile(0.95)
    copies_apart = np.linalg.norm(umap_map.points["clean"][control.rows] - control.points, axis=1)
    np.testing.assert_allclose(control.displacement, copies_apart, rtol=1e-5)
    assert moved.beyond_control.tolist() == (moved.plane > control.quantile(0.95)).tolist()


def test_pca_is_the_projection_on_the_two_directions_of_most_variance(groups):
    from sklearn.decomposition import PCA

    found = project(groups, method="pca")
    unit = np.concatenate([g / np.linalg.norm(g, axis=1, keepdims=True) for g in groups.values()])
    reference = PCA(n_components=2, svd_solver="full").fit(unit)
    expected = reference.transform(unit)
    ours = np.concatenate(list(found.points.values()))
    for axis in range(2):
        sign = np.sign((ours[:, axis] * expected[:, axis]).sum())
        np.testing.assert_allclose(sign * ours[:, axis], expected[:, axis], atol=1e-6)
    np.testing.assert_allclose(found.explained_variance, reference.explained_variance_ratio_, rtol=1e-6)


def test_the_drift_control_does_not_bend_the_pca_axes(groups):
    near, far = project(groups, "pca", control_distance=1e-6), project(groups, "pca", control_distance=0.9)
    np.testing.assert_array_equal(near.points["clean"], far.points["clean"])
    assert near.control.quantile(0.95) < 0.01 < far.control.quantile(0.5)
    assert far.control.cosine_distance == 0.9


def test_pca_distances_never_exceed_those_of_the_space(groups):
    moved = project(groups, "pca").displacements["clean", "adversarial"]
    assert (moved.plane <= np.sqrt(2 * moved.cosine) + 1e-6).all()


def test_at_most_64_points_are_copied():
    x, _ = clusters(per=50)
    found = project({"clean": x}, "pca", seed=2)
    assert len(found.control.rows) == 64 == len(set(found.control.rows.tolist()))


def test_lengths_do_not_matter(groups):
    scaled = {name: 7.0 * rows for name, rows in groups.items()}
    np.testing.assert_allclose(
        project(scaled, "pca").points["clean"], project(groups, "pca").points["clean"], atol=1e-6
    )


@pytest.mark.parametrize("count", [6, 8, 15])
def test_few_points_still_make_a_map(count):
    x = np.random.default_rng(0).standard_normal((count, 5))
    found = project({"clean": x[: count // 2], "adversarial": x[count // 2 :]}, "umap")
    assert found.settings["n_neighbors"] < count + len(found.control.rows)
    assert all(np.isfinite(rows).all() for rows in found.points.values())


def test_two_points_can_be_drawn_by_pca():
    found = project({"clean": np.eye(3)[:1], "text": np.eye(3)[1:2]}, "pca")
    assert found.displacements["clean", "text"].plane[0] == pytest.approx(np.sqrt(2))
    assert found.displacements["clean", "text"].cosine[0] == pytest.approx(1)
    assert found.trustworthiness is None
    assert found.explained_variance == (pytest.approx(1), pytest.approx(0))


def test_identical_points_are_no_accident():
    x = np.ones((8, 4))
    assert np.isfinite(project({"clean": x}, "umap").points["clean"]).all()
    assert project({"clean": x}, "pca").explained_variance == (0.0, 0.0)


def test_stated_pairs_are_used(groups):
    found = project(groups, "pca", pairs=[("adversarial", "clean")], control_group="text")
    assert list(found.displacements) == [("adversarial", "clean")]
    assert found.control.group == "text"


@pytest.mark.parametrize(
    ("points", "named"),
    [
        ({}, None),
        ({"clean": np.ones((3, 4))}, "3 .*UMAP"),
        ({"clean": np.ones((9, 4)), "text": np.ones((9, 5))}, "4.*5"),
        ({"clean": np.ones((9, 1))}, "'clean': 1"),
        ({"clean": np.zeros((9, 4))}, "'clean'.* 0"),
        ({"clean": np.full((9, 4), np.nan)}, "'clean'"),
        ({"clean": np.ones(9)}, r"\(9,\)"),
        ({"clean": np.ones((0, 4))}, r"\(0, 4\)"),
        ({"clean": np.array([["a", "b"]] * 9)}, r"\(9, 2\)"),
    ],
)
def test_unusable_points_are_data_errors(points, named):
    with pytest.raises(DataError, match=named):
        project(points)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "t-sne"},
        {"pairs": [("clean", "nobody")]},
        {"pairs": [("clean", "text")]},
        {"control_group": "nobody"},
        {"control_distance": 0.0},
        {"control_distance": 2.0},
        {"n_neighbors": 1},
        {"min_dist": -0.1},
        {"seed": 2**32},
    ],
)
def test_bad_options_are_option_errors(groups, options):
    with pytest.raises(OptionError):
        project(groups, **options)


def test_warm_up_runs_once():
    warm_up()
