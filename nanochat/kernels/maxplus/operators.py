"""Max-plus attention and product as PyTorch operators ``mgr::*``: differentiable, opaque to the compiler, countable.

The C++ kernel runs where a compiler works, the blocked PyTorch one elsewhere; both give the same bits, up to the order
of sums in the gradients. Values and gradients are computed in fp32 (fp64 for fp64 inputs) whatever the inputs are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.kernels.maxplus import blocked
from nanochat.kernels.maxplus.cost import SCORES

BACKENDS = ("auto", "cpp", "torch")


def _native(x: Tensor, backend: str) -> bool:
    """Whether the C++ kernel takes this tensor."""
    if backend == "torch" or x.device.type != "cpu":
        return False
    from nanochat.kernels.maxplus import cpu

    return cpu.require() if backend == "cpp" else cpu.available()


@torch.library.custom_op("mgr::tropical_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor, score: str, backend: str) -> tuple[Tensor, Tensor]:
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    if _native(q, backend):
        return torch.ops.mgr_maxplus.attention_forward(q, k, v, score == "hilbert")
    return blocked.attention_forward(q, k, v, score)


@_attention.register_fake
def _attention_shape(q: Tensor, k: Tensor, v: Tensor, score: str, backend: str) -> tuple[Tensor, Tensor]:
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    return out, torch.empty(q.shape, dtype=torch.int32, device=q.device)


@torch.library.custom_op("mgr::tropical_attention_backward", mutates_args=())
def _attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, winners: Tensor, score: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    gradient, q, k, v = gradient.contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    if _native(q, backend):
        return torch.ops.mgr_maxplus.attention_backward(gradient, q, k, v, winners, score == "hilbert")
    return blocked.attention_backward(gradient, q, k, v, winners, score)


@_attention_backward.register_fake
def _attention_backward_shape(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, winners: Tensor, score: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    like_q, like_k, like_v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return like_q, like_k, like_v


@torch.library.custom_op("mgr::tropical_attention_tangent", mutates_args=())
def _attention_tangent(q: Tensor, k: Tensor, winners: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, score: str) -> Tensor:
    return blocked.attention_tangent(q.contiguous(), k, winners, dq.contiguous(), dk, dv, score)


@_attention_tangent.register_fake
def _attention_tangent_shape(
    q: Tensor, k: Tensor, winners: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, score: str
) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _backward_save(ctx, inputs, output) -> None:
    _, q, k, _, winners, ctx.score, _ = inputs
    ctx.save_for_backward(q, k, winners)


def _backward_grad(ctx, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass is linear in its gradient; it depends on q, k, v through winners only, so almost nowhere."""
    q, k, winners = ctx.saved_tensors
    return _attention_tangent(q, k, winners, dq, dk, dv, ctx.score), None, None, None, None, None, None


_attention_backward.register_autograd(_backward_grad, setup_context=_backward_save)


def _attention_save(ctx, inputs, output) -> None:
    q, k, v, ctx.score, ctx.backend = inputs
    ctx.save_for_backward(q, k, v, output[1])


def _attention_grad(ctx, gradient: Tensor, _winners: None) -> tuple[Tensor | None, ...]:
    q, k, v, winners = ctx.saved_tensors
    return *_attention_backward(gradient, q, k, v, winners, ctx.score, ctx.backend), None, None


_attention.register_autograd(_attention_grad, setup_context=_attention_save)


