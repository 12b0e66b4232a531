"""What the certificates of the tropical demo recompute, in plain numpy, from their witnesses alone.

Each function returns one number: an error, or a count of violations; 0 is perfect. Legend: M sequences, N tokens,
F features, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

INSIDE, OUTSIDE = 1 - 1e-6, 1 + 1e-6
VACUOUS = 1e-9  # margins below this are rounding, not winners: no radius is claimed for them


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Max-plus matrix product: c_ij = max_k (a_ik + b_kj)."""
    return np.max(a[..., :, :, None] + b[..., None, :, :], axis=-2)


def semiring(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Largest deviation from associativity, both distributive laws, idempotence and the unit, of square matrices."""
    unit = np.where(np.eye(len(a), dtype=bool), 0.0, -1e300)
    pairs = (
        (product(product(a, b), c), product(a, product(b, c))),
        (product(a, np.maximum(b, c)), np.maximum(product(a, b), product(a, c))),
        (product(np.maximum(a, b), c), np.maximum(product(a, c), product(b, c))),
        (np.maximum(a, a), a),
        (product(a, unit), a),
        (product(unit, a), a),
    )
    return max(float(np.abs(left - right).max()) for left, right in pairs)


def hilbert(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Hilbert's projective distance: spread of the coordinates of x - y."""
    return np.ptp(x - y, axis=-1)


def hilbert_metric(x: np.ndarray, y: np.ndarray, z: np.ndarray, shift: np.ndarray) -> float:
    """Largest violation of symmetry, of the triangle inequality and of invariance under a common shift."""
    triangle = hilbert(x, z) - hilbert(x, y) - hilbert(y, z)
    invariance = np.abs(hilbert(x + shift[:, None], y) - hilbert(x, y))
    symmetry = np.abs(hilbert(x, y) - hilbert(y, x))
    return float(max(triangle.max(), invariance.max(), symmetry.max(), 0.0))


def factorisation(coefficients: np.ndarray, roots: np.ndarray, x: np.ndarray) -> float:
    """Largest difference between a polynomial and the product of its n linear factors, on a grid."""
    if len(roots) != len(coefficients) - 1:
        return float("inf")
    monomials = coefficients + np.arange(len(coefficients)) * x[:, None]
    factors = coefficients[-1] + np.maximum(x[:, None], roots).sum(1)
    return float(np.abs(monomials.max(1) - factors).max())


def kleene_star(matrix: np.ndarray, star: np.ndarray, route: np.ndarray) -> float:
    """Error of A* = I + A A* and A* A* = A*, and of one optimal route: its edges must add up to its entry of A*."""
    unit = np.where(np.eye(len(matrix), dtype=bool), 0.0, -np.inf)
    fixed = np.abs(np.maximum(unit, product(matrix, star)) - star).max()
    idempotent = np.abs(product(star, star) - star).max()
    walked = matrix[route[:-1], route[1:]].sum()
    return float(max(fixed, idempotent, abs(walked - star[route[0], route[-1]])))


def scores(q: np.ndarray, keys: np.ndarray, score: str) -> np.ndarray:
    """Score of each key against one query: minus the spread of q - k, or the largest q + k."""
    if score not in ("hilbert", "maxplus"):
        raise ValueError(f"score: got {score!r}, need hilbert or maxplus")
    return -hilbert(q, keys) if score == "hilbert" else (q + keys).max(-1)


def layer(x: np.ndarray, q: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keys and values (M, N, C) of the trained layer on sequences x (M, N, F)."""
    if not q.shape == bias.shape == key.shape[1:] == value.shape[1:]:
        raise ValueError("layer: the shapes of q, key, value and bias do not fit together")
    return x @ key, x @ value + bias


def radii(q: np.ndarray, keys: np.ndarray, values: np.ndarray, score: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The exact stability radius of every winner under a sup-norm change of all keys and values.

    Lowering the winner's path by e in the key and value costs it 2e + e (Hilbert) or e + e (max-plus). The runner-up
    gains e by its value and min(2e, spread) by its key (Hilbert: the score cannot exceed 0), or e. The radius is where
    the sum closes the gap, the least over all competitors.

    Returns:
        winner (M, C), strongest competitor (M, C), radius (M, C).
    """
    paths = scores(q, keys, score)[..., None] + values
    winner = paths.argmax(1)
    gap = np.take_along_axis(paths, winner[:, None], 1) - paths
    if score == "hilbert":
        spread = hilbert(q, keys)[..., None]
        needed = np.where(gap <= 3 * spread, gap / 6, (gap - spread) / 4)
    else:
        needed = gap / 4
    np.put_along_axis(needed, winner[:, None], np.inf, 1)
    return winner, needed.argmin(1), needed.min(1)


def widen(q: np.ndarray, key: np.ndarray, e: float, score: str) -> np.ndarray:
    """The key within e of this one whose score against q is lowest."""
    if score == "maxplus":
        return key - e
    difference = q - key
    moved = key.copy()
    moved[difference.argmax()] -= e
    moved[difference.argmin()] += e
    return moved


def narrow(q: np.ndarray, key: np.ndarray, e: float, score: str) -> np.ndarray:
    """The key within e of this one whose score against q is highest."""
    if score == "maxplus":
        return key + e
    difference = q - key
    reach = min(e, np.ptp(difference) / 2)
    return q - np.clip(difference, difference.min() + reach, difference.max() - reach)


def flipped(
    q: np.ndarray, keys: np.ndarray, values: np.ndarray, winner: int, rival: int, channel: int, e: float, score: str
) -> bool:
    """Whether the strongest change within e makes the rival's path at least as long as the winner's."""
    low = scores(q, widen(q, keys[winner], e, score), score) + values[winner, channel] - e
    high = scores(q, narrow(q, keys[rival], e, score), score) + values[rival, channel] + e
    return bool(high >= low)


def margin(x: np.ndarray, q: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray, score: str) -> float:
    """Winners that the worst attack changes just inside their radius, or fails to change just outside it."""
    keys, values = layer(x, q, key, value, bias)
    winner, rival, radius = radii(q, keys, values, score)
    wrong = 0
    for m, c in np.argwhere(radius > VACUOUS):
        inside, outside = float(radius[m, c] * INSIDE), float(radius[m, c] * OUTSIDE)
        best, strongest = int(winner[m, c]), int(rival[m, c])
        others = [j for j in range(keys.shape[1]) if j != best]
        broken = any(flipped(q, keys[m], values[m], best, j, c, inside, score) for j in others)
        survived = not flipped(q, keys[m], values[m], best, strongest, c, outside, score)
        wrong += broken + survived
    return float(wrong)


def slopes(q: np.ndarray, key: np.ndarray, value: np.ndarray, score: str) -> np.ndarray:
    """Lipschitz constant (C,) of each path length in the token's features, sup norm: the largest 1-norm of a piece."""
    if score == "hilbert":
        pieces = value[:, None, None, :] + (key[:, :, None] - key[:, None, :])[..., None]
        return np.abs(pieces).sum(0).max((0, 1))
    return np.abs(value[:, None, :] + key[:, :, None]).sum(0).max(0)


def input_radii(
    x: np.ndarray, q: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray, score: str
) -> np.ndarray:
    """Certified radius (M, C) in the units of the input: half the gap over the Lipschitz constant of a path."""
    keys, values = layer(x, q, key, value, bias)
    paths = np.sort(scores(q, keys, score)[..., None] + values, axis=1)
    return (paths[:, -1] - paths[:, -2]) / (2 * slopes(q, key, value, score))


def input_margin(
    x: np.ndarray, q: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray, score: str
) -> float:
    """Winners changed by moving the features of the winner and of a rival to corners of the certified box."""
    keys, values = layer(x, q, key, value, bias)
    winner = (scores(q, keys, score)[..., None] + values).argmax(1)
    radius = input_radii(x, q, key, value, bias, score) * INSIDE
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * x.shape[-1])).reshape(x.shape[-1], -1).T
    least = np.full((*x.shape[:2], len(bias)), np.inf)
    most = -least
    for corner in corners:
        for c in range(len(bias)):
            moved = x + corner * radius[:, c, None, None]
            k, v = layer(moved, q, key, value, bias)
            path = scores(q, k, score) + v[..., c]
            least[..., c], most[..., c] = np.minimum(least[..., c], path), np.maximum(most[..., c], path)
    held = np.take_along_axis(least, winner[:, None], 1)
    np.put_along_axis(most, winner[:, None], -np.inf, 1)
    return float(((most >= held) & (radius[:, None] > VACUOUS)).sum())


