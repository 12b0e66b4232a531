"""The simplicial demo's certificates: plain functions of a witness, without jax. Each returns an error or a count.

Legend: V vertices, E edges, F triangles, B sequences, N words in each, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from demos.simplicial.complexes import Complex, betti, boundary, closure, exchange, flag_complex, laplacian

# --- complexes ----------------------------------------------------------------------------------------------------


def _complex(edges: np.ndarray, triangles: np.ndarray) -> Complex:
    return closure([*map(tuple, edges.tolist()), *map(tuple, triangles.tolist())])


def _graph(edges: np.ndarray) -> np.ndarray:
    adjacency = np.zeros((int(edges.max()) + 1,) * 2, dtype=np.int64)
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = 1
    return adjacency


def flag(edges: np.ndarray, triangles: np.ndarray) -> float:
    """Triangles that are claimed and no three neighbours, or are three neighbours and not claimed."""
    near = _graph(edges)
    found = {(a, b, c) for a, b in edges.tolist() for c in np.flatnonzero(near[a] & near[b]).tolist() if b < c}
    return float(len(found ^ set(map(tuple, triangles.tolist()))))


def boundaries(edges: np.ndarray, dimension: int) -> float:
    """Non-zero entries of all products of neighbouring boundary maps of a flag complex, and 1 if it has no top."""
    complex = flag_complex(_graph(edges), dimension)
    products = [boundary(complex, k) @ boundary(complex, k + 1) for k in range(1, dimension)]
    return float(sum(np.count_nonzero(product) for product in products) + (len(complex) <= dimension))


def holes(edges: np.ndarray, triangles: np.ndarray, numbers: np.ndarray) -> float:
    """Errors of the claimed Betti numbers: of kernels of Laplacians, and of the Euler characteristic."""
    complex = _complex(edges, triangles)
    kernels = [int((np.linalg.eigvalsh(laplacian(complex, k)) < 1e-9).sum()) for k in range(len(complex))]
    euler = sum((-1) ** k * (len(level) - int(numbers[k])) for k, level in enumerate(complex))
    return float(np.abs(np.array(kernels) - numbers).sum() + abs(euler))


def hodge(
    edges: np.ndarray,
    triangles: np.ndarray,
    flow: np.ndarray,
    gradient: np.ndarray,
    curl: np.ndarray,
    harmonic: np.ndarray,
) -> float:
    """Largest error of a split, over the size of the flow.

    The parts add up and are orthogonal, gradients do not turn, curls do not end, and the harmonic part is the flow's
    projection to the kernel of the Laplacian.
    """
    complex = _complex(edges, triangles)
    ends, turns = boundary(complex, 1), boundary(complex, 2).T
    levels, modes = np.linalg.eigh(laplacian(complex, 1))
    kernel = modes[:, levels < 1e-9]
    size = float(np.linalg.norm(flow))
    apart = [abs(float(a @ b)) / size for a, b in combinations((gradient, curl, harmonic), 2)]
    errors = [flow - gradient - curl - harmonic, turns @ gradient, ends @ curl, harmonic - kernel @ (kernel.T @ flow)]
    return max(apart + [float(np.abs(error).max()) for error in errors]) / size


def operator(complex: Complex, kind: str) -> np.ndarray:
    """Laplacian of a diffusion: of masses on ``vertices``, of ``signed`` flows or ``unsigned`` masses on edges."""
    return exchange(complex, 1) if kind == "unsigned" else laplacian(complex, 0 if kind == "vertices" else 1)


def diffusion(
    edges: np.ndarray, triangles: np.ndarray, kind: str, start: np.ndarray, times: np.ndarray, result: np.ndarray
) -> float:
    """Largest error of a diffusion over the size of its start.

    It is the exact exponential; masses keep their total and stay positive; signed flows come as near to the kernel as
    the least positive eigenvalue promises.
    """
    levels, modes = np.linalg.eigh(operator(_complex(edges, triangles), kind))
    exact = np.exp(-np.outer(times, levels)) * (modes.T @ start) @ modes.T
    errors = [np.abs(exact - result).max()]
    if kind == "signed":
        kernel = modes[:, levels < 1e-9]
        lasting = kernel @ (kernel.T @ start)
        bound = np.exp(-times * levels[levels >= 1e-9][0]) * np.linalg.norm(start - lasting)
        errors.append((np.linalg.norm(result - lasting, axis=-1) - bound).max())
    else:
        errors += [np.abs(result.sum(-1) - start.sum()).max(), -result.min()]
    return max(float(max(errors)), 0.0) / float(np.linalg.norm(start))


def persistence(distances: np.ndarray, bars: np.ndarray, radii: np.ndarray) -> float:
    """Radii and dimensions at which as many bars (dimension, birth, death; -1: never) live as there are not holes."""
    wrong = 0
    for radius in radii:
        complex = flag_complex(((distances <= radius) & ~np.eye(len(distances), dtype=bool)).astype(np.int64))
        alive = bars[(bars[:, 1] <= radius) & ((radius < bars[:, 2]) | (bars[:, 2] < 0)), 0]
        wrong += sum(int((alive == k).sum()) != number for k, number in enumerate((*betti(complex, 2), 0)[:2]))
    return float(wrong)


# --- attention ----------------------------------------------------------------------------------------------------


def match3(words: np.ndarray) -> float:
    """Triples of words of b signs whose product sums to b although their XOR is not 0, or to more than b - 2."""
    number = np.arange(len(words))
    xor = number[:, None, None] ^ number[:, None] ^ number
    total = np.einsum("ad,bd,cd->abc", words, words, words)
    bits = words.shape[1]
    return float(((xor == 0) != (total == bits)).sum() + (total[xor != 0] > bits - 2).sum())


def products(form: str, q: np.ndarray, k: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Forms of all triples (B, I, J, L): sums of three channels' products, or of determinants of vectors."""
    if form == "trilinear":
        return np.einsum("bid,bjd,bld->bijl", q, k, second)
    q, k, second = (x.reshape(*x.shape[:-1], 3, -1) for x in (q, k, second))
    return np.einsum("bixd,bjyd,blzd,xyz->bijl", q, k, second, ORIENTATION, optimize=True)


