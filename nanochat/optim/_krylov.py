r"""Krylov spaces of a symmetric operator, functions of its absolute value on them, and the phi function. Pure.

n numbers of a vector, k of them at most that span the space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A symmetric linear map of flat vectors."""


def phi(values: Float[Tensor, "*any"], time: float) -> Float[Tensor, "*any"]:
    r"""The integral of the decay, :math:`\varphi_\delta(\lambda) = \int_0^\delta e^{-s\lambda}\,ds =
    (1 - e^{-\delta\lambda}) / \lambda`.

    It is :math:`\delta` at 0, and at most :math:`\min(\delta, 1/\lambda)` for positive ones. Solution at time
    :math:`\delta` of :math:`\dot y = 1 - \lambda y` from 0. Source: doi:10.1017/S0962492910000048.
    """
    zero = values == 0
    return torch.where(zero, time, -torch.expm1(-time * values) / torch.where(zero, 1, values))


@dataclass(frozen=True)
class Space:
    """A subspace and the operator on it.

    Attributes:
        basis: orthonormal rows.
        projected: the operator between them, symmetric, in float64 on the CPU.
    """

    basis: Float[Tensor, "k n"]
    projected: Float[Tensor, "k k"]


def lanczos(product: Product, start: Float[Tensor, " n"], dimension: int) -> Space:
    r"""The Krylov space :math:`\mathrm{span}(b, Hb, \dots, H^{k-1} b)` and H on it, by k products.

    Every new direction is made orthogonal to all before it, twice: in floating point the three-term recurrence alone
    loses the space as soon as an eigenvalue has converged. It ends early where the space is invariant.

    Args:
        product: H.
        start: b; a zero vector stands for that of ones.
        dimension: k at most.

    Source: Golub and Van Loan, Matrix Computations (2013), 10.3.
    """
    size = min(dimension, start.numel())
    basis = start.new_empty(size, start.numel())
    length = torch.linalg.vector_norm(start)
    basis[0] = start / length if bool(length > 0) else start.numel() ** -0.5
    projected = torch.zeros(size, size, dtype=torch.float64)
    for k in range(size):
        image = product(basis[k])
        share = basis[: k + 1] @ image
        projected[k, k] = float(share[k])
        if k + 1 == size:
            break
        rest = image - basis[: k + 1].mT @ share
        rest -= basis[: k + 1].mT @ (basis[: k + 1] @ rest)
        coupling, scale = float(torch.linalg.vector_norm(rest)), float(projected.abs().max())
        if coupling <= 10 * torch.finfo(start.dtype).eps * scale or coupling == 0:
            return Space(basis[: k + 1].clone(), projected[: k + 1, : k + 1].clone())
        projected[k, k + 1] = projected[k + 1, k] = coupling
        basis[k + 1] = rest / coupling
    return Space(basis, projected)


def act(space: Space, function: Callable[[Tensor], Tensor], vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""A function of the absolute value of the operator, applied to a vector.

    .. math:: f(|H|)\, v \approx Q^\top S f(|\Theta|) S^\top Q\, v + f(\theta)\,(v - Q^\top Q v),
        \qquad Q H Q^\top = S \Theta S^\top, \; \theta = \max |\Theta|

    Outside the space the operator is taken for its largest Ritz value in size. Lanczos finds the ends of a spectrum
    first, so what is left is smaller, and a decreasing f errs towards 0.

    Args:
        space: Q and the operator on it.
        function: f, elementwise.
        vector: v.
    """
    values, vectors = torch.linalg.eigh(space.projected)
    values = values.abs()
    outside = function(values.max())
    share = (space.basis @ vector).to(vectors)
    inside = vectors @ ((function(values) - outside) * (vectors.mT @ share))
    return space.basis.mT @ inside.to(space.basis) + float(outside) * vector
