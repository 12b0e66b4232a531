"""2-simplicial attention as PyTorch operators ``mgr::*``: differentiable, opaque to the compiler, countable.

Values and gradients are computed in fp32 (fp64 for fp64 inputs) whatever the inputs are. The backward pass has no
derivative of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.counter import register
from nanochat.kernels.simplicial import blocked, cost
from nanochat.registry import Operations


@torch.library.custom_op("mgr::simplicial_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    second_k: Tensor,
    second_v: Tensor,
    w1: int,
    w2: int,
    form: str,
    slopes: list[float],
) -> tuple[Tensor, Tensor]:
    return blocked.forward(q, k, v, second_k, second_v, (w1, w2), form, slopes)


@_attention.register_fake
def _attention_shape(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    second_k: Tensor,
    second_v: Tensor,
    w1: int,
    w2: int,
    form: str,
    slopes: list[float],
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1])


@torch.library.custom_op("mgr::simplicial_attention_backward", mutates_args=())
def _attention_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    second_k: Tensor,
    second_v: Tensor,
    out: Tensor,
    normaliser: Tensor,
    w1: int,
    w2: int,
    form: str,
    slopes: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (q, k, v, second_k, second_v)
    return blocked.backward(gradient, inputs, out, normaliser, (w1, w2), form, slopes)


@_attention_backward.register_fake
def _attention_backward_shape(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    second_k: Tensor,
    second_v: Tensor,
    out: Tensor,
    normaliser: Tensor,
    w1: int,
    w2: int,
    form: str,
    slopes: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    like_q, like_k, like_v, like_second_k, like_second_v = (x.new_empty(x.shape) for x in (q, k, v, second_k, second_v))
    return like_q, like_k, like_v, like_second_k, like_second_v


def _save(ctx, inputs, output) -> None:
    ctx.options = inputs[5:]
    ctx.save_for_backward(*inputs[:5], *output)


def _gradients(ctx, gradient: Tensor, _normaliser: None) -> tuple[Tensor | None, ...]:
    return *_attention_backward(gradient, *ctx.saved_tensors, *ctx.options), None, None, None, None


_attention.register_autograd(_gradients, setup_context=_save)


def _counts(args: tuple) -> tuple[int, int, int, tuple[int, int], str, bool]:
    """What the cost formulas take, from the operands of the forward operator."""
    (batch, heads, queries, dim), keys, second_keys = args[0].shape, args[1].shape[2], args[3].shape[2]
    w1, w2, form, slopes = args[-4:]
    return batch * heads, queries, dim, cost.triples(queries, keys, w1, second_keys, w2), form, bool(slopes)


def _count_forward(args: tuple, kwargs: dict, result: Any) -> Operations:
    return cost.forward(*_counts(args))


def _count_backward(args: tuple, kwargs: dict, result: Any) -> Operations:
    return cost.backward(*_counts(args[1:]))


register("mgr::simplicial_attention", _count_forward)
register("mgr::simplicial_attention_backward", _count_backward)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


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
    r"""2-simplicial attention, a softmax over pairs of keys.

    .. math:: y_i = \sum_{j,l} \mathrm{softmax}_{j,l}\bigl(\langle q_i, k_j, k'_l \rangle / \sqrt D
        - m\,((i-j) + (i-l))\bigr)\, v_j \circ v'_l

    Args:
        q: queries, the last N of the S positions and of the R.
        k: keys; each of the K heads serves H / K query heads. Positions before the first do not exist.
        v: values.
        second_k: second keys k'.
        second_v: second values v'.
        window: (w1, w2), how many of the latest keys and second keys a query sees.
        form: ``trilinear`` or ``determinant``, see ``naive.form_of``.
        slopes: distance penalty m of each of the H heads; none if empty.

    Returns:
        y (B, H, N, D) in the type of ``v``.

    Raises:
        ValueError: shapes that do not fit together, an empty window, an unknown form.

    Example:
        >>> q = k = v = torch.ones(1, 2, 5, 4)
        >>> attention(q, k, v, k, v, (4, 2)).mean()
        tensor(1.)
    """
    if form not in cost.FORMS or min(window) < 1 or len(slopes) not in (0, q.shape[1]):
        raise ValueError(
            f"simplicial attention: got form {form!r}, window {window}, {len(slopes)} slopes, "
            f"need one of {cost.FORMS}, two positive sizes, one slope per head or none"
        )
    same = k.shape == v.shape and second_k.shape == second_v.shape and k.shape[:2] == second_k.shape[:2]
    enough = q.shape[2] <= min(k.shape[2], second_k.shape[2])
    if not same or not enough or q.shape[1] % k.shape[1] or not q.shape[3] == k.shape[3] == second_k.shape[3]:
        raise ValueError(
            f"simplicial attention: got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, "
            f"second k {tuple(second_k.shape)}, second v {tuple(second_v.shape)}, "
            "need (B,H,N,D), twice (B,K,S,D), twice (B,K,R,D) with N <= S, N <= R and K dividing H"
        )
    wide = [_wide(x) for x in (q, k, v, second_k, second_v)]
    w1, w2 = min(window[0], k.shape[2]), min(window[1], second_k.shape[2])  # no block meets more than there is
    return _attention(*wide, w1, w2, form, list(slopes))[0].to(v.dtype)
