"""Garside's normal form: every braid is a power of the half turn times permutation braids, in exactly one way.

A permutation braid crosses no two strands twice and no strand from below; it is written as where each strand ends. The
half turn, Delta, crosses any two strands once. Source: ElRifai and Morton, *Algorithms for positive braids*,
doi:10.1093/qmath/45.4.479; Garside, *The braid group and other groups*, doi:10.1093/qmath/20.1.235.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demos.knot_braid.invariants import RAISED
from demos.knot_braid.words import Word, inverse

Permutation = tuple[int, ...]


@dataclass(frozen=True)
class NormalForm:
    """Delta^power times the factors, from left to right.

    Args:
        count: strands.
        power: of the half turn, negative for braids with a crossing that no relation makes positive.
        factors: permutation braids other than 1 and Delta; every crossing that the next factor could begin with ends
            this one already (left-weighted).
    """

    count: int
    power: int
    factors: tuple[Permutation, ...]

    @property
    def word(self) -> Word:
        """A word of the braid."""
        turn = letters(half_turn(self.count))
        begin = turn * self.power if self.power >= 0 else inverse(turn) * -self.power
        return begin + tuple(letter for factor in self.factors for letter in letters(factor))

    def __str__(self) -> str:
        factors = [" ".join(f"s{letter}" for letter in letters(factor)) for factor in self.factors]
        parts = (["Δ" + str(self.power).translate(RAISED)] if self.power else []) + factors
        return " · ".join(parts) or "1"


def half_turn(count: int) -> Permutation:
    """Delta: the last strand goes first."""
    return tuple(reversed(range(count)))


def exchanged(order: Sequence[int], place: int) -> Permutation:
    """The entries at ``place`` and ``place + 1`` exchanged."""
    return (*order[:place], order[place + 1], order[place], *order[place + 2 :])


def inverted(order: Permutation) -> Permutation:
    """The inverse permutation: which strand ends at each place."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def descents(order: Permutation) -> list[int]:
    """Places whose strands the permutation braid crosses, and so can cross first."""
    return [place for place in range(len(order) - 1) if order[place] > order[place + 1]]


def letters(order: Permutation) -> Word:
    """A shortest word of a permutation braid.

    Example:
        >>> letters((2, 1, 0))
        (1, 2, 1)
    """
    found: list[int] = []
    while first := descents(order):
        found.append(first[0] + 1)
        order = exchanged(order, first[0])
    return tuple(found)


def turned(order: Permutation) -> Permutation:
    """What the factor becomes when Delta passes it: s_i turns into s_(n - i)."""
    last = len(order) - 1
    return tuple(last - order[last - strand] for strand in range(len(order)))


def weighted(one: Permutation, other: Permutation) -> tuple[Permutation, Permutation]:
    """The same product with as many crossings in the first factor as it can hold."""
    ends = inverted(one)
    while moving := [place for place in descents(other) if ends[place] < ends[place + 1]]:
        ends, other = exchanged(ends, moving[0]), exchanged(other, moving[0])
    return inverted(ends), other


def normal_form(word: Sequence[int], count: int) -> NormalForm:
    """Garside's left normal form of a braid: equal for two words exactly when they are the same braid.

    Letter by letter; an inverse letter is Delta^-1 times the permutation braid that it leaves of Delta, and Delta^-1
    moves to the front. Time O(L^2 n) for L letters on n strands, up to factors log n.

    Example:
        >>> str(normal_form((1, 2, 1, 2), 3)), str(normal_form((1, -1), 3))
        ('Δ¹ · s2', '1')
    """
    unit, turn = tuple(range(count)), half_turn(count)
    power, factors = 0, list[Permutation]()
    for letter in word:
        place = abs(letter) - 1
        if letter < 0:
            power, factors = power - 1, [turned(factor) for factor in factors]
        start = unit if letter > 0 else turn
        factors.append(inverted(exchanged(inverted(start), place)) if letter < 0 else exchanged(start, place))
        for at in range(len(factors) - 1, 0, -1):
            pair = weighted(factors[at - 1], factors[at])
            if pair == (factors[at - 1], factors[at]):
                break
            factors[at - 1 : at + 1] = pair
        while factors and factors[-1] == unit:
            factors.pop()
        while factors and factors[0] == turn:
            power, factors = power + 1, factors[1:]
    return NormalForm(count, power, tuple(factors))