ORIENTATION = np.linalg.det(np.eye(3)[np.indices((3, 3, 3)).reshape(3, -1).T]).round().reshape(3, 3, 3)
"""Determinant of three axes: 1 or -1 where they differ."""


def softmax(scores: np.ndarray, axes: int) -> np.ndarray:
    """Over the last ``axes`` axes together."""
    over = tuple(range(-axes, 0))
    weights = np.exp(scores - scores.max(over, keepdims=True))
    return weights / weights.sum(over, keepdims=True)


def attend(form: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, second_k: np.ndarray, second_v: np.ndarray) -> Any:
    """2-simplicial attention of queries (B, I, D) over all pairs."""
    weights = softmax(products(form, q, k, second_k) / q.shape[-1] ** 0.5, 2)
    return np.einsum("bijl,bjd,bld->bid", weights, v, second_v)


def normed(x: np.ndarray) -> np.ndarray:
    """Root mean square 1."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-9)


def rows(words: np.ndarray, tokens: np.ndarray, head: Mapping[str, np.ndarray], *names: str) -> list[np.ndarray]:
    """Linear maps of the words of sequences, (B, N, D) each."""
    z = normed(words @ head["embed"])[tokens]
    return [z @ head[name] for name in names]


LAYER = ("q", "k", "v", "second_k", "second_v")


def answers(words: np.ndarray, tokens: np.ndarray, form: str, logits: np.ndarray, **head: np.ndarray) -> float:
    """Largest difference of the trained block's answers from their definition."""
    q, *others = rows(words, tokens, head, *LAYER)
    last = words[tokens[:, -1]] @ head["embed"] + attend(form, q[:, -1:], *others)[:, 0] @ head["out"]
    hidden = np.maximum(last @ head["up"] + head["up_bias"], 0)
    return float(np.abs((hidden @ head["down"])[:, 0] - logits).max())


