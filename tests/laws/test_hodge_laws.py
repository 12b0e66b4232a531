"""Complexes with known homology, and the laws of their Hodge decomposition, each with a control that breaks it."""

from __future__ import annotations

from itertools import combinations, product

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos.simplicial import maths
from demos.simplicial.complexes import (
    Bar,
    betti,
    boundary,
    closure,
    exchange,
    flag_complex,
    heat,
    hodge,
    laplacian,
    persistence,
    rank,
)
from demos.simplicial.surfaces import SPACING, SURFACES, field, side_flows

CIRCLE = closure([(0, 1), (1, 2), (0, 2)])
DISK = closure([(0, 1, 2), (0, 2, 3)])
OCTAHEDRON = closure(list(product((0, 1), (2, 3), (4, 5))))
MOEBIUS_TORUS = closure([(i, (i + a) % 7, (i + 3) % 7) for i in range(7) for a in (1, 2)])
PROJECTIVE_PLANE = closure(
    [(0, 1, 4), (0, 1, 5), (0, 2, 3), (0, 2, 5), (0, 3, 4), (1, 2, 3), (1, 2, 4), (1, 3, 5), (2, 4, 5), (3, 4, 5)]
)
FIGURE_EIGHT = closure([(0, 1), (1, 2), (0, 2), (0, 3), (3, 4), (0, 4)])
TWO_POINTS = closure([(0,), (1,)])
HOLLOW_AND_APART = closure([*combinations(range(4), 3), (5, 6)])

KNOWN = [
    (CIRCLE, (1, 1)),
    (DISK, (1, 0, 0)),
    (OCTAHEDRON, (1, 0, 1)),
    (MOEBIUS_TORUS, (1, 2, 1)),
    (PROJECTIVE_PLANE, (1, 0, 0)),
    (FIGURE_EIGHT, (1, 2)),
    (TWO_POINTS, (2,)),
    (HOLLOW_AND_APART, (2, 0, 1)),
]


def random_flag(seed: int, vertices: int = 9, dimension: int = 3):
    upper = np.triu(np.random.default_rng(seed).random((vertices, vertices)) < 0.55, 1)
    return flag_complex((upper | upper.T).astype(int), dimension)


seeds = st.integers(0, 10_000)


@pytest.mark.parametrize(("complex", "numbers"), KNOWN)
def test_betti_numbers_of_known_complexes(complex, numbers):
    assert betti(complex) == numbers
    kernels = [int((np.linalg.eigvalsh(laplacian(complex, k)) < 1e-9).sum()) for k in range(len(complex))]
    assert tuple(kernels) == numbers


def test_two_halves_of_the_answer_depend_on_the_field():
    assert betti(PROJECTIVE_PLANE, 2) == (1, 1, 1)  # torsion of order 2 is invisible to the rationals
    assert betti(MOEBIUS_TORUS, 2) == betti(MOEBIUS_TORUS)


@given(seeds)
def test_the_boundary_of_a_boundary_is_zero(seed):
    complex = random_flag(seed)
    for k in range(1, len(complex)):
        assert not (boundary(complex, k) @ boundary(complex, k + 1)).any()


def test_without_signs_it_is_not():
    assert (abs(boundary(OCTAHEDRON, 1)) @ abs(boundary(OCTAHEDRON, 2))).any()


@given(seeds)
def test_euler_characteristic_two_ways(seed):
    complex = random_flag(seed)
    simplices = sum((-1) ** k * len(level) for k, level in enumerate(complex))
    assert simplices == sum((-1) ** k * number for k, number in enumerate(betti(complex)))


@given(seeds)
def test_flows_split_into_three_orthogonal_parts(seed):
    complex = random_flag(seed)
    flow = np.random.default_rng(seed).normal(size=len(complex[1]))
    parts = hodge(complex, 1, flow)
    np.testing.assert_allclose(sum(parts), flow, atol=1e-12)
    for one, other in combinations(parts, 2):
        assert abs(one @ other) < 1e-10
    assert np.abs(boundary(complex, 2).T @ parts.gradient).max(initial=0) < 1e-10
    assert np.abs(boundary(complex, 1) @ parts.curl).max(initial=0) < 1e-10
    assert np.abs(laplacian(complex, 1) @ parts.harmonic).max(initial=0) < 1e-10


def test_triangles_with_one_wrong_sign_break_the_orthogonality():
    down, wrong = boundary(OCTAHEDRON, 1).T, boundary(OCTAHEDRON, 2).copy()
    wrong[np.flatnonzero(wrong[:, 0])[0], 0] *= -1
    flow = np.random.default_rng(0).normal(size=len(OCTAHEDRON[1]))
    gradient = down @ np.linalg.lstsq(down, flow, rcond=None)[0]
    curl = wrong @ np.linalg.lstsq(wrong, flow, rcond=None)[0]
    assert abs(gradient @ curl) > 0.05


def test_the_harmonic_part_is_there_exactly_where_there_is_a_hole():
    around = np.array([1.0, -1.0, 1.0])  # 0 -> 1 -> 2 -> 0 over edges 01, 02, 12
    np.testing.assert_allclose(hodge(CIRCLE, 1, around).harmonic, around, atol=1e-12)
    filled = closure([(0, 1, 2)])
    assert np.abs(hodge(filled, 1, around).harmonic).max() < 1e-12


@given(seeds)
def test_rank_over_a_large_field_is_that_of_the_reals(seed):
    matrix = np.random.default_rng(seed).integers(-1, 2, (7, 9))
    assert rank(matrix, 2_147_483_647) == np.linalg.matrix_rank(matrix)


