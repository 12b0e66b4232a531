"""Derivatives by an infinitesimal against automatic differentiation, and against what a finite step does."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.jet import jet

from demos.hahn import EPSILON, series, standard_part
from demos.nonstandard import checks, levi_civita, model, stiff

ORDER = 8
FUNCTIONS = {
    "polynomial": lambda x, m: x * x * x - 2 * x + 1,
    "exp": lambda x, m: m.exp(x * x * -0.5),
    "sin": lambda x, m: m.sin(x * 2 + 1) * x,
    "log": lambda x, m: m.log(x * x + 1),
    "tanh": lambda x, m: m.tanh(x),
    "composed": lambda x, m: m.exp(m.sin(m.tanh(x) * 3)) + m.cos(x) * m.log(x * x + 2),
}


def by_autodiff(f, x: float) -> list[float]:
    """Taylor-mode automatic differentiation."""
    with jax.enable_x64(True):
        value, derivatives = jet(lambda t: f(t, jnp), (x,), ([1.0] + [0.0] * (ORDER - 1),))
    return [float(value), *map(float, derivatives)]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("x", [0.3, -0.7])
def test_eight_derivatives_are_those_of_automatic_differentiation(name, x):
    f = FUNCTIONS[name]
    ours = levi_civita.derivatives(lambda t: f(t, levi_civita), x, ORDER)
    np.testing.assert_allclose(ours, by_autodiff(f, x), rtol=1e-9, atol=1e-8)


def test_a_finite_step_does_not_give_them():
    """Control: the best difference quotient in float64 has four digits of the fourth derivative, not nine."""
    exact = math.exp(0.3)
    quotients = [
        sum((-1) ** k * math.comb(4, k) * math.exp(0.3 + (2 - k) * h) for k in range(5)) / h**4
        for h in (10.0**-e for e in range(1, 8))
    ]
    assert min(abs(each - exact) for each in quotients) > 1e-6 * exact


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=5), st.integers(-3, 3))
def test_polynomial_identities_transfer(coefficients, n):
    """What holds for all reals holds for numbers with infinitesimal parts: x - y divides p(x) - p(y)."""

    def value(x):
        total = series({})
        for c in reversed(coefficients):
            total = total * x + c
        return total

    x, y = EPSILON + n, EPSILON * EPSILON * 2 - n
    quotient = sum(
        (c * sum(_power(x, i) * _power(y, k - 1 - i) for i in range(k)) for k, c in enumerate(coefficients) if k),
        series({}),
    )
    assert value(x) - value(y) == (x - y) * quotient


def _power(x, n):
    total = series({0: 1})
    for _ in range(n):
        total = total * x
    return total


def test_an_identity_of_the_standard_parts_alone_does_not_transfer():
    assert (EPSILON + 1) * (EPSILON + 1) != EPSILON * 2 + 1  # equal standard parts, and equal first derivatives


@pytest.mark.parametrize("rate", [0.1, 1.0, 3.0])
def test_infinitely_many_euler_steps_end_where_the_flow_does(rate):
    """And the powers of epsilon say where finitely many end, one digit more with each."""
    value = levi_civita.compounded(rate, 4)
    assert float(standard_part(value)) == pytest.approx(math.exp(-rate), rel=1e-14)
    exact = (1 - rate / 1000) ** 1000
    said = np.cumsum([float(value.coefficient(-k)) * 1000.0**-k for k in range(5)])
    errors = np.abs(said - exact)
    assert errors[-1] < 1e-12 and errors[0] > 100 * errors[1] > 1e4 * errors[2]


@pytest.mark.parametrize(("order", "longest"), [(1, 2.0), (2, 2.0), (3, 2.5127), (4, 2.7853)])
def test_truncated_series_are_stable_as_far_as_runge_and_kutta_are(order, longest):
    """Bounds on the negative real axis: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.2."""
    assert stiff.reach(order) == pytest.approx(longest, abs=0.02)


def test_the_gradient_of_the_checks_is_the_networks():
    """And the imaginary step is a Hessian product."""
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, y, w = *model.draw(random, 1e4), model.initial(random)
        gradient = np.asarray(jax.grad(model.loss)(w, x, y))
        product = np.asarray(jax.jvp(lambda v: jax.grad(model.loss)(v, x, y), (w,), (gradient,))[1])
    np.testing.assert_allclose(checks.gradient(w, x, y), gradient, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(checks.hessian_product(w, x, y, gradient), product, rtol=1e-9, atol=1e-14)
