"""Parallel transport of channel blocks and the attention that compares what is transported, as pure functions.

Twins of ``nanochat/kernels/scan`` and ``nanochat/attention/gauge.py``. Quaternions are structures of arrays, component
(real, i, j, k) before lane; one of length 0, which PyTorch takes for the identity, is not allowed here.

Shape letters: H query heads, K key/value heads, T tokens, D channels, L lanes, n blocks of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

SIZE = {"so3": 3, "u1": 2, "so4": 4}
"""Channels of one block; of ``so``, whose frames are n x n matrices row by row, the root of their components."""


SIGNS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, -1, -1, 1], [1, 1, -1, -1]])
"""Sign of the product of the units a and b of 1, i, j, k; up to it the product is unit a XOR b."""

UNITS = np.eye(4)[np.arange(4)[:, None] ^ np.arange(4)] * SIGNS[..., None]


def product(a: Float[Array, "*batch 4 L"], b: Float[Array, "*batch 4 L"]) -> Float[Array, "*batch 4 L"]:
    """Hamilton product, lane by lane: one contraction, which compiles twice as fast as sixteen products."""
    return jnp.einsum("...al,...bl,abc->...cl", a, b, UNITS)


def inverse(frame: Float[Array, "*batch c L"], group: str = "so3") -> Float[Array, "*batch c L"]:
    """The conjugate: of a unit quaternion, or of a plane's (cosine, sine); the transposed matrix."""
    if group == "so":
        size = isqrt(frame.shape[-2])
        return frame.reshape(*frame.shape[:-2], size, size, -1).swapaxes(-3, -2).reshape(frame.shape)
    return jnp.concatenate((frame[..., :1, :], -frame[..., 1:, :]), -2)


def cayley(raw: Float[Array, "*batch m L"], size: int) -> Float[Array, "*batch L size size"]:
    r""":math:`(1 - A)^{-1} (1 + A)` with :math:`A_{ba} = -A_{ab} = r_{ab} / \sqrt n` for the pairs a < b in order."""
    rows, columns = jnp.triu_indices(size, 1)
    numbers = jnp.moveaxis(raw, -1, -2) * size**-0.5
    half = jnp.zeros((*numbers.shape[:-1], size, size), raw.dtype).at[..., columns, rows].set(numbers)
    skew, one = half - half.mT, jnp.eye(size, dtype=raw.dtype)
    return jnp.linalg.solve(one - skew, one + skew)


def running(multiply: Callable[[Array, Array], Array], elements: Float[Array, "K T ..."]) -> Float[Array, "K T ..."]:
    """Products of the elements so far, along the second axis."""

    def step(total: Array, element: Array) -> tuple[Array, Array]:
        total = multiply(total, element)
        return total, total

    _, rest = jax.lax.scan(step, elements[:, 0], jnp.moveaxis(elements[:, 1:], 1, 0))
    return jnp.concatenate((elements[:, :1], jnp.moveaxis(rest, 0, 1)), 1)


def frames(raw: Float[Array, "K T numbers"], group: str, block: int = 8) -> Float[Array, "K T c L"]:
    r""":math:`P_t = g_1 \cdots g_t`, one factor after the other: a scan compiles in half the time of a tree.

    ``raw`` are angles, quaternions normalised here, or what names rotations of ``block`` channels (:func:`cayley`).
    """
    if group == "so":
        elements = cayley(raw.reshape(*raw.shape[:2], block * (block - 1) // 2, -1), block)
        found = running(jnp.matmul, elements)
        return found.reshape(*found.shape[:3], -1).swapaxes(-1, -2)
    if group == "u1":
        angles = jnp.cumsum(raw, 1)
        return jnp.stack((jnp.cos(angles), jnp.sin(angles)), 2)
    quaternions = raw.reshape(*raw.shape[:2], 4, -1)
    unit = quaternions / jnp.linalg.norm(quaternions, axis=-2, keepdims=True)
    return running(product, unit)


def turn(
    frame: Float[Array, "K T c L"], x: Float[Array, "H T D"], group: str, undo: bool = False
) -> Float[Array, "H T D"]:
    r"""Each frame acts on the blocks of its heads: :math:`p x \bar p`, :math:`l x \bar r`, a matrix, a plane's turn."""
    size, n = SIZE.get(group, isqrt(frame.shape[-2])), frame.shape[-1] // (2 if group == "so4" else 1)
    acting = jnp.repeat(inverse(frame, group) if undo else frame, x.shape[0] // frame.shape[0], 0)
    blocks = x[..., : size * n].reshape(*x.shape[:2], size, n)
    if group == "u1":
        (cos, sin), (a, b) = jnp.moveaxis(acting, -2, 0), jnp.moveaxis(blocks, -2, 0)
        moved = jnp.stack((a * cos - b * sin, a * sin + b * cos), -2)
    elif group == "so":
        moved = jnp.einsum("htabn,htbn->htan", acting.reshape(*x.shape[:2], size, size, n), blocks)
    else:
        left, right = (acting, acting) if group == "so3" else jnp.split(acting, 2, -1)
        padded = jnp.concatenate((jnp.zeros((*x.shape[:2], 4 - size, n), x.dtype), blocks), -2)
        moved = product(product(left, padded), inverse(right))[..., 4 - size :, :]
    return jnp.concatenate((moved.reshape(*x.shape[:2], size * n), x[..., size * n :]), -1)


def gauge_attention(
    q: Float[Array, "H T D"],
    k: Float[Array, "K T D"],
    v: Float[Array, "K T D"],
    raw: Float[Array, "K T numbers"],
    group: str,
    block: int = 8,
) -> Float[Array, "H T D"]:
    r""":math:`y_i = P_i^{-1} \sum_{j \le i} \mathrm{softmax}_j(\langle P_i q_i, P_j k_j\rangle/\sqrt D)\,P_j v_j`."""
    frame = frames(raw, group, block)
    q, k, v = (turn(frame, x, group) for x in (q, k, v))
    k, v = (jnp.repeat(x, q.shape[0] // k.shape[0], 0) for x in (k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    mixed = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), -1) @ v
    return turn(frame, mixed, group, undo=True)
