"""Points of space as keys: bit-prefix signatures, several heads of them fused, and the control that ignores the order.

A signature is the string of signs of a point's products with random normal vectors; two points at angle t agree in each
sign with probability 1 - t / pi (Charikar 2002, doi:10.1145/509907.509965).
Legend: N stored points, M queries, D coordinates, H heads, K bits of a head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int


def signatures(x: Float[Array, "N D"] | np.ndarray, planes: Float[Array, "H K D"] | np.ndarray) -> Bool[Array, "H N K"]:
    """Signs of the products with the normals of every head."""
    return jnp.einsum("nd,hkd->hnk", x, planes) > 0


def cloud(random: np.random.Generator, stored: int, queries: int, dim: int, noise: float) -> tuple[np.ndarray, ...]:
    """Random directions, noisy copies of some of them, and which."""
    points = random.normal(size=(stored, dim))
    which = random.integers(0, stored, queries)
    return points, points[which] + noise * random.normal(size=(queries, dim)), which


@jax.jit
def prefixes(query: Bool[Array, "H M K"], key: Bool[Array, "H N K"]) -> Float[Array, "H M N"]:
    """Common prefix of every pair in every head."""
    return jnp.cumprod(query[:, :, None] == key[:, None], -1).sum(-1)


@jax.jit
def matches(query: Bool[Array, "H M K"], key: Bool[Array, "H N K"]) -> Float[Array, "H M N"]:
    """Control: equal bits of every pair in every head, wherever they stand."""
    return (query[:, :, None] == key[:, None]).sum(-1)


def recall(similarity: Float[Array, "H M N"], which: Int[Array, " M"] | np.ndarray) -> np.ndarray:
    """Share of queries whose own point has the largest sum over the first 1, 2, ..., H heads."""
    fused = jnp.cumsum(similarity, 0)
    return np.asarray((fused.argmax(-1) == which).mean(-1))
