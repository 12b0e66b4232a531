"""Surreal numbers, Hahn series and transseries: exact laws, each with a control that breaks it."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from demos.hahn import EPSILON, Series, Undecided, X, inverse, root, series, standard_part
from demos.surreal import dominance, transseries
from demos.surreal.conway import (
    ZERO,
    Form,
    birthday,
    born_by,
    canonical,
    compare_signs,
    equal,
    form,
    is_number,
    number,
    signs,
    signs_of,
)

DAYS = list(born_by(3))
VALUES = {each: number(each) for each in DAYS}


class TestConway:
    def test_born_by_day_three(self):
        assert sorted(VALUES.values()) == [
            Fraction(eighths, 4) for eighths in (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)
        ]

    def test_expansions_and_values_name_each_other(self):
        for expansion in born_by(7):
            assert signs(number(expansion)) == expansion
        with pytest.raises(ValueError, match="got 1/3, need a dyadic"):
            signs(Fraction(1, 3))

    @pytest.mark.parametrize("x", DAYS, ids=lambda x: str(VALUES[x]))
    def test_arithmetic_and_order_of_forms_are_those_of_the_values(self, x):
        for y in DAYS:
            a, b = VALUES[x], VALUES[y]
            assert number(signs_of(form(x) + form(y))) == a + b
            assert number(signs_of(form(x) * form(y))) == a * b
            assert (form(x) <= form(y)) == (a <= b)
            assert compare_signs(x, y) == (a > b) - (a < b)

    def test_adding_signs_place_by_place_is_no_sum(self):
        x, y = signs(Fraction(1, 2)), signs(Fraction(3, 4))
        assert number(tuple(max(-1, min(1, a + b)) or 1 for a, b in zip(x, y, strict=False))) != Fraction(5, 4)

    def test_shorter_expansions_are_not_smaller(self):
        """The end of an expansion stands between minus and plus; taken as the smallest sign it orders wrongly."""
        wrong = sorted(DAYS)
        assert [VALUES[each] for each in wrong] != sorted(VALUES.values())

    def test_two_forms_of_one_value(self):
        half = Form((ZERO,), (form((1,)),))
        older = Form((form((-1,)), ZERO), (form((1,)), form((1, 1))))
        assert half != older and equal(half, older) and canonical(older) == half
        assert birthday(older) == 2

    def test_birthdays_of_sums_are_no_later_than_the_sum_of_birthdays(self):
        for x, y in product(DAYS, repeat=2):
            assert birthday(form(x) + form(y)) <= len(x) + len(y)
        latest = max(birthday(form(x) * form(y)) - len(x) - len(y) for x, y in product(DAYS, repeat=2))
        assert latest > 0  # of products they are later: 3/4 * 3/4 = 9/16

    def test_a_game_that_is_no_number_is_refused(self):
        star = Form((ZERO,), (ZERO,))
        assert not is_number(star)
        assert not star <= ZERO and not ZERO <= star  # and the order is not total on games
        with pytest.raises(ValueError, match="need a number"):
            canonical(star)

    def test_between_two_numbers_the_oldest_is_meant(self):
        between = Form((form(signs(Fraction(1, 4))),), (form(signs(Fraction(3))),))
        assert number(signs_of(between)) == 1  # not 13/8, the middle


exponents = st.fractions(-3, 3, max_denominator=2)
coefficients = st.integers(-4, 4)
exact = st.dictionaries(exponents, coefficients, max_size=4).map(series)
truncated = st.builds(lambda x, error: x.cut(error), exact, exponents.map(lambda each: each - 4))
any_series = exact | truncated
nonzero = any_series.filter(lambda x: x.terms)


def agree(one: Series, other: Series) -> bool:
    """Equal above both truncations."""
    return not (one - other).terms


class TestHahn:
    @given(any_series, any_series, any_series)
    def test_ring_laws_hold_above_the_error(self, x, y, z):
        assert agree((x + y) + z, x + (y + z)) and agree((x * y) * z, x * (y * z))
        assert x * y == y * x and x + y == y + x
        assert agree(x * (y + z), x * y + x * z)
        assert not (x - x).terms

    @given(nonzero, st.integers(1, 6))
    def test_every_series_but_zero_has_an_inverse(self, x, depth):
        rest = x * inverse(x, depth) - 1
        assert not rest.terms
        assert rest.error is None or rest.error <= max(-depth, (x.error or -99) - x.terms[0][0])

    @given(exact, exact, exact)
    def test_the_order_is_total_and_compatible(self, x, y, z):
        assert (x < y) + (x > y) + (x == y) == 1
        if x < y:
            assert x + z < y + z
            assert not z > 0 or x * z < y * z

    def test_an_order_by_the_largest_coefficient_is_not_compatible(self):
        def positive(x: Series) -> bool:
            return max(x.terms, key=lambda term: abs(term[1]))[1] > 0

        x = X * 3 - 2
        assert positive(x) and not positive(x * x)
        assert x > 0 and x * x > 0

    def test_infinite_and_infinitesimal(self):
        assert all(n < X and EPSILON * n < 1 for n in (1, 10**6, 10**100))
        assert standard_part(series({0: 3, -1: 5})) == 3
        with pytest.raises(OverflowError, match=r"order X\^1"):
            standard_part(X + 1)

    def test_a_truncation_that_forgets_its_error_breaks_the_laws(self):
        def leading(x: Series) -> Series:
            return Series(x.terms[:2])

        assert leading(leading(X + 1 + EPSILON) - X) != leading(X + 1 + leading(EPSILON - X))

    def test_what_lies_below_the_truncation_is_not_made_up(self):
        x = series({0: 1}).cut(-2)
        with pytest.raises(Undecided):
            x.coefficient(-2)
        with pytest.raises(Undecided):
            (x - 1).sign()
        with pytest.raises(ZeroDivisionError):
            inverse(x - x)

    @given(nonzero.filter(lambda x: x.terms[0][1] > 0), st.integers(2, 4))
    def test_positive_series_have_roots(self, x, degree):
        power, y = series({0: 1}), root(x, degree, 3)
        for _ in range(degree):
            power = power * y
        scale = float(x.terms[0][1])
        above = [value for exponent, value in (power - x).terms if exponent > x.terms[0][0] - 3]
        assert all(abs(value) < 1e-9 * scale * 4**12 for value in above)


LIMITS = {
    "constant": lambda x, exp, log: (3 * x**2 + 1) / (2 * x**2 - x),
    "cancels to the constant": lambda x, exp, log: exp(x + exp(-x)) - exp(x),
    "e": lambda x, exp, log: exp(x * log(1 + 1 / x)),
    "exponential over power": lambda x, exp, log: exp(x) / x**100,
    "power over power of a logarithm": lambda x, exp, log: x / log(x) ** 50,
    "logarithms": lambda x, exp, log: log(log(x)) / log(x),
    "gruntz 8.5": lambda x, exp, log: (
        log(x) * (log(log(x) + log(log(x))) - log(log(x))) / log(log(x) + log(log(log(x))))
    ),
    "gruntz 8.8": lambda x, exp, log: (
        (exp(4 * x * exp(-x) / (1 / exp(x) + 1 / exp(2 * x**2 / (x + 1)))) - exp(x)) / exp(x) ** 4
    ),
    "gruntz 8.12": lambda x, exp, log: (
        x * log(x) * log(x * exp(x) - x**2) ** 2 / log(log(x**2 + 2 * exp(exp(3 * x**3 * log(x)))))
    ),
    "towers": lambda x, exp, log: exp(exp(x - 1)) / exp(exp(x)),
    "to zero": lambda x, exp, log: exp(-(x**2)) * exp(x),
    "minus infinity": lambda x, exp, log: x - x * log(x),
    "second order": lambda x, exp, log: x * (exp(1 / x) - 1) - 1,
    "third order, scaled": lambda x, exp, log: x**2 * (log(1 + 1 / x) * x - 1 + 1 / (2 * x)),
}


class TestTransseries:
    @pytest.mark.parametrize("name", LIMITS)
    def test_limits_are_those_that_sympy_finds(self, name):
        f = LIMITS[name]
        ours = transseries.limit(lambda x: f(x, transseries.exp, transseries.log))
        x = sympy.Symbol("x", positive=True)
        theirs = sympy.limit(f(x, sympy.exp, sympy.log), x, sympy.oo)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-12)

    def test_a_large_number_is_not_infinity(self):
        """Control: what floating point at the largest x says, where logarithms decide, is wrong."""
        x = 1e300
        assert x**0.01 < math.log(x) ** 2
        assert transseries.larger(lambda x: x ** Fraction(1, 100), lambda x: transseries.log(x) ** 2) == 1

    def test_growth_is_ordered_along_the_scale(self):
        def tower(x, levels):
            return tower(transseries.exp(x), levels - 1) if levels else x

        scale = [
            lambda x: transseries.log(transseries.log(x)),
            lambda x: transseries.log(x) ** 3,
            lambda x: x ** Fraction(1, 3),
            lambda x: x**2 * transseries.log(x) ** -5,
            lambda x: transseries.exp(transseries.log(x) ** 2),
            lambda x: transseries.exp(x**0.5),
            lambda x: transseries.exp(x) / x**9,
            lambda x: transseries.exp(x),
            lambda x: transseries.exp(x * transseries.log(x)),
            lambda x: tower(x, 2),
            lambda x: tower(x, 3),
        ]
        for small, large in pairwise(scale):
            assert transseries.larger(large, small) == 1 and transseries.larger(small, large) == -1
        assert transseries.larger(scale[3], scale[3]) == 0

    def test_every_term_of_the_picture_leads_once_in_the_order_of_exact_comparison(self):
        ranked = dominance.ranked()
        near = sorted(ranked, key=lambda term: term.at(dominance.LOW))
        assert near == ranked, "at the left end the order is the reverse: values there say nothing about infinity"
        changes = dominance.changes(ranked, np.geomspace(dominance.LOW, dominance.HIGH, 65))
        assert [term for _, term in changes] == ranked[-2::-1]
        for (x, fast), slow in zip(changes, reversed(ranked), strict=False):
            assert fast.at(x) == pytest.approx(slow.at(x), rel=1e-12)
            assert all(fast.at(x * (1 + 1e-6)) > other.at(x * (1 + 1e-6)) for other in ranked if other != fast)
        assert transseries.order([term.grows for term in reversed(ranked)]) == [3, 2, 1, 0]

    @given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(-2, 2)), min_size=3, max_size=3))
    def test_monomials_are_an_ordered_group(self, drawn):
        def monomial(a, b, c):
            power = transseries.Monomial(tuple((k, Fraction(v)) for k, v in ((0, a), (1, b)) if v))
            return power * transseries.Monomial((), ((transseries.iterated_log(0), Fraction(c)),) if c else ())

        m, n, p = (monomial(*each) for each in drawn)
        order = transseries.compare(m, n)
        assert order == -transseries.compare(n, m) == transseries.compare(m * p, n * p)
        keys = [(c, a, b) for a, b, c in drawn]  # exponential first, then powers, then logarithms
        assert order == (keys[0] > keys[1]) - (keys[0] < keys[1])

    def test_what_needs_more_than_one_infinite_series_is_undecided_and_says_so(self):
        """e^-x is smaller than every term of a series in 1/x: no number of terms reaches it."""

        def f(x):
            return transseries.exp(x) * (transseries.exp(1 / x - transseries.exp(-x)) - transseries.exp(1 / x))

        def g(x):
            """Infinitely many terms of the inner exponential are infinite themselves."""
            return transseries.exp(transseries.exp(x)) / transseries.exp(transseries.exp(x - 1 / x))

        for function in (f, g):
            with pytest.raises(transseries.Undecided):
                transseries.limit(function, most=12)

    def test_logarithms_and_roots_of_what_is_negative_are_refused(self):
        with pytest.raises(ValueError, match="need a positive one"):
            transseries.limit(lambda x: transseries.log(1 - x))
        with pytest.raises(ValueError, match="negative at infinity"):
            transseries.limit(lambda x: (1 - x) ** 0.5)
