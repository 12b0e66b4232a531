"""The same as ``naive`` without pairs of tokens: products, units and turns along an axis, softmax over wide values.

Each function has its backward in closed form, made of differentiable operations: second derivatives exist.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nanochat.kernels.hypercomplex.table import generators, terms

DIMENSIONS = (4, 8)
_SIDES = ((False, False), (True, False), (False, True))
# Tables and not calls, because the compiler does not look behind a cache.
_TERMS = {(n, *sides): terms(n, *sides) for n in DIMENSIONS for sides in _SIDES}
_EXPANSION = {n: torch.tensor(generators(n), dtype=torch.float64).flatten(1).T.contiguous() for n in DIMENSIONS}
"""(n n, c): entry (row, column) of the matrix of each generator."""


def split(x: Float[Tensor, "... D"], n: int) -> Float[Tensor, "... n blocks"]:
    """A head as n components of D / n numbers; a view."""
    return x.unflatten(-1, (n, -1))


def _run(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """The function with its own backward; in a graph that is being compiled its forward, which the compiler derives.

    Every pass is fused there, so that a closed-form backward would gain nothing.
    """
    return function.forward(*inputs) if torch.compiler.is_compiling() else function.apply(*inputs)


def _products(a: Tensor, b: Tensor, first: bool, second: bool) -> Tensor:
    left, right = a.unbind(-2), b.unbind(-2)
    found = []
    for (one, other, sign), *rest in _TERMS[len(left), first, second]:
        assert sign > 0, "every component has a positive summand"
        total = left[one] * right[other]
        for one, other, sign in rest:
            total = torch.addcmul(total, left[one], right[other], value=sign)
        found.append(total)
    return torch.stack(found, -2)


class _Multiply(torch.autograd.Function):
    """a b, conj(a) b or a conj(b). Left and right multiplication are adjoint to those by the conjugate."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, first: bool, second: bool) -> Tensor:
        return _products(a, b, first, second)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.conjugated = inputs[2:]

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] torch types it loosely
        a, b = ctx.saved_tensors
        first, second = ctx.conjugated
        if first:  # <g, conj(a) b> = <a g, b> = <a, b conj(g)>
            return _products(b, gradient, False, True), _products(a, gradient, False, False), None, None
        if second:  # <g, a conj(b)> = <g b, a> = <conj(g) a, b>
            return _products(gradient, b, False, False), _products(gradient, a, True, False), None, None
        return _products(gradient, b, False, True), _products(a, gradient, True, False), None, None


def multiply(
    a: Float[Tensor, "... n blocks"], b: Float[Tensor, "... n blocks"], *, first: bool = False, second: bool = False
) -> Float[Tensor, "... n blocks"]:
    """Product of numbers whose components lie along the last axis but one; the first or second factor conjugated."""
    assert not (first and second), "conj(a) conj(b) is conj(b a)"
    return _run(_Multiply, a, b, first, second)


def _inverse_norm(x: Tensor, dim: int) -> Tensor:
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    squares = wide.square().sum(dim, keepdim=True)
    return (squares + torch.finfo(wide.dtype).tiny).rsqrt().to(x.dtype)


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        return x * _inverse_norm(x, dim)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.dim = inputs[1]

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] torch types it loosely
        (x,) = ctx.saved_tensors
        inverse = _inverse_norm(x, ctx.dim)
        unit = x * inverse
        along = (unit * gradient).sum(ctx.dim, keepdim=True)
        return torch.addcmul(gradient, unit, along, value=-1) * inverse, None


def unit(x: Tensor, dim: int = -2) -> Tensor:
    """x / |x| of the numbers along ``dim``, and 0 for 0; the norm is taken in fp32 at least."""
    return _run(_Unit, x, dim)


