"""Invariants of the knots that braids close to, in exact integer arithmetic: Alexander by Burau, Jones by Kauffman.

Pure Python; a Laurent polynomial is a mapping from exponents to integer coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from demos.knot_braid.words import strands

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Laurent:
    """An integer Laurent polynomial in one variable.

    Args:
        terms: (exponent, coefficient) in increasing order of exponents, no coefficient 0; see :func:`laurent`.
    """

    terms: tuple[tuple[int, int], ...] = ()

    def __add__(self, other: Laurent | int) -> Laurent:
        found = dict(self.terms)
        for exponent, coefficient in lift(other).terms:
            found[exponent] = found.get(exponent, 0) + coefficient
        return laurent(found)

    def __mul__(self, other: Laurent | int) -> Laurent:
        found: dict[int, int] = {}
        for a, x in self.terms:
            for b, y in lift(other).terms:
                found[a + b] = found.get(a + b, 0) + x * y
        return laurent(found)

    def __neg__(self) -> Laurent:
        return self * -1

    def __sub__(self, other: Laurent | int) -> Laurent:
        return self + -lift(other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: int) -> Laurent:
        return lift(other) - self

    def __pow__(self, power: int) -> Laurent:
        return reduce(Laurent.__mul__, [self] * power, lift(1))

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __call__(self, value: complex) -> complex:
        return sum(coefficient * value**exponent for exponent, coefficient in self.terms)

    def __str__(self) -> str:
        text = ""
        for exponent, coefficient in self.terms:
            sign = (" - " if coefficient < 0 else " + ") if text else "-" if coefficient < 0 else ""
            power = "" if exponent == 0 else "t" if exponent == 1 else "t" + str(exponent).translate(RAISED)
            size = "" if abs(coefficient) == 1 and power else str(abs(coefficient))
            text += sign + size + power
        return text or "0"

    def over(self, divisor: Laurent) -> Laurent:
        """The quotient of an exact division.

        Raises:
            ValueError: there is a remainder.
        """
        rest, found = self, Laurent()
        lowest, lead = divisor.terms[0]
        while rest:
            exponent, coefficient = rest.terms[0]
            if coefficient % lead or exponent - lowest > self.terms[-1][0]:
                raise ValueError(f"division: got ({self}) / ({divisor}), need one without a remainder")
            term = laurent({exponent - lowest: coefficient // lead})
            found, rest = found + term, rest - term * divisor
        return found

    def at_power(self, power: int) -> Laurent:
        """The polynomial of t^power."""
        return laurent({power * exponent: coefficient for exponent, coefficient in self.terms})


def laurent(terms: Mapping[int, int]) -> Laurent:
    """From coefficients by exponent.

    Example:
        >>> str(laurent({-1: 1, 0: -1, 1: 1}))
        't⁻¹ - 1 + t'
    """
    return Laurent(tuple(sorted((exponent, value) for exponent, value in terms.items() if value)))


def lift(value: Laurent | int) -> Laurent:
    """An integer as a constant."""
    return value if isinstance(value, Laurent) else laurent({0: value})


T = laurent({1: 1})
"""The variable t."""

Matrix = tuple[tuple[Laurent, ...], ...]


def product(one: Matrix, other: Matrix) -> Matrix:
    """Matrix product."""
    columns = list(zip(*other, strict=True))
    return tuple(
        tuple(sum((a * b for a, b in zip(row, column, strict=True)), Laurent()) for column in columns) for row in one
    )


def identity(size: int) -> Matrix:
    """The unit matrix."""
    return tuple(tuple(lift(int(row == column)) for column in range(size)) for row in range(size))


def burau_letter(letter: int, count: int) -> Matrix:
    """Reduced Burau matrix of one crossing, (n - 1) x (n - 1): the row of s_i is (..., t, -t, 1, ...) at i.

    Source: arXiv:math/0409205, section 4.
    """
    place = abs(letter) - 1
    rows = [list(row) for row in identity(count - 1)]
    near = (T, -T, lift(1)) if letter > 0 else (lift(1), -laurent({-1: 1}), laurent({-1: 1}))
    for column, entry in zip((place - 1, place, place + 1), near, strict=True):
        if 0 <= column < count - 1:
            rows[place][column] = entry
    return tuple(tuple(row) for row in rows)


def burau(word: Sequence[int], count: int | None = None) -> Matrix:
    """Reduced Burau matrix of a braid: the product of its letters' from left to right."""
    count = count or strands(word)
    return reduce(product, (burau_letter(letter, count) for letter in word), identity(count - 1))