def maslov(
    x: np.ndarray, q: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray, score: str, beta: np.ndarray
) -> float:
    """Largest violation of 0 <= (1/beta) log sum exp(beta path) - max path <= log(N) / beta on the trained layer."""
    keys, values = layer(x, q, key, value, bias)
    paths = scores(q, keys, score)[..., None] + values
    top = paths.max(1)
    worst = 0.0
    for b in beta:
        excess = np.log(np.exp(b * (paths - top[:, None])).sum(1)) / b
        worst = max(worst, float((-excess).max()), float((excess - np.log(x.shape[1]) / b).max()))
    return worst


def creases(q: np.ndarray, key: np.ndarray, score: str, limit: float) -> np.ndarray:
    """Vertices (P, 2) of the pieces of one token's path length on the box [0, limit]^2: corners, and the crease's ends.

    With one key coordinate d left the score is -|q_d - k_d x| or max(0, q_d + k_d x), which bends where that is 0.
    """
    corners = limit * np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    (used,) = np.nonzero(np.abs(key).sum(0))
    level, slope = q[used].sum(), key[:, used].sum(1) * (-1 if score == "hilbert" else 1)
    ends = []
    for edge in (0.0, limit):
        for free in (0, 1):
            if slope[free] != 0:
                other = -(level + slope[1 - free] * edge) / slope[free]
                ends.append((other, edge) if free == 0 else (edge, other))
    inside = [end for end in ends if 0 <= min(end) and max(end) <= limit]
    return np.concatenate([corners, np.array(inside).reshape(-1, 2)])


