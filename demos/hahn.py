r"""Hahn series with rational exponents: sums of :math:`c_r X^r` over an infinite X, truncated with a known error.

What the surreal demo (X an infinite number) and the nonstandard demo (:math:`\varepsilon = X^{-1}`, the Levi-Civita
field) compute with. A series knows a bound on what it does not know: everything of exponent at most ``error``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Number = int | float | Fraction


class Undecided(ArithmeticError):
    """The terms that would decide lie below the truncation."""


@dataclass(frozen=True, slots=True)
class Series:
    r""":math:`\sum_r c_r X^r + O(X^{error})`.

    Args:
        terms: exponents and coefficients that are not 0, the largest exponent first.
        error: exponent that bounds the unknown rest; None if there is none.
    """

    terms: tuple[tuple[Fraction, Number], ...] = ()
    error: Fraction | None = None

    @property
    def lead(self) -> Fraction | None:
        """Exponent that nothing in the series exceeds; None for an exact 0."""
        return self.terms[0][0] if self.terms else self.error

    def coefficient(self, exponent: Number) -> Number:
        """The coefficient of one power; raises :class:`Undecided` below the truncation."""
        if self.error is not None and exponent <= self.error:
            raise Undecided(f"coefficient of X^{exponent}: known only above X^{self.error}")
        return dict(self.terms).get(Fraction(exponent), 0)

    def cut(self, error: Number | None) -> Series:
        """The same, forgetting everything of exponent at most ``error``."""
        return series(dict(self.terms), _larger(self.error, None if error is None else Fraction(error)))

    def __add__(self, other: Series | Number) -> Series:
        other = _series(other)
        sums: dict[Fraction, Number] = dict(self.terms)
        for exponent, value in other.terms:
            sums[exponent] = sums.get(exponent, 0) + value
        return series(sums, _larger(self.error, other.error))

    def __neg__(self) -> Series:
        return Series(tuple((exponent, -value) for exponent, value in self.terms), self.error)

    def __sub__(self, other: Series | Number) -> Series:
        return self + -_series(other)

    def __mul__(self, other: Series | Number) -> Series:
        other = _series(other)
        products: dict[Fraction, Number] = {}
        for one, a in self.terms:
            for two, b in other.terms:
                products[one + two] = products.get(one + two, 0) + a * b
        return series(products, _larger(_shifted(self.error, other.lead), _shifted(other.error, self.lead)))

    def __rsub__(self, other: Number) -> Series:
        return _series(other) - self

    __radd__, __rmul__ = __add__, __mul__

    def sign(self) -> int:
        """Sign of the leading coefficient; raises :class:`Undecided` where the series is nothing but its error."""
        if self.terms:
            return 1 if self.terms[0][1] > 0 else -1
        if self.error is None:
            return 0
        raise Undecided(f"sign: nothing known above X^{self.error}")

    def __lt__(self, other: Series | Number) -> bool:
        return (self - other).sign() < 0

    def __gt__(self, other: Series | Number) -> bool:
        return (self - other).sign() > 0


def series(terms: Mapping[Any, Number] | Iterable[tuple[Number, Number]], error: Number | None = None) -> Series:
    """A series from exponents and coefficients in any order."""
    bound = None if error is None else Fraction(error)
    pairs = dict(terms).items()
    kept = [(Fraction(each), value) for each, value in pairs if value and (bound is None or each > bound)]
    return Series(tuple(sorted(kept, reverse=True)), bound)


def power(exponent: Number) -> Series:
    """X to a rational power."""
    return Series(((Fraction(exponent), 1),))


X, EPSILON = power(1), power(-1)


def _series(value: Series | Number) -> Series:
    return value if isinstance(value, Series) else series({Fraction(0): value})


def _larger(one: Fraction | None, other: Fraction | None) -> Fraction | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _shifted(error: Fraction | None, lead: Fraction | None) -> Fraction | None:
    return None if error is None or lead is None else error + lead


def _split(x: Series, depth: Number) -> tuple[Fraction, Number, Series]:
    """Leading exponent and coefficient, and the infinitesimal d of x = c X^r (1 + d), known above X^-depth."""
    if not x.terms:
        raise ZeroDivisionError("inverse of a series without a leading term")
    (exponent, value), rest = x.terms[0], x.terms[1:]
    inverse = Fraction(1) / value if isinstance(value, int | Fraction) else 1 / value
    error = None if x.error is None else x.error - exponent
    d = series({each - exponent: c * inverse for each, c in rest}, error)
    return exponent, value, d if not d.terms and d.error is None else d.cut(-Fraction(depth))


def compose(coefficients: Callable[[int], Number], d: Series) -> Series:
    r""":math:`\sum_n a_n d^n` for an infinitesimal d, as far as d is known; an exact d must be 0 or be cut.

    Raises:
        ValueError: d is not infinitesimal, or exact and not 0.
    """
    if d.lead is not None and d.lead >= 0:
        raise ValueError(f"compose: got a series that begins with X^{d.lead}, need an infinitesimal one")
    total, factor, n = _series(coefficients(0)), _series(1), 0
    if d.lead is None:
        return total
    if d.error is None:
        raise ValueError("compose: got an exact series, need one cut at some power")
    while factor.terms:
        n += 1
        factor = (factor * d).cut(d.error)
        total = total + factor * coefficients(n)
    return total.cut(d.error)


def inverse(x: Series, depth: Number = 8) -> Series:
    """1 / x, with a relative error of O(X^-depth) at most. Exact for a monomial.

    Raises:
        ZeroDivisionError: no leading term is known.
    """
    exponent, value, d = _split(x, depth)
    factor = Fraction(1) / value if isinstance(value, int | Fraction) else 1 / value
    return power(-exponent) * factor * compose(lambda n: (-1) ** n, d)


def root(x: Series, degree: int, depth: Number = 8) -> Series:
    """The positive root of a positive series; floating point, as the roots of its coefficient are."""
    exponent, value, d = _split(x, depth)
    if value <= 0:
        raise ValueError(f"root: got leading coefficient {value}, need a positive one")
    return power(exponent / degree) * float(value) ** (1 / degree) * compose(lambda n: _binomial(1 / degree, n), d)


def _binomial(a: float, n: int) -> float:
    return math.prod((a - k) / (k + 1) for k in range(n))


def standard_part(x: Series) -> Number:
    """The real number next to a finite series.

    Raises:
        OverflowError: it is infinite; Undecided: it is not known so far down.
    """
    if x.terms and x.terms[0][0] > 0:
        raise OverflowError(f"standard part: got a series of order X^{x.terms[0][0]}, need a finite one")
    return x.coefficient(0)
