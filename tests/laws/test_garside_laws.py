"""Garside's normal form: equal for two words exactly when handle reduction, or for 3 strands Burau, finds one braid."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demos.knot_braid import garside, invariants, words
from demos.knot_braid.garside import normal_form
from demos.knot_braid.invariants import alexander, jones, lift, over_t
from demos.knot_braid.knots import KNOTS, UNSEEN


def some_words(count: int, most: int = 12) -> st.SearchStrategy[words.Word]:
    letters = [letter for i in range(1, count) for letter in (i, -i)]
    return st.lists(st.sampled_from(letters), max_size=most).map(tuple)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, words.Word, words.Word]:
    """Two words on equally many strands, one braid or two."""
    count = draw(st.integers(2, 5))
    one = draw(some_words(count))
    if draw(st.booleans()):
        return count, one, words.shuffled(one, count, 8, random.Random(draw(st.integers(0, 99))))
    return count, one, draw(some_words(count))


@settings(max_examples=80, deadline=None)
@given(pairs())
def test_equal_exactly_for_one_braid(case: tuple[int, words.Word, words.Word]) -> None:
    count, one, other = case
    same = normal_form(one, count) == normal_form(other, count)
    assert same == words.equal(one, other)
    if count == 3:
        assert same == (invariants.burau(one, 3) == invariants.burau(other, 3))  # faithful on three strands


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5).flatmap(lambda count: st.tuples(st.just(count), some_words(count))))
def test_it_is_a_word_of_the_braid_and_left_weighted(case: tuple[int, words.Word]) -> None:
    count, word = case
    form = normal_form(word, count)
    assert words.equal(form.word, word) and normal_form(form.word, count) == form
    assert not {tuple(range(count)), garside.half_turn(count)} & set(form.factors)
    for factor, after in pairwise(form.factors):
        assert set(garside.descents(after)) <= set(garside.descents(garside.inverted(factor)))


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(5)))
def test_permutation_braids_are_their_permutations(order: list[int]) -> None:
    letters = garside.letters(tuple(order))
    assert words.permutation(letters, 5) == tuple(order)
    crossed = sum(order[i] > order[j] for i in range(5) for j in range(i + 1, 5))
    assert len(letters) == crossed <= len(garside.letters(garside.half_turn(5))) == 10


def test_the_half_turn_squared_commutes_with_every_braid_and_once_it_turns_them() -> None:
    for count in (3, 4, 5):
        turn = garside.letters(garside.half_turn(count))
        for i in range(1, count):
            assert normal_form((*turn, *turn, i), count) == normal_form((i, *turn, *turn), count)
            assert normal_form((*turn, i), count) == normal_form((count - i, *turn), count)
        assert normal_form((*turn, 1), count) != normal_form((1, *turn), count)


def test_a_crossing_changed_or_a_factor_moved_is_another_braid() -> None:
    word = (1, 2, -1, 2, 2, -3, 1)
    form = normal_form(word, 4)
    for place in range(len(word)):
        changed = (*word[:place], -word[place], *word[place + 1 :])
        assert normal_form(changed, 4) != form
    assert normal_form((1, 2, 3), 4) != normal_form((3, 2, 1), 4)  # the same letters, one free reduction apart
    assert str(normal_form((1, 2, 1, 2), 3)) == "Δ¹ · s2" and str(normal_form((1, -1), 3)) == "1"


def test_bigelows_braid_has_the_burau_matrix_of_none() -> None:
    assert len(UNSEEN) == 122 and invariants.burau(UNSEEN, 5) == invariants.identity(4)
    assert words.handle_reduce(UNSEEN) and normal_form(UNSEEN, 5) != normal_form((), 5)
    assert invariants.burau(UNSEEN[1:], 5) != invariants.identity(4)


@pytest.mark.parametrize(
    ("name", "delta", "v"),
    [
        ("trefoil", "t⁻¹ - 1 + t", "t + t³ - t⁴"),
        ("figure-eight", "-t⁻¹ + 3 - t", "t⁻² - t⁻¹ + 1 - t + t²"),
        ("cinquefoil", "t⁻² - t⁻¹ + 1 - t + t²", "t² + t⁴ - t⁵ + t⁶ - t⁷"),
        ("three-twist", "2t⁻¹ - 3 + 2t", "t - t² + 2t³ - t⁴ + t⁵ - t⁶"),
        ("stevedore", "-2t⁻¹ + 5 - 2t", "t⁻² - t⁻¹ + 2 - 2t + t² - t³ + t⁴"),
        ("conway", "1", "-t⁻⁴ + 2t⁻³ - 2t⁻² + 2t⁻¹ + t² - 2t³ + 2t⁴ - 2t⁵ + t⁶"),
    ],
)
def test_the_knots_of_the_demo_have_the_invariants_of_the_tables(name: str, delta: str, v: str) -> None:
    word = KNOTS[name]
    assert words.components(word) == 1
    assert (str(alexander(word)), str(over_t(jones(word)))) == (delta, v)
    assert jones(word) != lift(1)
