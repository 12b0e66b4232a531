r"""Tropical attention with the ``maxplus`` score in time linear in T: operator ``mgr::tropical_recurrence``.

Max-plus products are associative: :math:`y_t = q_t \otimes (K^\top \otimes V)_{\le t}`, whose right factor is a state
of D x D. The C++ kernel runs where a compiler works, the chunked PyTorch one elsewhere. Values and gradients are
computed in fp32 (fp64 for fp64 inputs) whatever the inputs are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.counter import register
from nanochat.kernels.maxplus import chunked, cost
from nanochat.kernels.maxplus.operators import BACKENDS, _native, _wide
from nanochat.registry import Operations

LARGEST = 2**31
"""Winners are 32-bit numbers below T D."""


@torch.library.custom_op("mgr::tropical_recurrence", mutates_args=())
def _recurrence(
    q: Tensor, k: Tensor, v: Tensor, start: Tensor, track: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, start = q.contiguous(), k.contiguous(), v.contiguous(), start.contiguous()
    if _native(q, backend):
        return torch.ops.mgr_maxplus.recurrence_forward(q, k, v, start, track)
    return chunked.recurrence_forward(q, k, v, start, track)


@_recurrence.register_fake
def _recurrence_shape(
    q: Tensor, k: Tensor, v: Tensor, start: Tensor, track: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    winners = torch.empty(q.shape if track else (0,), dtype=torch.int32, device=q.device)
    return q.new_empty(q.shape), winners, start.new_empty(start.shape)


@torch.library.custom_op("mgr::tropical_recurrence_backward", mutates_args=())
def _recurrence_backward(
    gradient: Tensor, winners: Tensor, kv_heads: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    gradient = gradient.contiguous()
    if _native(gradient, backend):
        return torch.ops.mgr_maxplus.recurrence_backward(gradient, winners, kv_heads)
    return chunked.recurrence_backward(gradient, winners, kv_heads)


@_recurrence_backward.register_fake
def _recurrence_backward_shape(
    gradient: Tensor, winners: Tensor, kv_heads: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, length, dim = gradient.shape
    shape = (batch, kv_heads, length, dim)
    return gradient.new_empty(gradient.shape), gradient.new_empty(shape), gradient.new_empty(shape)


def _save(ctx, inputs, output) -> None:
    _, k, _, _, _, ctx.backend = inputs
    ctx.kv_heads = k.shape[1]
    ctx.save_for_backward(output[1])


def _grad(ctx, gradient: Tensor, _winners: None, _last: Tensor) -> tuple[Tensor | None, ...]:
    (winners,) = ctx.saved_tensors
    return *_recurrence_backward(gradient, winners, ctx.kv_heads, ctx.backend), None, None, None


_recurrence.register_autograd(_grad, setup_context=_save)


@torch.library.custom_op("mgr::tropical_recurrence_tangent", mutates_args=())
def _recurrence_tangent(dq: Tensor, dk: Tensor, dv: Tensor, winners: Tensor) -> Tensor:
    return chunked.recurrence_tangent(dq, dk, dv, winners)


@_recurrence_tangent.register_fake
def _recurrence_tangent_shape(dq: Tensor, dk: Tensor, dv: Tensor, winners: Tensor) -> Tensor:
    return dq.new_empty(dq.shape)


def _backward_save(ctx, inputs, output) -> None:
    _, winners, _, _ = inputs
    ctx.save_for_backward(winners)


def _backward_grad(ctx, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass is linear in its gradient: its own gradient reads where it wrote."""
    (winners,) = ctx.saved_tensors
    return _recurrence_tangent(dq, dk, dv, winners), None, None, None


_recurrence_backward.register_autograd(_backward_grad, setup_context=_backward_save)


def empty_state(k: Float[Tensor, "B K T D"]) -> Float[Tensor, "B K D D"]:
    """The state before the first token: the zero of the semiring everywhere."""
    batch, heads, _, dim = k.shape
    return _wide(k).new_full((batch, heads, dim, dim), float("-inf"))


def recurrence_with_winners(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K T D"],
    v: Float[Tensor, "B K T D"],
    start: Float[Tensor, "B K D D"] | None = None,
    backend: str = "auto",
    track: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Tropical attention with the ``maxplus`` score, token by token.

    .. math:: M_t = \max(M_{t-1}, k_t + v_t^\top), \qquad y_{td} = \max_c (q_{tc} + M_{tcd})

    The function is that of ``operators.attention(q, k, v, "maxplus")``, gradients and the first of equals included. It
    adds in another order, (k + v) + q, so that values agree up to rounding, and near-ties may fall the other way.

    Args:
        q: queries.
        k: keys; each of the K heads serves H / K query heads.
        v: values.
        start: the state that earlier tokens left; that of no token if not given. A state, not a parameter: no gradient
            flows into it.
        backend: ``auto``, ``cpp`` (raises where it cannot be built) or ``torch``.
        track: keep winners, which a backward pass needs.

    Returns:
        y (B, H, T, D) in the type of ``v``; winners (B, H, T, D) int32, each j D + c for token j and channel c,
        negative where the start won, empty without ``track``; and the last state, detached.

    Raises:
        ValueError: shapes that do not fit together, too many tokens, unknown backend, a start that wants a gradient.

    Example:
        >>> q = k = v = torch.zeros(1, 1, 3, 2)
        >>> recurrence_with_winners(q, k, v)[1][0, 0]    # all are equal, the first token's first channel wins
        tensor([[0, 0],
                [0, 0],
                [0, 0]], dtype=torch.int32)
    """
    start = empty_state(k) if start is None else start
    (batch, heads, length, dim), shape = q.shape, k.shape
    fits = shape == v.shape == (batch, shape[1], length, dim) and heads % shape[1] == 0
    if not fits or start.shape != (batch, shape[1], dim, dim) or not 0 < length * dim < LARGEST:
        raise ValueError(
            f"tropical recurrence: got q {tuple(q.shape)}, k {tuple(shape)}, v {tuple(v.shape)}, start "
            f"{tuple(start.shape)}, need (B,H,T,D), (B,K,T,D) twice, (B,K,D,D) with K dividing H, 0 < T D < 2^31"
        )
    if backend not in BACKENDS or start.requires_grad:
        raise ValueError(f"tropical recurrence: got backend {backend!r}, need one of {BACKENDS} and a detached start")
    q, k, values = _wide(q), _wide(k), _wide(v)
    y, winners, last = _recurrence(q, k, values, start.to(q.dtype), track, backend)
    return y.to(v.dtype), winners, last.detach()


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, start: Tensor | None = None, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Outputs and last state of :func:`recurrence_with_winners`; winners are kept where a gradient is wanted."""
    track = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    y, _, last = recurrence_with_winners(q, k, v, start, backend, track)
    return y, last


def _charge(args: tuple, kwargs: dict, result: object) -> Operations:
    (batch, heads, length, dim), kv_heads = args[0].shape, args[1].shape[1]
    return Operations(semiring=batch * cost.recurrence_forward(heads, kv_heads, length, dim))


def _charge_backward(args: tuple, kwargs: dict, result: object) -> Operations:
    batch, heads, length, dim = args[0].shape
    return Operations(semiring=batch * cost.recurrence_backward(heads, length, dim))


def _charge_tangent(args: tuple, kwargs: dict, result: object) -> Operations:
    batch, heads, length, dim = args[0].shape
    return Operations(semiring=batch * cost.recurrence_tangent(heads, length, dim))


register("mgr::tropical_recurrence", _charge)
register("mgr::tropical_recurrence_backward", _charge_backward)
register("mgr::tropical_recurrence_tangent", _charge_tangent)
