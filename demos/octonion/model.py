"""Attention that turns what it averages, learning to change frames; and controls without a product.

Task: N observers with unit frames u_j see one hidden number y (of the algebra, length 1) as s_j = conj(conj(u_0) u_j) y
plus noise; asked is y, which is what the observer with frame u_0 sees. A hidden rotation A is applied to all frames. In
training the frames lie near 1, in the tests anywhere. Legend: B sequences, N tokens, n dimension of the algebra.
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

from demos.octonion import maths
from demos.octonion.checks import conjugate, product, unit
from demos.training import Weights, descend

DIMENSION = {"quaternion": 4, "octonion": 8}
RATE = 0.03
NOISE = 0.3  # of each component of what an observer sees
SPREAD = 0.4  # of the frames around 1 in training; infinite in the tests
LARGE = 16  # how many times the parameters of the larger control


class Frames(nn.Module):
    """One query over N tokens.

    Args:
        kind: ``rotor`` turns values by the unit numbers of query and key; ``softmax`` does not; ``mlp`` is a hidden
            layer on each token's frames and value, averaged.
        n: 4 or 8.
        hidden: of the ``mlp``.
    """

    kind: str
    n: int
    hidden: int = 0

    @nn.compact
    def __call__(self, frames: Float[Array, "Nplus1 n"], seen: Float[Array, "N n"]) -> Float[Array, " n"]:
        """The answer for the last frame."""
        if self.kind == "mlp":
            asked = jnp.broadcast_to(frames[-1], seen.shape)
            inside = nn.tanh(self.linear("into", self.hidden)(jnp.concatenate([frames[:-1], asked, seen], -1)))
            return self.linear("out", self.n)(inside).mean(0)
        q, k = self.linear("q", self.n)(frames[-1:]), self.linear("k", self.n)(frames[:-1])
        v = self.linear("v", self.n)(seen)
        if self.kind == "softmax":
            return (jax.nn.softmax(q @ k.T / self.n**0.5) @ v)[0]
        return maths.rotor_attention(q, k, v, self.n)[0]

    def linear(self, name: str, features: int) -> nn.Dense:
        return nn.Dense(features, use_bias=False, name=name, param_dtype=jnp.float64)


@dataclass(frozen=True, slots=True)
class Task:
    """The algebra and the hidden rotation of its frames; ``turned`` False takes the plain mean of what is seen."""

    n: int
    rotation: np.ndarray
    turned: bool = True

    @classmethod
    def create(cls, random: np.random.Generator, n: int, turned: bool = True) -> Task:
        return cls(n, np.linalg.qr(random.normal(size=(n, n)))[0], turned)

    def draw(self, random: np.random.Generator, tokens: int, *shape: int, spread: float = np.inf) -> tuple[Any, ...]:
        """Frames (*shape, N + 1, n), what is seen (*shape, N, n), the answers (*shape, n)."""
        frames = random.normal(size=(*shape, tokens + 1, self.n))
        frames = unit(np.eye(self.n)[0] + spread * frames if np.isfinite(spread) else frames)
        answer = unit(random.normal(size=(*shape, 1, self.n)))
        between = product(conjugate(frames[..., -1:, :]), frames[..., :-1, :])
        seen = product(conjugate(between), answer) if self.turned else answer
        seen = seen + NOISE * random.normal(size=between.shape)
        return frames @ self.rotation, seen, answer[..., 0, :]


def models(n: int) -> dict[str, Frames]:
    """The layer and its controls: equally many parameters, and ``LARGE`` times as many."""
    equal = 3 * n // 4  # 4 n h = 3 n^2
    return {
        "rotor": Frames("rotor", n),
        "softmax": Frames("softmax", n),
        "mlp": Frames("mlp", n, equal),
        "large mlp": Frames("mlp", n, LARGE * equal),
    }


def initial(random: np.random.Generator, model: Frames) -> Weights:
    """Normal weights of variance 1 / fan-in."""
    frames, seen = (jax.ShapeDtypeStruct((rows, model.n), jnp.float64) for rows in (3, 2))
    shapes = jax.eval_shape(model.init, jax.random.key(0), frames, seen)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape) * leaf.shape[0] ** -0.5, shapes)


def answers(weights: Weights, frames: Any, seen: Any, *, model: Frames) -> Float[Array, "B n"]:
    """What a model says about each of B sequences."""
    return jax.vmap(lambda u, s: jnp.asarray(model.apply(weights, u, s)))(frames, seen)


@partial(jax.jit, static_argnames="model")
def train(
    weights: Weights, frames: Array, seen: Array, wanted: Float[Array, "steps B n"], *, model: Frames
) -> tuple[Weights, Float[Array, " steps"]]:
    """Adam on the squared error, see :func:`demos.training.descend`."""

    def loss(current: Weights, u: Array, s: Array, y: Array) -> Array:
        return jnp.mean(jnp.sum((answers(current, u, s, model=model) - y) ** 2, -1))

    return descend(loss, weights, (frames, seen, wanted), RATE)


@partial(jax.jit, static_argnames="model")
def error(weights: Weights, frames: Any, seen: Any, wanted: Any, *, model: Frames) -> Float[Array, ""]:
    """Root mean squared distance from the answers."""
    return jnp.sqrt(jnp.mean(jnp.sum((answers(weights, frames, seen, model=model) - wanted) ** 2, -1)))
