"""Prefix products and turns in plain PyTorch, with gradients in closed form: for every device, and without a compiler.

The prefix is cut into about sqrt(T) chunks of sqrt(T) tokens: one loop over the places in a chunk, all chunks at once,
one loop over the chunks, and one product that joins them. Its gradient has no chain: for unit quaternions

    dL/dg_t = conj(P_{t-1}) [sum_{s >= t} G_s conj(P_s)] P_t,     G_s = dL/dP_s,

since P_s = P_{t-1} g_t (conj(P_t) P_s) and the adjoint of multiplying by a unit is multiplying by its conjugate.
"""

from __future__ import annotations

from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.kernels.scan.cost import LANES, size_of
from nanochat.kernels.scan.naive import TINY, conjugate, identity, inverse_frame, normalise, product, sides, turn

_INDEX = (0, 1, 2, 3, 1, 0, 3, 2, 2, 3, 0, 1, 3, 2, 1, 0)
_SIGN = (1, 1, 1, 1, -1, 1, -1, 1, -1, 1, 1, -1, -1, -1, 1, 1)


def _right(b: Float[Tensor, "... 4 L"]) -> Float[Tensor, "... 4 4 L"]:
    """The matrix (row a, column c) by which multiplying with b from the right acts on components."""
    sign = torch.tensor(_SIGN, dtype=b.dtype, device=b.device)[:, None]
    return (b[..., list(_INDEX), :] * sign).unflatten(-2, (4, 4))


def prefix_forward(raw: Float[Tensor, "B K T 4 L"], start: Float[Tensor, "B K 4 L"]) -> Float[Tensor, "B K T 4 L"]:
    """See :func:`nanochat.kernels.scan.naive.prefix`."""
    unit, length = normalise(raw), raw.shape[2]
    width = isqrt(length - 1) + 1
    chunks = -(-length // width)
    if chunks * width > length:
        unit = torch.cat((unit, identity(unit[:, :, : chunks * width - length])), 2)
    unit = unit.unflatten(2, (chunks, width))
    factors, inside = _right(unit), [unit[:, :, :, 0]]
    for place in range(1, width):
        inside.append((inside[-1].unsqueeze(-2) * factors[:, :, :, place]).sum(-3))
    local = torch.stack(inside, 3)
    carries = [start]
    for chunk in range(chunks - 1):
        carries.append(product(carries[-1], local[:, :, chunk, -1]))
    return product(torch.stack(carries, 2).unsqueeze(3), local).flatten(2, 3)[:, :, :length].contiguous()


def prefix_backward(gradient: Tensor, raw: Tensor, frames: Tensor, start: Tensor) -> Float[Tensor, "B K T 4 L"]:
    """Gradient of the raw quaternions; 0 where one has no direction."""
    before = torch.cat((start.unsqueeze(2), frames[:, :, :-1]), 2)
    ahead = product(gradient, conjugate(frames)).flip(2).cumsum(2).flip(2)
    of_unit = product(product(conjugate(before), ahead), frames)
    square = raw.square().sum(-2, keepdim=True)
    scale = torch.where(square > TINY, torch.where(square > TINY, square, 1.0).rsqrt(), 0.0)
    unit = raw * scale
    return (of_unit - unit * (unit * of_unit).sum(-2, keepdim=True)) * scale


turn_forward = turn
"""The definition of the turn is already free of loops."""


def turn_backward(
    gradient: Float[Tensor, "B H T D"],
    frame: Float[Tensor, "B K T c L"],
    x: Float[Tensor, "B H T D"],
    group: str,
    inverse: bool,
) -> tuple[Float[Tensor, "B K T c L"], Float[Tensor, "B H T D"]]:
    """Gradients of the frame, summed over the heads that share it, and of what was turned."""
    size, blocks = size_of(group, frame.shape[-2]), frame.shape[-1] // LANES[group]
    g, x = (
        each[..., : size * blocks].unflatten(-1, (size, blocks)).unflatten(1, (frame.shape[1], -1))
        for each in (gradient, x)
    )
    acting = (inverse_frame(frame, group) if inverse else frame).unsqueeze(2)
    if group == "u1":
        (cos, sin), (a, b), (ga, gb) = acting.unbind(-2), x.unbind(-2), g.unbind(-2)
        of_frame = torch.stack((ga * a + gb * b, gb * a - ga * b), -2)
        of_x = torch.stack((ga * cos + gb * sin, gb * cos - ga * sin), -2)
    elif group == "so":
        of_frame = (g.unsqueeze(-2) * x.unsqueeze(-3)).flatten(-3, -2)
        of_x = (acting.unflatten(-2, (size, size)) * g.unsqueeze(-2)).sum(-3)
    else:
        of_frame, of_x = _quaternion_turn_backward(g, acting, x, group)
    of_frame = of_frame.sum(2)
    of_frame = inverse_frame(of_frame, group) if inverse else of_frame
    return of_frame, torch.cat((of_x.flatten(-2).flatten(1, 2), gradient[..., size * blocks :]), -1)


def _quaternion_turn_backward(g: Tensor, acting: Tensor, x: Tensor, group: str) -> tuple[Tensor, Tensor]:
    """Of y = l x conj(r): dl = g r conj(x), dr = conj(g) l x, dx = conj(l) g r."""
    left, right = sides(acting, group)
    if group == "so3":
        g, x = (torch.cat((torch.zeros_like(each[..., :1, :]), each), -2) for each in (g, x))
    pulled = product(g, right)
    of_left = product(pulled, conjugate(x))
    of_right = product(conjugate(g), product(left, x))
    of_x = product(conjugate(left), pulled)
    if group == "so3":
        return of_left + of_right, of_x[..., 1:, :]
    return torch.cat((of_left, of_right), -1), of_x
