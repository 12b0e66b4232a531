"""A layer that carries strands along a word, its controls, and training.

The tasks are in :mod:`demos.knot_braid.tasks`. Legend: M models, B words, T letters, N classes, D channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from demos.knot_braid import maths
from demos.knot_braid.tasks import LETTERS, TRAINED
from demos.training import Weights, descend

BRAIDS = 2
CHANNELS = 8 * BRAIDS
"""Four for each braid, as many that no braid touches."""
RATE = 0.03
STRANDS, SOFTMAX = "strands", "softmax"


class Reader(nn.Module):
    """One layer over a word that begins with a token of its own, and what it says after each letter.

    Args:
        kind: ``strands`` (attention between what braids carry) or ``softmax`` (plain attention, then a hidden layer).
            Neither is told positions.
        law: of the crossings, see :func:`demos.knot_braid.maths.generators`.
        classes: of answers.
        width: channels of attention.
        hidden: of the hidden layer.
    """

    kind: str
    law: str
    classes: int
    width: int = CHANNELS
    hidden: int = 0

    @nn.compact
    def __call__(self, letters: Int[Array, " T"]) -> Float[Array, "T N"]:
        """Scores of the answers."""
        tokens = jax.nn.one_hot(jnp.concatenate([jnp.zeros(1, int), letters + 1]), len(LETTERS) + 1, dtype=jnp.float64)
        return self.linear("out", self.classes)(self.attend(tokens)[1:])

    def attend(self, tokens: Float[Array, "T1 5"]) -> Float[Array, "T1 D"]:
        q, k, v = (self.linear(name, self.width)(tokens) for name in "qkv")
        q = q * longer(len(tokens))[:, None]
        if self.kind == SOFTMAX:
            scores = q @ k.T / self.width**0.5
            causal = jnp.tril(jnp.ones(scores.shape, bool))
            mixed = normed(jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) @ v)
            return nn.tanh(self.linear("hidden", self.hidden)(mixed))
        scores = self.linear("crossing", 4 * BRAIDS)(tokens).reshape(-1, 4, BRAIDS)
        angle = self.param("angle", nn.initializers.zeros, (BRAIDS,), tokens.dtype)
        mixed = maths.braid_attention(q[None], k[None], v[None], scores[None], angle[None], 0.0, "discrete", self.law)
        return normed(mixed[0])

    def linear(self, name: str, features: int) -> nn.Dense:
        return nn.Dense(features, use_bias=False, name=name, param_dtype=jnp.float64)


def normed(x: Float[Array, "T D"]) -> Float[Array, "T D"]:
    """Rows of mean square 1."""
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)


def longer(count: int) -> Float[Array, " count"]:
    """log(t + 1) / log(T + 1) at token t: keeps attention as sharp among many tokens as among those of training."""
    return jnp.log(jnp.arange(count) + 2.0) / np.log(TRAINED + 1.0)


def models(law: str, classes: int) -> dict[str, Reader]:
    """The layer, and attention without strands in a width and a hidden layer that make the numbers of parameters equal.

    5 (3 D + 4 n) + n + D N = 5 * 3 w + h (w + N); of all solutions the one whose narrower part is widest.
    """
    tokens = len(LETTERS) + 1
    count = tokens * (3 * CHANNELS + 4 * BRAIDS) + BRAIDS + CHANNELS * classes
    fitting = [
        (width, (count - 3 * tokens * width) // (width + classes))
        for width in range(1, count // (3 * tokens))
        if (count - 3 * tokens * width) % (width + classes) == 0
    ]
    width, hidden = max(fitting, key=min)
    return {
        STRANDS: Reader(STRANDS, law, classes),
        SOFTMAX: Reader(SOFTMAX, law, classes, width, hidden),
    }


def initial(random: np.random.Generator, model: Reader, copies: int) -> Weights:
    """Normal weights of variance 1 / fan-in; generators begin with orders 2, 3, 4, 5 in turn."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2,), int))
    orders = np.pi / (2 + np.arange(BRAIDS) % 4)

    def fill(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        if "angle" in jax.tree_util.keystr(path):
            return np.broadcast_to(np.arccos(2 * np.cos(orders) / 3**0.5), (copies, *leaf.shape)).copy()
        return random.normal(size=(copies, *leaf.shape)) * leaf.shape[0] ** -0.5

    return jax.tree_util.tree_map_with_path(fill, shapes)


@partial(jax.jit, static_argnames="model")
def train(
    weights: Weights, letters: Int[Array, "steps B T"], wanted: Int[Array, "steps B T"], *, model: Reader
) -> tuple[Weights, Float[Array, "M steps"]]:
    """Fit M models side by side to the same words by cross-entropy, see :func:`demos.training.descend`."""

    def loss(single: Weights, word: Array, right: Array) -> Array:
        scores = said(single, word, model=model)
        return optax.softmax_cross_entropy_with_integer_labels(scores, right).mean()

    return jax.vmap(lambda single: descend(loss, single, (letters, wanted), RATE))(weights)


def said(weights: Weights, letters: Int[Array, "B T"], *, model: Reader) -> Float[Array, "B T N"]:
    """Scores of one model after each letter of each word."""
    return jax.vmap(lambda word: jnp.asarray(model.apply(weights, word)))(letters)


@partial(jax.jit, static_argnames="model")
def answers(weights: Weights, letters: Int[Array, "B T"], *, model: Reader) -> Float[Array, "M B T N"]:
    """Scores of M models after each letter of each word."""
    return jax.vmap(lambda single: said(single, letters, model=model))(weights)


def settled(weights: Weights) -> Weights:
    """The same models with every angle moved to the nearest one at which a crossing has an order of at most 5.

    There the matrices of all braids are finitely many, so that nothing can drift.
    """
    angle = np.asarray(weights["params"]["angle"])
    turns = sorted({a / b for b in range(2, 6) for a in range(1, b) if 1 / 6 <= a / b <= 5 / 6})
    places = np.arccos(2 * np.cos(np.pi * np.array(turns)) / 3**0.5)
    nearest = places[np.abs(np.arccos(np.cos(angle))[..., None] - places).argmin(-1)]
    return {"params": weights["params"] | {"angle": np.where(np.sin(angle) < 0, -nearest, nearest)}}
