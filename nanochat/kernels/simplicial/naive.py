r"""The executable definition of 2-simplicial attention by gathered windows, O(T w1 w2 D). Slow, differentiable.

.. math:: y_i = \sum_{j,l} p_{ijl}\, v_j \circ v'_l, \qquad
    p_i = \mathrm{softmax}_{j,l} \bigl( \langle q_i, k_j, k'_l \rangle / \sqrt D - m\,((i-j) + (i-l)) \bigr)

over :math:`i - w_1 < j \le i` and :math:`i - w_2 < l \le i`, fewer at the start of the sequence. Source:
arXiv:2507.02754.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor


def sign(order: Sequence[int]) -> int:
    """Of a permutation: -1 to the number of its inversions."""
    inversions = sum(order[a] > order[b] for a in range(len(order)) for b in range(a + 1, len(order)))
    return 1 - 2 * (inversions % 2)


def form_of(q: Tensor, k: Tensor, second: Tensor, form: str) -> Tensor:
    r"""The trilinear form of (..., D) vectors, broadcast.

    ``trilinear``: :math:`\sum_d q_d k_d k'_d`. ``determinant``: channels (c, c + D//3, c + 2 (D//3)) are the vectors of
    3-space; the sum of their determinants, plus the trilinear sum over the D mod 3 channels that are left.
    """
    if form == "trilinear":
        return (q * k * second).sum(-1)
    if form != "determinant":
        raise ValueError(f"form: got {form!r}, need trilinear or determinant")
    third = q.shape[-1] // 3
    parts = [x.split([third, third, third, x.shape[-1] - 3 * third], -1) for x in (q, k, second)]
    total = (parts[0][3] * parts[1][3] * parts[2][3]).sum(-1)
    for order in permutations(range(3)):
        total = total + sign(order) * (parts[0][order[0]] * parts[1][order[1]] * parts[2][order[2]]).sum(-1)
    return total


def windows(x: Float[Tensor, "B K S D"], queries: int, window: int) -> tuple[Tensor, Tensor]:
    """What each of the last N positions sees, nearest first, (B, K, N, window, D); which of it exists, (N, window)."""
    position = torch.arange(x.shape[2] - queries, x.shape[2], device=x.device)
    index = position[:, None] - torch.arange(window, device=x.device)
    return x[:, :, index.clamp(min=0)], index >= 0


def weights(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    second_k: Float[Tensor, "B K R D"],
    window: tuple[int, int],
    form: str = "trilinear",
    slopes: Sequence[float] = (),
) -> Float[Tensor, "B H N w1 w2"]:
    """The probability of each pair (i - a, i - b) of keys, at [a, b]."""
    groups, queries = q.shape[1] // k.shape[1], q.shape[2]
    (first, here), (second, there) = (
        windows(x.repeat_interleave(groups, 1), queries, size) for x, size in zip((k, second_k), window, strict=True)
    )
    s = form_of(q[:, :, :, None, None], first[:, :, :, :, None], second[:, :, :, None], form) * q.shape[-1] ** -0.5
    if slopes:
        distance = torch.arange(window[0], device=q.device)[:, None] + torch.arange(window[1], device=q.device)
        s = s - torch.tensor(slopes, dtype=q.dtype, device=q.device)[:, None, None, None] * distance
    s = s.masked_fill(~(here[:, :, None] & there[:, None]), float("-inf"))
    return s.flatten(-2).softmax(-1).view(s.shape)


def attention(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    second_k: Float[Tensor, "B K R D"],
    second_v: Float[Tensor, "B K R D"],
    window: tuple[int, int],
    form: str = "trilinear",
    slopes: Sequence[float] = (),
) -> Float[Tensor, "B H N D"]:
    """2-simplicial attention; the N queries are the last N of the S positions and of the R."""
    groups, queries = q.shape[1] // k.shape[1], q.shape[2]
    p = weights(q, k, second_k, window, form, slopes)
    (first, _), (second, _) = (
        windows(x.repeat_interleave(groups, 1), queries, size) for x, size in zip((v, second_v), window, strict=True)
    )
    return torch.einsum("bhiac,bhiad,bhicd->bhid", p, first, second)