def worst(
    q: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    offset: float,
    score: str,
    limit: float,
) -> float:
    """Largest error of min_j (d_j + w_j) on any number of tokens in the box, of a layer with one channel left.

    Its answer is then o max_j f(x_j) + b. With o < 0 that is min_j (o f(x_j) + b), and a minimum moves by no more than
    what it is taken over; otherwise only the ranges of answer and truth bound their difference.
    """
    if np.count_nonzero(out) != 1 or np.count_nonzero(np.abs(key).sum(0)) > 1:
        return float("inf")
    x = creases(q, key, score, limit)
    alone = said(x[:, None], q, key, value, bias, out, offset, score)
    true = x.sum(-1)
    if out.sum() < 0:
        return float(np.abs(alone - true).max())
    return float(max(alone.max() - true.min(), true.max() - alone.min()))


def said(
    x: np.ndarray,
    q: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    offset: float,
    score: str,
) -> np.ndarray:
    """Answers (M,) of the whole trained model."""
    keys, values = layer(x, q, key, value, bias)
    return (scores(q, keys, score)[..., None] + values).max(1) @ out + offset


def uniform(x: np.ndarray, limit: float, bound: float, **weights: Any) -> float:
    """By how much the model's errors on sequences x (M, N, 2) in the box, or its largest on any, exceed the bound."""
    if x.min() < 0 or x.max() > limit:
        raise ValueError("uniform: got a sequence outside of the box")
    errors = np.abs(said(x, **weights) - x.sum(-1).min(-1))
    return max(float(errors.max()) - bound, worst(limit=limit, **weights) - bound, 0.0)


def last_output(x: np.ndarray, score: str) -> float:
    """Channel 0 of the last token's output of causal attention with q = k = v = x (N, C)."""
    return float((scores(x[-1], x, score) + x[:, 0]).max())


def constant(x: np.ndarray, noise: np.ndarray, score: str, e: float) -> float:
    """How far the largest change of the output under changes of x by at most e is from its bound, 3e or 5e.

    The witness is a sequence x (N, C) in which the last token's winner in channel 0 is an earlier token, and noise
    within [-1, 1]; an attack built from x attains the bound, and the noise must not exceed it.
    """
    bound = {"maxplus": 3.0, "hilbert": 5.0}[score]
    paths = scores(x[-1], x, score) + x[:, 0]
    winner = int(paths.argmax())
    moved = x.copy()
    if score == "maxplus":
        moved += e
    else:
        difference = x[-1] - x[winner]
        top, bottom = difference.argmax(), difference.argmin()
        if winner == len(x) - 1 or 0 in (bottom, top):
            return float("inf")
        moved[-1, top] += e
        moved[-1, bottom] -= e
        moved[winner, [0, top]] -= e
        moved[winner, bottom] += e
    attained = abs(last_output(moved, score) - last_output(x, score)) / e
    found = max(abs(last_output(x + e * np.clip(n, -1, 1), score) - last_output(x, score)) / e for n in noise)
    return max(abs(attained - bound), found - bound)


CHECKS: dict[str, Callable[..., float]] = {
    "semiring": semiring,
    "hilbert_metric": hilbert_metric,
    "factorisation": factorisation,
    "kleene_star": kleene_star,
    "margin": margin,
    "input_margin": input_margin,
    "maslov": maslov,
    "uniform": uniform,
    "constant": constant,
}
