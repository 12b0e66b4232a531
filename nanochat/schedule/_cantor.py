"""Ordinal numbers below epsilon zero in Cantor normal form: comparison, sum, natural sum. Plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Cantor:
    r"""The ordinal :math:`\omega^{e_1} n_1 + \dots + \omega^{e_k} n_k` with :math:`e_1 > \dots > e_k`, all n >= 1.

    The form is unique, so that equality of ordinals is equality of terms. The order of ordinals is the lexicographic
    order of the term lists, larger exponent first, then larger coefficient, a proper prefix being smaller; which is how
    Python compares tuples.

    Args:
        terms: pairs (exponent, coefficient); none for 0.

    Raises:
        ValueError: exponents that do not decrease, or a coefficient below 1.

    Example:
        >>> omega = Cantor(((natural(1), 1),))
        >>> natural(1) + omega == omega, omega < omega + natural(1)
        (True, True)
    """

    terms: tuple[tuple[Cantor, int], ...] = ()

    def __post_init__(self) -> None:
        exponents = [exponent for exponent, _ in self.terms]
        if any(not low < high for high, low in zip(exponents, exponents[1:], strict=False)):
            raise ValueError("ordinal: got exponents that do not decrease, need Cantor normal form")
        if any(type(count) is not int or count < 1 for _, count in self.terms):
            raise ValueError("ordinal: got a coefficient that is no whole number above 0, need Cantor normal form")

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __add__(self, other: Cantor) -> Cantor:
        """The sum: what is smaller than the other's leading power is swallowed by it; not commutative."""
        if not other.terms:
            return self
        (lead, count), *rest = other.terms
        kept = [term for term in self.terms if term[0] >= lead]
        if kept and kept[-1][0] == lead:
            count += kept.pop()[1]
        return Cantor((*kept, (lead, count), *rest))

    def natural_sum(self, other: Cantor) -> Cantor:
        """Hessenberg's sum: equal powers are collected, nothing is swallowed; commutative, strictly monotone in both.

        Source: Hessenberg, Grundbegriffe der Mengenlehre (1906), section 75.
        """
        counts: dict[Cantor, int] = {}
        for exponent, count in (*self.terms, *other.terms):
            counts[exponent] = counts.get(exponent, 0) + count
        return Cantor(tuple(sorted(counts.items(), reverse=True)))

    def coefficient(self, power: int) -> int:
        """The coefficient of omega to a natural power."""
        return dict(self.terms).get(natural(power), 0)

    def without_last(self) -> Cantor:
        """With one of its smallest power taken away: the largest such that adding that power gives this one back."""
        if not self.terms:
            raise ValueError("ordinal: got 0, need one above it to take from")
        *kept, (exponent, count) = self.terms
        return Cantor((*kept, (exponent, count - 1)) if count > 1 else tuple(kept))

    def to_json(self) -> list[list[Any]]:
        """Pairs [exponent, coefficient], natural exponents as numbers."""
        return [[_short(exponent), count] for exponent, count in self.terms]

    def __str__(self) -> str:
        return " + ".join(_term(exponent, count) for exponent, count in self.terms) or "0"


def _short(exponent: Cantor) -> Any:
    if not exponent.terms:
        return 0
    ((lead, count), *rest) = exponent.terms
    return count if not lead.terms and not rest else exponent.to_json()


def _term(exponent: Cantor, count: int) -> str:
    if not exponent.terms:
        return str(count)
    name = str(exponent)
    power = "ω" if name == "1" else f"ω^{name}" if name.isdigit() else f"ω^({name})"
    return power if count == 1 else f"{power}·{count}"


def natural(number: int) -> Cantor:
    """A natural number as an ordinal."""
    return Cantor(((Cantor(), number),)) if number else Cantor()


def polynomial(*coefficients: int) -> Cantor:
    r""":math:`\omega^{m} c_0 + \dots + \omega c_{m-1} + c_m`, highest power first; zero coefficients are left out.

    Example:
        >>> str(polynomial(2, 0, 7))
        'ω^2·2 + 7'
    """
    highest = len(coefficients) - 1
    return Cantor(tuple((natural(highest - place), count) for place, count in enumerate(coefficients) if count != 0))


def from_json(value: Any) -> Cantor:
    """The inverse of :meth:`Cantor.to_json`.

    Raises:
        ValueError: anything else.
    """
    if type(value) is int and value >= 0:
        return natural(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"ordinal: got {value!r}, need a list of [exponent, coefficient]")
    terms = []
    for pair in value:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"ordinal: got the term {pair!r}, need [exponent, coefficient]")
        terms.append((from_json(pair[0]), pair[1]))
    return Cantor(tuple(terms))
