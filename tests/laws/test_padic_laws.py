"""P-adic arithmetic against integers modulo p^k, and its link with common prefixes; each with what must break it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos.ultrametric.maths import Padic, add, integer, inverse, multiply, negate, padic, valuation

DEPTH = 9
primes = st.sampled_from([2, 3, 5, 7])
numbers = st.integers(-(10**7), 10**7)


@given(primes, numbers, numbers)
def test_sum_and_product_are_those_of_integers_modulo_a_power(p, a, b):
    x, y = padic(a, p, DEPTH), padic(b, p, DEPTH)
    assert integer(add(x, y, p), p) == (a + b) % p**DEPTH
    assert integer(multiply(x, y, p), p) == a * b % p**DEPTH
    assert integer(negate(x, p), p) == -a % p**DEPTH


def test_a_sum_without_carries_is_caught():
    x, y = padic(5, 3, 4), padic(7, 3, 4)
    without = tuple((one + other) % 3 for one, other in zip(x, y, strict=True))
    assert integer(without, 3) != 12 == integer(add(x, y, 3), 3)


@given(primes, numbers)
def test_hensel_lifts_the_inverse_of_a_unit(p, a):
    x = padic(a, p, DEPTH)
    if a % p == 0:
        with pytest.raises(ValueError, match="need a unit"):
            inverse(x, p)
    else:
        assert integer(inverse(x, p), p) == pow(a, -1, p**DEPTH)


def test_the_inverse_modulo_p_alone_is_not_the_inverse():
    x = padic(2, 5, 4)
    assert multiply(x, padic(3, 5, 4), 5) != padic(1, 5, 4) == multiply(x, inverse(x, 5), 5)


@given(primes, numbers, numbers)
def test_the_valuation_is_additive_and_ultrametric(p, a, b):
    x, y = padic(a, p, DEPTH), padic(b, p, DEPTH)
    assert valuation(multiply(x, y, p)) == min(DEPTH, valuation(x) + valuation(y))
    assert valuation(add(x, y, p)) >= min(valuation(x), valuation(y))
    if valuation(x) != valuation(y):
        assert valuation(add(x, y, p)) == min(valuation(x), valuation(y))


def test_the_absolute_value_of_the_reals_is_not_ultrametric():
    assert abs(3 + 4) > max(abs(3), abs(4))


def common_prefix(x: Padic, y: Padic) -> int:
    return next((place for place in range(len(x)) if x[place] != y[place]), len(x))


@given(primes, numbers, numbers)
def test_the_valuation_of_a_difference_is_the_length_of_the_common_prefix(p, a, b):
    x, y = padic(a, p, DEPTH), padic(b, p, DEPTH)
    assert common_prefix(x, y) == valuation(add(x, negate(y, p), p))


def test_with_the_most_significant_digit_first_it_is_not():
    x, y = padic(7, 2, 4), padic(8, 2, 4)
    assert common_prefix(x[::-1], y[::-1]) == 0 == valuation(padic(7 - 8, 2, 4))
    x, y = padic(4, 2, 4), padic(5, 2, 4)
    assert common_prefix(x[::-1], y[::-1]) == 3 != valuation(padic(4 - 5, 2, 4))
