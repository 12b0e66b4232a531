r"""Macro steps of the gradient flow: phi functions, Lanczos and the step, as pure functions.

Twin of ``nanochat/optim/_krylov.py`` and ``nanochat/optim/hoss.py``. Infinitesimals are those of ``levi_civita``: a
macro step is the standard part of infinitely many infinitesimal Euler steps on the loss's quadratic model.

n numbers of a vector, k of them at most that span a Krylov space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Product = Callable[[Array], Array]
"""A symmetric linear map."""


class Space(NamedTuple):
    """Orthonormal rows (k, n), and a symmetric operator between them (k, k)."""

    basis: Float[Array, "k n"]
    projected: Float[Array, "k k"]


def phi(values: Float[Array, "*any"], time: float | Array) -> Float[Array, "*any"]:
    r""":math:`\varphi_\delta(\lambda) = (1 - e^{-\delta\lambda}) / \lambda`, and :math:`\delta` at 0.

    Source: doi:10.1017/S0962492910000048.
    """
    safe = jnp.where(values == 0, 1.0, values)
    return jnp.where(values == 0, time, -jnp.expm1(-time * safe) / safe)


def hessian_product(loss: Callable[[Array], Array], w: Float[Array, " n"]) -> Product:
    """The Hessian of a loss at w as a linear map: forward mode over reverse mode.

    Example:
        >>> hessian_product(lambda w: (w**3).sum(), jnp.array([1.0, 2.0]))(jnp.ones(2))
        Array([ 6., 12.], dtype=float64)
    """
    return lambda vector: jax.jvp(jax.grad(loss), (w,), (vector,))[1]


def lanczos(product: Product, start: Float[Array, " n"], dimension: int) -> Space:
    """The Krylov space of an operator from a start, and the operator on it, by ``dimension`` products.

    Every direction is made orthogonal to all before it, twice. Where the space is exhausted, what is left of it is
    filled with zero rows, on which every function of the operator is zero.

    Source: Golub and Van Loan, Matrix Computations (2013), 10.3.
    """
    size = min(dimension, start.shape[0])

    def grow(state: tuple[Array, Array, Array], k: Array) -> tuple[tuple[Array, Array, Array], None]:
        basis, projected, direction = state
        basis = basis.at[k].set(direction)
        image = product(direction)
        share = basis @ image
        projected = projected.at[k, k].set(share[k])
        rest = image - basis.T @ share
        rest = rest - basis.T @ (basis @ rest)
        coupling = jnp.linalg.norm(rest)
        alive = coupling > 10 * jnp.finfo(start.dtype).eps * jnp.abs(projected).max()
        after = jnp.where(alive, coupling, 0.0)
        projected = projected.at[k, k + 1].set(after, mode="drop").at[k + 1, k].set(after, mode="drop")
        return (basis, projected, jnp.where(alive, rest / jnp.where(alive, coupling, 1.0), 0.0)), None

    begun = (jnp.zeros((size, *start.shape), start.dtype), jnp.zeros((size, size), start.dtype))
    length = jnp.linalg.norm(start)
    (basis, projected, _), _ = jax.lax.scan(
        grow, (*begun, start / jnp.where(length > 0, length, 1.0)), jnp.arange(size)
    )
    return Space(basis, projected)


def act(space: Space, function: Callable[[Array], Array], vector: Float[Array, " n"]) -> Float[Array, " n"]:
    """A function of the absolute value of the operator; outside the space the operator is its largest Ritz value."""
    values, vectors = jnp.linalg.eigh(space.projected)
    values = jnp.abs(values)
    outside = function(values.max())
    share = vectors @ ((function(values) - outside) * (vectors.T @ (space.basis @ vector)))
    return space.basis.T @ share + outside * vector


def macro_step(
    w: Float[Array, " n"],
    gradient: Float[Array, " n"],
    space: Space,
    time: float | Array,
    temperature: float = 0.0,
    noise: Float[Array, " n"] | None = None,
    limit: float = float("inf"),
) -> Float[Array, " n"]:
    r""":math:`w - \varphi_\delta(|H|)\, g + (\tau\, \varphi_{2\delta}(|H|))^{1/2} z`.

    Args:
        w: weights.
        gradient: g.
        space: a Krylov space of H.
        time: :math:`\delta`.
        temperature: :math:`\tau`.
        noise: z, standard normal numbers; none is drawn where it is not given.
        limit: longest drift over :math:`\delta`.

    Example:
        >>> h = jnp.diag(jnp.array([1.0, 1e6]))
        >>> w = jnp.ones(2)
        >>> macro_step(w, h @ w, lanczos(lambda v: h @ v, h @ w, 2), 1.0).round(3)  # exp(-1), and arrived
        Array([0.368, 0.   ], dtype=float64)
    """
    drift = act(space, lambda values: phi(values, time), gradient)
    length = jnp.linalg.norm(drift)
    drift = drift * jnp.minimum(1.0, limit * time / jnp.where(length > 0, length, 1.0))
    if noise is None:
        return w - drift
    return w - drift + act(space, lambda values: jnp.sqrt(temperature * phi(values, 2 * time)), noise)
