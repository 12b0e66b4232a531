"""Attention that carries its vectors along a word, learning to multiply in a group; and controls without that.

Tasks on words of letters, answered after each letter: ``product`` asks which element of the group the letters so far
multiply to, ``vote`` which letter was the most frequent so far (the first of equals). Legend: M models, B words, T
letters, L different letters, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from demos.matrix_gauge import maths
from demos.training import Weights, descend

HEADS, CHANNELS, HIDDEN = 2, 12, 32
LETTERS = 15  # of a word in training; it stands behind a beginning that turns nothing
RATE = 0.01
SHARES = 1 / np.arange(1, LETTERS + 1) / (1 / np.arange(1, LETTERS + 1)).sum()
"""Of the letters in the loss: who does not know the product of two letters cannot know that of fifteen."""

FREQUENCIES = 100.0 ** (-np.arange(CHANNELS // 2) / (CHANNELS // 2))
"""Angles per position of the softmax control, one for each pair of channels."""

EMITTED = {"so3": 4 * CHANNELS // 3, "u1": CHANNELS // 2, "softmax": 0}
"""Numbers that a letter emits per head: quaternions for blocks of 3, angles for blocks of 2."""


class Reader(nn.Module):
    """One layer of attention over a word, and a reading of it after every letter.

    Args:
        kind: ``so3`` or ``u1`` carry queries, keys and values by what the letters emit; ``softmax`` has fixed
            positions. What a kind emits less, it has in a wider hidden layer: all have as many parameters.
        letters: how many different ones.
    """

    kind: str
    letters: int

    @nn.compact
    def __call__(self, word: Int[Array, " T"]) -> Float[Array, "T L"]:
        """Scores of the answers after each letter."""
        begun = jnp.concatenate([jnp.full((1,), self.letters), word])
        x = nn.Embed(self.letters + 1, HEADS * CHANNELS, name="embed", param_dtype=jnp.float64)(begun)
        emitted = self.linear("mix", HEADS * (3 * CHANNELS + EMITTED[self.kind]))(x)
        heads = emitted.reshape(len(begun), HEADS, -1).swapaxes(0, 1)
        q, k, v, raw = jnp.split(heads, (CHANNELS, 2 * CHANNELS, 3 * CHANNELS), -1)
        y = jnp.asarray(attention(self.kind, q, k, v, raw))
        y = (y / jnp.sqrt((y * y).mean(-1, keepdims=True) + 1e-6)).swapaxes(0, 1).reshape(x.shape)
        hidden = nn.relu(self.linear("up", HIDDEN - HEADS * EMITTED[self.kind] // 2)(y))
        return self.linear("head", self.letters)(y + self.linear("down", HEADS * CHANNELS)(hidden))[1:]

    def linear(self, name: str, features: int) -> nn.Dense:
        return nn.Dense(features, use_bias=False, name=name, param_dtype=jnp.float64)


def attention(
    kind: str, q: Float[Array, "H T D"], k: Float[Array, "H T D"], v: Float[Array, "H T D"], raw: Float[Array, "H T n"]
) -> Float[Array, "H T D"]:
    """Carried by the group, whose first element is the identity; or softmax attention with rotary positions."""
    if kind != "softmax":
        return maths.gauge_attention(q, k, v, raw.at[:, 0].set(identity(kind)), kind)
    frame = maths.frames(jnp.broadcast_to(FREQUENCIES, (*q.shape[:2], len(FREQUENCIES))), "u1")
    scores = maths.turn(frame, q, "u1") @ maths.turn(frame, k, "u1").mT * CHANNELS**-0.5
    return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores, -jnp.inf), -1) @ v


def identity(kind: str) -> Float[np.ndarray, " n"]:
    """What emits no turn."""
    return np.repeat([1.0, 0.0, 0.0, 0.0], EMITTED[kind] // 4) if kind == "so3" else np.zeros(EMITTED[kind])


def dihedral(n: int) -> Int[np.ndarray, "L L"]:
    """Turns r^k, then flips r^k s, of the regular polygon with n corners."""
    turn, flip = np.arange(2 * n) % n, np.arange(2 * n) // n
    turned = (turn[:, None] + np.where(flip[:, None], -turn, turn)) % n
    return turned + n * ((flip[:, None] + flip) % 2)


def quaternion_units() -> Int[np.ndarray, "L L"]:
    """1, i, j, k, then their negatives."""
    units = np.concatenate((np.eye(4), -np.eye(4)))
    return np.argmax(np.einsum("xa,yb,abc->xyc", units, units, maths.UNITS) @ units.T, -1)


def cyclic(n: int) -> Int[np.ndarray, "L L"]:
    """Turns of the regular polygon with n corners."""
    return (np.arange(n)[:, None] + np.arange(n)) % n


@dataclass(frozen=True, slots=True)
class Words:
    """A group of letters: what it is in words, and its table, entry (a, b) for a, then b."""

    what: str
    table: np.ndarray


WORDS: dict[str, Callable[[], Words]] = {
    "s3": lambda: Words("the turns and flips of a triangle", dihedral(3)),
    "z6": lambda: Words("the turns of a hexagon", cyclic(6)),
    "q8": lambda: Words("the quaternion units 1, i, j, k and their negatives", quaternion_units()),
}


def draw(
    random: np.random.Generator, table: np.ndarray, task: str, letters: int, *shape: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random words (*shape, T) and the answers after each letter."""
    words = random.integers(len(table), size=(*shape, letters))
    if task == "vote":
        return words, np.cumsum(np.eye(len(table), dtype=int)[words], -2).argmax(-1)
    states = [words[..., 0]]
    for place in range(1, letters):
        states.append(table[states[-1], words[..., place]])
    return words, np.stack(states, -1)


def initial(random: np.random.Generator, model: Reader, copies: int) -> Weights:
    """Normal weights of variance 1 / fan-in, 1 for the letters, for several models."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((LETTERS,), int))["params"]
    return {
        "params": {
            name: {
                kind: random.normal(size=(copies, *leaf.shape)) * (1.0 if name == "embed" else leaf.shape[0] ** -0.5)
                for kind, leaf in layer.items()
            }
            for name, layer in shapes.items()
        }
    }


@partial(jax.jit, static_argnames="model")
def train(
    weights: Weights, words: Int[Array, "M steps B T"], wanted: Int[Array, "M steps B T"], *, model: Reader
) -> tuple[Weights, Float[Array, "M steps"]]:
    """Adam on the cross-entropy of the answers by their shares, for several models, see :mod:`demos.training`."""

    def loss(current: Weights, batch: Array, answers: Array) -> Array:
        scores = jax.vmap(lambda word: jnp.asarray(model.apply(current, word)))(batch)
        return (optax.softmax_cross_entropy_with_integer_labels(scores, answers) @ SHARES).mean()

    return jax.vmap(lambda single, *batches: descend(loss, single, batches, RATE))(weights, words, wanted)
