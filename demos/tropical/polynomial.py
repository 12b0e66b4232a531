"""Tropical polynomials: their roots by the Newton polygon, their curves in the plane.

A max-plus polynomial is the convex, piecewise linear function p(x) = max_i (a_i + i x). Its roots are the points where
two monomials tie; the slopes of the upper hull of the points (i, a_i), the Newton polygon, give them all.
Source: arXiv:1805.07091, section 2; Maclagan and Sturmfels, Introduction to Tropical Geometry, chapter 1.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int


def evaluate(coefficients: Float[Array, " n"], x: Float[Array, " m"]) -> Float[Array, " m"]:
    """p(x) = max_i (a_i + i x) at each point."""
    powers = jnp.arange(coefficients.shape[0])
    return jnp.max(coefficients + powers * x[:, None], axis=1)


def factored(leading: float, roots: Float[Array, " n"], x: Float[Array, " m"]) -> Float[Array, " m"]:
    """The product form a_n + sum_k max(x, r_k), equal to the polynomial by the tropical fundamental theorem."""
    return leading + jnp.sum(jnp.maximum(x[:, None], roots), axis=1)


def newton_polygon(coefficients: np.ndarray) -> np.ndarray:
    """Indices of the vertices of the upper hull of the points (i, a_i), from left to right.

    Args:
        coefficients: a_0, ..., a_n; minus infinity where a monomial is missing, both ends finite.

    Example:
        >>> newton_polygon(np.array([0.0, 0.0, 1.0]))
        array([0, 2])
    """
    hull: list[int] = []
    for i in np.flatnonzero(np.isfinite(coefficients)):
        while len(hull) > 1 and _below(coefficients, hull[-2], hull[-1], int(i)):
            hull.pop()
        hull.append(int(i))
    return np.array(hull)


def _below(a: np.ndarray, left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or below the chord from left to right."""
    return bool((a[middle] - a[left]) * (right - left) <= (a[right] - a[left]) * (middle - left))


def roots(coefficients: np.ndarray) -> np.ndarray:
    """All n roots with multiplicity, ascending: an edge of the Newton polygon of width w and slope -r is the root r, w
    times.

    Example:
        >>> roots(np.array([0.0, 0.0, 1.0]))
        array([-0.5, -0.5])
    """
    hull = newton_polygon(coefficients)
    widths = np.diff(hull)
    return np.repeat(-np.diff(coefficients[hull]) / widths, widths)


def winners(
    exponents: Int[Array, "n 2"], coefficients: Float[Array, " n"], x: Float[Array, " w"], y: Float[Array, " h"]
) -> Int[Array, "h w"]:
    """Which monomial a + i x + j y is largest at each point of a grid; the tropical curve is where it changes."""
    value = coefficients + exponents[:, 0] * x[None, :, None] + exponents[:, 1] * y[:, None, None]
    return jnp.argmax(value, axis=-1)
