"""The matrix-gauge demo's certificates: plain functions of a witness, without jax. Each returns an error.

The trained layer is recomputed with rotation matrices, one for every pair of tokens, where the demo has quaternions and
two turns per token. Legend: W words, T tokens, H heads, n blocks of a head, s their size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg

expm = scipy.linalg.expm


def logarithm(x: np.ndarray) -> np.ndarray:
    """The real logarithm of a matrix near 1."""
    return np.real(np.asarray(scipy.linalg.logm(x)))


def far(x: np.ndarray, y: np.ndarray | float = 0.0) -> float:
    """Largest difference of two arrays."""
    return float(np.abs(x - y).max())


def commutator(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """AB - BA."""
    return a @ b - b @ a


def dagger(x: np.ndarray) -> np.ndarray:
    """Transposed matrices."""
    return np.swapaxes(x, -1, -2)


# --- groups -------------------------------------------------------------------------------------------------------


def cayley(a: np.ndarray) -> np.ndarray:
    """(1 - A/2)^-1 (1 + A/2)."""
    one = np.eye(a.shape[-1])
    return np.linalg.solve(one - a / 2, one + a / 2)


def rotation(generator: np.ndarray, exponential: np.ndarray, cayleys: np.ndarray) -> float:
    """Error of both maps out of a skew matrix A, of R^T R = 1 and of det R = 1."""
    made = max(far(expm(generator), exponential), far(cayley(generator), cayleys), far(generator, -generator.T))
    both = np.stack((exponential, cayleys))
    return max(made, far(dagger(both) @ both, np.eye(len(generator))), far(np.linalg.det(both), 1.0))


def planes(planes: np.ndarray, angles: np.ndarray, product: np.ndarray) -> float:
    """Error of a product of rotations of coordinate planes, and of its being a rotation."""
    size = len(product)
    total = np.eye(size)
    for (i, j), angle in zip(planes, angles, strict=True):
        turn = np.eye(size)
        turn[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
        total = total @ turn
    return max(far(total, product), far(product.T @ product, np.eye(size)))


def symplectic(generator: np.ndarray, exponential: np.ndarray, cayleys: np.ndarray) -> float:
    """Error of both maps out of a matrix A with JA symmetric, and of S^T J S = J, relative to |S|^2."""
    half = len(generator) // 2
    form = np.kron(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.eye(half))
    worst = far(form @ generator, (form @ generator).T)
    for made, moved in ((expm(generator), exponential), (cayley(generator), cayleys)):
        scale = far(moved) ** 2
        worst = max(worst, far(made, moved) / scale, far(moved.T @ form @ moved, form) / scale)
    return worst


def positive(generator: np.ndarray, exponential: np.ndarray) -> float:
    """Relative error of the exponential of a symmetric matrix, its asymmetry, and by how much it is not positive."""
    scale = far(exponential)
    wrong = max(far(expm(generator), exponential), far(exponential, exponential.T)) / scale
    return max(wrong, -float(np.linalg.eigvalsh(exponential).min()))


def nilpotent(generator: np.ndarray, exponential: np.ndarray) -> float:
    """Error of e^A, of the finite series of its logarithm, and of A^n = 0."""
    one = np.eye(len(generator))
    rest, power, logarithm = exponential - one, one, 0 * one
    for k in range(1, len(one)):
        power = power @ rest
        logarithm = logarithm - (-1) ** k * power / k
    ends = np.linalg.matrix_power(generator, len(one))
    return max(far(expm(generator), exponential), far(logarithm, generator), far(ends))


def left_over(angles: np.ndarray, axes: np.ndarray, chord: np.ndarray) -> float:
    r"""Error of \|a b a^-1 b^-1 - 1\| for turns about two axes, and of its formula.

    With the angle :math:`\gamma` between the axes, the turn left is by :math:`4 \arcsin(\sin\frac\alpha2
    \sin\frac\beta2 \sin\gamma)`, and a turn by :math:`\theta` is :math:`\sqrt8 \,|\sin\frac\theta2|` from 1.
    """
    a, b = (rotations(np.sin(angles / 2)[:, None] * axis, np.cos(angles / 2)) for axis in axes)
    around = a[:, None] @ b[None] @ dagger(a)[:, None] @ dagger(b)[None]
    half = np.sin(angles / 2)
    turn = 4 * np.arcsin(half[:, None] * half * np.linalg.norm(np.cross(*axes)))
    formula = np.sqrt(8) * np.abs(np.sin(turn / 2))
    return max(far(np.linalg.norm(around - np.eye(3), axis=(-2, -1)), chord), far(formula, chord))


def rotations(imaginary: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Matrices of x -> q x conj(q) for unit quaternions; components of ``imaginary`` last."""
    x, y, z = np.moveaxis(imaginary, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([np.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], -2)
    return np.eye(3) + 2 * real[..., None, None] * cross + 2 * cross @ cross


# --- fusion and semigroups ----------------------------------------------------------------------------------------


def series(a: np.ndarray, b: np.ndarray, order: int) -> np.ndarray:
    """The series of log(e^A e^B) by commutators of at most ``order`` letters."""
    ab = commutator(a, b)
    third = (commutator(a, ab) + commutator(b, commutator(b, a))) / 12
    return sum((ab / 2, third, -commutator(b, commutator(a, ab)) / 24)[: order - 1], a + b)


def fusion(a: np.ndarray, b: np.ndarray, steps: np.ndarray, errors: np.ndarray) -> float:
    """How far the order of each series is from its letters + 1, or its error from the claimed one, in steps."""
    worst = 0.0
    for order, claimed in enumerate(errors, 1):
        found = [far(logarithm(expm(h * a) @ expm(h * b)), series(h * a, h * b, order)) for h in steps]
        slope = np.log(found[0] / found[-1]) / np.log(steps[0] / steps[-1])
        worst = max(worst, abs(float(slope) - order - 1), far(np.log2(np.array(found) / claimed)))
    return worst


def magnus(constant: np.ndarray, linear: np.ndarray, flows: np.ndarray, steps: np.ndarray) -> float:
    """Error of the flows of dY/dt = (A + tB) Y by Magnus steps, orders 2 and 4, relative to the next power of the step.

    Fails (above 1) unless order p errs by at most h^p times |A|, |B| to the power p + 1, and leaves the group by 1e-12.
    """
    reference = flow(constant, linear, 512, 4)
    size = np.linalg.norm(constant, 2) + np.linalg.norm(linear, 2)
    worst = 0.0
    for order, row in zip((2, 4), flows, strict=True):
        for count, claimed in zip(steps, row, strict=True):
            worst = max(worst, far(claimed, flow(constant, linear, int(count), order)) * 1e12)
            worst = max(worst, far(claimed.T @ claimed, np.eye(len(claimed))) * 1e12)
            worst = max(worst, far(claimed, reference) * count**order / size ** (order + 1))
    return worst


def flow(constant: np.ndarray, linear: np.ndarray, count: int, order: int) -> np.ndarray:
    """Y(1) by ``count`` Magnus steps from the two Gauss points."""
    y, h = np.eye(len(constant)), 1.0 / count
    for k in range(count):
        middle, away = (k + 0.5) * h, h * 3**0.5 / 6
        first, second = (constant + t * linear for t in (middle - away, middle + away))
        exponent = (first + second) * h / 2
        y = expm(exponent - (order == 4) * commutator(first, second) * 3**0.5 / 12 * h * h) @ y
    return y


def uniformized(
    q: np.ndarray, x: np.ndarray, time: float, tolerances: np.ndarray, terms: np.ndarray, found: np.ndarray
) -> float:
    """By how much e^tQ x misses what was promised before: the Poisson tail after so many terms, times max |x|."""
    exact = expm(time * q) @ x
    mean = time * float(-np.diag(q).min())
    worst = -np.inf
    for tolerance, count, value in zip(tolerances, terms, found, strict=True):
        weights = np.exp(np.cumsum(np.r_[-mean, np.log(mean / np.arange(1, count))]))
        worst = max(worst, far(value, exact) - tolerance * far(x), 1 - weights.sum() - tolerance)
    return worst


def semigroup(q: np.ndarray, times: np.ndarray, matrices: np.ndarray, rest: np.ndarray) -> float:
    """Error of P1 = 1, P >= 0, P_s P_t = P_(s + t), and of the distribution that stays; rows of Q add up to 0."""
    sums = max(far(matrices.sum(-1), 1.0), far(q.sum(1)), max(0.0, -float(matrices.min())))
    made = max(far(expm(time * q), matrix) for time, matrix in zip(times, matrices, strict=True))
    composed = far(matrices[0] @ matrices[1], matrices[2]) + abs(float(times[0] + times[1] - times[2]))
    return max(sums, made, composed, far(rest @ matrices, rest), far(rest @ q), abs(float(rest.sum() - 1)))


def walks(q: np.ndarray, x: np.ndarray, time: float, state: int, mean: float, error: float) -> float:
    """Distance of the mean over random walks from e^tQ x, in standard errors."""
    return abs(float((expm(time * q) @ x)[state]) - mean) / error


def conserved(generators: np.ndarray, start: np.ndarray, form: np.ndarray, path: np.ndarray) -> float:
    """Error of a path by Cayley steps, and of x^T F x staying what it was, relative to |x|^2."""
    x, worst = start, 0.0
    for generator, claimed in zip(generators, path, strict=True):
        x = cayley(generator) @ x
        worst = max(worst, far(x, claimed) / far(x), abs(float(x @ form @ x - start @ form @ start)) / float(x @ x))
    return worst


# --- the trained layer --------------------------------------------------------------------------------------------


def emitted(
    words: np.ndarray, embed: np.ndarray, mix: np.ndarray, heads: int, group: str, **_: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Queries, keys and values (3, W, T, H, n, s), and the matrix that every token emits (W, T, H, n, s, s)."""
    begun = np.concatenate([np.full((len(words), 1), len(embed) - 1), words], 1)
    numbers = (embed @ mix)[begun].reshape(*begun.shape, heads, -1)
    channels, size = embed.shape[1] // heads, 3 if group == "so3" else 2
    qkv = np.stack(np.split(numbers[..., : 3 * channels], 3, -1))
    blocks = np.swapaxes(qkv.reshape(*qkv.shape[:-1], size, -1), -1, -2)
    made = elements(numbers[..., 3 * channels :], group)
    made[:, 0] = np.eye(size)
    return blocks, made


def elements(raw: np.ndarray, group: str) -> np.ndarray:
    """Rotations of blocks: of quaternions, components before blocks, or of angles."""
    if group == "so3":
        parts = np.swapaxes(raw.reshape(*raw.shape[:-1], 4, -1), -1, -2)
        unit = parts / np.linalg.norm(parts, axis=-1, keepdims=True)
        return rotations(unit[..., 1:], unit[..., 0])
    cos, sin = np.cos(raw), np.sin(raw)
    return np.stack((np.stack((cos, -sin), -1), np.stack((sin, cos), -1)), -2)


def frames(made: np.ndarray) -> np.ndarray:
    """Products of the matrices so far, along the second axis."""
    found = made.copy()
    for t in range(1, made.shape[1]):
        found[:, t] = found[:, t - 1] @ made[:, t]
    return found


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the second of the last two axes, up to the diagonal."""
    seen = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(seen - seen.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def carried(qkv: np.ndarray, made: np.ndarray, values: bool = True) -> np.ndarray:
    """Attention with two turns per token; with ``values`` False these are left where they are."""
    frame = frames(made)
    q, k, v = (np.einsum("wthnab,wthnb->whtna", frame, x) for x in qkv)
    v = v if values else np.swapaxes(qkv[2], 1, 2)
    q, k, flat = (x.reshape(*x.shape[:3], -1) for x in (q, k, v))
    mixed = (softmax(q @ dagger(k) / q.shape[-1] ** 0.5) @ flat).reshape(v.shape)
    return np.einsum("wthnba,whtnb->wthna", frame, mixed) if values else np.swapaxes(mixed, 1, 2)


def by_pairs(qkv: np.ndarray, made: np.ndarray) -> np.ndarray:
    """The same from the way between every two tokens, g_i^-1 ... g_(j+1)^-1, and no frames at all."""
    q, k, v = qkv
    way = np.zeros((*made.shape[:2], *made.shape[1:]))
    for i in range(made.shape[1]):
        if i:
            way[:, i, :i] = dagger(made[:, i])[:, None] @ way[:, i - 1, :i]
        way[:, i, i] = np.eye(made.shape[-1])
    scores = np.einsum("wihna,wijhnab,wjhnb->whij", q, way, k) / (q.shape[-1] * q.shape[-2]) ** 0.5
    return np.einsum("whij,wijhnab,wjhnb->wihna", softmax(scores), way, v)


def answers(y: np.ndarray, up: np.ndarray, down: np.ndarray, head: np.ndarray, **_: np.ndarray) -> np.ndarray:
    """Scores of the answers after each letter."""
    heads = np.swapaxes(y, -1, -2).reshape(*y.shape[:3], -1)
    normed = (heads / np.sqrt((heads * heads).mean(-1, keepdims=True) + 1e-6)).reshape(*y.shape[:2], -1)
    return ((normed + np.maximum(normed @ up, 0) @ down) @ head)[:, 1:]


def same_layer(words: np.ndarray, said: np.ndarray, heads: int, group: str, **layer: np.ndarray) -> float:
    """Largest difference of the trained layer's scores from those by pairs."""
    qkv, made = emitted(words, heads=heads, group=group, **layer)
    return far(answers(by_pairs(qkv, made), **layer), said)


def gauge(words: np.ndarray, turns: np.ndarray, heads: int, group: str, **layer: np.ndarray) -> float:
    """Error of y_t -> h_t y_t when q, k, v are turned by h_t, and what t emits becomes h_(t-1) g_t h_t^-1."""
    qkv, made = emitted(words, heads=heads, group=group, **layer)
    h = elements(turns, group)
    before = np.concatenate((np.broadcast_to(np.eye(h.shape[-1]), h[:, :1].shape), h[:, :-1]), 1)
    moved = carried(np.einsum("wthnab,xwthnb->xwthna", h, qkv), before @ made @ dagger(h))
    return far(moved, np.einsum("wthnab,wthnb->wthna", h, carried(qkv, made)))


def drift(words: np.ndarray, last: np.ndarray, heads: int, group: str, **layer: np.ndarray) -> float:
    """How far the frames after long words are from what is claimed, and from rotations."""
    frame = frames(emitted(words, heads=heads, group=group, **layer)[1])
    return max(far(frame[:, -1], last), far(dagger(frame) @ frame, np.eye(frame.shape[-1])))


def squares(made: np.ndarray) -> np.ndarray:
    """a b a^-1 b^-1 - 1 as a length, for all pairs of the first axis."""
    a, b = made[:, None], made[None]
    return np.linalg.norm(a @ b @ dagger(a) @ dagger(b) - np.eye(made.shape[-1]), axis=(-2, -1))


def plaquettes(chords: np.ndarray, heads: int, group: str, **layer: np.ndarray) -> float:
    """Error of what is left around the squares of every two letters; in u1 of its being nothing."""
    letters = np.arange(len(layer["embed"]) - 1)[:, None]
    found = squares(emitted(letters, heads=heads, group=group, **layer)[1][:, 1])
    return max(far(found, chords), far(chords) if group == "u1" else 0.0)


CHECKS: dict[str, Callable[..., float]] = {
    "rotation": rotation,
    "planes": planes,
    "symplectic": symplectic,
    "positive": positive,
    "nilpotent": nilpotent,
    "holonomy": left_over,
    "conserved": conserved,
    "fusion": fusion,
    "magnus": magnus,
    "uniformized": uniformized,
    "semigroup": semigroup,
    "walks": walks,
    "same_layer": same_layer,
    "gauge": gauge,
    "drift": drift,
    "plaquettes": plaquettes,
}