def folding(words: np.ndarray, tokens: np.ndarray, form: str, said: np.ndarray, **head: np.ndarray) -> float:
    """Largest difference, over their size, of what the trained head says without triples from the sum over triples."""
    q, *others = rows(words, tokens, head, *LAYER)
    whole = attend(form, q[:, -1:], *others)[:, 0]
    return float(np.abs(whole - said).max() / np.abs(whole).max())


def swap(words: np.ndarray, tokens: np.ndarray, form: str, **head: np.ndarray) -> float:
    """Largest relative change of the head's answers when keys and values change places with the second ones.

    A determinant changes its sign then, so the query gets one.
    """
    q, k, v, second_k, second_v = rows(words, tokens, head, *LAYER)
    whole = attend(form, q, k, v, second_k, second_v)
    swapped = attend(form, -q if form == "determinant" else q, second_k, second_v, k, v)
    return float(np.abs(whole - swapped).max() / np.abs(whole).max())


def symmetry(words: np.ndarray, tokens: np.ndarray, form: str, frame: np.ndarray, **head: np.ndarray) -> float:
    """Largest relative change of the trained head's scores under what its form does not see.

    Args:
        frame: for determinants a rotation (3, 3) of all vectors; for products factors (2, D) of queries and keys, the
            second keys being divided by both.
    """
    parts = rows(words, tokens, head, "q", "k", "second_k")
    if form == "determinant":
        vectors = [x.reshape(*x.shape[:-1], 3, -1) for x in parts]
        moved = [np.einsum("xy,bnyd->bnxd", frame, x).reshape(y.shape) for x, y in zip(vectors, parts, strict=True)]
    else:
        moved = [x * factor for x, factor in zip(parts, (*frame, 1 / frame.prod(0)), strict=True)]
    scores = products(form, *parts)
    return float(np.abs(products(form, *moved) - scores).max() / np.abs(scores).max())


def triangles(
    words: np.ndarray,
    tokens: np.ndarray,
    form: str,
    pair_embed: np.ndarray,
    pair_q: np.ndarray,
    pair_k: np.ndarray,
    **head: np.ndarray,
) -> float:
    """Third mixed differences of a path's log-weight a_ij a_jl, a softmax control's, over those of the trained head."""
    q, k, second = rows(words, tokens, head, "q", "k", "second_k")
    one, other = rows(words, tokens, {"embed": pair_embed, "q": pair_q, "k": pair_k}, "q", "k")
    logs = np.log(softmax(one @ other.swapaxes(-1, -2) / one.shape[-1] ** 0.5, 1))
    sizes = [
        np.abs(np.diff(np.diff(np.diff(x, axis=1), axis=2), axis=3)).max()
        for x in (logs[..., None] + logs[:, None], products(form, q, k, second) / q.shape[-1] ** 0.5)
    ]
    return float(sizes[0] / sizes[1])


# --- readout ------------------------------------------------------------------------------------------------------


def readout(
    edges: np.ndarray,
    triangles: np.ndarray,
    mode: str,
    flows: np.ndarray,
    changed: np.ndarray,
    direction: np.ndarray,
    bias: float,
    logits: np.ndarray,
) -> float:
    """Largest error of a trained reader's answers to flows and to changed ones, which have to be the same answers.

    Changed is only what diffusion forgets: gradients and curls of signed flows, directions of unsigned ones; how much
    else was changed counts as an error.
    """
    if mode == "unsigned":
        other = np.abs(np.abs(changed) - np.abs(flows)).max()
        said = [np.abs(x) @ direction + bias for x in (flows, changed)]
    else:
        levels, modes = np.linalg.eigh(laplacian(_complex(edges, triangles), 1))
        other = np.abs((changed - flows) @ modes[:, levels < 1e-9]).max(initial=0.0)
        said = [x @ direction + bias for x in (flows, changed)]
    return float(max(other, *(np.abs(each - logits).max() for each in said)))


CHECKS: dict[str, Callable[..., float]] = {
    "flag": flag,
    "boundary": boundaries,
    "holes": holes,
    "hodge": hodge,
    "diffusion": diffusion,
    "persistence": persistence,
    "match3": match3,
    "answers": answers,
    "folding": folding,
    "swap": swap,
    "symmetry": symmetry,
    "triangles": triangles,
    "readout": readout,
}
