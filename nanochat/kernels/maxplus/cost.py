"""Scalar operations of the max-plus kernels, without a tensor: the ledger and the counter read the same formulas.

Shape letters: P query-key pairs of one head, N queries, S keys, D channels. An addition counts 1, a maximum 1.
"""

from __future__ import annotations

SCORES = ("hilbert", "maxplus")
"""The score functions that the kernels know."""


def causal_pairs(queries: int, keys: int) -> int:
    """Query-key pairs of one head when the N queries are the last N of S positions: N S - N (N - 1) / 2."""
    return queries * keys - queries * (queries - 1) // 2


def score_cost(dim: int, score: str) -> int:
    """Per pair: hilbert subtracts, takes a maximum and a minimum per channel, then one difference; maxplus adds and
    takes a maximum per channel.
    """
    return 3 * dim + 1 if score == "hilbert" else 2 * dim


def attention_forward(heads: int, queries: int, keys: int, dim: int, score: str) -> int:
    """Semiring operations of ``heads`` heads (batch included): the score, then add and maximise each channel."""
    return heads * causal_pairs(queries, keys) * (score_cost(dim, score) + 2 * dim)


def attention_backward(heads: int, queries: int, keys: int, dim: int, score: str) -> int:
    """Semiring operations of the backward pass.

    The gradient of each output goes to its one winner (an addition to its value and one to its score); the extremal
    channels of a score are found again only for keys that won a channel, at most min(D, visible keys) per query.
    That bound is what is charged.
    """
    winners = sum(min(dim, visible) for visible in range(keys - queries + 1, keys + 1))
    per_winner = score_cost(dim, score) + (4 if score == "hilbert" else 2)
    return heads * (queries * 2 * dim + winners * per_winner)


def attention_tangent(heads: int, queries: int, dim: int, score: str) -> int:
    """Semiring operations of the change of every output: its winner's score again, then the change of that score (a
    difference at two channels and their difference; one sum for maxplus) and of the value.
    """
    return heads * queries * dim * (score_cost(dim, score) + (4 if score == "hilbert" else 2))


def matmul_forward(batch: int, rows: int, inner: int, columns: int) -> int:
    """Semiring operations of a batched max-plus product."""
    return 2 * batch * rows * inner * columns


def matmul_backward(batch: int, rows: int, columns: int) -> int:
    """Semiring operations of its backward pass: each output's gradient is added to two entries."""
    return 2 * batch * rows * columns
