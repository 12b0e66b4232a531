"""Laws of an ordered field, counted on truncated Hahn series that are given as arrays; for certificates."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from demos.hahn import Series, inverse, series


def rows(exponents: np.ndarray, coefficients: np.ndarray) -> list[Series]:
    """Series from half-integer exponents (doubled) and integer coefficients, one row each."""
    return [
        series([(Fraction(int(e), 2), Fraction(int(c))) for e, c in zip(row, values, strict=True)])
        for row, values in zip(exponents, coefficients, strict=True)
    ]


def field(exponents: np.ndarray, coefficients: np.ndarray) -> float:
    """Violations of the laws of an ordered ring by neighbouring triples of series."""
    drawn, wrong = rows(exponents, coefficients), 0
    for x, y, z in zip(drawn, drawn[1:], drawn[2:], strict=False):
        wrong += bool(((x * y) * z - x * (y * z)).terms) + bool((x * (y + z) - x * y - x * z).terms)
        wrong += (x < y) != (x + z < y + z)
        wrong += z.sign() > 0 and (x < y) != (x * z < y * z)
    return float(wrong)


def inverses(exponents: np.ndarray, coefficients: np.ndarray, depth: int) -> float:
    """Series whose product with their inverse is not 1 as far down as promised, X^-depth."""
    rests = [x * inverse(x, depth) - 1 for x in rows(exponents, coefficients)]
    return float(sum(bool(rest.terms) or (rest.error is not None and rest.error > -depth) for rest in rests))
