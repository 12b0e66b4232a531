"""P-adic arithmetic against integers modulo p^k, and its link with common prefixes; each with what must break it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos.ultrametric import trie
from demos.ultrametric.maths import Padic, add, expansion, integer, inverse, multiply, negate, padic, valuation, written

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


@given(primes, numbers.filter(bool), st.integers(1, 10**4))
def test_a_fraction_is_a_power_times_the_digits_of_a_unit(p, a, b):
    power, unit = expansion(a, b, p, DEPTH)
    rest = Fraction(a, b) / Fraction(p) ** power - integer(unit, p)
    assert unit[0] and rest.numerator % p**DEPTH == 0 and rest.denominator % p


def test_expansions_are_written_with_the_point_where_it_belongs():
    assert written(*expansion(-1, 6, 3, 4)) == "...111.1" and written(*expansion(6, 1, 3, 4)) == "...00020"


@given(primes, st.lists(st.integers(0, 5**4 - 1), min_size=1, max_size=20), st.integers(0, 5**4 - 1))
def test_the_array_finds_what_dictionaries_and_a_search_find(p, keys, query):
    root: trie.Branch = {}
    for key in keys:
        trie.grow(root, key, p, 4)
    occupied = np.zeros(trie.size(p, 4), bool)
    for key in keys:
        occupied[np.asarray(trie.balls(np.array(key), p, 4))] = True
    found = int(occupied[np.asarray(trie.balls(np.array(query), p, 4))].sum()) - 1
    assert found == trie.descend(root, query, p, 4) == max(valuation(padic(key - query, p, 4)) for key in keys)


def test_without_the_last_key_the_array_finds_less():
    keys, query = np.array([0, 9, 26]), np.array([26])
    occupied = trie.insert(np.zeros(trie.size(3, 3), bool), keys, base=3, depth=3)
    fewer = trie.insert(np.zeros(trie.size(3, 3), bool), keys[:2], base=3, depth=3)
    assert (
        int(trie.longest(occupied, query, base=3, depth=3)[0]) == 3 == int(trie.search(keys, query, base=3, depth=3)[0])
    )
    assert int(trie.longest(fewer, query, base=3, depth=3)[0]) == 0
