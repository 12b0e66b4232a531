r"""The executable definition of ball sums, by all pairs. Slow, T x T x L in memory, differentiable."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def common_prefix(
    x: Int[Tensor, "... N"], y: Int[Tensor, "... S"], base: int, depth: int
) -> Bool[Tensor, "... N S levels"]:
    """Whether the first l of ``depth`` base-p digits agree, l = 0 ... depth; the first digit weighs most."""
    powers = torch.tensor([base ** (depth - level) for level in range(depth + 1)], device=x.device)
    x, y = (codes.unsqueeze(-1).div(powers, rounding_mode="floor") for codes in (x, y))
    return x.unsqueeze(-2) == y.unsqueeze(-3)


def ball_sums(
    query_codes: Int[Tensor, "B H T"],
    key_codes: Int[Tensor, "B K T"],
    query_weights: Float[Tensor, "B H T levels"],
    key_weights: Float[Tensor, "B K T levels"],
    values: Float[Tensor, "B K T D"],
    base: int,
) -> Float[Tensor, "B H T D"]:
    r""":math:`y_i = \sum_l a_{il} \sum_{j \le i} b_{jl} [\text{first } l \text{ digits of } i, j \text{ equal}] v_j`.

    Args:
        query_codes: digit strings as integers below base^depth.
        key_codes: the same for keys; each of the K heads serves H / K query heads.
        query_weights: a, one per level l = 0 ... depth.
        key_weights: b.
        values: v.
        base: p.
    """
    groups = query_codes.shape[1] // key_codes.shape[1]
    keys, b, v = (x.repeat_interleave(groups, 1) for x in (key_codes, key_weights, values))
    same = common_prefix(query_codes, keys, base, query_weights.shape[-1] - 1)
    kernel = torch.einsum("bhil,bhijl,bhjl->bhij", query_weights, same.to(v.dtype), b)
    return kernel.tril() @ v
