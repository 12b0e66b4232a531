"""Scalar operations of the max-plus kernels, without a tensor: the ledger and the counter read the same formulas.

Shape letters: P query-key pairs of one head, N queries, S keys, D channels. An addition counts 1, a maximum 1.
"""

from __future__ import annotations

SCORES = ("hilbert", "maxplus")
"""The score functions that the kernels know."""

RECURRENCE_FROM = 2
"""Tokens per channel of a head from which the linear form is faster (``benchmarks/maxplus.py``)."""


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


def recurrence_forward(heads: int, kv_heads: int, tokens: int, dim: int) -> int:
    """Semiring operations of the linear form for the ``maxplus`` score: per token add and maximise into the D x D state
    of each key/value head, then into the output of each query head.
    """
    return tokens * 2 * dim * dim * (heads + kv_heads)


def recurrence_backward(heads: int, tokens: int, dim: int) -> int:
    """Semiring operations of its backward pass: each output's gradient is added to three entries."""
    return 3 * heads * tokens * dim


def recurrence_tangent(heads: int, tokens: int, dim: int) -> int:
    """Semiring operations of the change of every output: that of three numbers, added."""
    return 2 * heads * tokens * dim


def recurrence_pays(tokens: int, dim: int) -> bool:
    """Whether the linear form is the faster one for a sequence, forward and backward: by measurement."""
    return tokens >= RECURRENCE_FROM * dim


def maslov_score(dim: int, score: str) -> int:
    """Per pair at finite beta; a log-sum-exp counts 4 per term: maximum, subtract, exp, sum.

    hilbert takes a difference and its negative, two log-sum-exps, a sign and a sum; maxplus a sum and one log-sum-exp.
    """
    return 10 * dim + 2 if score == "hilbert" else 5 * dim


def maslov_forward(heads: int, queries: int, keys: int, dim: int, score: str) -> int:
    """Elementwise operations at finite beta: the score, then add and log-sum-exp per channel."""
    return heads * causal_pairs(queries, keys) * (maslov_score(dim, score) + 5 * dim)


def maslov_backward(heads: int, queries: int, keys: int, dim: int, score: str) -> int:
    """Elementwise operations of its backward pass.

    Per pair: the score again; the weight of every channel (add, subtract, exp, times the gradient), its sums for the
    value and the score; the softmax of each log-sum-exp in the score (subtract, exp), joined, times the gradient of the
    score, and the sums of that for query and key.
    """
    softmax = 5 * dim if score == "hilbert" else 2 * dim
    return heads * causal_pairs(queries, keys) * (maslov_score(dim, score) + 6 * dim + softmax + 3 * dim)


def maslov_recurrence(heads: int, kv_heads: int, tokens: int, dim: int) -> int:
    """Elementwise operations of the linear form at finite beta: per number of the state a sum and 4, in and out."""
    return tokens * 5 * dim * dim * (heads + kv_heads)


def matmul_forward(batch: int, rows: int, inner: int, columns: int) -> int:
    """Semiring operations of a batched max-plus product."""
    return 2 * batch * rows * inner * columns


def matmul_backward(batch: int, rows: int, columns: int) -> int:
    """Semiring operations of its backward pass: each output's gradient is added to two entries."""
    return 2 * batch * rows * columns
