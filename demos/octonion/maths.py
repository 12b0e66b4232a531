r"""Cayley-Dickson algebras and attention that turns values by unit numbers, as pure functions.

Twin of ``nanochat/kernels/hypercomplex``. A number of the algebra of dimension n lies along the last axis; a head of D
channels holds D / n of them, component by component. Shape letters: N queries, S keys, D channels.
"""

from __future__ import annotations

from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.nn import softmax
from jaxtyping import Float


def _doubled(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The product of rows by the recursion that defines it."""
    if x.shape[-1] == 1:
        return x * y
    (a, b), (c, d) = np.split(x, 2, -1), np.split(y, 2, -1)
    bar_c, bar_d = (np.concatenate((z[..., :1], -z[..., 1:]), -1) for z in (c, d))
    return np.concatenate((_doubled(a, c) - _doubled(bar_d, b), _doubled(d, a) + _doubled(b, bar_c)), -1)


@cache
def products(n: int) -> np.ndarray:
    """Component c of e_a e_b at (a, b, c): one entry of +-1 for each pair of units.

    Example:
        >>> products(4)[1, 2]
        array([0, 0, 0, 1])
    """
    return _doubled(*np.broadcast_arrays(np.eye(n, dtype=int)[:, None], np.eye(n, dtype=int)[None]))


def conjugate(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """The real part stays, the others change sign."""
    return jnp.concatenate((x[..., :1], -x[..., 1:]), -1)


def multiply(x: Float[Array, "... n"], y: Float[Array, "... n"]) -> Float[Array, "... n"]:
    r"""Product by the doubling :math:`(a, b)(c, d) = (ac - \bar d b,\; da + b \bar c)`. Source: arXiv:math/0105155."""
    return jnp.einsum("...a,...b,abc->...c", x, y, products(x.shape[-1]).astype(x.dtype))


def unit(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """x / |x|, and 0 for 0."""
    return x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + jnp.finfo(x.dtype).tiny)


def exponential(v: Float[Array, "... n"]) -> Float[Array, "... n"]:
    r""":math:`\exp v = \cos|v| + v \sin|v|/|v|` of imaginary numbers: unit numbers, turning by the angle |v|."""
    angle = jnp.sqrt(jnp.sum(v * v, -1, keepdims=True))
    return jnp.concatenate((jnp.cos(angle), v[..., 1:] * jnp.sinc(angle / jnp.pi)), -1)


def logarithm(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """The imaginary number of length at most pi whose exponential the unit number x is; not for x = -1."""
    length = jnp.sqrt(jnp.sum(x[..., 1:] ** 2, -1, keepdims=True))
    angle = jnp.arctan2(length, x[..., :1])
    factor = jnp.where(length > 0, angle / jnp.where(length > 0, length, 1.0), 1.0)
    return jnp.concatenate((jnp.zeros_like(angle), x[..., 1:] * factor), -1)


def slerp(start: Float[Array, " n"], end: Float[Array, " n"], share: Float[Array, " m"]) -> Float[Array, "m n"]:
    r""":math:`x \exp(t \log(\bar x y))`: the path from x to y at constant speed. Source: Shoemake (1985)."""
    step = logarithm(multiply(conjugate(start), end))
    return multiply(start, exponential(share[:, None] * step))


def chain(x: Float[Array, "T n"]) -> Float[Array, "T n"]:
    r"""Products from the left, :math:`((x_1 x_2) x_3) \cdots x_t` for every t."""

    def extend(total: Array, factor: Array) -> tuple[Array, Array]:
        total = multiply(total, factor)
        return total, total

    start = jnp.zeros_like(x[0]).at[0].set(1.0)
    return lax.scan(extend, start, x)[1]


def numbers(x: Float[Array, "... D"], n: int) -> Float[Array, "... blocks n"]:
    """The D / n numbers of a head."""
    return x.reshape(*x.shape[:-1], n, -1).swapaxes(-1, -2)


def channels(x: Float[Array, "... blocks n"]) -> Float[Array, "... D"]:
    """Inverse of :func:`numbers`."""
    return x.swapaxes(-1, -2).reshape(*x.shape[:-2], -1)


def quaternion_linear(
    x: Float[Array, "*batch I"], weight: Float[Array, "O Q"], heads_in: int, heads_out: int
) -> Float[Array, "*batch O"]:
    r""":math:`y_o = \sum_i x_i w_{oi}` over quaternions; both streams are heads that hold them by components."""
    inputs = x.reshape(*x.shape[:-1], heads_in, 4, -1)
    w = weight.reshape(heads_out, 4, weight.shape[0] // (4 * heads_out), heads_in, -1)
    return jnp.einsum("...hai,odjhi,adc->...ocj", inputs, w, products(4).astype(x.dtype)).reshape(*x.shape[:-1], -1)


def rotors(length: int, dim: int, n: int, base: float = 10000.0) -> Float[Array, "length blocks n"]:
    r"""Rotors of the positions, :math:`\exp(t\,\theta_b\,e_{n/2})` with :math:`\theta_b = \mathrm{base}^{-bn/D}`."""
    blocks = dim // n
    angles = jnp.arange(length)[:, None] * base ** (-jnp.arange(blocks) / blocks)
    found = jnp.zeros((length, blocks, n))
    return found.at[..., 0].set(jnp.cos(angles)).at[..., n // 2].set(jnp.sin(angles))


def rotor_attention(
    q: Float[Array, "N D"],
    k: Float[Array, "S D"],
    v: Float[Array, "S D"],
    n: int,
    unit_scores: bool = True,
    position: bool = False,
) -> Float[Array, "N D"]:
    r"""One head: :math:`y_i = \sum_{j\le i} a_{ij}\,(u_i \bar w_j)\,v_j`, u and w the unit numbers of q and k.

    :math:`a_{ij} = \mathrm{softmax}_j(n\,\mathrm{Re}\langle u_i, w_j\rangle / \sqrt D)`.

    Args:
        q: queries, the last N of the S positions.
        k: keys.
        v: values.
        n: 4 for quaternions, 8 for octonions.
        unit_scores: False takes the scores from q and k as they are, over sqrt(D).
        position: multiply queries and keys by the rotors of their positions; in scores only where n = 8, since
            (u p) (conj(p) conj(w)) is not u conj(w) without associativity.
    """
    (queries, dim), keys = q.shape, len(k)
    q, k = numbers(q, n), numbers(k, n)
    u, w = unit(q), unit(k)
    q, k = (u, w) if unit_scores else (q, k)
    if position:
        at = rotors(keys, dim, n).astype(q.dtype)
        q, k = multiply(q, at[keys - queries :]), multiply(k, at)
        if n == 4:
            u, w = multiply(u, at[keys - queries :]), multiply(w, at)
    scores = jnp.einsum("ibc,jbc->ij", q, k) * (n if unit_scores else 1) / dim**0.5
    visible = jnp.arange(keys) <= jnp.arange(keys - queries, keys)[:, None]
    a = softmax(jnp.where(visible, scores, -jnp.inf), -1)
    turned = multiply(multiply(u[:, None], conjugate(w)[None]), numbers(v, n)[None])
    return channels(jnp.einsum("ij,ijbc->ibc", a, turned))


def averaged_maps(
    q: Float[Array, "N D"], k: Float[Array, "S D"], v: Float[Array, "S D"], n: int
) -> Float[Array, "N D"]:
    r"""The same head without products of pairs: the matrices of :math:`x \mapsto (x \bar w_j) v_j` are averaged, then
    applied to :math:`u_i`."""
    (queries, dim), keys = q.shape, len(k)
    u, w = unit(numbers(q, n)), unit(numbers(k, n))
    table = products(n).astype(q.dtype)
    by_key = jnp.einsum("jbp,xpy->jbxy", conjugate(w), table)
    maps = by_key @ jnp.einsum("jbp,ypz->jbyz", numbers(v, n), table)
    scores = jnp.einsum("ibc,jbc->ij", u, w) * n / dim**0.5
    visible = jnp.arange(keys) <= jnp.arange(keys - queries, keys)[:, None]
    a = softmax(jnp.where(visible, scores, -jnp.inf), -1)
    mixed = (a @ maps.reshape(keys, -1)).reshape(queries, *maps.shape[1:])
    return channels(jnp.einsum("ibx,ibxy->iby", u, mixed))
