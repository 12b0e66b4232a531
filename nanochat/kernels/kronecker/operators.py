"""Causal product sums as PyTorch operators ``mgr::product_sums*``: differentiable, opaque to the compiler, countable.

Computed in fp32 (fp64 for fp64 inputs) whatever the inputs are. The backward pass has no derivative of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.counter import register
from nanochat.kernels.kronecker import blocked, cost
from nanochat.registry import Operations


@torch.library.custom_op("mgr::product_sums", mutates_args=())
def _sums(left_query: Tensor, right_query: Tensor, left_key: Tensor, right_key: Tensor, values: Tensor) -> Tensor:
    return blocked.forward(left_query, right_query, left_key, right_key, values)


@_sums.register_fake
def _sums_shape(left_query: Tensor, right_query: Tensor, left_key: Tensor, right_key: Tensor, values: Tensor) -> Tensor:
    return values.new_empty(*left_query.shape[:3], values.shape[3])


@torch.library.custom_op("mgr::product_sums_backward", mutates_args=())
def _sums_backward(
    gradient: Tensor, left_query: Tensor, right_query: Tensor, left_key: Tensor, right_key: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    one, two, three, four, five = blocked.backward(gradient, left_query, right_query, left_key, right_key, values)
    return one, two, three, four, five


@_sums_backward.register_fake
def _sums_backward_shape(
    gradient: Tensor, left_query: Tensor, right_query: Tensor, left_key: Tensor, right_key: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    one, two, three, four, five = (x.new_empty(x.shape) for x in (left_query, right_query, left_key, right_key, values))
    return one, two, three, four, five


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _grad(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
    return _sums_backward(gradient, *ctx.saved_tensors)


_sums.register_autograd(_grad, setup_context=_save)


def _sizes(left_query: Tensor, right_query: Tensor, left_key: Tensor, values: Tensor) -> tuple[Any, ...]:
    batch, heads, length, left = left_query.shape
    return batch * heads, batch * left_key.shape[1], length, (left, right_query.shape[3]), values.shape[3]


def _count(args: tuple, kwargs: dict, result: Any) -> Operations:
    return cost.forward(*_sizes(args[0], args[1], args[2], args[4]))


def _count_backward(args: tuple, kwargs: dict, result: Any) -> Operations:
    return cost.backward(*_sizes(args[1], args[2], args[3], args[5]))


register("mgr::product_sums", _count)
register("mgr::product_sums_backward", _count_backward)


def product_sums(
    left_query: Float[Tensor, "B H T a"],
    right_query: Float[Tensor, "B H T b"],
    left_key: Float[Tensor, "B K T a"],
    right_key: Float[Tensor, "B K T b"],
    values: Float[Tensor, "B K T E"],
) -> Float[Tensor, "B H T E"]:
    r"""Sums of the values up to each query under a product of two inner products; exact, O(T a b E).

    .. math:: y_i = \sum_{j \le i} \langle l_i, l'_j \rangle \langle r_i, r'_j \rangle v_j
                  = (l_i \otimes r_i) \sum_{j \le i} (l'_j \otimes r'_j) v_j^T

    Args:
        left_query: l, first factor of the queries.
        right_query: r, second factor.
        left_key: l'; each of the K heads serves H / K query heads.
        right_key: r'.
        values: v.

    Raises:
        ValueError: shapes that do not fit together.

    Example:
        >>> one = torch.ones(1, 1, 3, 2)
        >>> product_sums(one, one, one, one, torch.ones(1, 1, 3, 1)).flatten()    # every pair weighs 2 times 2
        tensor([ 4.,  8., 12.])
    """
    queries, keys = left_query.shape[:3], values.shape[:3]
    fits = right_query.shape[:3] == queries and left_key.shape[:3] == right_key.shape[:3] == keys
    same = left_query.shape[3] == left_key.shape[3] and right_query.shape[3] == right_key.shape[3]
    if not fits or not same or queries[0] != keys[0] or queries[2] != keys[2] or queries[1] % keys[1]:
        shapes = (tuple(x.shape) for x in (left_query, right_query, left_key, right_key, values))
        raise ValueError(
            f"product sums: got {', '.join(map(str, shapes))}, "
            "need (B,H,T,a), (B,H,T,b), (B,K,T,a), (B,K,T,b), (B,K,T,E) with K dividing H"
        )
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    operands = (x.to(wide).contiguous() for x in (left_query, right_query, left_key, right_key, values))
    return _sums(*operands).to(values.dtype)
