r"""Tropical attention at finite beta (Maslov's dequantisation undone): every maximum becomes a log-sum-exp.

.. math:: \max_i x_i \;\to\; \tfrac1\beta \log \sum_i e^{\beta x_i}

beta scales inputs and outputs only, :math:`y^\beta(q, k, v) = \frac1\beta\, y^1(\beta q, \beta k, \beta v)`, so that
the operators ``mgr::maslov_*`` know beta = 1 alone. Computed in fp32 (fp64 for fp64 inputs), in tiles, never with
T x T x D numbers; a smooth function, of which the kernel gives the first derivatives.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.counter import register
from nanochat.kernels.maxplus import cost, maslov_blocked
from nanochat.kernels.maxplus.operators import _wide
from nanochat.registry import Operations


@torch.library.custom_op("mgr::maslov_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor, score: str) -> Tensor:
    return maslov_blocked.attention_forward(q.contiguous(), k.contiguous(), v.contiguous(), score)


@_attention.register_fake
def _attention_shape(q: Tensor, k: Tensor, v: Tensor, score: str) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("mgr::maslov_attention_backward", mutates_args=())
def _attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, score: str
) -> tuple[Tensor, Tensor, Tensor]:
    gradient, q, k, v = gradient.contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    return maslov_blocked.attention_backward(gradient, q, k, v, y, score)


@_attention_backward.register_fake
def _attention_backward_shape(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, score: str
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx, inputs, output) -> None:
    q, k, v, ctx.score = inputs
    ctx.save_for_backward(q, k, v, output)


def _grad(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_attention_backward(gradient, *ctx.saved_tensors, ctx.score), None


_attention.register_autograd(_grad, setup_context=_save)


@torch.library.custom_op("mgr::maslov_recurrence", mutates_args=())
def _recurrence(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return maslov_blocked.recurrence_forward(q, k, v, start)


@_recurrence.register_fake
def _recurrence_shape(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), start.new_empty(start.shape)


def attention(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    score: str,
    beta: float,
) -> Float[Tensor, "B H N D"]:
    """``naive.attention`` at this beta, in the type of ``v``; shapes as in ``operators.attention``.

    Example:
        >>> q = k = v = torch.zeros(1, 1, 2, 1)
        >>> attention(q, k, v, "maxplus", 1.0)[0, 0, :, 0]    # log 1, log 2
        tensor([0.0000, 0.6931])
    """
    return (_attention(beta * _wide(q), beta * _wide(k), beta * _wide(v), score) / beta).to(v.dtype)


@torch.no_grad()
def recurrence(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K T D"],
    v: Float[Tensor, "B K T D"],
    start: Float[Tensor, "B K D D"],
    beta: float,
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B K D D"]]:
    r"""The same for the ``maxplus`` score in time linear in T, for decoding: no gradient flows.

    .. math:: M_t = \tfrac1\beta\log(e^{\beta M_{t-1}} + e^{\beta(k_t + v_t^\top)}), \qquad
              y_{td} = \tfrac1\beta \log \sum_c e^{\beta(q_{tc} + M_{tcd})}

    Returns:
        y in the type of ``v``, and the last state.
    """
    y, last = _recurrence(beta * _wide(q), beta * _wide(k), beta * _wide(v), beta * start)
    return (y / beta).to(v.dtype), last / beta


def _charge(args: tuple, kwargs: dict, result: object) -> Operations:
    (batch, heads, queries, dim), keys = args[0].shape, args[1].shape[2]
    return Operations(elementwise=cost.maslov_forward(batch * heads, queries, keys, dim, args[3]))


def _charge_backward(args: tuple, kwargs: dict, result: object) -> Operations:
    (batch, heads, queries, dim), keys = args[0].shape, args[2].shape[2]
    return Operations(elementwise=cost.maslov_backward(batch * heads, queries, keys, dim, args[5]))


def _charge_recurrence(args: tuple, kwargs: dict, result: object) -> Operations:
    (batch, heads, length, dim), kv_heads = args[0].shape, args[1].shape[1]
    return Operations(elementwise=batch * cost.maslov_recurrence(heads, kv_heads, length, dim))


register("mgr::maslov_attention", _charge)
register("mgr::maslov_attention_backward", _charge_backward)
register("mgr::maslov_recurrence", _charge_recurrence)
