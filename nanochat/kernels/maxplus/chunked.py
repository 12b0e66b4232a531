"""The linear-time form in pure PyTorch: chunks of tokens whose states exist at once, no longer than memory allows.

Functions here are plain (no autograd of their own); ``recurrent`` joins forward and backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.kernels.maxplus.blocked import TILE

NOBODY = torch.iinfo(torch.int32).max


def recurrence_forward(q: Tensor, k: Tensor, v: Tensor, start: Tensor, track: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, winners (empty without ``track``) and the last state; see ``recurrent.recurrence``."""
    (batch, heads, length, dim), kv_heads = q.shape, k.shape[1]
    grouped = q.unflatten(1, (kv_heads, -1))
    step = max(1, TILE // max(1, batch * heads * dim * dim))
    channel = torch.arange(dim, dtype=torch.int32, device=q.device)
    memory, holder = start, (channel - dim)[:, None].expand_as(start)
    outputs, winners = [], []
    for low in range(0, length, step):
        high = min(low + step, length)
        path = k[:, :, low:high, :, None] + v[:, :, low:high, None]
        seen = torch.cat((memory.unsqueeze(2), path), 2).cummax(2).values
        reached = grouped[:, :, :, low:high, :, None] + seen[:, :, None, 1:]
        best = reached.amax(-2)
        outputs.append(best)
        if track:
            place = torch.arange(low, high, dtype=torch.int32, device=q.device)[:, None] * dim + channel
            better = torch.where(path > seen[:, :, :-1], place.unsqueeze(-1), -dim)  # no place is lower than -dim
            held = torch.cat((holder.unsqueeze(2), better), 2).cummax(2).values  # places of a channel only grow
            first = torch.where(reached == best.unsqueeze(-2), held[:, :, None, 1:], NOBODY).amin(-2)
            winners.append(torch.where(first == NOBODY, 0, first))  # a NaN equals nothing
            holder = held[:, :, -1]
        memory = seen[:, :, -1]
    found = torch.cat(winners, 3).view(q.shape) if track else channel.new_empty(0)
    return torch.cat(outputs, 3).view(q.shape), found, memory.clone()


def recurrence_backward(gradient: Tensor, winners: Tensor, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v: each output's goes to the three numbers whose sum won; where a start won, to q alone."""
    batch, _, length, dim = gradient.shape
    channel, token, own = _places(winners)
    dq = torch.zeros_like(gradient).scatter_add_(3, channel, gradient)
    inside = torch.where(winners >= 0, gradient, 0).view(batch, kv_heads, -1)
    dk, dv = (
        gradient.new_zeros(batch, kv_heads, length * dim).scatter_add_(2, place.view(inside.shape), inside)
        for place in (token, own)
    )
    return dq, dk.view(batch, kv_heads, length, dim), dv.view(batch, kv_heads, length, dim)


def recurrence_tangent(dq: Tensor, dk: Tensor, dv: Tensor, winners: Tensor) -> Tensor:
    """Change of the outputs when q, k, v change in the directions dq, dk, dv: that of the three numbers that won."""
    channel, token, own = _places(winners)
    flat = (*dk.shape[:2], -1)
    of_k, of_v = (
        each.reshape(flat).gather(2, place.view(flat)).view(winners.shape) for each, place in ((dk, token), (dv, own))
    )
    return dq.gather(3, channel) + torch.where(winners >= 0, of_k + of_v, 0)


def _places(winners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Channel of the query, number j D + c of the key and j D + d of the value that won; 0 D where a start did."""
    dim = winners.shape[3]
    token = winners.clamp_min(0).long()
    own = token - token.remainder(dim) + torch.arange(dim, device=winners.device)
    return winners.remainder(dim).long(), token, own
