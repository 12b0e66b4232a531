"""Scalar operations of causal product sums, without a tensor: the ledger and the counter read the same formulas.

Charged are the pairs that the mask leaves inside blocks, and what tokens read from and write to the sums between them.
Shape letters: H query heads, K key heads (batch included), T tokens, E channels per value; the two factors have
``left`` and ``right`` features, their product ``left right``.
"""

from __future__ import annotations

from nanochat.registry import Operations

BLOCK = 64
"""Tokens per block."""


def pairs(length: int) -> int:
    """Pairs j <= i of one head whose tokens lie in one block."""
    whole, rest = divmod(length, BLOCK)
    return whole * BLOCK * (BLOCK + 1) // 2 + rest * (rest + 1) // 2


def readers(length: int) -> int:
    """Tokens with a block before theirs."""
    return max(0, length - BLOCK)


def writers(length: int) -> int:
    """Tokens with a block after theirs."""
    return max(0, (length - 1) // BLOCK * BLOCK)


def forward(heads: int, kv_heads: int, length: int, features: tuple[int, int], dim: int) -> Operations:
    """Per pair two inner products, their product, its share of the value; per reader and writer the joint features and
    2 E for each.
    """
    left, right = features
    inside, joint = heads * pairs(length), left * right
    between = heads * readers(length) + kv_heads * writers(length)
    return Operations(
        matmul=inside * 2 * (left + right + dim) + between * 2 * joint * dim, elementwise=inside + between * joint
    )


def backward(heads: int, kv_heads: int, length: int, features: tuple[int, int], dim: int) -> Operations:
    """Per pair both inner products again, four gradients, 2 E twice and three products.

    Readers: two products of 2 E with the joint features, those and their gradient taken apart (4). Writers: the same
    with three products, the features twice.
    """
    left, right = features
    inside, joint = heads * pairs(length), left * right
    read, written = heads * readers(length), kv_heads * writers(length)
    return Operations(
        matmul=inside * (6 * (left + right) + 4 * dim) + (2 * read + 3 * written) * 2 * joint * dim,
        elementwise=inside * 3 + (5 * read + 6 * written) * joint,
    )
