"""Scalar operations of ball sums, without a tensor: the ledger and the counter read the same formulas.

What the definition by running sums needs, whichever form runs. Shape letters: H query heads, K key heads (batch
included), T tokens, L levels (the whole space included), D channels per value. A multiply-add counts 2.
"""

from __future__ import annotations


def nodes(base: int, depth: int) -> int:
    """Balls of the tree with ``depth`` digits: 1 + p + ... + p^depth."""
    return sum(base**level for level in range(depth + 1))


def forward(heads: int, kv_heads: int, length: int, levels: int, dim: int) -> int:
    """Each key is weighted and added to its L balls, each query reads its L balls, weighted: 2 D each."""
    return 2 * length * levels * dim * (heads + kv_heads)


def backward(heads: int, kv_heads: int, length: int, levels: int, dim: int) -> int:
    """Two passes of 2 D per level.

    Forwards in time: balls built again (keys), products with the gradient for the query weights (queries). Backwards in
    time: balls of gradients (queries), read for the values and for the key weights (keys, twice).
    """
    return 2 * length * levels * dim * (2 * heads + 3 * kv_heads)
