"""Scalar operations of 2-simplicial attention, without a tensor: the ledger and the counter read the same formulas.

Charged are the triples that the windows leave, as for every fused kernel; what a block computes beside them is not.
"""

from __future__ import annotations

from nanochat.registry import Operations

FORMS = ("trilinear", "determinant")
"""The forms <q, k, k'> that the kernels know."""

_FOLD = {"trilinear": 1, "determinant": 3}
"""Operations per channel of <q, ., k'>: a product; two products and a difference."""


def seen(queries: int, keys: int, window: int) -> list[int]:
    """Keys that each query sees: the N queries are the last N of S positions and see ``window`` of them at most."""
    return [min(position, window) for position in range(keys - queries + 1, keys + 1)]


def triples(queries: int, keys: int, window: int, second_keys: int, second_window: int) -> tuple[int, int]:
    """Of one head: visible (query, key, second key), and visible (query, second key)."""
    first, second = seen(queries, keys, window), seen(queries, second_keys, second_window)
    return sum(a * b for a, b in zip(first, second, strict=True)), sum(second)


def forward(heads: int, queries: int, dim: int, counts: tuple[int, int], form: str, biased: bool) -> Operations:
    """Per triple two products of D, then (bias,) maximum, subtract, exp, sum; per second key the fold, v' and a sum.

    Args:
        heads: batch included.
        counts: what :func:`triples` returns.
        biased: whether scores carry a distance penalty.
    """
    pairs, offsets = counts
    per_output = queries * dim * 2  # the scale of the query, the division
    elementwise = pairs * (4 + biased) + offsets * dim * (_FOLD[form] + 2) + per_output
    return Operations(matmul=heads * pairs * 4 * dim, elementwise=heads * elementwise)


def backward(heads: int, queries: int, dim: int, counts: tuple[int, int], form: str, biased: bool) -> Operations:
    """Per triple six products of D (scores and values again, four gradients) and (bias,) subtract, exp, subtract,
    multiply; per second key and channel the fold and its two adjoints, v' in two ways, three sums.
    """
    pairs, offsets = counts
    per_output = queries * dim * 4  # the scale twice, <y, gradient>
    elementwise = pairs * (4 + biased) + offsets * dim * (3 * _FOLD[form] + 5) + per_output
    return Operations(matmul=heads * pairs * 12 * dim, elementwise=heads * elementwise)
