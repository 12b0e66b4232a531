"""A head that looks at pairs of words at once, its pairwise controls of equal size, their tasks and training.

Tasks: ``match3``, is the last word the XOR of two others, words being signs of bits; ``sums``, does the last number add
up to 0 with two others mod 17, numbers being learned vectors; ``recall``, which sign stands beside the word asked for.
Legend: W different words, F features of a word, B sequences, N words in each, C width, D channels, M models.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from demos.simplicial import maths
from demos.training import Weights, descend

WIDTH = 32
CHANNELS = 24  # 8 vectors of 3-space for the determinant
RATE = 0.005  # best of 0.003, 0.005, 0.008, 0.012 and 0.03 for the worse of the two forms
QUIET = 0.6  # of the usual size: products of three start small; with 1, determinants stay at chance much longer
SOFTMAX, DEEP = "softmax", "two layers"
BITS = 5
MODULUS = 17
LENGTH = 10  # of every sequence: all tasks then run the same compiled program


class Reader(nn.Module):
    """One block that answers at the last word, with no positions: attention, then a hidden layer.

    Args:
        kind: a form of :mod:`demos.simplicial.maths`; ``softmax`` over single words with heads 3/2 as wide, or ``two
            layers`` of it with heads 3/4 as wide. All have the same number of parameters.
    """

    kind: str

    @nn.compact
    def __call__(self, words: Float[Array, "W F"], tokens: Int[Array, "B N"]) -> Float[Array, " B"]:
        """Logits of yes."""
        x = self.linear("embed", WIDTH)(words)
        last = x[tokens[:, -1]]
        if self.kind in maths.FORMS:
            attended = self.triangles(normed(x), tokens)
        elif self.kind == SOFTMAX:
            attended = self.pairs("", [part[tokens] for part in self.maps("", 3 * CHANNELS // 2, normed(x))])[:, -1]
        else:
            lower = [part[tokens] for part in self.maps("lower_", 3 * CHANNELS // 4, normed(x))]
            middle = x[tokens] + self.pairs("lower_", lower)
            q, k, v = self.maps("", 3 * CHANNELS // 4, normed(middle))
            attended = middle[:, -1] - last + self.pairs("", [q[:, -1:], k, v])[:, -1]
        inside = nn.relu(self.linear("up", WIDTH)(last + attended))
        return self.linear("down", 1)(inside)[:, 0]

    def triangles(self, x: Float[Array, "W C"], tokens: Int[Array, "B N"]) -> Float[Array, "B C"]:
        """2-simplicial attention of the last word over all pairs."""
        q, k, v, second_k, second_v = (part[tokens] for part in self.maps("", CHANNELS, x, len(LAYER)))
        head = partial(maths.simplicial_attention, window=(LENGTH, LENGTH), form=self.kind)
        return self.linear("out", WIDTH)(jax.vmap(head)(q[:, -1:], k, v, second_k, second_v)[:, 0])

    def pairs(self, prefix: str, parts: list[Array]) -> Float[Array, "B I C"]:
        """Softmax attention over all words, from queries, keys and values."""
        q, k, v = parts
        scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
        return self.linear(prefix + "out", WIDTH)(jax.nn.softmax(scores) @ v)

    def maps(self, prefix: str, channels: int, x: Float[Array, "... C"], count: int = 3) -> list[Array]:
        """Queries, keys, values and, of triangles, second keys and values."""
        return jnp.split(self.linear(prefix + "into", count * channels)(x), count, -1)

    def linear(self, name: str, features: int) -> nn.Dense:
        return nn.Dense(features, use_bias=name == "up", name=name, param_dtype=jnp.float64)


LAYER = ("q", "k", "v", "second_k", "second_v")
"""Parts of the first map of a 2-simplicial head; softmax attention has the first three."""


def normed(x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Root mean square 1."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-9)


Task = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""``task(random, count)`` gives sequences (count, N) of word numbers, and answers (count,) of 0 and 1."""


def signs(bits: int) -> np.ndarray:
    """Words 0 to 2^bits - 1 as rows of (-1)^bit."""
    return 1.0 - 2.0 * ((np.arange(2**bits)[:, None] >> np.arange(bits)) & 1)


