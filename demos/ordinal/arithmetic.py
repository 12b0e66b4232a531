r"""Ordinals below epsilon_0 in Cantor normal form: order, sums, products, descents, Goodstein and Hydra. Exact.

An ordinal is the tuple of its terms :math:`\omega^{e_i} c_i`, exponents (ordinals themselves) strictly falling,
coefficients at least 1; the empty tuple is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import total_ordering
from itertools import product


@total_ordering
@dataclass(frozen=True, slots=True)
class Ordinal:
    """An ordinal below epsilon_0.

    Args:
        terms: pairs of an exponent and a coefficient, the largest exponent first.

    Raises:
        ValueError: what is no Cantor normal form.
    """

    terms: tuple[tuple[Ordinal, int], ...] = ()

    def __post_init__(self) -> None:
        falling = all(one[0] > two[0] for one, two in zip(self.terms, self.terms[1:], strict=False))
        if not falling or any(count < 1 for _, count in self.terms):
            raise ValueError("Ordinal: need strictly falling exponents and coefficients of at least 1")

    def __lt__(self, other: Ordinal) -> bool:
        for one, two in zip(self.terms, other.terms, strict=False):
            if one != two:
                return one[0] < two[0] or (one[0] == two[0] and one[1] < two[1])
        return len(self.terms) < len(other.terms)

    def __add__(self, other: Ordinal) -> Ordinal:
        """The ordinary sum: what is smaller than the other's first term is swallowed by it."""
        if not other.terms:
            return self
        lead, count = other.terms[0]
        kept = tuple(term for term in self.terms if term[0] > lead)
        same = sum(c for exponent, c in self.terms if exponent == lead)
        return Ordinal((*kept, (lead, same + count), *other.terms[1:]))

    def __mul__(self, other: Ordinal) -> Ordinal:
        """The ordinary product: left-distributive, not commutative."""
        if not self.terms or not other.terms:
            return ZERO
        (lead, count), rest = self.terms[0], self.terms[1:]
        total = ZERO
        for exponent, factor in other.terms:
            if exponent.terms:
                total = total + Ordinal(((lead + exponent, factor),))
            else:
                total = total + Ordinal(((lead, count * factor), *rest))
        return total

    def natural_sum(self, other: Ordinal) -> Ordinal:
        """Hessenberg's sum: coefficients add up, so it commutes and is strictly monotone in both."""
        return _collected([*self.terms, *other.terms])

    def natural_product(self, other: Ordinal) -> Ordinal:
        """Hessenberg's product: as of polynomials in omega, exponents by natural sum."""
        pairs = product(self.terms, other.terms)
        return _collected([(one[0].natural_sum(two[0]), one[1] * two[1]) for one, two in pairs])

    @property
    def is_limit(self) -> bool:
        """Whether it is neither 0 nor a successor."""
        return bool(self.terms) and bool(self.terms[-1][0].terms)

    def below(self, n: int) -> Ordinal:
        """The n-th of its fundamental sequence: of a successor its predecessor; 0 stays.

        For a limit these ordinals grow with n towards it; any choice of n steps down strictly.
        """
        if not self.terms:
            return self
        (exponent, count), head = self.terms[-1], self.terms[:-1]
        rest = Ordinal((*head, (exponent, count - 1)) if count > 1 else head)
        if not exponent.terms:
            return rest
        if exponent.is_limit:
            return rest + Ordinal(((exponent.below(n), 1),))
        return rest + (Ordinal(((exponent.below(n), n),)) if n else ZERO)

    def __str__(self) -> str:
        return " + ".join(map(_term, self.terms)) or "0"


ZERO = Ordinal()
ONE = Ordinal(((ZERO, 1),))
OMEGA = Ordinal(((ONE, 1),))


def natural(n: int) -> Ordinal:
    """A finite ordinal."""
    return Ordinal(((ZERO, n),)) if n else ZERO


def omega_to(exponent: Ordinal) -> Ordinal:
    """A power of omega."""
    return Ordinal(((exponent, 1),))


def _term(term: tuple[Ordinal, int]) -> str:
    exponent, count = term
    if not exponent.terms:
        return str(count)
    inner = str(exponent)
    power = "ω" if exponent == ONE else f"ω^{inner}" if inner.isalnum() else f"ω^({inner})"
    return power if count == 1 else f"{power}·{count}"


def _collected(terms: list[tuple[Ordinal, int]]) -> Ordinal:
    counts: dict[Ordinal, int] = {}
    for exponent, count in terms:
        counts[exponent] = counts.get(exponent, 0) + count
    return Ordinal(tuple(sorted(counts.items(), reverse=True)))


def hereditary(number: int, base: int) -> Ordinal:
    """The number in hereditary base notation with omega for the base.

    Example:
        >>> str(hereditary(26, 2))
        'ω^(ω^ω) + ω^(ω + 1) + ω'
    """
    terms, place = [], 0
    while number:
        number, digit = divmod(number, base)
        if digit:
            terms.append((hereditary(place, base), digit))
        place += 1
    return Ordinal(tuple(reversed(terms)))


def evaluate(ordinal: Ordinal, base: int) -> int:
    """The number that a hereditary notation stands for: omega becomes the base."""
    return sum(count * base ** evaluate(exponent, base) for exponent, count in ordinal.terms)


@dataclass(frozen=True, slots=True)
class GoodsteinStep:
    """A member of a Goodstein sequence: its base, its value, and the ordinal that bounds what is to come."""

    base: int
    value: int
    rank: Ordinal


def goodstein(number: int, steps: int) -> Iterator[GoodsteinStep]:
    """Write in hereditary base b, replace b by b + 1, subtract 1: values soar, ranks fall, so it ends at 0.

    Source: doi:10.2307/2268019.
    """
    base = 2
    for _ in range(steps):
        rank = hereditary(number, base)
        yield GoodsteinStep(base, number, rank)
        if not number:
            return
        number = evaluate(rank, base + 1) - 1
        base += 1


Hydra = tuple["Hydra", ...]
"""A rooted tree: the tuple of what grows on its root. A head is an empty tuple."""


def hydra_rank(tree: Hydra) -> Ordinal:
    """Natural sum of omega^rank over the branches."""
    total = ZERO
    for branch in tree:
        total = total.natural_sum(omega_to(hydra_rank(branch)))
    return total


def chop(tree: Hydra, path: tuple[int, ...], n: int) -> Hydra:
    """Hydra after one head is cut: where it grew, n more copies of the damaged part grow from one node below.

    Args:
        tree: the hydra.
        path: which branch to follow at each node, down to a head.
        n: copies that grow back; none if the head grew on the root.

    Raises:
        ValueError: the path does not end at a head.

    Source: doi:10.1112/blms/14.4.285.
    """
    first, rest = path[0], path[1:]
    if not 0 <= first < len(tree):
        raise ValueError(f"chop: got branch {first}, need 0 to {len(tree) - 1}")
    branch, others = tree[first], (*tree[:first], *tree[first + 1 :])
    if not rest:
        if branch:
            raise ValueError(f"chop: the path ends at a node with {len(branch)} branches, need a head")
        return others
    grown = chop(branch, rest, n)
    copies = n + 1 if len(rest) == 1 else 1
    return (*others, *[grown] * copies)


def heads(tree: Hydra) -> list[tuple[int, ...]]:
    """Paths to all heads."""
    return [(index, *path) for index, branch in enumerate(tree) for path in (heads(branch) if branch else [()])]
