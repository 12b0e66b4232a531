"""One layer that reads what followed histories like ours, learning a rule of order k; and its controls.

Task: even places hold free bits, odd ones what the sequence's own rule says of some of the bits before; tokens tell the
two kinds of places apart. Scored are the ruled places whose bits were met before. Legend: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from demos.ifs_fractal import maths
from demos.training import Weights, descend

TOKENS = 4  # two bits, at even and at odd places
WINDOW = 5  # tokens that the short convolution of queries and of keys sees
SHAPES = {"suffix": (20, 20), "softmax": (20, 10), "convolution": (10, 25)}
"""Channels of the layer, and of its queries and keys: so chosen that all kinds have equally many parameters."""

SHARPNESS = 4.0  # initial power of the inverse distance
RATE = 0.02


class Reader(nn.Module):
    """Attention over one sequence, and what it says about the next bit.

    Args:
        kind: ``suffix`` weighs by inverse powers of the distance of histories; ``softmax`` by products of queries and
            keys with rotary positions; ``convolution`` the same after a causal convolution of each of their channels.
        ratio: contraction s of the histories.
    """

    kind: str
    ratio: float

    @nn.compact
    def __call__(self, tokens: Int[Array, " T"]) -> Float[Array, " T"]:
        """Log-odds that a 1 follows each token."""
        width, rank = SHAPES[self.kind]
        x = self.matrix("embed", TOKENS, width)[tokens]
        v = x @ self.matrix("value", width, width)
        sharpness = self.param("sharpness", nn.initializers.zeros, (1,), x.dtype)
        if self.kind == "suffix":
            steps = maths.unit_steps(x @ self.matrix("key", width, rank))
            after = maths.histories(steps[None], self.ratio)
            before = jnp.pad(after, ((0, 0), (1, 0), (0, 0)))[:, :-1]
            mixed = maths.suffix_attention(after, before, v[None], SHARPNESS * jnp.exp(sharpness))[0]
        else:
            q, k = (self.projected(name, x, rank) for name in ("q", "k"))
            scores = jnp.exp(sharpness) * (q @ k.T)
            seen = jnp.tril(jnp.ones(scores.shape, bool))
            mixed = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ v
        return mixed @ self.matrix("out", width, 1)[:, 0]

    def projected(self, name: str, x: Float[Array, "T width"], rank: int) -> Float[Array, "T rank"]:
        """Queries or keys at their positions."""
        x = x @ self.matrix(name, x.shape[1], rank)
        if self.kind == "convolution":
            filters = self.matrix(f"{name}_filter", WINDOW, rank)
            padded = jnp.pad(x, ((WINDOW - 1, 0), (0, 0)))
            lagged = [padded[WINDOW - 1 - lag : len(padded) - lag] for lag in range(WINDOW)]
            x = jnp.einsum("ltr,lr->tr", jnp.stack(lagged), filters)
        return rotated(x)

    def matrix(self, name: str, rows: int, columns: int) -> Array:
        return self.param(name, nn.initializers.normal(rows**-0.5), (rows, columns), jnp.float64)


def rotated(x: Float[Array, "T rank"]) -> Float[Array, "T rank"]:
    """Rotary positions; the last of an odd number of channels has none."""
    half = x.shape[1] // 2
    angle = np.arange(len(x))[:, None] * 100.0 ** (-np.arange(half) / half)
    turned = jax.lax.complex(x[:, :half], x[:, half : 2 * half]) * np.exp(1j * angle)
    return jnp.concatenate([turned.real, turned.imag, x[:, 2 * half :]], 1)


@dataclass(frozen=True, slots=True)
class Task:
    """A rule that looks at the bits that far back; 1 is the latest.

    Example:
        >>> Task((1, 2, 3, 4)).order
        4
    """

    back: Sequence[int]

    @property
    def order(self) -> int:
        """How far back the rule looks."""
        return max(self.back)

    def draw(self, random: np.random.Generator, length: int, *shape: int) -> tuple[np.ndarray, ...]:
        """Tokens (*shape, T), the bits that follow them (*shape, T), and which of these are scored."""
        count, contexts = int(np.prod(shape)), 2 ** len(self.back)
        rules = random.integers(2, size=(count, contexts))
        bits = random.integers(2, size=(count, length + 1))
        met, scored = np.zeros((count, contexts), bool), np.zeros((count, length + 1), bool)
        rows, weights = np.arange(count), 2 ** np.arange(len(self.back))
        first = self.order + 1 - self.order % 2
        for place in range(first, length + 1, 2):
            context = bits[:, place - np.array(self.back)] @ weights
            bits[:, place] = rules[rows, context]
            scored[:, place] = met[rows, context]
            met[rows, context] = True
        tokens = bits + 2 * (np.arange(length + 1) % 2)
        return tuple(x.reshape(*shape, length) for x in (tokens[:, :-1], bits[:, 1:], scored[:, 1:]))


def initial(random: np.random.Generator, model: Reader) -> Weights:
    """Normal weights of variance 1 / fan-in; the sharpness starts where it is."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((3,), jnp.int64))
    return jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape) * (leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0.0), shapes
    )


@partial(jax.jit, static_argnames="model")
def odds(weights: Weights, tokens: Any, *, model: Reader) -> Float[Array, "B T"]:
    """What a model says about each of B sequences."""
    return jax.vmap(lambda x: jnp.asarray(model.apply(weights, x)))(tokens)


@partial(jax.jit, static_argnames="model")
def train(
    weights: Weights, tokens: Array, bits: Array, scored: Array, *, model: Reader
) -> tuple[Weights, Float[Array, " steps"]]:
    """Adam on the cross-entropy of the scored bits, see :func:`demos.training.descend`."""

    def loss(current: Weights, x: Array, y: Array, counts: Array) -> Array:
        return (jax.nn.softplus((1 - 2 * y) * odds(current, x, model=model)) * counts).sum() / counts.sum()

    return descend(loss, weights, (tokens, bits, scored), RATE)
