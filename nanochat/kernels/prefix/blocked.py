"""Ball sums in pure PyTorch and linear time: all pairs inside a block of tokens, one running sum per ball between them.

A block sees the past through the table only, so that nothing later, in whichever ball, touches its rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.kernels.prefix.cost import nodes
from nanochat.kernels.prefix.tree import balls, insert, look_up

BLOCK = 32
"""Tokens per block: all pairs cost BLOCK comparisons per token and level, the table D."""


@dataclass
class _Streams:
    """The operands with one row per key head: R = B K streams of T keys, and G queries per key."""

    query_balls: Tensor  # (R, G, T, levels)
    key_balls: Tensor  # (R, T, levels)
    a: Tensor  # (R, G, T, levels)
    b: Tensor  # (R, T, levels)
    v: Tensor  # (R, T, D)

    def table(self, base: int) -> Tensor:
        """A sum of zero for every ball."""
        return self.v.new_zeros(self.v.shape[0], nodes(base, self.b.shape[2] - 1), self.v.shape[2])

    def blocks(self, *more: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Each block of time with the operands in it; queries of a group folded into one axis, (R, G n, levels)."""
        for start in range(0, self.v.shape[1], BLOCK):
            span = slice(start, start + BLOCK)
            yield (
                span,
                self.query_balls[:, :, span].flatten(1, 2),
                self.key_balls[:, span],
                self.a[:, :, span].flatten(1, 2),
                self.b[:, span],
                self.v[:, span],
            )


def _streams(
    query_codes: Tensor, key_codes: Tensor, query_weights: Tensor, key_weights: Tensor, values: Tensor, base: int
) -> _Streams:
    batch, kv_heads, length = key_codes.shape
    groups, depth = query_codes.shape[1] // kv_heads, key_weights.shape[-1] - 1
    streams = batch * kv_heads
    queries = query_codes.reshape(streams, groups, length)
    return _Streams(
        balls(queries, base, depth),
        balls(key_codes.reshape(streams, length), base, depth),
        query_weights.reshape(streams, groups, length, depth + 1),
        key_weights.reshape(streams, length, depth + 1),
        values.reshape(streams, length, values.shape[-1]),
    )


def _shared(query_balls: Tensor, key_balls: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """(R, levels, G n, n): 1 where a query and a key before it or at its place are in one ball of that level."""
    same = query_balls.mT[..., :, None] == key_balls.mT[..., None, :]
    count = key_balls.shape[1]
    causal = torch.ones(count, count, dtype=torch.bool, device=same.device).tril().repeat(groups, 1)
    return (same & causal).to(dtype)


def _read(table: Tensor, query_balls: Tensor, weights: Tensor) -> Tensor:
    """Sums over levels of the weighted sums of the balls: (R, M, D)."""
    return (weights.unsqueeze(2) @ look_up(table, query_balls)).squeeze(2)


def forward(
    query_codes: Tensor, key_codes: Tensor, query_weights: Tensor, key_weights: Tensor, values: Tensor, base: int
) -> Tensor:
    """As :func:`nanochat.kernels.prefix.naive.ball_sums`."""
    streams = _streams(query_codes, key_codes, query_weights, key_weights, values, base)
    rows, groups, length, _ = streams.a.shape
    table = streams.table(base)
    out = values.new_empty(rows, groups, length, values.shape[-1])
    for span, query_balls, key_balls, a, b, v in streams.blocks():
        shared = _shared(query_balls, key_balls, groups, v.dtype)
        kernel = (shared * a.mT[..., :, None] * b.mT[..., None, :]).sum(1)
        y = kernel @ v + _read(table, query_balls, a)
        out[:, :, span] = y.view(rows, groups, -1, v.shape[2])
        insert(table, key_balls, b, v)
    return out.view(*query_codes.shape, values.shape[-1])


def backward(
    gradient: Tensor,
    query_codes: Tensor,
    key_codes: Tensor,
    query_weights: Tensor,
    key_weights: Tensor,
    values: Tensor,
    base: int,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Gradients of the query weights, the key weights and the values.

    With :math:`S_l(i)` the sum of b v over the keys of i's ball up to i and :math:`R_l(j)` that of a g over the queries
    of j's ball from j on, :math:`\bar a_{il} = g_i \cdot S_l(i)`, :math:`\bar b_{jl} = v_j \cdot R_l(j)`,
    :math:`\bar v_j = \sum_l b_{jl} R_l(j)`: the same sums, run once forwards and once backwards in time.
    """
    streams = _streams(query_codes, key_codes, query_weights, key_weights, values, base)
    rows, groups, length, levels = streams.a.shape
    g = gradient.reshape(rows, groups, length, -1)
    grad_a, grad_b, grad_v = (torch.empty_like(x) for x in (streams.a, streams.b, streams.v))
    table = streams.table(base)
    for span, query_balls, key_balls, _, b, v in streams.blocks():
        inside = g[:, :, span].flatten(1, 2)
        shared = _shared(query_balls, key_balls, groups, v.dtype)
        pulled = ((inside @ v.mT).unsqueeze(1) * shared) @ b.mT.unsqueeze(3)  # (R, levels, G n, 1)
        past = look_up(table, query_balls) @ inside.unsqueeze(3)  # (R, G n, levels, 1)
        grad_a[:, :, span] = (pulled.squeeze(3).mT + past.squeeze(3)).view(rows, groups, -1, levels)
        insert(table, key_balls, b, v)
    table.zero_()
    for span, query_balls, key_balls, a, b, v in reversed(list(streams.blocks())):
        inside = g[:, :, span].flatten(1, 2)
        shared = _shared(query_balls, key_balls, groups, v.dtype)
        weighted = shared * a.mT[..., :, None]
        future = look_up(table, key_balls)  # (R, n, levels, D)
        kernel = (weighted * b.mT[..., None, :]).sum(1)
        grad_v[:, span] = kernel.mT @ inside + (b.unsqueeze(2) @ future).squeeze(2)
        pulled = ((inside @ v.mT).unsqueeze(1) * weighted).sum(2)  # (R, levels, n)
        grad_b[:, span] = pulled.mT + (future @ v.unsqueeze(3)).squeeze(3)
        insert(table, query_balls, a, inside)
    shapes = query_weights.shape, key_weights.shape, values.shape
    return grad_a.view(shapes[0]), grad_b.view(shapes[1]), grad_v.view(shapes[2])