def turn(x: Tensor, rope: tuple[Tensor, Tensor], dim: int = -2) -> Tensor:
    r"""Multiply by the rotor of the position from the right: :math:`x_t \mapsto x_t \exp(t\,\theta_b\,e_{n/2})`.

    Number b of a head turns with frequency ``base^(-b / blocks)``: every (n/2)-th of the rotary table. Then
    :math:`(q_i p_i)\overline{(k_j p_j)} = q_i\,p_{i-j}\,\bar k_j`: scores and turns see i - j only.

    Args:
        x: (..., N, n, blocks), or the n components first with ``dim=0`` and (n, ..., N, blocks).
        rope: cosines and sines of the N positions, (N, D / 2).
    """
    n = x.shape[dim]
    cos, sin = (table[:, :: n // 2].to(x.dtype) for table in rope)
    if dim != 0:
        cos, sin = cos[:, None], sin[:, None]
    first, second = x.chunk(2, dim)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim)


def _wedge(k: Tensor, v: Tensor) -> Tensor:
    n = len(k)
    found = [(k * v).sum(0, keepdim=True)]
    for low in range(n - 1):
        found.append(torch.addcmul(k[low] * v[low + 1 :], v[low], k[low + 1 :], value=-1))
    return torch.cat(found)


class _Coordinates(torch.autograd.Function):
    @staticmethod
    def forward(k: Tensor, v: Tensor) -> Tensor:
        return _wedge(k, v)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] torch types it loosely
        k, v = ctx.saved_tensors
        gradient = gradient.contiguous()
        n, start = len(k), 1
        to_k, to_v = list((gradient[:1] * v).unbind(0)), list((gradient[:1] * k).unbind(0))
        for low in range(n - 1):
            rows = gradient[start : start + n - 1 - low]
            start += n - 1 - low
            to_k[low] = to_k[low] + (rows * v[low + 1 :]).sum(0)
            to_v[low] = to_v[low] - (rows * k[low + 1 :]).sum(0)
            for high in range(low + 1, n):
                row = rows[high - low - 1]
                to_k[high] = torch.addcmul(to_k[high], row, v[low], value=-1)
                to_v[high] = torch.addcmul(to_v[high], row, k[low])
        return torch.stack(to_k), torch.stack(to_v)


def coordinates(k: Float[Tensor, "n ..."], v: Float[Tensor, "n ..."]) -> Float[Tensor, "c ..."]:
    r"""Coordinates of the maps :math:`x \mapsto (x \bar k) v` in ``table.generators``: 1 + n (n - 1) / 2 of them."""
    return _run(_Coordinates, k, v)


def _matrices(a: Tensor, n: int) -> Tensor:
    """(n, n, ...): the matrices with these coordinates."""
    basis = _EXPANSION[n].to(a.device, a.dtype)
    return (basis @ a.flatten(1)).view(n, n, *a.shape[1:])


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, q: Tensor) -> Tensor:
        matrix = _matrices(a, len(q))
        total = matrix[:, 0] * q[0]
        for column in range(1, len(q)):
            total = torch.addcmul(total, matrix[:, column], q[column])
        return total

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride] torch types it loosely
        a, q = ctx.saved_tensors
        gradient = gradient.contiguous()
        n = len(q)
        matrix = _matrices(a, n)
        to_q = matrix[0] * gradient[0]
        for row in range(1, n):
            to_q = torch.addcmul(to_q, matrix[row], gradient[row])
        outer = (gradient[:, None] * q[None]).reshape(n * n, -1)
        return (_EXPANSION[n].to(a.device, a.dtype).T @ outer).view_as(a), to_q


def apply(a: Float[Tensor, "c ..."], q: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """The maps with coordinates ``a``, applied to q."""
    return _run(_Apply, a, q)


def causal_attention(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B K S D"], v: Float[Tensor, "B K S W"], scale: float
) -> Float[Tensor, "B H N W"]:
    """Softmax attention of the last N of S positions; values may be wider than keys.

    PyTorch's fused CPU kernel wants equal widths: where they differ, two matrix products and a softmax do it there.
    """
    (batch, heads, queries, dim), (kv_heads, keys) = q.shape, k.shape[1:3]
    groups = heads // kv_heads
    if v.shape[-1] == dim or q.is_cuda:
        whole = queries == keys
        mask = None if whole or queries == 1 else _visible(queries, keys, q.device)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=whole, scale=scale, enable_gqa=groups > 1
        )
    rows = q.reshape(batch * kv_heads, groups * queries, dim)
    hidden = torch.full((queries, keys), float("-inf"), dtype=q.dtype, device=q.device).triu(keys - queries + 1)
    scores = torch.baddbmm(hidden.repeat(groups, 1), rows, k.flatten(0, 1).transpose(1, 2), alpha=scale)
    mixed = torch.bmm(scores.softmax(-1).to(v.dtype), v.flatten(0, 1))
    return mixed.view(batch, heads, queries, v.shape[-1])


def _visible(queries: int, keys: int, device: torch.device) -> Tensor:
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    return torch.arange(keys, device=device)[None, :] <= query
