"""Shortest routes as tropical algebra: the Kleene star of a matrix and the route behind each of its entries."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from demos.tropical import maths
from demos.tropical.model import RANGE


@jax.jit
def kleene_star(matrix: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """A* = I + A + A^2 + ..., the best weight of any walk from i to j, by repeated squaring of I + A.

    Defined when no cycle has positive weight. Source: Baccelli, Cohen, Olsder, Quadrat (1992), section 3.2.
    """
    size = matrix.shape[0]
    start = jnp.maximum(matrix, jnp.where(jnp.eye(size, dtype=bool), 0.0, -jnp.inf))
    return jax.lax.fori_loop(0, max(size - 1, 1).bit_length(), lambda _, a: maths.maxplus_product(a, a), start)


def route(matrix: np.ndarray, star: np.ndarray, start: int, end: int) -> np.ndarray:
    """Nodes of an optimal walk: each next node is the one through which the star's entry is attained."""
    nodes = [start]
    while nodes[-1] != end:
        onward = matrix[nodes[-1]] + star[:, end]
        onward[nodes] = -np.inf
        nodes.append(int(np.argmax(onward)))
    return np.array(nodes)


def nearest_graph(random: np.random.Generator, nodes: int, neighbours: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Random points of a square and the lengths of the edges between near ones.

    Returns:
        points (N, 2); lengths (N, N), symmetric, ``RANGE`` where there is no edge and on the diagonal.
    """
    points = random.random((nodes, 2))
    lengths = 2 * np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(lengths, np.inf)
    reach = np.sort(lengths, axis=1)[:, neighbours - 1]
    return points, np.where(lengths <= np.maximum(reach[:, None], reach), lengths, RANGE)
