"""Prefix products of rotations and the turn of blocks: the executable definition, slow and differentiable.

Quaternions are kept as structures of arrays: component (real, i, j, k) before lane, so that one instruction serves many
lanes; so are n x n matrices, row before column. Letters: B batch, K frame heads, H heads that share them, T tokens, L
lanes, n blocks per head.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.kernels.scan.cost import LANES, size_of

TINY = 1e-30
"""Square norm up to which a quaternion has no direction and stands for the identity."""


def product(a: Float[Tensor, "... 4 L"], b: Float[Tensor, "... 4 L"]) -> Float[Tensor, "... 4 L"]:
    """Hamilton product, lane by lane."""
    a0, a1, a2, a3 = a.unbind(-2)
    b0, b1, b2, b3 = b.unbind(-2)
    return torch.stack(
        (
            a0 * b0 - a1 * b1 - a2 * b2 - a3 * b3,
            a0 * b1 + a1 * b0 + a2 * b3 - a3 * b2,
            a0 * b2 - a1 * b3 + a2 * b0 + a3 * b1,
            a0 * b3 + a1 * b2 - a2 * b1 + a3 * b0,
        ),
        -2,
    )


def conjugate(a: Float[Tensor, "... 4 L"]) -> Float[Tensor, "... 4 L"]:
    """The real part kept, the imaginary ones negated: the inverse of a unit quaternion."""
    return torch.cat((a[..., :1, :], -a[..., 1:, :]), -2)


def identity(like: Float[Tensor, "... 4 L"]) -> Float[Tensor, "... 4 L"]:
    """The quaternion 1, in the shape of ``like``."""
    one = torch.zeros_like(like)
    one[..., 0, :] = 1
    return one


def normalise(raw: Float[Tensor, "... 4 L"]) -> Float[Tensor, "... 4 L"]:
    """The unit quaternion in the direction of ``raw``; 1 where there is none."""
    square = raw.square().sum(-2, keepdim=True)
    directed = square > TINY
    return torch.where(directed, raw * torch.where(directed, square, 1.0).rsqrt(), identity(raw))


def prefix(raw: Float[Tensor, "B K T 4 L"], start: Float[Tensor, "B K 4 L"]) -> Float[Tensor, "B K T 4 L"]:
    r""":math:`P_t = P_0\, g_1 \cdots g_t` with :math:`g_t = r_t / |r_t|`, one factor after the other."""
    frames, last = [], start
    for factor in normalise(raw).unbind(2):
        last = product(last, factor)
        frames.append(last)
    return torch.stack(frames, 2)


def skew(raw: Float[Tensor, "... m L"], size: int) -> Float[Tensor, "... s s L"]:
    r"""Skew matrices with :math:`A_{ba} = -A_{ab} = r_{ab} / \sqrt n`, a < b, for the n (n - 1) / 2 pairs in order.

    The scale gives the angles of independent N(0, 1) numbers the same spread for every n.
    """
    rows, columns = torch.triu_indices(size, size, 1, device=raw.device)
    found = raw.new_zeros(*raw.shape[:-2], size, size, raw.shape[-1])
    scaled = raw * size**-0.5
    found[..., columns, rows, :] = scaled
    found[..., rows, columns, :] = -scaled
    return found


def cayley(raw: Float[Tensor, "... m L"], size: int) -> Float[Tensor, "... s s L"]:
    r"""Rotations :math:`(1 - A)^{-1} (1 + A)` of skew matrices, by a linear solve: all without a half turn."""
    generator = skew(raw, size).movedim(-1, -3)
    one = torch.eye(size, dtype=raw.dtype, device=raw.device)
    return torch.linalg.solve(one - generator, one + generator).movedim(-3, -1)


def matrix_prefix(
    raw: Float[Tensor, "B K T m L"], start: Float[Tensor, "B K c L"], size: int
) -> Float[Tensor, "B K T c L"]:
    r""":math:`P_t = P_0\, g_1 \cdots g_t` with :math:`g_t` = :func:`cayley` of what token t emits; c = n^2."""
    frames, last = [], start.unflatten(-2, (size, size))
    for factor in cayley(raw, size).unbind(2):
        last = torch.einsum("bkacl,bkcdl->bkadl", last, factor)
        frames.append(last)
    return torch.stack(frames, 2).flatten(-3, -2)


def matrix_identity(like: Float[Tensor, "... c L"]) -> Float[Tensor, "... c L"]:
    """The matrix 1, in the shape of ``like``, c = n^2."""
    one = torch.zeros_like(like)
    one[..., :: size_of("so", like.shape[-2]) + 1, :] = 1
    return one


def sides(frame: Tensor, group: str) -> tuple[Tensor, Tensor]:
    """The quaternions that stand left and, conjugated, right of what they turn."""
    if group == "so3":
        return frame, frame
    left, right = frame.chunk(2, -1)
    return left, right


def _turned(frame: Tensor, x: Float[Tensor, "... m n"], group: str) -> Float[Tensor, "... m n"]:
    if group == "u1":
        (cos, sin), (a, b) = frame.unbind(-2), x.unbind(-2)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -2)
    if group == "so":
        return (frame.unflatten(-2, (x.shape[-2], -1)) * x.unsqueeze(-3)).sum(-2)
    left, right = sides(frame, group)
    padded = torch.cat((torch.zeros_like(x[..., :1, :]), x), -2) if group == "so3" else x
    return product(product(left, padded), conjugate(right))[..., 4 - x.shape[-2] :, :]


def inverse_frame(frame: Float[Tensor, "... c L"], group: str = "so3") -> Float[Tensor, "... c L"]:
    """The frame that undoes this one: components after the first negated (planes and quaternions alike); transposed."""
    if group == "so":
        size = size_of(group, frame.shape[-2])
        return frame.unflatten(-2, (size, size)).transpose(-3, -2).flatten(-3, -2)
    return torch.cat((frame[..., :1, :], -frame[..., 1:, :]), -2)


def turn(
    frame: Float[Tensor, "B K T c L"], x: Float[Tensor, "B H T D"], group: str, inverse: bool = False
) -> Float[Tensor, "B H T D"]:
    r"""Each token's frame acts on the first m n channels of its heads; the neutral rest stays.

    :math:`y = p\, x\, \bar p` on imaginary x (``so3``), :math:`l\, x\, \bar r` (``so4``), the rotation of a plane
    (``u1``), the matrix times the vector (``so``). Component a of block b is channel a n + b.

    Args:
        frame: (c, L) = (4, n) for ``so3``, (2, n) cosines and sines for ``u1``, (4, 2 n) for ``so4``, left lanes first,
            (m^2, n) for ``so``.
        x: H a multiple of K; head h follows frame h // (H / K).
        group: one of :data:`nanochat.kernels.scan.cost.GROUPS`.
        inverse: undo the turn.
    """
    size, blocks = size_of(group, frame.shape[-2]), frame.shape[-1] // LANES[group]
    moved = x[..., : size * blocks].unflatten(-1, (size, blocks)).unflatten(1, (frame.shape[1], -1))
    acting = (inverse_frame(frame, group) if inverse else frame).unsqueeze(2)
    return torch.cat((_turned(acting, moved, group).flatten(-2).flatten(1, 2), x[..., size * blocks :]), -1)