def determinant(matrix: Matrix) -> Laurent:
    """By the first row; matrices here are small."""
    if not matrix:
        return lift(1)
    found = Laurent()
    for column, entry in enumerate(matrix[0]):
        minor = tuple((*row[:column], *row[column + 1 :]) for row in matrix[1:])
        found = found + (entry if column % 2 == 0 else -entry) * determinant(minor)
    return found


def alexander(word: Sequence[int], count: int | None = None) -> Laurent:
    """Alexander polynomial of the closure of a braid: det(1 - Burau) (1 - t) / (1 - t^n).

    Normalised: symmetric for a knot, its value at 1 positive where that is not 0; else the leading coefficient is.
    """
    count = count or strands(word)
    matrix = burau(word, count)
    rows = tuple(
        tuple(a - b for a, b in zip(row, other, strict=True))
        for row, other in zip(identity(count - 1), matrix, strict=True)
    )
    found = (determinant(rows) * (1 - T)).over(1 - T**count)
    if not found:
        return found
    low, high = found.terms[0][0], found.terms[-1][0]
    at_one = sum(coefficient for _, coefficient in found.terms)
    sign = -1 if (at_one or found.terms[-1][1]) < 0 else 1
    return found * laurent({-((low + high) // 2): sign})


Matching = tuple[int, ...]
"""A planar matching of n points above and n below: the partner of each of 2 n points."""


def capped(matching: Matching, place: int, count: int) -> tuple[Matching, bool]:
    """A cup and a cap put below ``place`` and ``place + 1``, and whether that closes a circle."""
    low, high = count + place, count + place + 1
    partners = list(matching)
    a, b = partners[low], partners[high]
    if a == high:
        return matching, True
    partners[a], partners[b] = b, a
    partners[low], partners[high] = high, low
    return tuple(partners), False


def circles(matching: Matching, count: int) -> int:
    """Circles of the closure: each point above is joined to the one below it."""
    seen: set[int] = set()
    found = 0
    for start in range(2 * count):
        found += start not in seen
        while start not in seen:
            seen.add(start)
            start = matching[start]
            seen.add(start)
            start = (start + count) % (2 * count)
    return found


def bracket(word: Sequence[int], count: int | None = None) -> Laurent:
    """Kauffman's bracket of the closure in A: a crossing is A 1 + A^-1 e_i, a circle -A^2 - A^-2, one circle 1.

    Source: Kauffman, *State models and the Jones polynomial*, doi:10.1016/0040-9383(87)90009-7.
    """
    count = count or strands(word)
    circle = laurent({2: -1, -2: -1})
    states = {tuple((point + count) % (2 * count) for point in range(2 * count)): lift(1)}
    for letter in word:
        found: dict[Matching, Laurent] = {}
        sign = 1 if letter > 0 else -1
        for matching, weight in states.items():
            found[matching] = found.get(matching, Laurent()) + weight * laurent({sign: 1})
            other, closed = capped(matching, abs(letter) - 1, count)
            factor = laurent({-sign: 1}) * (circle if closed else 1)
            found[other] = found.get(other, Laurent()) + weight * factor
        states = found
    return sum((weight * circle ** (circles(state, count) - 1) for state, weight in states.items()), Laurent())


def jones(word: Sequence[int], count: int | None = None) -> Laurent:
    """Jones polynomial of the closure, in s with t = s^2: (-A^3)^-w times the bracket at A = s^(-1/2).

    Exponents are doubled so that links, whose powers of t are halves, stay integer; ``over_t`` halves those of a knot.
    """
    writhe = sum(1 if letter > 0 else -1 for letter in word)
    found = bracket(word, count) * laurent({-3 * writhe: -1 if writhe % 2 else 1})
    return laurent({-exponent // 2: coefficient for exponent, coefficient in found.terms})


def over_t(polynomial: Laurent) -> Laurent:
    """A polynomial in s = t^(1/2) whose exponents are even, in t."""
    if any(exponent % 2 for exponent, _ in polynomial.terms):
        raise ValueError(f"halved exponents: got {polynomial}, need even ones, as a knot has")
    return laurent({exponent // 2: coefficient for exponent, coefficient in polynomial.terms})
