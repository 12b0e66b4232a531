"""Simplicial complexes, their Hodge theory and their homology: exact where the answer is an integer.

A simplex is a sorted tuple of vertices; a complex is a tuple of lists, ``complex[k]`` the simplices of dimension k in
lexicographic order, closed under faces. Chains are columns over these lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Simplex = tuple[int, ...]
Complex = tuple[list[Simplex], ...]


def closure(facets: Iterable[Sequence[int]]) -> Complex:
    """The complex that some simplices and all their faces make up.

    Example:
        >>> closure([(0, 1, 2)])[1]
        [(0, 1), (0, 2), (1, 2)]
    """
    faces: set[Simplex] = set()
    for facet in facets:
        vertices = tuple(sorted(facet))
        if len(set(vertices)) < len(vertices) or not vertices:
            raise ValueError(f"closure: got {tuple(facet)}, need distinct vertices, at least one")
        faces |= {face for size in range(1, len(vertices) + 1) for face in combinations(vertices, size)}
    top = max(map(len, faces), default=0)
    return tuple(sorted(face for face in faces if len(face) == size) for size in range(1, top + 1))


def flag_complex(adjacency: Int[np.ndarray, "V V"], dimension: int = 2) -> Complex:
    """All cliques of a graph with at most ``dimension`` + 1 vertices: triangles are filled wherever they close."""
    if (adjacency != adjacency.T).any() or adjacency.diagonal().any():
        raise ValueError("flag_complex: need a symmetric adjacency matrix with an empty diagonal")
    levels: list[list[Simplex]] = [[(vertex,) for vertex in range(len(adjacency))]]
    for _ in range(dimension):
        grown = [
            (*clique, vertex)
            for clique in levels[-1]
            for vertex in range(clique[-1] + 1, len(adjacency))
            if adjacency[list(clique), vertex].all()
        ]
        if not grown:
            break
        levels.append(grown)
    return tuple(levels)


def boundary(complex: Complex, k: int) -> Int[np.ndarray, "faces simplices"]:
    r"""Matrix of :math:`\partial_k [v_0 \dots v_k] = \sum_i (-1)^i [v_0 \dots \hat v_i \dots v_k]`; empty outside."""
    sources = complex[k] if 0 <= k < len(complex) else []
    targets = complex[k - 1] if 0 < k <= len(complex) else []
    place = {face: row for row, face in enumerate(targets)}
    matrix = np.zeros((len(targets), len(sources)), dtype=np.int64)
    for column, simplex in enumerate(sources if k > 0 else ()):
        for i in range(k + 1):
            matrix[place[simplex[:i] + simplex[i + 1 :]], column] = (-1) ** i
    return matrix


def rank(matrix: Int[np.ndarray, "R C"], prime: int) -> int:
    """Rank over the field of ``prime`` elements, by elimination with exact integers."""
    rows = matrix.astype(object) % prime
    found = 0
    for column in range(rows.shape[1]):
        pivot = next((row for row in range(found, len(rows)) if rows[row, column]), None)
        if pivot is None:
            continue
        rows[[found, pivot]] = rows[[pivot, found]]
        rows[found] = rows[found] * pow(int(rows[found, column]), -1, prime) % prime
        below = found + 1 + np.flatnonzero(rows[found + 1 :, column])
        rows[below] = (rows[below] - np.outer(rows[below, column], rows[found])) % prime
        found += 1
    return found


def betti(complex: Complex, prime: int = 2_147_483_647) -> tuple[int, ...]:
    r"""Betti numbers :math:`\beta_k = n_k - \mathrm{rank}\,\partial_k - \mathrm{rank}\,\partial_{k+1}` over GF(prime).

    The default prime divides no torsion of a complex that one can write down, so these are the rational ones; over
    GF(2) a non-orientable surface looks closed.
    """
    ranks = [rank(boundary(complex, k), prime) for k in range(len(complex) + 1)]
    return tuple(len(simplices) - ranks[k] - ranks[k + 1] for k, simplices in enumerate(complex))


def laplacian(complex: Complex, k: int) -> Float[np.ndarray, "n n"]:
    r"""Hodge Laplacian :math:`\Delta_k = \partial_k^T \partial_k + \partial_{k+1} \partial_{k+1}^T`.

    Its kernel has dimension :math:`\beta_k`: one flow that neither ends nor curls for each hole.
    """
    down, up = boundary(complex, k), boundary(complex, k + 1)
    return (down.T @ down + up @ up.T).astype(np.float64)


def exchange(complex: Complex, k: int) -> Float[np.ndarray, "n n"]:
    """Laplacian of the graph of k-simplices, joined once for each face and each simplex above that they share.

    What :func:`laplacian` is without the signs: its diffusion keeps the total of masses and forgets directions.
    """
    down, up = np.abs(boundary(complex, k)), np.abs(boundary(complex, k + 1))
    joined = (down.T @ down + up @ up.T).astype(np.float64)
    np.fill_diagonal(joined, 0.0)
    return np.diag(joined.sum(0)) - joined


class Hodge(NamedTuple):
    """The three orthogonal parts of a chain."""

    gradient: Float[np.ndarray, " n"]
    curl: Float[np.ndarray, " n"]
    harmonic: Float[np.ndarray, " n"]


def hodge(complex: Complex, k: int, flow: Float[np.ndarray, " n"]) -> Hodge:
    r"""Parts in the images of :math:`\partial_k^T` and :math:`\partial_{k+1}`, and what is in neither.

    Orthogonal because :math:`\partial_k \partial_{k+1} = 0`. Source: arXiv:1507.05379.
    """
    down, up = boundary(complex, k).T.astype(np.float64), boundary(complex, k + 1).astype(np.float64)
    gradient, curl = _projection(down, flow), _projection(up, flow)
    return Hodge(gradient, curl, flow - gradient - curl)


def _projection(columns: Float[np.ndarray, "n m"], flow: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    if not columns.size:
        return np.zeros_like(flow)
    return columns @ np.linalg.lstsq(columns, flow, rcond=None)[0]


class Bar(NamedTuple):
    """A homology class of dimension k: the values at which it appears and becomes a boundary (infinity: never)."""

    dimension: int
    birth: float
    death: float


def rips(distances: Float[np.ndarray, "V V"]) -> dict[Simplex, float]:
    """All points, pairs and triples by their largest distance: up to r it is the flag complex of the pairs within r."""
    return {
        simplex: max((float(distances[pair]) for pair in combinations(simplex, 2)), default=0.0)
        for size in (1, 2, 3)
        for simplex in combinations(range(len(distances)), size)
    }


def persistence(values: dict[Simplex, float]) -> list[Bar]:
    """Bars of a filtration over GF(2), by reduction of the columns of the boundary; bars of length 0 are left out.

    Args:
        values: when each simplex enters; a face no later than what it bounds.

    Source: doi:10.1007/s00454-002-2885-2.
    """
    for simplex, value in values.items():
        late = [face for face in combinations(simplex, len(simplex) - 1) if face and values.get(face, np.inf) > value]
        if late:
            raise ValueError(f"persistence: {simplex} enters at {value:g}, need its face {late[0]} no later")
    order = sorted(values, key=lambda simplex: (values[simplex], len(simplex), simplex))
    place = {simplex: index for index, simplex in enumerate(order)}
    owner: dict[int, int] = {}
    reduced: list[set[int]] = []
    for index, simplex in enumerate(order):
        column = {place[face] for face in combinations(simplex, len(simplex) - 1) if face}
        while column and max(column) in owner:
            column ^= reduced[owner[max(column)]]
        reduced.append(column)
        if column:
            owner[max(column)] = index
    bars = [
        Bar(len(simplex) - 1, values[simplex], values[order[owner[index]]] if index in owner else np.inf)
        for index, simplex in enumerate(order)
        if not reduced[index]
    ]
    return sorted(bar for bar in bars if bar.birth < bar.death)


def heat(complex: Complex, k: int, flow: Float[np.ndarray, " n"], time: float) -> Float[np.ndarray, " n"]:
    r"""The flow after diffusing for a time, :math:`e^{-t \Delta_k} f`; on vertices the total mass is kept."""
    levels, modes = np.linalg.eigh(laplacian(complex, k))
    return modes @ (np.exp(-time * levels) * (modes.T @ flow))
