r"""The executable definitions: products by the Cayley-Dickson recursion, attention by writing out every pair of tokens.

A number of the algebra of dimension n lies along an axis of that length. A head of D channels holds D / n of them,
component by component: channel ``c * (D / n) + b`` is component c of number b.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def conjugate(x: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """The real part stays, the others change sign."""
    return torch.cat((x[..., :1], -x[..., 1:]), -1)


def multiply(a: Float[Tensor, "... n"], b: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    r"""Product in the algebra of dimension n: :math:`(a, b)(c, d) = (ac - \bar d b,\; da + b \bar c)`.

    Source: arXiv:math/0105155.
    """
    if a.shape[-1] == 1:
        return a * b
    (a, b), (c, d) = a.chunk(2, -1), b.chunk(2, -1)
    first = multiply(a, c) - multiply(conjugate(d), b)
    second = multiply(d, a) + multiply(b, conjugate(c))
    return torch.cat((first, second), -1)


def numbers(x: Float[Tensor, "... D"], n: int) -> Float[Tensor, "... blocks n"]:
    """The D / n numbers of a head."""
    return x.unflatten(-1, (n, -1)).transpose(-1, -2)


def channels(x: Float[Tensor, "... blocks n"]) -> Float[Tensor, "... D"]:
    """Inverse of :func:`numbers`."""
    return x.transpose(-1, -2).flatten(-2)


def unit(x: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """x / |x|, and 0 for 0."""
    return x / (x.square().sum(-1, keepdim=True) + torch.finfo(x.dtype).tiny).sqrt()


def attention(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    n: int,
    *,
    left: bool = True,
    unit_scores: bool = True,
) -> Float[Tensor, "B H N D"]:
    r"""Rotor attention, pair by pair: :math:`y_i = \sum_{j\le i} a_{ij}\,(u_i \bar w_j)\,v_j`.

    u and w are the unit numbers of q and k, and :math:`a_{ij} = \mathrm{softmax}_j(n\langle u_i, w_j\rangle/\sqrt D)`
    with the real inner product over all numbers of the head: variance one for random units.

    Args:
        q: queries, the last N of the S positions.
        k: keys; each of the K heads serves H / K query heads.
        v: values.
        n: dimension of the algebra, 4 or 8.
        left: bracket as (u w) v; otherwise u (w v), which is another function where n = 8.
        unit_scores: False takes the scores from q and k as they are, over sqrt(D); the turning stays a rotation.
    """
    (heads, queries), (kv_heads, keys) = q.shape[1:3], k.shape[1:3]
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    u, w = unit(numbers(q, n)), unit(numbers(k, n))
    if unit_scores:
        q, k = channels(u) * n**0.5, channels(w) * n**0.5
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    hidden = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(keys - queries + 1)
    a = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    u, w, v = u[:, :, :, None], conjugate(w)[:, :, None], numbers(v, n)[:, :, None]
    turned = multiply(multiply(u, w), v) if left else multiply(u, multiply(w, v.expand_as(u * w)))
    return channels((a[..., None, None] * turned).sum(3))
