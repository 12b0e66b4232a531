"""Triangulated surfaces, each the flag complex of a graph, and the vector field that a flow draws on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from demos.simplicial.complexes import Complex, Simplex, flag_complex

SPACING = 1 / 6
COLUMNS, ROWS = 12, 14  # of the glued squares; rows are even, so that the last fits the first
HEIGHT = 0.75**0.5  # of an equilateral triangle


class Surface(NamedTuple):
    """A complex of vertices, edges and triangles, and where its triangles lie on paper.

    Args:
        complex: its simplices.
        corners: of each triangle; a glued surface is cut open, so that a vertex may lie in two places.
        places: of the vertices, each once.
        images: places that are one and the same point as a given one, for distances across the seams.
    """

    complex: Complex
    corners: Float[np.ndarray, "F 3 2"]
    places: Float[np.ndarray, "V 2"]
    images: Callable[[Float[np.ndarray, "V 2"]], list[Float[np.ndarray, "V 2"]]]

    @property
    def adjacency(self) -> Int[np.ndarray, "V V"]:
        """The graph whose flag complex this is."""
        graph = np.zeros((len(self.places),) * 2, dtype=np.int64)
        rows, columns = np.array(self.complex[1]).T
        graph[rows, columns] = graph[columns, rows] = 1
        return graph

    def distances(self) -> Float[np.ndarray, "V V"]:
        """Between vertices: straight lines, through the seams of a glued surface too."""
        apart = [np.linalg.norm(self.places[:, None] - image, axis=-1) for image in self.images(self.places)]
        return np.minimum.reduce(apart)


def disk(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """No hole."""
    return x**2 + y**2 <= 1


def annulus(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One hole."""
    return disk(x, y) & (x**2 + y**2 >= 0.4**2)


def pants(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two holes."""
    return (np.abs(y) <= 0.8) & (np.abs(x) <= 1.45) & ((np.abs(x) - 0.7) ** 2 + y**2 >= 0.35**2)


def flat(inside: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Surface:
    """A piece of the plane, on a lattice of equilateral triangles."""
    i, j = np.meshgrid(np.arange(-20, 21), np.arange(-20, 21), indexing="ij")
    x, y = (i + j / 2) * SPACING, (j + 1 / 3) * HEIGHT * SPACING
    places = np.stack([x[inside(x, y)], y[inside(x, y)]], -1)
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    complex = flag_complex(((apart > 0) & (apart < 1.1 * SPACING)).astype(int))
    return Surface(complex, places[np.array(complex[2])], places, lambda x: [x])


def glued(mirrored: bool) -> Surface:
    """A square whose right side is its left side and whose top is its bottom; ``mirrored``: the bottom reversed."""

    def vertex(i: int, j: int) -> int:
        column = -i if mirrored and j >= ROWS else i
        return column % COLUMNS + COLUMNS * (j % ROWS)

    def place(i: int, j: int) -> tuple[float, float]:
        return (i + (j % 2) / 2) * SPACING, j * HEIGHT * SPACING

    corners: dict[Simplex, np.ndarray] = {}
    for i, j in np.ndindex(COLUMNS, ROWS):
        right = i + j % 2  # column of the upper right neighbour
        for triangle in (((i, j), (i + 1, j), (right, j + 1)), ((i, j), (right, j + 1), (right - 1, j + 1))):
            labelled = sorted((vertex(*corner), place(*corner)) for corner in triangle)
            corners[tuple(label for label, _ in labelled)] = np.array([at for _, at in labelled])
    graph = np.zeros((COLUMNS * ROWS,) * 2, dtype=np.int64)
    for a, b, c in corners:
        graph[[a, b, a, b, c, c], [b, a, c, c, a, b]] = 1
    complex = flag_complex(graph)
    assert complex[2] == sorted(corners), "a glued square must be the flag complex of its edges"
    places = np.array([place(i, j) for j in range(ROWS) for i in range(COLUMNS)])
    across, upward = np.array([COLUMNS * SPACING, 0.0]), np.array([0.0, ROWS * HEIGHT * SPACING])
    flip = np.array([-1.0 if mirrored else 1.0, 1.0])

    def images(x: np.ndarray) -> list[np.ndarray]:
        return [(x * flip if b % 2 else x) + a * across + b * upward for a in (-1, 0, 1, 2) for b in (-1, 0, 1)]

    return Surface(complex, np.array([corners[triangle] for triangle in complex[2]]), places, images)


SURFACES: dict[str, Callable[[], Surface]] = {
    "annulus": lambda: flat(annulus),
    "disk": lambda: flat(disk),
    "pants": lambda: flat(pants),
    "torus": lambda: glued(False),
    "klein": lambda: glued(True),
}


def field(
    corners: Float[np.ndarray, "F 3 2"], sides: Float[np.ndarray, "F 3"], points: Float[np.ndarray, "P 2"]
) -> Float[np.ndarray, "P 2"]:
    r"""Vectors of a flow at points, NaN outside of the triangles.

    Whitney's interpolation :math:`\sum_{i<j} f_{ij} (\lambda_i \nabla \lambda_j - \lambda_j \nabla \lambda_i)` in
    barycentric coordinates: its integral along every edge is the flow of that edge.

    Args:
        corners: of the triangles.
        sides: flow along the sides (0, 1), (0, 2), (1, 2) of each.
        points: where.
    """
    square = np.concatenate([corners, np.ones((len(corners), 3, 1))], -1)  # rows (x, y, 1) of the corners
    inverse = np.linalg.inv(square)  # column i: coefficients of lambda_i
    weights = np.einsum("px,fxi->pfi", np.concatenate([points, np.ones((len(points), 1))], -1), inverse)
    home = weights.min(-1).argmax(-1)
    inside = np.take_along_axis(weights, home[:, None, None], 1)[:, 0]
    slopes = inverse[home, :2].swapaxes(1, 2)
    found = np.zeros_like(points)
    for side, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        arrow = inside[:, [i]] * slopes[:, j] - inside[:, [j]] * slopes[:, i]
        found += sides[home, side][:, None] * arrow
    return np.where(inside.min(-1, keepdims=True) > -1e-9, found, np.nan)


def side_flows(complex: Complex, flow: Float[np.ndarray, " E"]) -> Float[np.ndarray, "F 3"]:
    """The flow along the three sides of each triangle, in the order that :func:`field` takes."""
    place = {edge: index for index, edge in enumerate(complex[1])}
    return flow[np.array([[place[a, b], place[a, c], place[b, c]] for a, b, c in complex[2]])]


def sample(random: np.random.Generator, distances: Float[np.ndarray, "V V"], count: int) -> Int[np.ndarray, " count"]:
    """Vertices that are spread out: a random one, then always the one farthest from those taken."""
    taken = [int(random.integers(len(distances)))]
    while len(taken) < count:
        taken.append(int(distances[taken].min(0).argmax()))
    return np.array(taken)
