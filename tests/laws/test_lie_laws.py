"""Exponentials, series and semigroups of matrices in float64, against scipy and against wrong constants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from demos.matrix_gauge import lie

expm = scipy.linalg.expm


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def drawn(seed: int, n: int = 4, count: int = 2) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, n, n)))


def largest(x) -> float:
    return float(np.abs(np.asarray(x)).max())


class TestGroups:
    @pytest.mark.parametrize("seed", range(4))
    def test_skew_matrices_give_rotations_by_every_map(self, seed):
        a = lie.skew(jnp.asarray(drawn(seed)[0]))
        for rotation in (jax.scipy.linalg.expm(a), lie.cayley(a)):
            assert largest(rotation @ rotation.T - jnp.eye(4)) < 1e-13
            assert float(jnp.linalg.det(rotation)) == pytest.approx(1, abs=1e-13)
        general = jax.scipy.linalg.expm(jnp.asarray(drawn(seed)[0]))
        assert largest(general @ general.T - jnp.eye(4)) > 0.1

    @pytest.mark.parametrize("seed", range(4))
    def test_hamiltonian_matrices_keep_the_symplectic_form(self, seed):
        a, form = lie.hamiltonian(jnp.asarray(drawn(seed)[0])), lie.symplectic_form(4)
        for moved in (jax.scipy.linalg.expm(a), lie.cayley(a)):
            assert largest(moved.T @ form @ moved - form) < 1e-11 * largest(moved) ** 2
        rotation = jax.scipy.linalg.expm(lie.skew(jnp.asarray(drawn(seed)[0])))
        assert largest(rotation.T @ form @ rotation - form) > 0.1

    def test_closed_forms_are_the_exponential(self):
        w = np.random.default_rng(0).normal(size=(5, 3))
        for each in (*w, 1e-5 * w[0], 0 * w[0]):
            assert largest(lie.rodrigues(jnp.asarray(each)) - expm(np.asarray(lie.hat(jnp.asarray(each))))) < 1e-14
        upper = np.triu(drawn(1, 5)[0], 1)
        assert largest(lie.nilpotent_exponential(jnp.asarray(upper)) - expm(upper)) < 1e-13
        assert largest(lie.nilpotent_exponential(jnp.asarray(upper + np.eye(5))) - expm(upper + np.eye(5))) > 0.01
        symmetric = drawn(2)[0] + drawn(2)[0].T
        found = lie.symmetric_exponential(jnp.asarray(symmetric))
        assert largest(found - expm(symmetric)) < 1e-12 * largest(found)
        assert float(jnp.linalg.eigvalsh(found).min()) > 0

    def test_rotations_about_no_axis_have_a_gradient(self):
        slope = jax.jacobian(lie.rodrigues)(jnp.zeros(3))
        np.testing.assert_allclose(slope[..., 2], lie.hat(jnp.asarray([0.0, 0.0, 1.0])), atol=1e-15)

    def test_plane_rotations_make_up_a_rotation(self):
        planes = np.array([(0, 1), (1, 2), (0, 3), (2, 3)])
        angles = jnp.asarray([0.3, -1.1, 2.0, 0.7])
        found, expected = lie.givens(planes, angles, 4), np.eye(4)
        for (i, j), angle in zip(planes, angles, strict=True):
            turn = np.zeros((4, 4))
            turn[i, j], turn[j, i] = -angle, angle
            expected = expected @ expm(turn)
        assert largest(found - expected) < 1e-14

    def test_the_cayley_map_is_the_exponential_to_second_order(self):
        a = np.asarray(lie.skew(jnp.asarray(drawn(3)[0])))
        errors = [largest(lie.cayley(jnp.asarray(h * a)) - expm(h * a)) for h in (0.1, 0.05)]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.1)


def slope(error, steps=(0.08, 0.04)) -> float:
    """Order of an error: how often it halves when the step halves."""
    return float(np.log2(error(steps[0]) / error(steps[1])))


class TestSeries:
    @pytest.mark.parametrize("order", [1, 2, 3, 4])
    def test_the_commutator_series_has_its_order(self, order):
        a, b = drawn(0, 3)

        def error(h):
            exact = scipy.linalg.logm(expm(h * a) @ expm(h * b))
            return largest(exact - lie.baker_campbell_hausdorff(jnp.asarray(h * a), jnp.asarray(h * b), order))

        assert slope(error, (0.02, 0.01)) == pytest.approx(order + 1, abs=0.15)

    def test_a_wrong_constant_loses_an_order(self):
        a, b = drawn(0, 3)

        def error(h):
            x, y = jnp.asarray(h * a), jnp.asarray(h * b)
            right = lie.baker_campbell_hausdorff(x, y, 4)
            wrong = right + lie.commutator(x, lie.commutator(x, y)) / 12  # 1/6 for 1/12
            return largest(scipy.linalg.logm(expm(h * a) @ expm(h * b)) - wrong)

        assert slope(error, (0.02, 0.01)) == pytest.approx(3, abs=0.15)

    def test_commuting_matrices_need_none_of_it(self):
        a = drawn(0, 3)[0]
        assert largest(lie.baker_campbell_hausdorff(jnp.asarray(a), jnp.asarray(a @ a), 4) - a - a @ a) < 1e-12

    @pytest.mark.parametrize("order", [2, 4])
    def test_magnus_steps_have_their_order_and_stay_in_the_group(self, order):
        constant, linear = (np.asarray(lie.skew(jnp.asarray(each))) for each in drawn(5, 3))

        def flow(steps):
            y, h = np.eye(3), 1.0 / steps
            for k in range(steps):
                first, second = (jnp.asarray(constant + t * linear) for t in lie.gauss_points(k * h, h))
                y = expm(np.asarray(lie.magnus_step(first, second, h, order))) @ y
            return y

        exact = flow(64)
        errors = [largest(flow(steps) - exact) for steps in (2, 4)]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)
        assert largest(flow(4) @ flow(4).T - np.eye(3)) < 1e-14

    def test_the_holonomy_is_the_commutator_to_third_order(self):
        a, b = drawn(6, 3)

        def error(h):
            x, y = jnp.asarray(h * a), jnp.asarray(h * b)
            return largest(lie.holonomy(x, y) - jnp.eye(3) - lie.commutator(x, y))

        assert slope(error, (0.02, 0.01)) == pytest.approx(3, abs=0.15)
        assert largest(lie.holonomy(jnp.asarray(a), jnp.asarray(2 * a)) - jnp.eye(3)) < 1e-10


def chain(seed: int, states: int = 6):
    return lie.generator(jnp.asarray(np.random.default_rng(seed).exponential(size=(states, states))))


class TestSemigroups:
    @given(st.integers(0, 99), st.floats(0.01, 30.0), st.sampled_from([1e-3, 1e-6, 1e-12]))
    @settings(max_examples=8)
    def test_the_error_is_within_the_bound_known_beforehand(self, seed, time, tolerance):
        with jax.enable_x64(True):
            q = chain(seed)
            x = jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, 6))
            error = largest(lie.expmv(q, x, time, tolerance) - expm(time * np.asarray(q)) @ np.asarray(x))
            assert error <= tolerance + 1e-13

    def test_one_term_less_breaks_a_tight_bound(self):
        """Control: the bound is attained by a state that every jump leaves for good."""
        q = jnp.asarray([[-1.0, 1.0], [0.0, 0.0]])
        x, mean = jnp.asarray([0.0, 1.0]), 5.0
        terms = lie.terms_for(mean, 1e-4)
        assert lie.poisson_tail(mean, terms) <= 1e-4 < lie.poisson_tail(mean, terms - 1)
        exact = 1 - np.exp(-mean)
        short = sum(np.exp(-mean) * mean**n / float(np.prod(np.arange(1, n + 1))) for n in range(1, terms - 1))
        assert abs(exact - short) > 1e-4
        assert abs(float(lie.expmv(q, x, mean, 1e-4)[0]) - exact) <= 1e-4

    def test_probabilities_stay_probabilities(self):
        q = chain(1)
        p = lie.expmv(q, jnp.eye(6), 2.5)
        assert largest(p.sum(1) - 1) < 1e-12 and float(p.min()) >= 0
        assert largest(lie.expmv(q, jnp.eye(6), 1.0) @ lie.expmv(q, jnp.eye(6), 1.5) - p) < 1e-12
        euler = jnp.eye(6) + 2.5 * q
        assert float(euler.min()) < 0  # a plain step does not keep them

    def test_random_walks_agree_within_their_error(self):
        q, x = chain(2), jnp.asarray(np.random.default_rng(0).normal(size=6))
        exact = float(lie.expmv(q, x, 0.1)[3])
        mean, error = lie.sampled_expmv(q, x, 0.1, 3, 20_000, seed=1)
        assert abs(mean - exact) < 4 * error < 0.1
        other, _ = lie.sampled_expmv(q, x, 0.3, 3, 20_000, seed=1)
        assert abs(other - exact) > 4 * error

    def test_what_is_no_generator_or_no_time_is_refused(self):
        with pytest.raises(ValueError, match="got a rate of -1"):
            lie.generator(jnp.asarray([[0.0, -1.0], [1.0, 0.0]]))
        with pytest.raises(ValueError, match="got time -1"):
            lie.expmv(chain(0), jnp.ones(6), -1.0)
        assert largest(lie.expmv(chain(0), jnp.ones(6), 0.0) - 1) == 0
