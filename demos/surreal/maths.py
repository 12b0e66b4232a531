"""Surreal attention as pure functions: the executable definitions.

Twins of ``nanochat/attention/surreal.py``. Shape letters: H query heads, K key/value heads, N queries (the last N of
the S positions), S keys, D channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

TINY = 2.0**-60
"""Added to squares of norms, so that a key of zeros has a finite exponent."""


def scaled_directions(w: Float[Array, "R C"], s: Float[Array, " R"]) -> Float[Array, "R C"]:
    """Rows of length e^s in the direction of those of w. Source: arXiv:1602.07868."""
    return w * (jnp.exp(s) * jax.lax.rsqrt(jnp.sum(w * w, -1) + TINY))[:, None]


def exponents(k: Float[Array, "K S D"]) -> Float[Array, "K S"]:
    """Leading exponents r_j = log rms(k_j), in nats.

    Example:
        >>> exponents(jnp.full((1, 1, 4), jnp.e))
        Array([[1.]], dtype=float32)
    """
    return 0.5 * jnp.log(jnp.mean(k * k, -1) + TINY)


def _grouped(x: Array, heads: int) -> Array:
    return jnp.repeat(x, heads // x.shape[0], axis=0)


def _seen(queries: int, keys: int) -> Bool[Array, "N S"]:
    return jnp.tril(jnp.ones((queries, keys), bool), keys - queries)


def _mantissas(q: Float[Array, "H N D"], k: Float[Array, "K S D"]) -> Float[Array, "H N S"]:
    return jnp.einsum("hnd,hsd->hns", q, _grouped(k, q.shape[0])) / jnp.sqrt(q.shape[-1])


def surreal_attention(
    q: Float[Array, "H N D"],
    k: Float[Array, "K S D"],
    v: Float[Array, "K S D"],
    r: Float[Array, "K S"],
    temperature: float = 1.0,
) -> Float[Array, "H N D"]:
    """Causal means of values under weights X^r e^m, log X = 1 / temperature, m the scaled dot product."""
    powers = _grouped(r, q.shape[0])[:, None] / temperature
    logs = jnp.where(_seen(q.shape[1], k.shape[1]), _mantissas(q, k) + powers, -jnp.inf)
    return jax.nn.softmax(logs, -1) @ _grouped(v, q.shape[0])


def dominance(
    q: Float[Array, "H N D"], k: Float[Array, "K S D"], v: Float[Array, "K S D"], r: Float[Array, "K S"]
) -> Float[Array, "H N D"]:
    """The limit of :func:`surreal_attention` at temperature 0: only tokens of the largest exponent so far count."""
    seen = _seen(q.shape[1], k.shape[1])
    powers = jnp.where(seen, _grouped(r, q.shape[0])[:, None], -jnp.inf)
    leading = seen & (powers == jnp.max(powers, -1, keepdims=True))
    return jax.nn.softmax(jnp.where(leading, _mantissas(q, k), -jnp.inf), -1) @ _grouped(v, q.shape[0])
