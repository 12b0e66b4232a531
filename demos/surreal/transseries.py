r"""Log-exp transseries: how fast functions built from x, +, *, /, exp, log and powers grow, and their limits.

A transmonomial is :math:`x^{a_0} (\log x)^{a_1} (\log\log x)^{a_2} \cdots e^{L}` with L a finite sum of infinite
transmonomials; a transseries is a sum of them with coefficients, the largest first, and a bound on what was left out.
Monomials compare by their logarithms, so the order is decided one exponential lower, down to powers of logarithms.

Source: arXiv:0801.4877 (transseries), doi:10.3929/ethz-a-001631582 (limits by comparing growth).
Differs from the source in: finitely many terms, kept with an explicit bound, and a retry with more of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

Number = int | float | Fraction
ROUNDING = 1e-12
"""A floating-point coefficient that cancels to less than this share of its summands is 0; exact ones need no such."""

ALL = 1 << 30
"""So many terms that none is left out: for sums that must be exact."""


class Undecided(ArithmeticError):
    """Everything that was kept cancelled."""


@dataclass(frozen=True, slots=True)
class Monomial:
    """A transmonomial.

    Args:
        powers: exponents of x, log x, log log x, ... by how often the logarithm is taken; none is 0.
        exponent: the terms of L, all infinite and none a multiple of an iterated logarithm alone.
    """

    powers: tuple[tuple[int, Number], ...] = ()
    exponent: tuple[tuple[Monomial, Number], ...] = ()

    def __mul__(self, other: Monomial) -> Monomial:
        powers: dict[int, Number] = dict(self.powers)
        for level, value in other.powers:
            powers[level] = powers.get(level, 0) + value
        exponent = Transseries(self.exponent, keep=ALL) + Transseries(other.exponent)
        return Monomial(tuple(sorted((level, value) for level, value in powers.items() if value)), exponent.terms)

    def raised(self, power: Number) -> Monomial:
        """The monomial to a real power."""
        return Monomial(
            tuple((level, value * power) for level, value in self.powers if power),
            tuple((each, value * power) for each, value in self.exponent if power),
        )

    def logarithm(self) -> Transseries:
        """Its logarithm, exact: powers of iterated logarithms become multiples of the next one."""
        below = Transseries(keep=ALL)
        for level, value in self.powers:
            below = below + Transseries(((iterated_log(level + 1), value),))
        return below + Transseries(self.exponent)


ONE = Monomial()


def iterated_log(level: int) -> Monomial:
    """x for 0, log x for 1, log log x for 2, ..."""
    return Monomial(((level, Fraction(1)),))


def compare(one: Monomial, other: Monomial) -> int:
    """1 if the first grows faster, -1 if slower, 0 if they are the same.

    Powers of logarithms compare by the first exponent that differs; where exponentials differ, by the leading term of
    the logarithm of the quotient, whose monomials have one exponential less.
    """
    if one == other:
        return 0
    ratio = one * other.raised(-1)
    if not ratio.exponent:
        return 1 if ratio.powers[0][1] > 0 else -1
    return 1 if ratio.logarithm().terms[0][1] > 0 else -1


@dataclass(frozen=True, slots=True)
class Transseries:
    """A sum of monomials with coefficients, the largest first, plus something no larger than ``error``.

    Args:
        terms: monomials and coefficients.
        error: bound on what was left out; None for an exact sum.
        keep: terms that are kept at most; of two summands or factors the larger number counts.
    """

    terms: tuple[tuple[Monomial, Number], ...] = ()
    error: Monomial | None = None
    keep: int = 6

    @property
    def lead(self) -> tuple[Monomial, Number]:
        """The dominant term; raises :class:`Undecided` where nothing but the error is left."""
        if not self.terms:
            raise Undecided("every known term cancelled" if self.error else "zero has no leading term")
        return self.terms[0]

    @property
    def bound(self) -> Monomial | None:
        """A monomial that nothing in the sum exceeds; None for an exact 0."""
        return self.terms[0][0] if self.terms else self.error

    def __add__(self, other: Transseries | Number) -> Transseries:
        other = _lift(other)
        sums: dict[Monomial, Number] = dict(self.terms)
        for monomial, value in other.terms:
            sums[monomial] = _cancelled(sums[monomial], value) if monomial in sums else value
        return collect(sums, _larger(self.error, other.error), max(self.keep, other.keep))

    def __neg__(self) -> Transseries:
        return Transseries(tuple((monomial, -value) for monomial, value in self.terms), self.error, self.keep)

    def __sub__(self, other: Transseries | Number) -> Transseries:
        return self + -_lift(other)

    def __rsub__(self, other: Number) -> Transseries:
        return _lift(other) - self

    def __mul__(self, other: Transseries | Number) -> Transseries:
        other = _lift(other)
        products: dict[Monomial, Number] = {}
        for one, a in self.terms:
            for two, b in other.terms:
                monomial = one * two
                products[monomial] = _cancelled(products.get(monomial, 0), a * b)
        error = _larger(_times(self.error, other.bound), _times(other.error, self.bound))
        return collect(products, error, max(self.keep, other.keep))

    def __truediv__(self, other: Transseries | Number) -> Transseries:
        return self * _lift(other) ** -1

    def __rtruediv__(self, other: Number) -> Transseries:
        return _lift(other) * self**-1

    __radd__, __rmul__ = __add__, __mul__

    def __pow__(self, power: Number) -> Transseries:
        monomial, value, rest = self.split()
        if value < 0 and power != int(power):
            raise ValueError(f"power {power} of a series that is negative at infinity")
        scale = Fraction(value) ** int(power) if _exact(value) and power == int(power) else float(value) ** float(power)
        expanded = _expand(lambda n: _binomial(power, n), rest)
        return Transseries(((monomial.raised(power), scale),), keep=self.keep) * expanded

    def split(self) -> tuple[Monomial, Number, Transseries]:
        """m, c and the infinitesimal d of a series c m (1 + d)."""
        monomial, value = self.lead
        inverse = Fraction(1) / value if _exact(value) else 1 / value
        scaled = Transseries(((monomial.raised(-1), inverse),), keep=self.keep) * self
        return monomial, value, Transseries(scaled.terms[1:], scaled.error, self.keep)


def _exact(value: Number) -> bool:
    return isinstance(value, int | Fraction)


def _cancelled(one: Number, other: Number) -> Number:
    total = one + other
    return 0 if not _exact(total) and abs(total) <= ROUNDING * max(abs(one), abs(other)) else total


def _lift(value: Transseries | Number) -> Transseries:
    return value if isinstance(value, Transseries) else Transseries(((ONE, value),) if value else ())


def _larger(one: Monomial | None, other: Monomial | None) -> Monomial | None:
    if one is None or other is None:
        return one or other
    return one if compare(one, other) >= 0 else other


def _times(error: Monomial | None, bound: Monomial | None) -> Monomial | None:
    return None if error is None or bound is None else error * bound


def collect(sums: dict[Monomial, Number], error: Monomial | None, keep: int) -> Transseries:
    """A transseries from its terms in any order: at most ``keep`` of them, and none within the error."""
    kept = [
        (monomial, value)
        for monomial, value in sums.items()
        if value and (error is None or compare(monomial, error) > 0)
    ]
    kept.sort(key=cmp_to_key(lambda one, other: compare(other[0], one[0])))
    if len(kept) > keep:
        error = _larger(error, kept[keep][0])
    return Transseries(tuple(kept[:keep]), error, keep)


def _expand(coefficient: Callable[[int], Number], d: Transseries) -> Transseries:
    r""":math:`\sum_n a_n d^n` for an infinitesimal d, to ``d.keep`` powers of it; exact if d is an exact 0."""
    total, factor = _lift(coefficient(0)), Transseries(((ONE, Fraction(1)),), keep=d.keep)
    bound = d.bound
    if bound is None:
        return Transseries(total.terms, None, d.keep)
    assert compare(bound, ONE) < 0, "an expansion of something that is not infinitesimal"
    for n in range(1, d.keep + 1):
        factor = factor * d
        total = total + factor * coefficient(n)
    return collect(dict(total.terms), _larger(total.error, bound.raised(d.keep + 1)), d.keep)


def _binomial(power: Number, n: int) -> Number:
    exact = Fraction(power) if _exact(power) else power
    return math.prod((exact - k) / (k + 1) for k in range(n)) if n else Fraction(1)


def log(x: Transseries) -> Transseries:
    """Logarithm of a series that is positive at infinity."""
    monomial, value, d = x.split()
    if value <= 0:
        raise ValueError(f"log: got a series with leading coefficient {value}, need a positive one")
    constant = 0 if value == 1 else math.log(value)
    whole = Transseries(monomial.logarithm().terms, keep=x.keep) + constant
    return whole + _expand(lambda n: Fraction((-1) ** (n + 1), n) if n else 0, d)


def exp(x: Transseries) -> Transseries:
    """Exponential: what is infinite becomes a new monomial, the constant a factor, the rest a power series.

    Raises:
        Undecided: the error of x is not infinitesimal, so that not even the order of e^x is known.
    """
    if x.error is not None and compare(x.error, ONE) >= 0:
        raise Undecided("exp: a part that is not infinitesimal was left out")
    infinite = [(monomial, value) for monomial, value in x.terms if compare(monomial, ONE) > 0]
    constant = dict(x.terms).get(ONE, 0)
    small = tuple((monomial, value) for monomial, value in x.terms if compare(monomial, ONE) < 0)
    powers: dict[int, Number] = {}
    exponent = []
    for monomial, value in infinite:
        level = _logarithm_level(monomial)
        if level:
            powers[level - 1] = value
        else:
            exponent.append((monomial, value))
    made = Monomial(tuple(sorted(powers.items())), tuple(exponent))
    scale = Fraction(1) if constant == 0 else math.exp(constant)
    series = _expand(lambda n: Fraction(1, math.factorial(n)), Transseries(small, x.error, x.keep))
    return Transseries(((made, scale),), keep=x.keep) * series


def _logarithm_level(monomial: Monomial) -> int:
    """k if the monomial is the k-th iterated logarithm, k at least 1; else 0."""
    if monomial.exponent or len(monomial.powers) != 1:
        return 0
    level, power = monomial.powers[0]
    return level if power == 1 else 0


def infinity(keep: int = 6) -> Transseries:
    """The variable x itself, on its way to infinity."""
    return Transseries(((iterated_log(0), Fraction(1)),), keep=keep)


Expression = Callable[[Transseries], Transseries]


def limit(f: Expression, most: int = 48) -> Number:
    """Limit of f(x) for x to infinity: a number, ``inf`` or ``-inf``.

    Args:
        f: built from +, -, *, /, ** and this module's ``exp`` and ``log``.
        most: terms that are kept at most before giving up.

    Raises:
        Undecided: everything cancels as far as it was expanded.

    Example:
        >>> limit(lambda x: exp(x + exp(-x)) - exp(x))
        Fraction(1, 1)
    """
    value = _decided(f, most)
    if value is None:
        return 0
    monomial, coefficient = value
    order = compare(monomial, ONE)
    return 0 if order < 0 else coefficient if order == 0 else math.copysign(math.inf, coefficient)


def larger(f: Expression, g: Expression, most: int = 48) -> int:
    """1, 0 or -1: which of two expressions is larger from some x on."""
    value = _decided(lambda x: f(x) - g(x), most)
    return 0 if value is None else 1 if value[1] > 0 else -1


def order(expressions: Sequence[Expression]) -> list[int]:
    """Places of the expressions, the one that is largest from some x on first."""

    def by_growth(one: int, other: int) -> int:
        return larger(expressions[other], expressions[one])

    return sorted(range(len(expressions)), key=cmp_to_key(by_growth))


def _decided(f: Expression, most: int) -> tuple[Monomial, Number] | None:
    """The leading term, with as many terms kept as that takes; None for an exact 0."""
    keep = 6
    while True:
        try:
            value = f(infinity(keep))
            return None if not value.terms and value.error is None else value.lead
        except Undecided:
            if keep >= most:
                raise
            keep *= 2
