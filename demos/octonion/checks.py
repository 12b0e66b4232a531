"""The octonion demo's certificates: plain functions of a witness, without jax. Each returns an error or a count.

Products here come from the rule of the algebra as a table that is built by doubling, in the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np


def conjugate(x: np.ndarray) -> np.ndarray:
    """The real part stays, the others change sign."""
    return np.concatenate((x[..., :1], -x[..., 1:]), -1)


def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(a, b)(c, d) = (ac - conj(d) b, da + b conj(c)), down to real numbers."""
    return np.einsum("...a,...b,abc->...c", x, y, table(x.shape[-1]))


@cache
def table(n: int) -> np.ndarray:
    """Component c of the product of the units a and b at [a, b, c]."""
    if n == 1:
        return np.ones((1, 1, 1))
    half, m = table(n // 2), n // 2
    sign = np.diag(np.r_[1.0, -np.ones(m - 1)])
    full = np.zeros((n, n, n))
    full[:m, :m, :m] = half  # a c
    full[m:, m:, :m] = -np.einsum("dx,xbc->bdc", sign, half)  # conj(d) b, with b from the first factor
    full[:m, m:, m:] = np.einsum("dac->adc", half)  # d a
    full[m:, :m, m:] = np.einsum("cx,bxe->bce", sign, half)  # b conj(c)
    return full


def unit(x: np.ndarray) -> np.ndarray:
    """x / |x|."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def norm(x: np.ndarray, y: np.ndarray, xy: np.ndarray) -> float:
    """Largest relative error of the products xy, and of their lengths being |x||y|."""
    sizes = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    apart = np.linalg.norm(product(x, y) - xy, axis=-1) / sizes
    return float(max(apart.max(), np.abs(np.linalg.norm(xy, axis=-1) / sizes - 1).max()))


def alternative(x: np.ndarray, y: np.ndarray) -> float:
    """Largest error of x(xy) = (xx)y, (yx)x = y(xx) and x(yx) = (xy)x."""
    left = product(x, product(x, y)) - product(product(x, x), y)
    right = product(product(y, x), x) - product(y, product(x, x))
    flexible = product(x, product(y, x)) - product(product(x, y), x)
    return float(max(np.abs(part).max() for part in (left, right, flexible)))


def moufang(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Largest error of z(x(zy)) = ((zx)z)y and of (zx)(yz) = (z(xy))z."""
    first = product(z, product(x, product(z, y))) - product(product(product(z, x), z), y)
    second = product(product(z, x), product(y, z)) - product(product(z, product(x, y)), z)
    return float(max(np.abs(first).max(), np.abs(second).max()))


def associator(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(xy)z - x(yz)."""
    return product(product(x, y), z) - product(x, product(y, z))


def brackets(x: np.ndarray, y: np.ndarray, z: np.ndarray, size: float) -> float:
    """Largest distance of |(xy)z - x(yz)| from ``size``: 0 for quaternions, 2 for three octonion units off a line."""
    return float(np.abs(np.linalg.norm(associator(x, y, z), axis=-1) - size).max())


def chain(x: np.ndarray, result: np.ndarray) -> float:
    """Error of the product of all rows, from the left, and of its length being the product of theirs."""
    total = x[0]
    for factor in x[1:]:
        total = product(total, factor)
    length = np.exp(np.log(np.linalg.norm(x, axis=-1)).sum())
    return float(max(np.abs(total - result).max(), abs(np.linalg.norm(result) / length - 1)))


def exp(v: np.ndarray) -> np.ndarray:
    """cos |v| + v sin |v| / |v| of imaginary rows v."""
    angle = np.linalg.norm(v, axis=-1, keepdims=True)
    return np.concatenate((np.cos(angle), v[..., 1:] * np.sinc(angle / np.pi)), -1)


def exp_log(v: np.ndarray, rotor: np.ndarray, logarithm: np.ndarray) -> float:
    """Error of rotor = exp(v), of |rotor| = 1 and of v = log(rotor), for |v| < pi."""
    made = np.abs(exp(v) - rotor).max()
    length = np.abs(np.linalg.norm(rotor, axis=-1) - 1).max()
    return float(max(made, length, np.abs(logarithm - v).max()))


def slerp(start: np.ndarray, end: np.ndarray, path: np.ndarray) -> float:
    """Error of a path of unit numbers: its ends, its length, and equal angles from each point to the next."""
    angles = 2 * np.arcsin(np.linalg.norm(np.diff(path, axis=0), axis=-1) / 2)
    whole = 2 * np.arcsin(np.linalg.norm(end - start) / 2)
    ends = max(np.abs(path[0] - start).max(), np.abs(path[-1] - end).max())
    return float(max(ends, np.abs(angles - whole / len(angles)).max()))


def layer(
    frames: np.ndarray, seen: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit numbers of the query and of the keys, values, and weights of the trained layer."""
    u, w, values = unit(frames[:, -1:] @ q), unit(frames[:, :-1] @ k), seen @ v
    scores = (u * w).sum(-1) * u.shape[-1] ** 0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return u, w, values, weights / weights.sum(-1, keepdims=True)


def same_form(
    frames: np.ndarray, seen: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, said: np.ndarray
) -> float:
    """Largest difference of the trained layer's answers from its form without pairs.

    u (sum of a conj(w) v) for quaternions; for octonions u goes through the sum of the maps x -> (x conj(w)) v.
    """
    u, w, values, weights = layer(frames, seen, q, k, v)
    n = u.shape[-1]
    if n == 4:
        answer = product(u[:, 0], (weights[..., None] * product(conjugate(w), values)).sum(1))
    else:
        basis = np.eye(n)[:, None, None]
        matrices = (weights[..., None] * product(product(basis, conjugate(w)), values)).sum(-2)
        answer = np.einsum("xbn,bx->bn", matrices, u[:, 0])
    return float(np.abs(answer - said).max())


def isometry(
    frames: np.ndarray, seen: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, turned: np.ndarray
) -> float:
    """Largest error of the turned values (u conj(w)) v and of their lengths being those of the values."""
    u, w, values, _ = layer(frames, seen, q, k, v)
    apart = np.abs(product(product(u, conjugate(w)), values) - turned).max()
    return float(max(apart, np.abs(np.linalg.norm(turned, axis=-1) - np.linalg.norm(values, axis=-1)).max()))


def turned_error(
    frames: np.ndarray, seen: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, turn: np.ndarray
) -> float:
    """By how much an answer differs from g^-1 times the answer when g is multiplied from the left to q, k and v."""
    u, w, values, weights = layer(frames, seen, q, k, v)

    def answer(u: np.ndarray, w: np.ndarray, values: np.ndarray) -> np.ndarray:
        return (weights[..., None] * product(product(u, conjugate(w)), values)).sum(1)

    moved = answer(product(turn, u), product(turn, w), product(turn, values))
    return float(np.abs(product(conjugate(turn), moved) - answer(u, w, values)).max())


def lengths_kept(
    frames: np.ndarray, seen: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, turn: np.ndarray
) -> float:
    """Largest change of the attention's weights when a unit number is multiplied to queries and keys."""
    u, w, _, weights = layer(frames, seen, q, k, v)
    scores = (product(turn, u) * product(turn, w)).sum(-1) * u.shape[-1] ** 0.5
    moved = np.exp(scores - scores.max(-1, keepdims=True))
    return float(np.abs(moved / moved.sum(-1, keepdims=True) - weights).max())


CHECKS: dict[str, Callable[..., float]] = {
    "norm": norm,
    "alternative": alternative,
    "moufang": moufang,
    "brackets": brackets,
    "chain": chain,
    "exp_log": exp_log,
    "slerp": slerp,
    "same_form": same_form,
    "isometry": isometry,
    "turned": turned_error,
    "weights": lengths_kept,
}
