"""Max-plus algebra and tropical attention as pure functions: the executable definitions.

Twins of ``nanochat/kernels/maxplus`` and ``nanochat/attention/tropical.py``. Shape letters: H query heads, K key/value
heads, N queries, S keys, D channels. Ties go to the first index, in gradients too. ``beta`` is Maslov's parameter:
every maximum over n terms becomes (1/beta) log sum exp(beta .), at most log(n)/beta above it; ``None`` is the maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Float, Int


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _hard_maximum(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*rest"]:
    return jnp.max(x, axis)


@_hard_maximum.defjvp
def _hard_maximum_jvp(axis: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (change,) = primals, tangents
    axis = axis % x.ndim
    first = jnp.expand_dims(jnp.argmax(x, axis), axis)
    chosen = jax.lax.broadcasted_iota(first.dtype, x.shape, axis) == first  # a mask fuses where a gather does not
    return jnp.max(x, axis), jnp.sum(jnp.where(chosen, change, 0), axis)


def maximum(x: Float[Array, "*shape"], axis: int, beta: float | None = None) -> Float[Array, "*rest"]:
    """Tropical sum along an axis; its gradient goes to the first of equals."""
    return _hard_maximum(x, axis) if beta is None else logsumexp(beta * x, axis=axis) / beta


def maxplus_product(
    a: Float[Array, "*batch M K"], b: Float[Array, "*batch K N"], beta: float | None = None
) -> Float[Array, "*batch M N"]:
    """Max-plus matrix product c_ij = max_k (a_ik + b_kj): path weights of two steps from those of one.

    Example:
        >>> maxplus_product(jnp.array([[0.0, 3.0]]), jnp.array([[1.0], [-1.0]]))
        Array([[2.]], dtype=float32)
    """
    return maximum(a[..., :, :, None] + b[..., None, :, :], -2, beta)


def hilbert_distance(x: Float[Array, "*batch D"], y: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """Hilbert's projective metric max_d (x - y) - min_d (x - y): a metric on R^D / R(1, ..., 1)."""
    return maximum(x - y, -1) + maximum(y - x, -1)


def hilbert_score(q: Float[Array, "N D"], k: Float[Array, "S D"], beta: float | None = None) -> Float[Array, "N S"]:
    """Minus Hilbert's projective distance of every query to every key."""
    difference = q[:, None] - k
    return -maximum(difference, -1, beta) - maximum(-difference, -1, beta)


def maxplus_score(q: Float[Array, "N D"], k: Float[Array, "S D"], beta: float | None = None) -> Float[Array, "N S"]:
    """Tropical inner product max_d (q_d + k_d) of every query and every key."""
    return maximum(q[:, None] + k, -1, beta)


SCORES: dict[str, Callable[..., Float[Array, "N S"]]] = {"hilbert": hilbert_score, "maxplus": maxplus_score}
"""Score functions by the name that ``--tropical-score`` takes."""


def candidates(
    q: Float[Array, "N D"],
    k: Float[Array, "S D"],
    v: Float[Array, "S D"],
    score: str = "hilbert",
    beta: float | None = None,
) -> Float[Array, "N S D"]:
    """All s_ij + v_jd; minus infinity where key j comes after query i. The N queries are the last N of S positions."""
    queries, keys = q.shape[0], k.shape[0]
    visible = jnp.arange(keys) <= jnp.arange(keys - queries, keys)[:, None]
    return jnp.where(visible, SCORES[score](q, k, beta), -jnp.inf)[..., None] + v


def tropical_attention(
    q: Float[Array, "N D"],
    k: Float[Array, "S D"],
    v: Float[Array, "S D"],
    score: str = "hilbert",
    beta: float | None = None,
) -> Float[Array, "N D"]:
    r"""Causal tropical attention of one head: :math:`y_{id} = \max_{j \le i} (s_{ij} + v_{jd})`.

    Args:
        q: queries, the last N of the S positions: all in training, one or a chunk when decoding.
        k: keys.
        v: values.
        score: ``hilbert`` or ``maxplus``.
        beta: Maslov's parameter.

    Source: arXiv:2505.17190. Differs from it: causal; the maximum is not followed by an exponential map.
    """
    return maximum(candidates(q, k, v, score, beta), 1, beta)


def gauge(y: Float[Array, "*batch D"], beta: float | None = None) -> Float[Array, "*batch D"]:
    """The representative whose largest channel is 0 of a point of tropical projective space.

    At finite beta the one whose deformed maximum is 0: exp(beta y) is a distribution over channels.
    """
    return y - maximum(y, -1, beta)[..., None]


