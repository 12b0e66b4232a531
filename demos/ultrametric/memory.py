"""A memory with one number per ball, taught by a local rule, and two controls with as many numbers.

A prediction is the sum over the balls around x; the error is spread over exactly those balls. So a lesson about x
changes the prediction at y in proportion to the digits that x and y share, and not at all outside of x's largest ball.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from demos.ultrametric import trie

RATE = 0.5  # of the local rule: share of the error that one lesson removes; best of 0.3, 0.5, 1 for each learner
TRUTH, LEVELS = 3, 7  # the function to be learned lives on the tree of 3 and 7 levels
KEYS = TRUTH**LEVELS


def depth_for(base: int) -> int:
    """The depth at which the tree of another base has about as many leaves as there are keys."""
    return round(LEVELS * np.log(TRUTH) / np.log(base))


def nested(random: np.random.Generator, decay: float = 0.7) -> np.ndarray:
    """A function on the keys: the sum over l of decay^l times a normal number for each ball of level l, variance 1."""
    x = np.arange(KEYS)
    levels = np.arange(1, LEVELS + 1)
    total = sum(decay**level * random.normal(size=TRUTH**level)[x % TRUTH**level] for level in levels)
    return np.asarray(total) / np.sqrt(sum(decay ** (2 * levels)))


def rough(random: np.random.Generator) -> np.ndarray:
    """A function without a tree: independent normal numbers."""
    return random.normal(size=KEYS)


@partial(jax.jit, static_argnames=("base", "depth"))
def teach(
    x: Int[Array, " N"], y: Float[Array, " N"], *, base: int, depth: int
) -> tuple[Float[Array, " nodes"], Float[Array, " N"]]:
    """One lesson after the other: c_b += RATE * error / K for each of the K balls b around x, the root left out.

    Returns:
        The cells, and the error before each lesson.
    """
    places = trie.balls(x, base, depth)[:, 1:]

    def lesson(cells: Array, seen: tuple[Array, Array]) -> tuple[Array, Array]:
        own, wanted = seen
        error = wanted - cells[own].sum()
        return cells.at[own].add(RATE * error / depth), error

    return jax.lax.scan(lesson, jnp.zeros(trie.size(base, depth)), (places, y))


def predict(cells: Float[Array, " nodes"], x: Int[Array, " N"] | np.ndarray, base: int, depth: int) -> Array:
    """Sum of the cells of the balls around each key."""
    return cells[trie.balls(x, base, depth)[:, 1:]].sum(-1)


@jax.jit
def teach_buckets(x: Int[Array, " N"], y: Float[Array, " N"], cells: Float[Array, " nodes"]) -> Float[Array, " nodes"]:
    """Control: a flat table of as many buckets, the key's remainder says which; the same rule with one ball."""

    def lesson(table: Array, seen: tuple[Array, Array]) -> tuple[Array, None]:
        key, wanted = seen
        own = key % table.shape[0]
        return table.at[own].add(RATE * (wanted - table[own])), None

    return jax.lax.scan(lesson, cells, (x, y))[0]


def waves(
    x: Int[Array, " N"] | np.ndarray, frequencies: Float[Array, " half"] | np.ndarray
) -> Float[Array, "N features"]:
    """Fourier features of the keys, of norm 1."""
    angle = 2 * jnp.pi * jnp.asarray(x)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1) / jnp.sqrt(len(frequencies))


@jax.jit
def teach_waves(
    x: Int[Array, " N"], y: Float[Array, " N"], frequencies: Float[Array, " half"]
) -> Float[Array, " features"]:
    """Control: as many Fourier features of the number, the same rule on all of them at once."""

    def lesson(weights: Array, seen: tuple[Array, Array]) -> tuple[Array, None]:
        features, wanted = seen
        return weights + RATE * (wanted - features @ weights) * features, None

    return jax.lax.scan(lesson, jnp.zeros(2 * len(frequencies)), (waves(x, frequencies), y))[0]
