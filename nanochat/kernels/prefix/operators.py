"""Ball sums as PyTorch operators ``mgr::ball_sums*``: differentiable, opaque to the compiler, countable.

The C++ kernel runs where a compiler works, the blocked PyTorch one elsewhere; they agree up to the order of sums.
Computed in fp32 (fp64 for fp64 inputs) whatever the inputs are.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanochat.counter import register
from nanochat.kernels.prefix import blocked, cost
from nanochat.registry import Operations

BACKENDS = ("auto", "cpp", "torch")


def _native(x: Tensor, backend: str) -> bool:
    """Whether the C++ kernel takes this tensor."""
    if backend == "torch" or x.device.type != "cpu":
        return False
    from nanochat.kernels.prefix import cpu

    return cpu.require() if backend == "cpp" else cpu.available()


@torch.library.custom_op("mgr::ball_sums", mutates_args=())
def _sums(
    query_codes: Tensor,
    key_codes: Tensor,
    query_weights: Tensor,
    key_weights: Tensor,
    values: Tensor,
    base: int,
    backend: str,
) -> Tensor:
    form = torch.ops.mgr_prefix.forward if _native(values, backend) else blocked.forward
    return form(query_codes, key_codes, query_weights, key_weights, values, base)


@_sums.register_fake
def _sums_shape(
    query_codes: Tensor,
    key_codes: Tensor,
    query_weights: Tensor,
    key_weights: Tensor,
    values: Tensor,
    base: int,
    backend: str,
) -> Tensor:
    return values.new_empty(*query_codes.shape, values.shape[-1])


@torch.library.custom_op("mgr::ball_sums_backward", mutates_args=())
def _sums_backward(
    gradient: Tensor,
    query_codes: Tensor,
    key_codes: Tensor,
    query_weights: Tensor,
    key_weights: Tensor,
    values: Tensor,
    base: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    form = torch.ops.mgr_prefix.backward if _native(values, backend) else blocked.backward
    return form(gradient.contiguous(), query_codes, key_codes, query_weights, key_weights, values, base)


@_sums_backward.register_fake
def _sums_backward_shape(
    gradient: Tensor,
    query_codes: Tensor,
    key_codes: Tensor,
    query_weights: Tensor,
    key_weights: Tensor,
    values: Tensor,
    base: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    a, b, v = (x.new_empty(x.shape) for x in (query_weights, key_weights, values))
    return a, b, v


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.base, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _grad(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return None, None, *_sums_backward(gradient, *ctx.saved_tensors, ctx.base, ctx.backend), None, None


_sums.register_autograd(_grad, setup_context=_save)


def _sizes(query_codes: Tensor, key_codes: Tensor, query_weights: Tensor, values: Tensor) -> tuple[int, ...]:
    batch, heads, length = query_codes.shape
    return batch * heads, batch * key_codes.shape[1], length, query_weights.shape[-1], values.shape[-1]


def _count(args: tuple, kwargs: dict, result: Any) -> Operations:
    return Operations(elementwise=cost.forward(*_sizes(args[0], args[1], args[2], args[4])))


def _count_backward(args: tuple, kwargs: dict, result: Any) -> Operations:
    return Operations(elementwise=cost.backward(*_sizes(args[1], args[2], args[3], args[5])))


register("mgr::ball_sums", _count)
register("mgr::ball_sums_backward", _count_backward)


def ball_sums(
    query_codes: Int[Tensor, "B H T"],
    key_codes: Int[Tensor, "B K T"],
    query_weights: Float[Tensor, "B H T levels"],
    key_weights: Float[Tensor, "B K T levels"],
    values: Float[Tensor, "B K T D"],
    base: int,
    backend: str = "auto",
) -> Float[Tensor, "B H T D"]:
    r"""Per query, the weighted sums of the values in its nested balls, up to itself; exact, O(T L D).

    .. math:: y_i = \sum_l a_{il} \sum_{j \le i} b_{jl}\, [\text{first } l \text{ digits of } i, j \text{ equal}]\, v_j

    Args:
        query_codes: digit strings as integers, the first of the ``levels - 1`` digits weighing most.
        key_codes: the same for keys; each of the K heads serves H / K query heads.
        query_weights: a, one per level; level 0 is the whole space.
        key_weights: b.
        values: v.
        base: p, symbols per digit.
        backend: ``auto``, ``cpp`` (raises where it cannot be built) or ``torch``.

    Raises:
        ValueError: shapes that do not fit together, unknown backend.

    Example:
        >>> codes, one = torch.tensor([[[0, 3, 0]]]), torch.ones(1, 1, 3, 3)
        >>> ball_sums(codes, codes, one, one, torch.ones(1, 1, 3, 1), base=2).flatten()    # 3 levels shared with itself
        tensor([3., 4., 7.])
    """
    if backend not in BACKENDS:
        raise ValueError(f"ball sums: got backend {backend!r}, need one of {BACKENDS}")
    heads, kv_heads = query_codes.shape[1], key_codes.shape[1]
    fits = query_weights.shape[:3] == query_codes.shape and key_weights.shape[:3] == key_codes.shape
    if not fits or values.shape[:3] != key_codes.shape or heads % kv_heads or query_codes.shape[2] != values.shape[2]:
        raise ValueError(
            f"ball sums: got queries {tuple(query_weights.shape)}, keys {tuple(key_weights.shape)}, "
            f"values {tuple(values.shape)}, need (B,H,T,L), (B,K,T,L), (B,K,T,D) with K dividing H"
        )
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    a, b, v = (x.to(wide).contiguous() for x in (query_weights, key_weights, values))
    return _sums(query_codes.contiguous(), key_codes.contiguous(), a, b, v, base, backend).to(values.dtype)