def balanced(attempt: Callable[[int], tuple[np.ndarray, np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """As many sequences with yes as with no."""
    tokens, right = attempt(count)
    while min(right.sum(), (~right).sum()) < count // 2:
        more, known = attempt(count)
        tokens, right = np.concatenate([tokens, more]), np.concatenate([right, known])
    chosen = np.concatenate([np.flatnonzero(right)[: count // 2], np.flatnonzero(~right)[: count // 2]])
    return tokens[chosen], right[chosen].astype(float)


def vocabulary() -> np.ndarray:
    """Words as rows: of 5 bits with no sign beside them, with minus, with plus; then 17 numbers without structure."""
    beside = np.repeat([0.0, -1.0, 1.0], 2**BITS)
    words = np.column_stack([np.tile(signs(BITS), (3, 1)), beside])
    return np.block([[words, np.zeros((len(words), MODULUS))], [np.zeros((MODULUS, BITS + 1)), np.eye(MODULUS)]])


WORDS = vocabulary()


def match3(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Different words other than 0: is the last the XOR of two others?"""

    def attempt(many: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = random.random((many, 2**BITS - 1)).argsort(1)[:, :LENGTH] + 1
        return tokens, ((tokens[:, :-1, None] ^ tokens[:, None, :-1]) == tokens[:, -1:, None]).any((1, 2))

    return balanced(attempt, count)


def sums(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers mod 17: does the last add up to 0 with two others?"""

    def attempt(many: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = random.integers(0, MODULUS, (many, LENGTH))
        total = tokens[:, :-1, None] + tokens[:, None, :-1] + tokens[:, -1:, None]
        apart = ~np.eye(LENGTH - 1, dtype=bool)
        return tokens + 3 * 2**BITS, ((total % MODULUS == 0) & apart).any((1, 2))

    return balanced(attempt, count)


def recall(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Different words with a sign beside each, and one of them without: what was its sign?"""
    tokens = random.random((count, 2**BITS)).argsort(1)[:, : LENGTH - 1]
    right = random.integers(0, 2, tokens.shape)
    asked = np.arange(count), random.integers(0, LENGTH - 1, count)
    return np.column_stack([tokens + 2**BITS * (1 + right), tokens[asked]]), right[asked].astype(float)


@cache
def shapes(kind: str) -> Weights:
    """Shapes of the weights of one model."""
    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int64)
    return jax.eval_shape(Reader(kind).init, jax.random.key(0), WORDS, tokens)


def initial(random: np.random.Generator, kind: str, copies: int) -> Weights:
    """Weights for ``copies`` models: normal with variance 1 / fan-in, queries, keys, values ``QUIET``; no biases."""

    def fill(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        scale = 0.0 if "bias" in name else QUIET if "into" in name else 1.0
        return random.normal(size=(copies, *leaf.shape)) * scale * leaf.shape[0] ** -0.5

    return jax.tree_util.tree_map_with_path(fill, shapes(kind))


@partial(jax.jit, static_argnames="kind")
def train(
    weights: Weights,
    tokens: Int[Array, "M steps B N"],
    right: Float[Array, "M steps B"],
    fresh: Int[Array, "T N"],
    *,
    kind: str,
) -> tuple[Weights, Float[Array, "M steps"], Float[Array, "M T"]]:
    """Fit M models side by side, each on its own stream, by the logistic loss.

    Returns:
        The trained weights, the loss of every step, and the logits of each model for fresh sequences.
    """

    def answer(single: Weights, shown: Array) -> Array:
        return jnp.asarray(Reader(kind).apply(single, jnp.asarray(WORDS), shown))

    def loss(single: Weights, shown: Array, wanted: Array) -> Array:
        logits = answer(single, shown)
        return jnp.mean(jax.nn.softplus(logits) - wanted * logits)

    trained, losses = jax.vmap(lambda single, *batches: descend(loss, single, batches, RATE))(weights, tokens, right)
    return trained, losses, jax.vmap(answer, (0, None))(trained, fresh)
