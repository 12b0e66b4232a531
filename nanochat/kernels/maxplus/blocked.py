"""The max-plus kernels in pure PyTorch: tiles of bounded size, winners kept, gradients scattered to them.

Nothing of size T x T x D ever exists. Functions here are plain (no autograd of their own); ``operators`` joins forward
and backward. Shapes inside: B batch x key/value heads flattened, G query heads per key/value head, N queries, S keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 1 << 20
"""Scalars of the largest temporary: 4 MB in fp32, which a core's caches still serve."""
KEY_TILE = 64
"""Keys per tile."""


def _tile_scores(q: Tensor, k: Tensor, score: str) -> Tensor:
    """(B, G, n, D) and (B, s, D) to (B, G, n, s)."""
    keys = k[:, None, None]
    if score == "hilbert":
        difference = q.unsqueeze(-2) - keys
        return difference.amin(-1) - difference.amax(-1)
    return (q.unsqueeze(-2) + keys).amax(-1)


def _row_tile(batch: int, groups: int, dim: int) -> int:
    return max(1, TILE // max(1, batch * groups * KEY_TILE * dim))


def _grouped(x: Tensor, kv_heads: int) -> Tensor:
    """(B, H, N, D) to (B K, H / K, N, D)."""
    batch, heads, length, dim = x.shape
    return x.reshape(batch * kv_heads, heads // kv_heads, length, dim)


def attention_forward(q: Tensor, k: Tensor, v: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """Outputs and winners (int32), both (B, H, N, D); see ``naive.attention``."""
    shape, kv_heads = q.shape, k.shape[1]
    q, k, v = _grouped(q, kv_heads), k.flatten(0, 1), v.flatten(0, 1)
    batch, groups, queries, dim = q.shape
    offset = k.shape[1] - queries
    out, winners = torch.empty_like(q), torch.empty(q.shape, dtype=torch.int32, device=q.device)
    step = _row_tile(batch, groups, dim)
    for start in range(0, queries, step):
        end = min(start + step, queries)
        best, index = _attend_rows(q[:, :, start:end], k, v, score, offset + start)
        out[:, :, start:end], winners[:, :, start:end] = best, index
    return out.view(shape), winners.view(shape)


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, score: str, first: int) -> tuple[Tensor, Tensor]:
    """Best candidate and its key for query rows at positions ``first`` and on."""
    rows = q.shape[2]
    best = torch.full_like(q, float("-inf"))
    index = torch.zeros(q.shape, dtype=torch.int32, device=q.device)
    position = torch.arange(first, first + rows, device=q.device)[:, None]
    for low in range(0, first + rows, KEY_TILE):
        high = min(low + KEY_TILE, first + rows)
        s = _tile_scores(q, k[:, low:high], score)
        candidate = s.unsqueeze(-1) + v[:, None, None, low:high]
        if high > first + 1:  # masked after the sum: a NaN in a later value must not reach back
            later = torch.arange(low, high, device=q.device) > position
            candidate = candidate.masked_fill(later.unsqueeze(-1), float("-inf"))
        value, winner = candidate.max(-2)
        # "not <=" rather than ">" so that a NaN takes over and stays, instead of vanishing.
        better = ~(value <= best) & ~best.isnan()
        best = torch.where(better, value, best)
        index = torch.where(better, (winner + low).to(torch.int32), index)
    return best, index


def attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, winners: Tensor, score: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v: each output's goes to its winner's value and, through the score, to two (hilbert) or one
    (maxplus) channels of q and k. Memory is linear in T: scores' gradients exist for a tile of rows at a time.
    """
    q_shape, kv_shape, kv_heads = q.shape, k.shape, k.shape[1]
    q, gradient, winners = _grouped(q, kv_heads), _grouped(gradient, kv_heads), _grouped(winners, kv_heads).long()
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    batch, groups, queries, dim = q.shape
    keys = k.shape[1]
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    dv.scatter_add_(1, winners.flatten(1, 2), gradient.flatten(1, 2))
    step = max(1, TILE // max(1, batch * groups * max(keys, dim * dim)))
    for start in range(0, queries, step):
        end = min(start + step, queries)
        ds = torch.zeros(batch, groups, end - start, keys, dtype=q.dtype, device=q.device)
        ds.scatter_add_(-1, winners[:, :, start:end], gradient[:, :, start:end])
        where = ds.nonzero(as_tuple=True)
        _score_backward(ds[where], where, q[:, :, start:end], k, dq[:, :, start:end], dk, score)
    return dq.view(q_shape), dk.view(kv_shape), dv.view(kv_shape)


def _score_backward(
    ds: Tensor, where: tuple[Tensor, ...], q: Tensor, k: Tensor, dq: Tensor, dk: Tensor, score: str
) -> None:
    """Add the gradients of the listed scores to ``dq`` and ``dk``."""
    batch, group, row, key = where
    query, other = q[batch, group, row], k[batch, key]
    if score == "maxplus":
        top = (query + other).max(-1).indices
        dq.index_put_((batch, group, row, top), ds, accumulate=True)
        dk.index_put_((batch, key, top), ds, accumulate=True)
        return
    difference = query - other
    for channel, sign in ((difference.max(-1).indices, -1), (difference.min(-1).indices, 1)):
        dq.index_put_((batch, group, row, channel), sign * ds, accumulate=True)
        dk.index_put_((batch, key, channel), -sign * ds, accumulate=True)


def attention_tangent(q: Tensor, k: Tensor, winners: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, score: str) -> Tensor:
    """Change of the outputs, (B, H, N, D), when q, k, v change in the directions dq, dk, dv: that of the winner.

    The adjoint of :func:`attention_backward`, hence the derivative of that by its incoming gradient.
    """
    shape, kv_heads = q.shape, k.shape[1]
    q, dq, winners = _grouped(q, kv_heads), _grouped(dq, kv_heads), _grouped(winners, kv_heads).long()
    k, dk, dv = k.flatten(0, 1), dk.flatten(0, 1), dv.flatten(0, 1)
    batch, groups, queries, dim = q.shape
    out = torch.empty_like(q)
    head = torch.arange(batch, device=q.device)[:, None, None, None]
    channel = torch.arange(dim, device=q.device)
    step = max(1, TILE // max(1, batch * groups * dim * dim))
    for start in range(0, queries, step):
        rows = slice(start, start + step)
        won = winners[:, :, rows]
        query, other = q[:, :, rows, None], k[head, won]  # (B, G, n, 1, D) and (B, G, n, D, D)
        along, across = dq[:, :, rows, None].expand_as(other), dk[head, won]
        moved = dv[head, won, channel]
        if score == "maxplus":
            moved += (along + across).gather(-1, (query + other).argmax(-1, keepdim=True)).squeeze(-1)
        else:
            difference, change = query - other, along - across
            moved += change.gather(-1, difference.min(-1, keepdim=True).indices).squeeze(-1)
            moved -= change.gather(-1, difference.max(-1, keepdim=True).indices).squeeze(-1)
        out[:, :, rows] = moved
    return out.view(shape)


def matmul_forward(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Max-plus product of (B, M, K) and (B, K, N) and its winners k (int32); see ``naive.matmul``."""
    batch, rows, inner = a.shape
    columns = b.shape[2]
    out = torch.empty(batch, rows, columns, dtype=a.dtype, device=a.device)
    winners = torch.empty(out.shape, dtype=torch.int32, device=a.device)
    step = max(1, TILE // max(1, batch * inner * columns))
    for start in range(0, rows, step):
        value, index = (a[:, start : start + step, :, None] + b[:, None]).max(-2)
        out[:, start : start + step], winners[:, start : start + step] = value, index.to(torch.int32)
    return out, winners


def matmul_backward(gradient: Tensor, winners: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    """Gradients of both factors: each output's goes to the two entries whose sum won."""
    batch, rows, columns = gradient.shape
    index = winners.long()
    da = gradient.new_zeros(batch, rows, inner).scatter_add_(2, index, gradient)
    db = gradient.new_zeros(batch, inner, columns).scatter_add_(1, index, gradient)
    return da, db


def attention_gaps(q: Tensor, k: Tensor, v: Tensor, score: str) -> Tensor:
    """Winner minus runner-up of each output, (B, H, N, D); infinite where only one key is visible."""
    shape, kv_heads = q.shape, k.shape[1]
    q, k, v = _grouped(q, kv_heads), k.flatten(0, 1), v.flatten(0, 1)
    batch, groups, queries, dim = q.shape
    offset = k.shape[1] - queries
    gaps = torch.full_like(q, float("inf"))
    step = max(1, TILE // max(1, batch * groups * k.shape[1] * dim))
    for start in range(0, queries, step):
        end = min(start + step, queries)
        last = offset + end
        s = _tile_scores(q[:, :, start:end], k[:, :last], score)
        position = torch.arange(offset + start, last, device=q.device)[:, None]
        s = s.masked_fill(torch.arange(last, device=q.device) > position, float("-inf"))
        if last > 1:
            top = (s.unsqueeze(-1) + v[:, None, None, :last]).topk(2, dim=-2).values
            gaps[:, :, start:end] = top[..., 0, :] - top[..., 1, :]
    return gaps.view(shape)
