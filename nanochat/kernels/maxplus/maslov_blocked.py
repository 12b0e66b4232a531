"""Maslov's deformation in pure PyTorch, at beta = 1: every maximum is a log-sum-exp. Tiles of bounded size.

Nothing of size T x T x D ever exists: the backward pass forms the weights of a tile again. Functions here are plain (no
autograd of their own); ``maslov`` joins forward and backward. Shapes inside: B batch x key/value heads flattened, G
query heads per key/value head, N queries, S keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.kernels.maxplus.blocked import KEY_TILE, TILE, _grouped, _row_tile


def _scores(q: Tensor, k: Tensor, score: str) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """(B, G, n, D) and (B, s, D) to scores (B, G, n, s), and each log-sum-exp in them with its terms."""
    keys = k[:, None, None]
    if score == "maxplus":
        terms = q.unsqueeze(-2) + keys
        total = terms.logsumexp(-1)
        return total, [(terms, total)]
    difference = q.unsqueeze(-2) - keys
    above, below = difference.logsumexp(-1), (-difference).logsumexp(-1)
    return -above - below, [(difference, above), (-difference, below)]


def _paths(s: Tensor, v: Tensor, first: int, low: int) -> Tensor:
    """All s + v of a tile whose rows start at position ``first`` and keys at ``low``; minus infinity where hidden."""
    rows, keys = s.shape[-2:]
    paths = s.unsqueeze(-1) + v[:, None, None]
    if low + keys > first + 1:  # masked after the sum: a NaN in a later value must not reach back
        later = (
            torch.arange(low, low + keys, device=s.device) > torch.arange(first, first + rows, device=s.device)[:, None]
        )
        paths = paths.masked_fill(later.unsqueeze(-1), float("-inf"))
    return paths


def attention_forward(q: Tensor, k: Tensor, v: Tensor, score: str) -> Tensor:
    """Outputs (B, H, N, D); see ``naive.attention`` with beta = 1."""
    shape, kv_heads = q.shape, k.shape[1]
    q, k, v = _grouped(q, kv_heads), k.flatten(0, 1), v.flatten(0, 1)
    batch, groups, queries, dim = q.shape
    offset, step = k.shape[1] - queries, _row_tile(batch, groups, dim)
    out = torch.empty_like(q)
    for start in range(0, queries, step):
        rows = q[:, :, start : start + step]
        first, visible = offset + start, offset + start + rows.shape[2]
        total = torch.full_like(rows, float("-inf"))
        for low in range(0, visible, KEY_TILE):
            high = min(low + KEY_TILE, visible)
            s, _ = _scores(rows, k[:, low:high], score)
            total = torch.logaddexp(total, _paths(s, v[:, low:high], first, low).logsumexp(-2))
        out[:, :, start : start + step] = total
    return out.view(shape)


def attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, score: str
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Gradients of q, k, v. With :math:`p_{ijd} = g_{id} \exp(s_{ij} + v_{jd} - y_{id})`, those of v and s are sums of
    p, and each score hands its own on by the softmax of its terms.
    """
    q_shape, kv_shape, kv_heads = q.shape, k.shape, k.shape[1]
    q, gradient, y = (_grouped(x, kv_heads) for x in (q, gradient, y))
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    batch, groups, queries, dim = q.shape
    offset, step = k.shape[1] - queries, _row_tile(batch, groups, dim)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    sign = -1 if score == "hilbert" else 1
    for start in range(0, queries, step):
        rows = slice(start, min(start + step, queries))
        visible = offset + rows.stop
        for low in range(0, visible, KEY_TILE):
            keys = slice(low, min(low + KEY_TILE, visible))
            s, parts = _scores(q[:, :, rows], k[:, keys], score)
            p = (_paths(s, v[:, keys], offset + start, low) - y[:, :, rows].unsqueeze(-2)).exp()
            p = p * gradient[:, :, rows].unsqueeze(-2)
            dv[:, keys] += p.sum((1, 2))
            weights = [(terms - total.unsqueeze(-1)).exp() for terms, total in parts]
            pulled = (weights[1] - weights[0] if score == "hilbert" else weights[0]) * p.sum(-1).unsqueeze(-1)
            dq[:, :, rows] += pulled.sum(-2)
            dk[:, keys] += sign * pulled.sum((1, 2))
    return dq.view(q_shape), dk.view(kv_shape), dv.view(kv_shape)


def recurrence_forward(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and last state of the ``maxplus`` score, token by token: M_t = log(exp M_{t-1} + exp(k_t + v_t^T))."""
    (batch, heads, length, dim), kv_heads = q.shape, k.shape[1]
    grouped = q.unflatten(1, (kv_heads, -1))
    step = max(1, TILE // max(1, batch * heads * dim * dim))
    outputs, memory = [], start
    for low in range(0, length, step):
        path = k[:, :, low : low + step, :, None] + v[:, :, low : low + step, None]
        seen = torch.cat((memory.unsqueeze(2), path), 2).logcumsumexp(2)
        memory = seen[:, :, -1]
        outputs.append((grouped[:, :, :, low : low + step, :, None] + seen[:, :, None, 1:]).logsumexp(-2))
    return torch.cat(outputs, 3).view(q.shape), memory.clone()
