r"""The executable definition of the max-plus kernels, by broadcasting. Slow, T x T x D in memory, differentiable.

``beta`` is Maslov's parameter: every maximum becomes :math:`\frac1\beta \log \sum \exp(\beta\,\cdot)`, which exceeds it
by at most :math:`\log(n)/\beta` over n terms; ``beta=None`` is the maximum itself. Ties go to the first index.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def maximum(x: Tensor, dim: int, beta: float | None = None) -> Tensor:
    """Maximum along ``dim``, or its Maslov deformation."""
    return x.max(dim).values if beta is None else torch.logsumexp(beta * x, dim) / beta


def scores(
    q: Float[Tensor, "... N D"], k: Float[Tensor, "... S D"], score: str = "hilbert", beta: float | None = None
) -> Float[Tensor, "... N S"]:
    r"""Scores of all pairs.

    ``hilbert``: :math:`s_{ij} = -(\max_d (q_{id}-k_{jd}) - \min_d (q_{id}-k_{jd}))`, minus the distance of tropical
    projective space; ``maxplus``: :math:`s_{ij} = \max_d (q_{id}+k_{jd})`, the tropical inner product.
    """
    q, k = q.unsqueeze(-2), k.unsqueeze(-3)
    if score == "hilbert":
        return -maximum(q - k, -1, beta) - maximum(k - q, -1, beta)
    if score == "maxplus":
        return maximum(q + k, -1, beta)
    raise ValueError(f"score: got {score!r}, need hilbert or maxplus")


def visible(queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
    """(N, S) booleans: the N queries are the last N of S positions and see themselves and what came before."""
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    return torch.arange(keys, device=device)[None, :] <= query


def candidates(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    score: str = "hilbert",
    beta: float | None = None,
) -> Float[Tensor, "B H N S D"]:
    """All :math:`s_{ij} + v_{jd}`, minus infinity where j > i. Each of the K heads serves H / K query heads."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    s = scores(q, k, score, beta)
    hidden = ~visible(q.shape[2], k.shape[2], q.device)
    return (s.unsqueeze(-1) + v.unsqueeze(-3)).masked_fill(hidden.unsqueeze(-1), float("-inf"))


def attention(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    score: str = "hilbert",
    beta: float | None = None,
) -> Float[Tensor, "B H N D"]:
    r"""Tropical attention :math:`y_{id} = \max_{j \le i} (s_{ij} + v_{jd})`. Source: arXiv:2505.17190."""
    return maximum(candidates(q, k, v, score, beta), -2, beta)


def attention_winners(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B K S D"], v: Float[Tensor, "B K S D"], score: str = "hilbert"
) -> Int[Tensor, "B H N D"]:
    """The key j that attains each maximum; the first of equals."""
    return candidates(q, k, v, score).argmax(-2)


def matmul(a: Float[Tensor, "B M K"], b: Float[Tensor, "B K N"], beta: float | None = None) -> Float[Tensor, "B M N"]:
    r"""Max-plus product :math:`C_{ij} = \max_k (A_{ik} + B_{kj})`."""
    return maximum(a.unsqueeze(-1) + b.unsqueeze(-3), -2, beta)
