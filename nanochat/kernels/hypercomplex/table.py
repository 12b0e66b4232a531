r"""Multiplication tables of the Cayley-Dickson algebras, generated: reals, complex numbers, quaternions, octonions, ...

Units :math:`e_0 = 1, \dots, e_{n-1}` multiply to :math:`e_a e_b = \pm e_{a \oplus b}` (exclusive or of indices); only
the signs need a table. Convention: :math:`(a, b)(c, d) = (ac - \bar d b,\; da + b \bar c)`, so that quaternions have
:math:`ij = k` and multiplying by :math:`e_{n/2}` from the right maps (a, b) to (-b, a). Source: arXiv:math/0105155.
"""

from __future__ import annotations

from functools import cache

Signs = tuple[tuple[int, ...], ...]


@cache
def signs(n: int) -> Signs:
    """``signs(n)[a][b]`` is the sign of e_a e_b in the algebra of dimension n, a power of two.

    Example:
        >>> signs(4)[1][2], signs(4)[2][1]
        (1, -1)

    Raises:
        ValueError: n is not a power of two.
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"signs: got dimension {n}, need a power of two")
    if n == 1:
        return ((1,),)
    half = n // 2
    small = signs(half)

    def sign(a: int, b: int) -> int:
        low, high = a % half, b % half
        bar = conjugate(high)
        if a < half:
            return small[low][high] if b < half else small[high][low]
        return bar * small[low][high] if b < half else -bar * small[high][low]

    return tuple(tuple(sign(a, b) for b in range(n)) for a in range(n))


def conjugate(unit: int) -> int:
    """Sign of e_unit in the conjugate of a number."""
    return 1 if unit == 0 else -1


@cache
def terms(n: int, first: bool = False, second: bool = False) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """For each component of a product, its summands (component of a, component of b, sign), a positive one first.

    Args:
        n: dimension.
        first: take the conjugate of the first factor.
        second: take the conjugate of the second factor.
    """
    table = signs(n)
    found = []
    for out in range(n):
        row = [
            (a, a ^ out, table[a][a ^ out] * (conjugate(a) if first else 1) * (conjugate(a ^ out) if second else 1))
            for a in range(n)
        ]
        found.append(tuple(sorted(row, key=lambda term: (-term[2], term[0]))))
    return tuple(found)


@cache
def planes(n: int) -> tuple[tuple[int, int], ...]:
    """Index pairs l < m, in the order in which :func:`generators` and the fast forms hold them."""
    return tuple((low, high) for low in range(n) for high in range(low + 1, n))


@cache
def generators(n: int) -> tuple[Signs, ...]:
    r"""The matrices :math:`1` and :math:`\Gamma_{lm}: x \mapsto (x \bar e_l) e_m`, l < m, as rows of integers.

    By the polarised composition law, :math:`(x\bar a)b + (x\bar b)a = 2\langle a, b\rangle x`. So every map
    :math:`x \mapsto (x\bar k)v` is :math:`\langle k, v\rangle 1 + \sum_{l<m} (k_l v_m - k_m v_l)\,\Gamma_{lm}`: for
    octonions 29 coordinates instead of 64 matrix entries.
    """
    table = signs(n)
    found = [tuple(tuple(int(row == column) for column in range(n)) for row in range(n))]
    for low, high in planes(n):
        rows = [[0] * n for _ in range(n)]
        for unit in range(n):
            middle = unit ^ low
            rows[middle ^ high][unit] = conjugate(low) * table[unit][low] * table[middle][high]
        found.append(tuple(tuple(row) for row in rows))
    return tuple(found)
