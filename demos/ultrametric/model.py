"""Attention that learns the digits of its keys, and the softmax control with as many parameters.

Task: every sequence draws a new function on the leaves of a tree (a sum of one normal number per ball) and shows its
noisy values at T random leaves; asked is the value at one more leaf. Leaves are given as vectors in which an unknown
rotation hides the digits. Legend: B sequences, T tokens, K levels, p symbols of a digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from demos.training import Weights, descend
from demos.ultrametric import maths

DEPTH = 4
SHARPNESS, GROWTH = 4.0, 8.0  # as the mixer's own defaults
RATE = 0.03
NOISE, BLUR, DECAY = 0.3, 0.05, 0.7  # of the values shown, of the vectors, from one level to the next


class Smoother(nn.Module):
    """The weighted mean of the values shown, weights by the likeness of a token's key and the one asked for.

    Args:
        kind: ``ultrametric`` for the prefix kernel of learned digits; ``softmax`` for the exponential of learned
            products, group of channels by group.
        base: p.
        hard: the likeliest digits instead of their probabilities.
    """

    kind: str
    base: int
    hard: bool = False

    @nn.compact
    def __call__(self, keys: Float[Array, "Tplus1 D"], values: Float[Array, " T"]) -> Float[Array, ""]:
        """The answer for the last key."""
        width = self.base * DEPTH
        symbols = self.param("symbols", nn.initializers.normal(width**-0.5), (width, width), keys.dtype)
        level = self.param("level", nn.initializers.zeros, (DEPTH + 1,), keys.dtype)
        if self.kind == "softmax":
            scaled = (keys @ symbols.T).reshape(len(keys), DEPTH, self.base) * jnp.exp(level[:DEPTH, None])
            flat = scaled.reshape(len(keys), width)
            return jax.nn.softmax(jnp.exp(level[DEPTH]) * (flat[:-1] @ flat[-1])) @ values
        scores = maths.digit_scores(keys, symbols, self.base, SHARPNESS)
        weights = level_weights(level)
        mixed = maths.ultrametric_attention(scores[-1:], scores[:-1], values[:, None], weights, self.hard)
        return mixed[0, 0]


def level_weights(level: Float[Array, " levels"]) -> Float[Array, " levels"]:
    """w_l = g^(l - K) e^(theta_l)."""
    return GROWTH ** (jnp.arange(DEPTH + 1) - DEPTH) * jnp.exp(level)


@dataclass(frozen=True, slots=True)
class Task:
    """The hidden rotation, one for all sequences; ``base`` is the tree's."""

    base: int
    rotation: np.ndarray

    @classmethod
    def create(cls, random: np.random.Generator, base: int) -> Task:
        width = base * DEPTH
        return cls(base, np.linalg.qr(random.normal(size=(width, width)))[0])

    def draw(self, random: np.random.Generator, tokens: int, *shape: int) -> tuple[np.ndarray, ...]:
        """Keys (*shape, T + 1, K p), noisy values (*shape, T) and the wanted answers (*shape,)."""
        digits = random.integers(0, self.base, (*shape, tokens + 1, DEPTH))
        prefix, total = np.zeros((*shape, tokens + 1), int), np.zeros((*shape, tokens + 1))
        for place in range(DEPTH):
            prefix = prefix * self.base + digits[..., place]
            drawn = random.normal(size=(*shape, self.base ** (place + 1))) * DECAY**place
            total += np.take_along_axis(drawn, prefix, -1)
        hot = np.eye(self.base)[digits].reshape(*shape, tokens + 1, -1) @ self.rotation
        keys = hot + BLUR * random.normal(size=hot.shape)
        return keys, total[..., :-1] + NOISE * random.normal(size=(*shape, tokens)), total[..., -1]


def initial(random: np.random.Generator, base: int) -> Weights:
    """Weights, the same for both kinds."""
    width = base * DEPTH
    return {"params": {"symbols": random.normal(size=(width, width)) * width**-0.5, "level": np.zeros(DEPTH + 1)}}


def answers(weights: Weights, keys: Any, values: Any, *, model: Smoother) -> Float[Array, " B"]:
    """What a model says about each of B sequences."""
    return jax.vmap(lambda x, v: jnp.asarray(model.apply(weights, x, v)))(keys, values)


@partial(jax.jit, static_argnames="model")
def train(
    weights: Weights,
    keys: Float[Array, "steps B Tplus1 D"],
    values: Float[Array, "steps B T"],
    wanted: Float[Array, "steps B"],
    *,
    model: Smoother,
) -> tuple[Weights, Float[Array, " steps"]]:
    """Adam on the squared error, see :func:`demos.training.descend`."""

    def loss(current: Weights, x: Array, v: Array, y: Array) -> Array:
        return jnp.mean((answers(current, x, v, model=model) - y) ** 2)

    return descend(loss, weights, (keys, values, wanted), RATE)


@partial(jax.jit, static_argnames="model")
def error(weights: Weights, keys: Any, values: Any, wanted: Any, *, model: Smoother) -> Float[Array, ""]:
    """Root mean squared error."""
    return jnp.sqrt(jnp.mean((answers(weights, keys, values, model=model) - wanted) ** 2))
