"""The executable definition of causal product sums, by all pairs. Slow, T x T in memory, differentiable."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def product_sums(
    left_query: Float[Tensor, "B H T a"],
    right_query: Float[Tensor, "B H T b"],
    left_key: Float[Tensor, "B K T a"],
    right_key: Float[Tensor, "B K T b"],
    values: Float[Tensor, "B K T E"],
) -> Float[Tensor, "B H T E"]:
    r""":math:`y_i = \sum_{j \le i} \langle l_i, l'_j \rangle \langle r_i, r'_j \rangle v_j`.

    Each of the K heads serves H / K query heads.
    """
    groups = left_query.shape[1] // left_key.shape[1]
    left, right, v = (x.repeat_interleave(groups, 1) for x in (left_key, right_key, values))
    kernel = (left_query @ left.mT) * (right_query @ right.mT)
    return kernel.tril() @ v
