"""Terms of one sum, each the largest on a stretch of x of its own, and the one that exact comparison puts first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from demos.surreal import scaling, transseries
from demos.surreal.transseries import Expression, exp, log

LOW, HIGH = 10.0, 6e4
"""Interval of x that is shown: beyond it no other term takes the lead."""


@dataclass(frozen=True, slots=True)
class Term:
    """A term of the sum: its name, and how it grows."""

    name: str
    grows: Expression

    def at(self, x: float) -> float:
        """Its value at a real number."""
        return scaling.at(self.grows, x)


TERMS = (
    Term("20 log x", lambda x: 20 * log(x)),
    Term("10 √x", lambda x: 10 * x**0.5),
    Term("exp(log² x / 10)", lambda x: exp(log(x) * log(x) * 0.1)),
    Term("exp(x / 3000)", lambda x: exp(x * (1 / 3000))),
)


def ranked() -> list[Term]:
    """The terms, the dominant one first, as exact comparison at infinity has it: no term is evaluated."""
    return [TERMS[place] for place in transseries.order([term.grows for term in TERMS])]


def leaders(terms: list[Term], x: np.ndarray) -> np.ndarray:
    """Place of the term that is largest at each x."""
    return np.array([[term.at(float(each)) for each in x] for term in terms]).argmax(0)


def changes(terms: list[Term], x: np.ndarray) -> list[tuple[float, Term]]:
    """Where the lead changes along the ascending ``x``, to the last digit, and who takes it."""
    found = []
    for (left, before), (right, after) in pairwise(zip(x, leaders(terms, x), strict=True)):
        if before != after:
            found.append((crossing(terms[before], terms[after], float(left), float(right)), terms[after]))
    return found


def crossing(slow: Term, fast: Term, low: float, high: float) -> float:
    """The x between ``low`` and ``high`` at which ``fast`` overtakes ``slow``, by bisection of log x."""
    while True:
        middle = math.sqrt(low * high)
        if not low < middle < high:
            return high
        low, high = (low, middle) if fast.at(middle) > slow.at(middle) else (middle, high)