def translate(
    q: Float[Array, "N D"], k: Float[Array, "S D"], slope: Float[Array, ""], score: str = "hilbert"
) -> tuple[Float[Array, "N D"], Float[Array, "S D"]]:
    """Give queries and keys their positions: position p moves the first half of the channels by p times the slope.

    Both are moved the same way (``hilbert``, an isometry) or opposite ways (``maxplus``), so that scores see i - j.
    """
    queries, keys = q.shape[0], k.shape[0]
    shift = slope * jnp.arange(keys)[:, None] * (jnp.arange(k.shape[1]) < k.shape[1] // 2)
    sign = 1 if score == "hilbert" else -1
    return q + sign * shift[keys - queries :], k + shift


@partial(jax.jit, static_argnames=("score", "positions", "beta"))
def mix_heads(
    q: Float[Array, "H N D"],
    k: Float[Array, "K S D"],
    v: Float[Array, "K S D"],
    score: str = "hilbert",
    positions: bool = True,
    beta: float | None = None,
) -> Float[Array, "H N D"]:
    """What the mixer does between its projections: positions, attention, gauge. Each key head serves H / K heads."""
    heads, kv_heads = q.shape[0], k.shape[0]
    slopes = 2.0 ** (-8.0 * jnp.arange(1, kv_heads + 1, dtype=q.dtype) / kv_heads)

    def one(q: Array, k: Array, v: Array, slope: Array) -> Array:
        if positions:
            q, k = translate(q, k, slope, score)
        return gauge(tropical_attention(q, k, v, score, beta), beta)

    grouped = q.reshape(kv_heads, heads // kv_heads, *q.shape[1:])
    mixed = jax.vmap(jax.vmap(one, (0, None, None, None)))(grouped, k, v, slopes)
    return mixed.reshape(q.shape)


def margins(
    q: Float[Array, "N D"], k: Float[Array, "S D"], v: Float[Array, "S D"], score: str = "hilbert"
) -> tuple[Float[Array, "N D"], Int[Array, "N D"]]:
    """Winner minus runner-up of every output channel (infinite where only one key is visible), and the winner."""
    paths = candidates(q, k, v, score)
    winner = jnp.argmax(paths, axis=1)
    if k.shape[0] == 1:
        return jnp.full(q.shape, jnp.inf), winner
    top = -jnp.sort(-paths, axis=1)[:, :2]
    return top[:, 0] - top[:, 1], winner


LIPSCHITZ = {
    "hilbert": {"q": 2, "k": 2, "v": 1, "all": 5},
    "maxplus": {"q": 1, "k": 1, "v": 1, "all": 3},
}
"""By how much a path s_ij + v_jd moves at most, in the sup norm, when q, k, v or all of them move by 1."""


def radius(gap: Float[Array, "*shape"], score: str, moved: str = "all") -> Float[Array, "*shape"]:
    """How far the named inputs may move in the sup norm before a winner can change: gap / (2 L)."""
    return gap / (2 * LIPSCHITZ[score][moved])


def empty_state(dim: int, dtype: jnp.dtype | type = float) -> Float[Array, "D D"]:
    """The state before the first token: the zero of the semiring everywhere."""
    return jnp.full((dim, dim), -jnp.inf, dtype)


def recurrent_attention(
    q: Float[Array, "T D"],
    k: Float[Array, "T D"],
    v: Float[Array, "T D"],
    start: Float[Array, "D D"] | None = None,
    beta: float | None = None,
) -> tuple[Float[Array, "T D"], Float[Array, "D D"]]:
    """Attention with the ``maxplus`` score in linear time: M_t = max(M_{t-1}, k_t + v_t^T), y_t = max_d (q_td + M_td).

    Exact because max-plus products are associative; hence that score recalls no more than D x D numbers hold. Of equal
    paths the first token wins, and of its channels the first, as in :func:`tropical_attention`.

    Args:
        q: queries.
        k: keys.
        v: values.
        start: the state that earlier tokens left; that of no token if not given.
        beta: Maslov's parameter.

    Returns:
        y and the last state.
    """
    memory = empty_state(k.shape[1], v.dtype) if start is None else start
    if beta is not None:
        return _soft_recurrence(q, k, v, memory, beta)

    def step(carry: tuple[Array, Array], token: tuple[Array, Array, Array, Array]) -> tuple[Any, Array]:
        (memory, holder), (query, key, value, place) = carry, token
        path = key[:, None] + value
        better = path > memory
        memory, holder = jnp.where(better, path, memory), jnp.where(better, place, holder)
        reached = query[:, None] + memory
        first = jnp.where(reached == reached.max(0), holder, q.shape[0])
        channel = jnp.argmin(first, 0)  # the first channel among those that the first token holds
        return (memory, holder), jnp.take_along_axis(reached, channel[None], 0)[0]

    places = jnp.arange(q.shape[0])
    carry = (memory, jnp.full(memory.shape, -1, places.dtype))
    (memory, _), y = jax.lax.scan(step, carry, (q, k, v, places))
    return y, memory


def _soft_recurrence(q: Array, k: Array, v: Array, memory: Array, beta: float) -> tuple[Array, Array]:
    def step(memory: Array, token: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        query, key, value = token
        memory = jnp.logaddexp(beta * memory, beta * (key[:, None] + value)) / beta
        return memory, maximum(query[:, None] + memory, 0, beta)

    memory, y = jax.lax.scan(step, memory, (q, k, v))
    return y, memory