@torch.library.custom_op("mgr::maxplus_matmul", mutates_args=())
def _matmul(a: Tensor, b: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    a, b = a.contiguous(), b.contiguous()
    if _native(a, backend):
        return torch.ops.mgr_maxplus.matmul_forward(a, b)
    return blocked.matmul_forward(a, b)


@_matmul.register_fake
def _matmul_shape(a: Tensor, b: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    shape = (a.shape[0], a.shape[1], b.shape[2])
    out = torch.empty(shape, dtype=a.dtype, device=a.device)
    return out, torch.empty(shape, dtype=torch.int32, device=a.device)


@torch.library.custom_op("mgr::maxplus_matmul_backward", mutates_args=())
def _matmul_backward(gradient: Tensor, winners: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    return blocked.matmul_backward(gradient, winners, inner)


@_matmul_backward.register_fake
def _matmul_backward_shape(gradient: Tensor, winners: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    batch, rows, columns = gradient.shape
    return gradient.new_empty(batch, rows, inner), gradient.new_empty(batch, inner, columns)


def _matmul_save(ctx, inputs, output) -> None:
    a, _, _ = inputs
    ctx.inner = a.shape[2]
    ctx.save_for_backward(output[1])


def _matmul_grad(ctx, gradient: Tensor, _winners: None) -> tuple[Tensor | None, ...]:
    return *_matmul_backward(gradient, ctx.saved_tensors[0], ctx.inner), None


_matmul.register_autograd(_matmul_grad, setup_context=_matmul_save)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def attention_with_winners(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    score: str = "hilbert",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Tropical attention and, per output channel, the key that won it.

    .. math:: y_{id} = \max_{j \le i} (s_{ij} + v_{jd})

    Args:
        q: queries, the last N of the S positions.
        k: keys; each of the K heads serves H / K query heads.
        v: values.
        score: ``hilbert`` or ``maxplus``, see ``naive.scores``.
        backend: ``auto``, ``cpp`` (raises where it cannot be built) or ``torch``.

    Returns:
        y (B, H, N, D) in the type of ``v``, and winners (B, H, N, D) int32; the first of equals wins.

    Raises:
        ValueError: shapes that do not fit together, unknown score or backend.

    Example:
        >>> q = k = v = torch.randn(1, 2, 5, 4)
        >>> attention_with_winners(q, k, v)[1][0, 0, 0]    # the first token sees only itself
        tensor([0, 0, 0, 0], dtype=torch.int32)
    """
    if score not in SCORES or backend not in BACKENDS:
        raise ValueError(f"tropical attention: got score {score!r}, backend {backend!r}, need {SCORES}, {BACKENDS}")
    if k.shape != v.shape or q.shape[1] % k.shape[1] or q.shape[2] > k.shape[2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"tropical attention: got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, "
            "need (B,H,N,D), (B,K,S,D), (B,K,S,D) with N <= S and K dividing H"
        )
    y, winners = _attention(_wide(q), _wide(k), _wide(v), score, backend)
    return y.to(v.dtype), winners


def attention(q: Tensor, k: Tensor, v: Tensor, score: str = "hilbert", backend: str = "auto") -> Tensor:
    """The outputs of :func:`attention_with_winners`. Source: arXiv:2505.17190."""
    return attention_with_winners(q, k, v, score, backend)[0]


def matmul_with_winners(
    a: Float[Tensor, "... M K"], b: Float[Tensor, "... K N"], backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""Max-plus product :math:`C_{ij} = \max_k (A_{ik} + B_{kj})` and the k that wins, over broadcast batches.

    Raises:
        ValueError: inner sizes that differ or are 0.

    Example:
        >>> identity = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
        >>> matmul_with_winners(identity, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))[0]
        tensor([[1., 2.],
                [3., 4.]])
    """
    if a.shape[-1] != b.shape[-2] or a.shape[-1] == 0:
        raise ValueError(f"max-plus product: got {tuple(a.shape)} and {tuple(b.shape)}, need (M,K) and (K,N), K > 0")
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = _wide(a).expand(*batch, *a.shape[-2:]).reshape(-1, *a.shape[-2:])
    right = _wide(b).expand(*batch, *b.shape[-2:]).reshape(-1, *b.shape[-2:])
    c, winners = _matmul(left, right, backend)
    shape = (*batch, a.shape[-2], b.shape[-1])
    return c.view(shape).to(a.dtype), winners.view(shape)


def matmul(a: Tensor, b: Tensor, backend: str = "auto") -> Tensor:
    """The product alone, see :func:`matmul_with_winners`."""
    return matmul_with_winners(a, b, backend)[0]
