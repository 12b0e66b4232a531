r"""Prefix products of n x n rotations in plain PyTorch, with gradients in closed form: for every device and every n.

A token names its rotation by a skew matrix A, g = (1 - A)^-1 (1 + A). The prefix is cut into chunks as in ``chunked``;
the frame that enters a chunk, and one that continues a sequence, is first brought back to the orthogonal matrices by a
Newton step, so that rounding adds up over a chunk and a count of chunks and not over all tokens. For orthogonal P

    dL/dg_t = P_{t-1}^T [sum_{s >= t} G_s P_s^T] P_t,     dL/dA_t = (1 + g_t)^T dL/dg_t (1 + g_t)^T / 2,

without a chain and without another inverse: (1 - A)^-1 = (1 + g) / 2.
"""

from __future__ import annotations

from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.kernels.scan.cost import size_of
from nanochat.kernels.scan.naive import skew


def inverse(x: Float[Tensor, "s s N"]) -> Float[Tensor, "s s N"]:
    """Inverses of N matrices 1 - A, A skew, lane by lane, by Gauss-Jordan elimination.

    No pivot is looked for: the symmetric part of every Schur complement is at least 1, so no pivot is less than 1.
    """
    x = x.clone()
    for place in range(len(x)):
        pivot = x[place, place].reciprocal()
        row, column = x[place] * pivot, x[:, place].clone()
        row[place], column[place] = pivot, 0
        x[:, place] = 0
        x.addcmul_(column[:, None], row[None], value=-1)
        x[place] = row
    return x


def rotations(raw: Float[Tensor, "B K T m L"], size: int) -> Float[Tensor, "B K T L s s"]:
    """See :func:`nanochat.kernels.scan.naive.cayley`; g = 2 (1 - A)^-1 - 1."""
    batch, heads, length, _, lanes = raw.shape
    generator = skew(raw.movedim(-2, 0).reshape(raw.shape[3], -1), size)
    one = torch.eye(size, dtype=raw.dtype, device=raw.device)
    found = 2 * inverse(one[..., None] - generator) - one[..., None]
    return found.view(size, size, batch, heads, length, lanes).permute(2, 3, 4, 5, 0, 1)


def orthogonalised(x: Float[Tensor, "... s s"]) -> Float[Tensor, "... s s"]:
    """One Newton step to the nearest orthogonal matrix, x (3 - x^T x) / 2: an error e becomes one of order e^2."""
    return 1.5 * x - 0.5 * x @ (x.mT @ x)


def _matrices(frames: Float[Tensor, "... c L"]) -> Float[Tensor, "... L s s"]:
    size = size_of("so", frames.shape[-2])
    return frames.transpose(-1, -2).unflatten(-1, (size, size))


def _components(matrices: Float[Tensor, "... L s s"]) -> Float[Tensor, "... c L"]:
    return matrices.flatten(-2).transpose(-1, -2).contiguous()


def prefix_forward(raw: Float[Tensor, "B K T m L"], start: Float[Tensor, "B K c L"]) -> Float[Tensor, "B K T c L"]:
    """See :func:`nanochat.kernels.scan.naive.matrix_prefix`."""
    size, length = size_of("so", start.shape[-2]), raw.shape[2]
    width = isqrt(length - 1) + 1
    chunks = -(-length // width)
    factors = rotations(raw, size)
    if chunks * width > length:
        one = torch.eye(size, dtype=raw.dtype, device=raw.device)
        shape = (*raw.shape[:2], chunks * width - length, *factors.shape[3:])
        factors = torch.cat((factors, one.expand(shape)), 2)
    factors = factors.unflatten(2, (chunks, width))
    inside = [factors[:, :, :, 0]]
    for place in range(1, width):
        inside.append(inside[-1] @ factors[:, :, :, place])
    local = torch.stack(inside, 3)
    carries = [orthogonalised(_matrices(start))]
    for chunk in range(chunks - 1):
        carries.append(orthogonalised(carries[-1] @ local[:, :, chunk, -1]))
    frames = torch.stack(carries, 2).unsqueeze(3) @ local
    return _components(frames.flatten(2, 3)[:, :, :length])


def prefix_backward(gradient: Tensor, frames: Tensor, start: Tensor) -> Float[Tensor, "B K T m L"]:
    """Gradient of the numbers that name the rotations."""
    given, after = _matrices(gradient), _matrices(frames)
    before = torch.cat((_matrices(start).unsqueeze(2), after[:, :, :-1]), 2).mT
    ahead = (given @ after.mT).flip(2).cumsum(2).flip(2)
    of_rotation = before @ ahead @ after
    size = after.shape[-1]
    around = (before @ after + torch.eye(size, dtype=after.dtype, device=after.device)).mT
    of_skew = around @ of_rotation @ around
    rows, columns = torch.triu_indices(size, size, 1, device=after.device)
    found = (of_skew[..., columns, rows] - of_skew[..., rows, columns]) * (0.5 * size**-0.5)
    return found.transpose(-1, -2).contiguous()
