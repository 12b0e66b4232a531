"""Surreal numbers born on finite days, as Conway's forms {L | R} and as sign expansions. Exact.

Source: Conway, *On Numbers and Games*; doi:10.1017/CBO9780511629143 (sign expansions).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product

Signs = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """A game {left | right}. It is a number if its options are and no left one is as large as a right one."""

    left: tuple[Form, ...] = ()
    right: tuple[Form, ...] = ()

    def __le__(self, other: Form) -> bool:
        return _at_most(self, other)

    def __lt__(self, other: Form) -> bool:
        return self <= other and not other <= self

    def __ge__(self, other: Form) -> bool:
        return other <= self

    def __gt__(self, other: Form) -> bool:
        return other < self

    def __neg__(self) -> Form:
        return Form(tuple(-each for each in self.right), tuple(-each for each in self.left))

    def __add__(self, other: Form) -> Form:
        return _sum(self, other)

    def __sub__(self, other: Form) -> Form:
        return self + -other

    def __mul__(self, other: Form) -> Form:
        return _product(self, other)

    def __str__(self) -> str:
        left, right = (", ".join(map(str, side)) for side in (self.left, self.right))
        return f"{{{left}|{right}}}"


ZERO = Form()


def equal(x: Form, y: Form) -> bool:
    """Equal as values; many forms have one value."""
    return x <= y and y <= x


@cache
def _at_most(x: Form, y: Form) -> bool:
    """x <= y: no left option of x is as large as y, no right option of y as small as x."""
    return not any(y <= each for each in x.left) and not any(each <= x for each in y.right)


@cache
def is_number(x: Form) -> bool:
    """Whether a form is a number: {0 | 0}, for instance, is a game that is none."""
    options = (*x.left, *x.right)
    return all(map(is_number, options)) and not any(high <= low for low, high in product(x.left, x.right))


@cache
def _sum(x: Form, y: Form) -> Form:
    r"""{xL + y, x + yL | xR + y, x + yR}, in canonical form."""
    return canonical(
        Form(
            tuple(each + y for each in x.left) + tuple(x + each for each in y.left),
            tuple(each + y for each in x.right) + tuple(x + each for each in y.right),
        )
    )


@cache
def _product(x: Form, y: Form) -> Form:
    """From (x - x')(y - y'), whose sign is known for each pair of options x', y'; in canonical form."""

    def around(one: tuple[Form, ...], other: tuple[Form, ...]) -> tuple[Form, ...]:
        return tuple(a * y + x * b - a * b for a, b in product(one, other))

    return canonical(
        Form(
            around(x.left, y.left) + around(x.right, y.right),
            around(x.left, y.right) + around(x.right, y.left),
        )
    )


@cache
def canonical(x: Form) -> Form:
    """The form of the same value that its sign expansion gives.

    Raises:
        ValueError: x is no number.
    """
    return form(signs_of(x))


@cache
def signs_of(x: Form) -> Signs:
    """Sign expansion: the way down the tree to the oldest number between the options of x.

    Raises:
        ValueError: x is no number.
    """
    if not is_number(x):
        raise ValueError(f"signs_of: got {x}, need a number: every left option smaller than every right one")
    way: Signs = ()
    while True:
        here = form(way)
        if any(here <= each for each in x.left):
            way = (*way, 1)
        elif any(each <= here for each in x.right):
            way = (*way, -1)
        else:
            return way


@cache
def form(signs: Signs) -> Form:
    """The canonical form: the largest older number below and the smallest older number above."""
    below = [index for index, sign in enumerate(signs) if sign > 0]
    above = [index for index, sign in enumerate(signs) if sign < 0]
    return Form(tuple(form(signs[:index]) for index in below[-1:]), tuple(form(signs[:index]) for index in above[-1:]))


def birthday(x: Form) -> int:
    """The day on which the value is born: the length of its sign expansion."""
    return len(signs_of(x))


def number(signs: Signs) -> Fraction:
    """The dyadic rational: steps of 1 up to the first change of direction, then each half of the one before.

    Example:
        >>> number((1, 1, -1, 1))
        Fraction(7, 4)
    """
    total, step = Fraction(0), Fraction(1)
    for sign in signs:
        if step < 1 or sign != signs[0]:
            step /= 2
        total += sign * step
    return total


def signs(value: Fraction) -> Signs:
    """Sign expansion of a dyadic rational.

    Raises:
        ValueError: the denominator is no power of two: such a number is not born on a finite day.
    """
    if value.denominator & (value.denominator - 1):
        raise ValueError(f"signs: got {value}, need a dyadic rational")
    way: Signs = ()
    while (here := number(way)) != value:
        way = (*way, 1 if here < value else -1)
    return way


def compare_signs(x: Signs, y: Signs) -> int:
    """-1, 0 or 1: lexicographic, where an expansion that has ended stands between minus and plus."""
    length = max(len(x), len(y))
    padded = [(*each, *[0] * (length - len(each))) for each in (x, y)]
    return (padded[0] > padded[1]) - (padded[0] < padded[1])


def born_by(day: int) -> Iterator[Signs]:
    """Sign expansions of the 2^(day + 1) - 1 numbers born on that day or before."""
    for length in range(day + 1):
        yield from product((-1, 1), repeat=length)
