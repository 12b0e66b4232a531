"""Ordinals below epsilon_0: order, sums, products, descents, each law with a control that breaks it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos.ordinal.arithmetic import (
    OMEGA,
    ONE,
    ZERO,
    Ordinal,
    chop,
    evaluate,
    goodstein,
    heads,
    hereditary,
    hydra_rank,
    natural,
    omega_to,
)


def collect(terms: list[tuple[Ordinal, int]]) -> Ordinal:
    total = ZERO
    for exponent, count in terms:
        total = total.natural_sum(Ordinal(((exponent, count),)))
    return total


ordinals = st.recursive(
    st.integers(0, 3).map(natural),
    lambda inner: st.lists(st.tuples(inner, st.integers(1, 3)), max_size=3).map(collect),
    max_leaves=6,
)
hydras = st.recursive(st.just(()), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=7)


class TestArithmetic:
    @given(ordinals, ordinals, ordinals)
    def test_ordinary_sums_and_products(self, a, b, c):
        assert (a + b) + c == a + (b + c)
        assert (a * b) * c == a * (b * c)
        assert a * (b + c) == a * b + a * c
        assert a + ZERO == a == ZERO + a and a * ONE == a == ONE * a and a * ZERO == ZERO == ZERO * a
        assert not b < c or a + b < a + c
        assert a <= a + b and b <= a + b

    def test_neither_commutes_nor_distributes_on_the_right(self):
        assert ONE + OMEGA == OMEGA != OMEGA + ONE
        assert natural(2) * OMEGA == OMEGA != OMEGA * natural(2)
        assert (ONE + ONE) * OMEGA != OMEGA + OMEGA

    @given(ordinals, ordinals, ordinals)
    def test_natural_ones_are_a_semiring_of_polynomials(self, a, b, c):
        assert a.natural_sum(b) == b.natural_sum(a) and a.natural_product(b) == b.natural_product(a)
        assert a.natural_product(b.natural_sum(c)) == a.natural_product(b).natural_sum(a.natural_product(c))
        assert a.natural_product(b).natural_product(c) == a.natural_product(b.natural_product(c))
        assert not b < c or a.natural_sum(b) < a.natural_sum(c)
        assert a + b <= a.natural_sum(b) and a * b <= a.natural_product(b)

    def test_the_ordinary_sum_is_not_strictly_monotone_on_the_left(self):
        assert ZERO < ONE and not ZERO + OMEGA < ONE + OMEGA

    @given(ordinals, ordinals)
    def test_the_order_is_total(self, a, b):
        assert (a < b) + (b < a) + (a == b) == 1
        assert a < omega_to(a.natural_sum(ONE))

    def test_what_is_no_normal_form_is_refused(self):
        for terms in (((ONE, 0),), ((ZERO, 1), (ONE, 1)), ((ONE, 1), (ONE, 2))):
            with pytest.raises(ValueError, match="strictly falling"):
                Ordinal(terms)

    def test_written(self):
        assert str(omega_to(OMEGA + ONE) * natural(2) + OMEGA + natural(3)) == "ω^(ω + 1)·2 + ω + 3"
        assert str(omega_to(natural(2))) == "ω^2" and str(ZERO) == "0"


class TestDescent:
    @given(ordinals.filter(lambda a: a.terms), st.integers(0, 5))
    def test_every_member_of_a_fundamental_sequence_is_below(self, a, n):
        assert a.below(n) < a
        if a.is_limit:
            assert a.below(n) < a.below(n + 1)

    @given(ordinals, st.lists(st.integers(0, 2), min_size=40, max_size=40))
    def test_any_choices_step_down_until_zero(self, a, choices):
        for n in choices:
            below = a.below(n)
            assert below < a or a == ZERO
            a = below

    def test_a_sequence_may_wander_below_a_limit_for_long_but_not_for_ever(self):
        steps, a = 0, omega_to(natural(2))
        while a.terms:
            a, steps = a.below(7), steps + 1
        assert steps == 1 + 7 * (1 + 7)


class TestGoodstein:
    @given(st.integers(0, 10**6), st.integers(2, 7))
    def test_notation_round_trip(self, number, base):
        assert evaluate(hereditary(number, base), base) == number

    @pytest.mark.parametrize(("number", "length"), [(1, 2), (2, 4), (3, 6)])
    def test_small_ones_end_where_it_is_known(self, number, length):
        """G(1) = 1, 0; G(2) = 2, 2, 1, 0; G(3) = 3, 3, 3, 2, 1, 0."""
        found = list(goodstein(number, 99))
        assert len(found) == length and found[-1].value == 0

    def test_four(self):
        """The published beginning; it reaches 0 at base 3 * 2^402653211 - 1."""
        assert [step.value for step in goodstein(4, 8)] == [4, 26, 41, 60, 83, 109, 139, 173]

    @pytest.mark.parametrize(("number", "steps"), [(4, 30), (5, 12), (17, 4), (100, 4)])
    def test_ranks_fall_while_values_soar(self, number, steps):
        found = list(goodstein(number, steps))
        assert all(after.rank < before.rank for before, after in pairwise(found))
        assert found[-1].value > found[0].value

    def test_without_subtracting_one_the_rank_stands_still(self):
        rank = hereditary(26, 3)
        assert hereditary(evaluate(rank, 4), 4) == rank


class TestHydra:
    @given(hydras.filter(heads), st.data(), st.integers(0, 4))
    def test_every_cut_lowers_the_rank(self, tree, data, n):
        path = data.draw(st.sampled_from(heads(tree)))
        assert hydra_rank(chop(tree, path, n)) < hydra_rank(tree)

    def test_though_heads_multiply(self):
        tree = (((), ()),)
        assert len(heads(chop(tree, (0, 0), 5))) == 6 > len(heads(tree))

    def test_a_hydra_that_regrows_the_whole_wins(self):
        """Control: copies of the undamaged part instead of the damaged one do not lower the rank."""
        tree = (((), ()),)
        damaged, whole = chop(tree, (0, 0), 0), tree[0]
        assert hydra_rank((*damaged, whole)) > hydra_rank(tree)

    def test_hercules_wins_by_any_strategy(self):
        tree, n = ((((),),),), 0
        while heads(tree):
            n += 1
            tree = chop(tree, max(heads(tree), key=len), min(n, 2))
        assert n > 5

    def test_a_path_that_ends_elsewhere_is_refused(self):
        with pytest.raises(ValueError, match="need a head"):
            chop((((),),), (0,), 1)
