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

from demos.hahn import EPSILON, series
from demos.nonstandard import levi_civita

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
