"""Matrix Lie groups: exponentials, Cayley maps, plane rotations, commutator series, holonomy, and Markov semigroups.

Shape letters: n side of a matrix, S states of a Markov chain, m steps.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from scipy.special import gammainc

Matrix = Float[Array, "*batch n n"]


def commutator(a: Matrix, b: Matrix) -> Matrix:
    """[A, B] = AB - BA."""
    return a @ b - b @ a


def skew(x: Matrix) -> Matrix:
    """The part in so(n), the Lie algebra of rotations."""
    return (x - jnp.swapaxes(x, -1, -2)) / 2


def symplectic_form(n: int) -> Float[np.ndarray, "n n"]:
    """J = [[0, 1], [-1, 0]] in blocks of n / 2."""
    if n % 2:
        raise ValueError(f"symplectic form: got {n} dimensions, need an even number")
    return np.kron(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.eye(n // 2))


def hamiltonian(x: Matrix) -> Matrix:
    """The part in sp(n): J S with S symmetric."""
    return jnp.asarray(symplectic_form(x.shape[-1])) @ (x + jnp.swapaxes(x, -1, -2)) / 2


def rodrigues(w: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    r"""Rotation by \|w\| about w: :math:`1 + \frac{\sin\theta}{\theta} K + \frac{1 - \cos\theta}{\theta^2} K^2`.

    Smooth at w = 0, gradients included: both factors are entire functions of the squared angle.
    """
    square = jnp.sum(w * w, -1)[..., None, None]
    angle = jnp.sqrt(jnp.where(square > 1e-8, square, 1.0))
    sine = jnp.where(square > 1e-8, jnp.sin(angle) / angle, 1 - square / 6)
    cosine = jnp.where(square > 1e-8, (1 - jnp.cos(angle)) / angle**2, 0.5 - square / 24)
    k = hat(w)
    return jnp.eye(3) + sine * k + cosine * (k @ k)


def hat(w: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """The matrix of the cross product with w."""
    x, y, z = w[..., 0], w[..., 1], w[..., 2]
    zero = jnp.zeros_like(x)
    rows = (jnp.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero)))
    return jnp.stack(tuple(rows), -2)


def nilpotent_exponential(a: Matrix) -> Matrix:
    """e^A of a strictly triangular matrix: n terms of the series, and no error."""
    size = a.shape[-1]
    total = power = jnp.broadcast_to(jnp.eye(size, dtype=a.dtype), a.shape)
    for k in range(1, size):
        power = power @ a / k
        total = total + power
    return total


def symmetric_exponential(a: Matrix) -> Matrix:
    """e^A of a symmetric matrix, positive definite: through its eigenvectors."""
    values, vectors = jnp.linalg.eigh(a)
    return (vectors * jnp.exp(values)[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)


def cayley(a: Matrix) -> Matrix:
    r""":math:`(1 - A/2)^{-1} (1 + A/2)`: from so(n) into SO(n), from sp(n) into Sp(n), with error O(A^3) of e^A."""
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    return jnp.linalg.solve(one - a / 2, one + a / 2)


def givens(planes: Int[np.ndarray, "m 2"], angles: Float[Array, " m"], n: int) -> Float[Array, "n n"]:
    """Product of rotations of coordinate planes, the first one leftmost."""
    total = jnp.eye(n, dtype=angles.dtype)
    for (i, j), angle in zip(planes.tolist(), angles, strict=True):
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        left, right = total[:, i], total[:, j]
        total = total.at[:, i].set(cos * left + sin * right).at[:, j].set(cos * right - sin * left)
    return total


def baker_campbell_hausdorff(a: Matrix, b: Matrix, order: int) -> Matrix:
    r"""log(e^A e^B) through commutators of at most ``order`` letters, 1 to 4; the error is of order + 1 letters.

    .. math:: A + B + \tfrac12 [A, B] + \tfrac1{12} ([A, [A, B]] + [B, [B, A]]) - \tfrac1{24} [B, [A, [A, B]]]
    """
    if not 1 <= order <= 4:
        raise ValueError(f"baker_campbell_hausdorff: got order {order}, need 1 to 4")
    ab = commutator(a, b)
    aab = commutator(a, ab)
    parts = (a + b, ab / 2, (aab - commutator(b, ab)) / 12, -commutator(b, aab) / 24)
    return sum(parts[1:order], parts[0])


def magnus_step(first: Matrix, second: Matrix, h: float | Array, order: int) -> Matrix:
    r"""Exponent that carries dY/dt = A(t) Y over a step h, from A at the two Gauss points; order 2 or 4.

    Order 4: :math:`\tfrac h2 (A_1 + A_2) - \tfrac{\sqrt3}{12} h^2 [A_1, A_2]`.
    Source: doi:10.1016/j.physrep.2008.11.001.
    """
    if order not in (2, 4):
        raise ValueError(f"magnus_step: got order {order}, need 2 or 4")
    mean = (first + second) * (h / 2)
    return mean if order == 2 else mean - commutator(first, second) * (math.sqrt(3) / 12 * h * h)


def gauss_points(start: Any, h: Any) -> tuple[Any, Any]:
    """The two Gauss points of a step, or of many: numbers or arrays."""
    middle, away = start + h / 2, h * math.sqrt(3) / 6
    return middle - away, middle + away


def holonomy(a: Matrix, b: Matrix) -> Matrix:
    """e^A e^B e^-A e^-B, what is left after going around a plaquette: 1 + [A, B] + third order."""
    expm = jax.scipy.linalg.expm
    return expm(a) @ expm(b) @ expm(-a) @ expm(-b)


def generator(rates: Float[Array, "S S"]) -> Float[Array, "S S"]:
    """Q of a Markov chain: the given rates off the diagonal, rows that add up to 0.

    Raises:
        ValueError: a negative rate.
    """
    off = jnp.where(jnp.eye(rates.shape[-1], dtype=bool), 0.0, rates)
    if bool((off < 0).any()):
        raise ValueError(f"generator: got a rate of {float(off.min()):g}, need none negative")
    return off - jnp.diag(off.sum(-1))


def poisson_tail(mean: float, terms: int) -> float:
    """P(N >= terms) of a Poisson variable: what the first ``terms`` terms of uniformization leave out."""
    return float(gammainc(terms, mean))


def terms_for(mean: float, tolerance: float) -> int:
    """Fewest terms whose Poisson tail is at most the tolerance: known before anything is multiplied."""
    terms = np.arange(1, int(mean + 40 * math.sqrt(mean)) + 200)
    return int(terms[np.argmax(gammainc(terms, mean) <= tolerance)])


@jax.jit
def _uniformized(q: Float[Array, "S S"], x: Float[Array, "S ..."], mean: Array, rate: Array, terms: Array) -> Array:
    """The first terms of sum_n e^-m m^n / n! P^n x, with weights by logarithms so that none underflows."""
    step = jnp.eye(q.shape[-1], dtype=q.dtype) + q / rate

    def add(n: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, power = carry
        weight = jnp.exp(n * jnp.log(mean) - mean - jax.scipy.special.gammaln(n + 1.0))
        return total + weight * power, step @ power

    return jax.lax.fori_loop(0, terms, add, (jnp.zeros_like(x), x))[0]


def expmv(
    q: Float[Array, "S S"], x: Float[Array, "S ..."], time: float, tolerance: float = 1e-12
) -> Float[Array, "S ..."]:
    r"""e^{tQ} x of a generator by uniformization, without forming the exponential.

    .. math:: e^{tQ} x = \sum_n e^{-\lambda t} \frac{(\lambda t)^n}{n!} P^n x, \qquad P = 1 + Q / \lambda

    All terms are averages, so nothing cancels, and stopping after N of them errs by at most the Poisson tail times
    max \|x\|: the number of terms follows from the tolerance beforehand.

    Args:
        q: generator (rows add up to 0, no negative rate).
        x: a function of the states, or several.
        time: t, at least 0.
        tolerance: bound on the error relative to max \|x\|.

    Source: doi:10.1080/03461238.1953.10419459.
    """
    if time < 0 or tolerance <= 0:
        raise ValueError(f"expmv: got time {time:g} and tolerance {tolerance:g}, need at least 0 and more than 0")
    rate = float(jnp.max(-jnp.diag(q)))
    if rate * time == 0:
        return x
    mean = rate * time
    return _uniformized(
        q, x, jnp.asarray(mean, q.dtype), jnp.asarray(rate, q.dtype), jnp.asarray(terms_for(mean, tolerance))
    )


def sampled_expmv(
    q: Float[Array, "S S"], x: Float[Array, " S"], time: float, state: int, draws: int, seed: int
) -> tuple[float, float]:
    """Mean and standard error of x at time t over random walks from one state that jump at Poisson times."""
    random = np.random.default_rng(seed)
    rate = float(jnp.max(-jnp.diag(q)))
    cumulative = np.cumsum(np.eye(len(q)) + np.asarray(q) / rate, axis=1)
    jumps, states = random.poisson(rate * time, draws), np.full(draws, state)
    for n in range(int(jumps.max(initial=0))):
        moved = (random.random(draws)[:, None] > cumulative[states]).sum(1).clip(max=len(q) - 1)
        states = np.where(n < jumps, moved, states)
    values = np.asarray(x)[states]
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(draws))