def test_diffusion_keeps_mass_and_ends_in_the_harmonic_part():
    complex = random_flag(3)
    mass = np.random.default_rng(1).random(len(complex[0]))
    assert heat(complex, 0, mass, 0.7).sum() == pytest.approx(mass.sum(), abs=1e-12)
    torus = np.random.default_rng(2).normal(size=len(MOEBIUS_TORUS[1]))
    np.testing.assert_allclose(heat(MOEBIUS_TORUS, 1, torus, 200.0), hodge(MOEBIUS_TORUS, 1, torus).harmonic, atol=1e-9)
    flow = np.random.default_rng(4).normal(size=len(complex[1]))
    assert heat(complex, 1, flow, 0.7).sum() != pytest.approx(flow.sum(), abs=1e-3)  # a flow has no mass to keep


def test_without_signs_diffusion_keeps_the_total():
    complex = random_flag(5)
    operator = exchange(complex, 1)
    mass = np.random.default_rng(1).random(len(complex[1]))
    levels, modes = np.linalg.eigh(operator)
    spread = modes @ (np.exp(-0.3 * levels) * (modes.T @ mass))
    assert spread.sum() == pytest.approx(mass.sum(), abs=1e-12) and spread.min() > 0


@pytest.mark.parametrize(
    ("name", "numbers", "mod_two"),
    [
        ("annulus", (1, 1, 0), (1, 1, 0)),
        ("disk", (1, 0, 0), (1, 0, 0)),
        ("pants", (1, 2, 0), (1, 2, 0)),
        ("torus", (1, 2, 1), (1, 2, 1)),
        ("klein", (1, 1, 0), (1, 2, 1)),
    ],
)
def test_surfaces_have_their_holes_and_their_arrows_follow_the_flow(name, numbers, mod_two):
    surface = SURFACES[name]()
    assert betti(surface.complex) == numbers and betti(surface.complex, 2) == mod_two
    flow = np.random.default_rng(0).normal(size=len(surface.complex[1]))
    sides = side_flows(surface.complex, flow)
    for side, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        along = surface.corners[:, j] - surface.corners[:, i]
        inside = surface.corners.mean(1) * 1e-6 + (surface.corners[:, i] + along / 2) * (1 - 1e-6)
        assert np.abs((field(surface.corners, sides, inside) * along).sum(-1) - sides[:, side]).max() < 1e-4
    apart = surface.distances()
    near = surface.adjacency > 0
    assert np.abs(apart - apart.T).max() < 1e-12 and np.abs(apart[near] - SPACING).max() < 1e-12
    assert np.isnan(field(surface.corners, sides, np.array([[9.0, 9.0]]))).all()


@pytest.mark.parametrize("form", ["trilinear", "determinant"])
def test_attention_without_triples_is_attention_over_triples(form):
    with jax.enable_x64(True):
        layer = np.random.default_rng(0).normal(size=(5, 12, 7))
        whole = maths.simplicial_attention(*layer, window=(9, 4), form=form)
        folded = maths.folded_attention(*layer, window=(9, 4), form=form)
        narrow = maths.folded_attention(*layer, window=(9, 3), form=form)
    assert np.abs(whole - folded).max() < 1e-12 < np.abs(whole - narrow).max()


def test_the_mean_of_random_walks_is_the_heat_equation():
    complex = random_flag(3)
    flow, times = np.random.default_rng(1).normal(size=len(complex[1])), np.array([0.1, 2.0])
    with jax.enable_x64(True):
        found = maths.diffuse(laplacian(complex, 1), flow, times, 200)
    for time, spread in zip(times, np.asarray(found), strict=True):
        np.testing.assert_allclose(spread, heat(complex, 1, flow, time), atol=1e-12)


class TestPersistence:
    def filtration(self, seed: int) -> dict[tuple[int, ...], float]:
        points = np.random.default_rng(seed).normal(size=(8, 2))
        near = np.linalg.norm(points[:, None] - points[None], axis=-1)
        simplices = [each for size in (1, 2, 3) for each in combinations(range(8), size)]
        return {each: max((float(near[i, j]) for i, j in combinations(each, 2)), default=0.0) for each in simplices}

    @given(st.integers(0, 300), st.floats(0.0, 3.0))
    def test_bars_that_are_alive_are_the_betti_numbers(self, seed, value):
        values = self.filtration(seed)
        present = closure([simplex for simplex, entry in values.items() if entry <= value])
        alive = [bar.dimension for bar in persistence(values) if bar.birth <= value < bar.death]
        # The complex ends at triangles: its own second homology is of the skeleton, alike on both sides.
        found = (*betti(present, 2), 0, 0)[:3]
        assert tuple(alive.count(k) for k in range(3)) == found

    def test_a_square_is_closed_and_then_filled(self):
        values = {(v,): 0.0 for v in range(4)}
        values |= {(0, 1): 1.0, (1, 2): 1.0, (2, 3): 1.0, (0, 3): 2.0, (0, 2): 3.0, (0, 1, 2): 3.0, (0, 2, 3): 4.0}
        bars = persistence(values)
        assert Bar(1, 2.0, 4.0) in bars
        assert [bar for bar in bars if bar.death == np.inf] == [Bar(0, 0.0, np.inf)]

    def test_a_simplex_before_its_face_is_refused(self):
        with pytest.raises(ValueError, match=r"\(0, 1\) enters at 0, need its face \(0,\) no later"):
            persistence({(0,): 1.0, (1,): 0.0, (0, 1): 0.0})


def test_what_is_no_simplex_or_no_graph_is_refused():
    with pytest.raises(ValueError, match="distinct vertices"):
        closure([(0, 0, 1)])
    with pytest.raises(ValueError, match="symmetric"):
        flag_complex(np.triu(np.ones((3, 3), int), 1))
