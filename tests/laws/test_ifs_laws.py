"""Iterated function systems: contraction, truncation, collage, fixed point, dimension; each with a control."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demos.ifs_fractal import maths

ENDS = [[0.0], [1.0]]
CORNERS = [[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]]
ON_A_GRID = {"cantor": ENDS, "sierpinski": [[0, 0], [1, 0], [0, 1]], "square": [[0, 0], [1, 0], [0, 1], [1, 1]]}
"""Corners of systems whose pieces fill boxes of a grid."""


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def cantor(ratio: float) -> maths.System:
    return maths.similarities(ratio, jnp.array(ENDS))


def sierpinski() -> maths.System:
    return maths.similarities(0.5, jnp.array(CORNERS))


def cloud(count: int, size: int, seed: int = 0) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).uniform(-3, 3, (count, size)))


def turning() -> maths.System:
    """Three contractions that turn, shear and shrink unequally."""
    matrices = np.random.default_rng(5).standard_normal((3, 2, 2))
    norms = np.linalg.norm(matrices, 2, axis=(1, 2))[:, None, None]
    return jnp.asarray(matrices / norms * np.array([0.7, 0.5, 0.3])[:, None, None]), cloud(3, 2, seed=6)


def test_maps_contract_by_their_largest_singular_value_and_not_by_less():
    system, x, y = turning(), cloud(500, 2), cloud(500, 2, seed=1)
    s = maths.contraction(system)
    assert s == pytest.approx(0.7)
    images = [maths.hutchinson(system, each).reshape(3, 500, 2) for each in (x, y)]
    ratios = jnp.linalg.norm(images[0] - images[1], axis=-1) / jnp.linalg.norm(x - y, axis=-1)
    assert (ratios <= s + 1e-12).all() and (ratios > 0.99 * s).any()


def gap(ratio: float) -> float:
    """Between the points of the left piece of the Cantor set and those of the right one."""
    points = np.sort(np.asarray(maths.approach(cantor(ratio), jnp.array(ENDS), 8)).reshape(2, -1))
    return float(np.abs(points[0][:, None] - points[1]).min())


def test_pieces_stay_apart_by_one_minus_2_s_below_a_half_and_meet_above():
    for ratio in (0.2, 1 / 3, 0.4, 0.49):
        assert gap(ratio) == pytest.approx(1 - 2 * ratio, abs=1e-12)
    assert gap(0.6) < 1e-2


def drawn(system: maths.System, addresses: np.ndarray) -> jax.Array:
    """The points of addresses (words, d), from the origin."""
    start = jnp.zeros(system[1].shape[1])
    return jax.jit(jax.vmap(lambda each: maths.point(system, each, start)))(jnp.asarray(addresses))


def test_an_address_cut_at_d_is_wrong_by_at_most_s_to_the_d_over_one_minus_s():
    """Offsets of length at most 1; the bound with one level more is broken."""
    system = (0.4 * jnp.broadcast_to(jnp.eye(2), (3, 2, 2)), jnp.array([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]]))
    addresses = np.random.default_rng(0).integers(3, size=(40, 30))
    addresses[0] = 0  # the constant address reaches the bound
    whole = drawn(system, addresses)
    for depth in (1, 5):
        worst = jnp.linalg.norm(whole - drawn(system, addresses[:, :depth]), axis=-1).max()
        assert worst <= 0.4**depth / 0.6 + 1e-12
        assert worst > 0.4 ** (depth + 1) / 0.6


def test_a_point_is_where_its_address_says():
    """All addresses of three levels draw the third approach; control: the last symbol as the largest piece does not."""
    system = turning()
    words = np.array(list(itertools.product(range(3), repeat=3)))
    expected = maths.approach(system, jnp.zeros((1, 2)), 3)
    assert jnp.abs(drawn(system, words) - expected).max() < 1e-12
    assert jnp.abs(drawn(system, words[:, ::-1]) - expected).max() > 0.1


def test_every_start_leads_to_the_same_attractor():
    """h(W^n A, W^n B) <= s^n h(A, B); an expanding system leads them apart."""
    one, other = cloud(3, 2), cloud(3, 2, seed=1) + 10
    start = maths.hausdorff(one, other)
    for steps in (1, 4):
        far = maths.hausdorff(*(maths.approach(turning(), each, steps) for each in (one, other)))
        assert far <= 0.7**steps * start + 1e-12
    fixed = maths.approach(sierpinski(), jnp.array(CORNERS), 4)
    assert maths.hausdorff(fixed, maths.hutchinson(sierpinski(), fixed)) <= 0.5**4 + 1e-12
    matrices, offsets = sierpinski()
    expanded = maths.hausdorff(*(maths.approach((3 * matrices, offsets), each, 4) for each in (one, other)))
    assert expanded > start


def test_the_attractor_is_as_near_as_the_collage_promises():
    """Barnsley: h(A, target) <= h(target, W target) / (1 - s); without 1 - s it is not true."""
    attractor = {
        "turning": maths.approach(turning(), jnp.zeros((1, 2)), 6),
        "sierpinski": maths.approach(sierpinski(), jnp.array(CORNERS[:1]), 6),
    }
    for name, system in (("turning", turning()), ("sierpinski", sierpinski())):
        slack = 20 * maths.contraction(system) ** 6  # what six steps leave of the start
        for seed in range(4):
            target = cloud(20, 2, seed)
            assert maths.hausdorff(attractor[name], target) <= maths.collage_bound(system, target) + slack
    system, target = cantor(0.4), jnp.array([[5.0]])
    distance = maths.hausdorff(maths.approach(system, jnp.array(ENDS), 6), target)
    assert distance > maths.hausdorff(target, maths.hutchinson(system, target))
    assert distance <= maths.collage_bound(system, target) + 1e-9


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [("cantor", 3.0, np.log(2) / np.log(3)), ("sierpinski", 2.0, np.log(3) / np.log(2)), ("square", 2.0, 2.0)],
)
def test_boxes_count_the_dimension_of_known_attractors(name, base, expected):
    """Of points inside their pieces; the square, which is no fractal, is the control."""
    corners = jnp.array(ON_A_GRID[name], float)
    system = maths.similarities(1 / base, corners)
    points = maths.approach(system, jnp.full((1, corners.shape[1]), 0.3), 5)
    found = maths.box_dimension(points, base, 4)
    moran = maths.similarity_dimension(jnp.full(len(corners), 1 / base))
    assert found == pytest.approx(expected, abs=1e-6) and moran == pytest.approx(expected, abs=1e-12)
    assert (found < corners.shape[1] - 0.3) == (name != "square")  # a fractal fills less than the space around it


def test_moran_with_unequal_ratios():
    ratios = jnp.array([0.5, 0.25, 0.1])
    dimension = maths.similarity_dimension(ratios)
    assert (ratios**dimension).sum() == pytest.approx(1, abs=1e-12)
    assert dimension < maths.similarity_dimension(jnp.array([0.5, 0.5, 0.1]))


def test_the_golden_rule_fails_where_pieces_overlap():
    """At s = .6 Moran's root is above 1, and no set on the line has a dimension above 1."""
    points = maths.approach(cantor(0.6), jnp.full((1, 1), 0.3), 12)
    assert maths.similarity_dimension(jnp.array([0.6, 0.6])) > 1.3
    assert maths.box_dimension(points, 2.0, 5) <= 1 + 1e-9


def test_features_of_paths_have_the_product_of_overlaps_as_inner_product():
    levels = jax.nn.softmax(jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 3, 4))))
    one, other = maths.path_features(levels)
    overlaps = (levels[0] * levels[1]).sum(-1)
    assert jnp.abs((one * other).sum(-1) - overlaps.prod(-1)).max() < 1e-12
    assert jnp.abs((one * other).sum(-1) - overlaps.mean(-1)).max() > 1e-2
