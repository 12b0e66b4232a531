"""One attention step that relaxes an edge: the tropical layer, its softmax control with the same parameters, training.

Task: n tokens (d_j, w_j), answer min_j (d_j + w_j), the relaxation step of every shortest-path algorithm.
Legend: B sequences, N tokens, F features, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from demos.training import Weights, descend
from demos.tropical import maths

CHANNELS = 8
RANGE = 3.0  # d and w are uniform on [0, RANGE]
RATE = 0.1  # best of 0.01, 0.03, 0.1 for all three scores on both tasks


class Step(nn.Module):
    """Attention of one learned query over N tokens: linear keys and values, linear read-out.

    Args:
        score: ``hilbert`` or ``maxplus`` for the tropical layer, ``softmax`` for the control.
    """

    score: str
    channels: int = CHANNELS

    @nn.compact
    def __call__(self, x: Float[Array, "N F"]) -> Float[Array, ""]:
        """The answer for one sequence."""
        q = self.param("q", nn.initializers.normal(1.0), (self.channels,), x.dtype)
        keys = nn.Dense(self.channels, use_bias=False, name="key", param_dtype=x.dtype)(x)
        values = nn.Dense(self.channels, name="value", param_dtype=x.dtype)(x)
        if self.score == "softmax":
            mixed = jax.nn.softmax(keys @ q / self.channels**0.5) @ values
        else:
            mixed = maths.tropical_attention(q[None], keys, values, self.score)[0]
        return nn.Dense(1, name="out", param_dtype=x.dtype)(mixed)[0]


TASKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relax": lambda x: x.sum(-1).min(-1),  # min_j (d_j + w_j)
    "average": lambda x: x.sum(-1).mean(-1),  # mean_j (d_j + w_j), what softmax attention is made for
}


def answer(score: str, weights: Weights, x: Float[Array, "N F"]) -> Float[Array, ""]:
    """What one model says about one sequence."""
    return jnp.asarray(Step(score).apply(weights, x))


def draw(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Sequences (*shape, 2) of independent uniform (d, w), each sequence on its own scale up to ``RANGE``."""
    scale = random.uniform(0.1, RANGE, shape[:-1])
    return random.random((*shape, 2)) * scale[..., None, None]


def initial(random: np.random.Generator, copies: int) -> Weights:
    """Weights for ``copies`` models, the same for every score: normal with variance 1/fan-in, small keys."""
    shapes = jax.eval_shape(Step("softmax").init, jax.random.key(0), jax.ShapeDtypeStruct((8, 2), jnp.float64))

    def fill(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        scale = 0.0 if "bias" in name else 0.1 if "key" in name else 1.0 if "q" in name else leaf.shape[0] ** -0.5
        return random.normal(size=(copies, *leaf.shape)) * scale

    return jax.tree_util.tree_map_with_path(fill, shapes)


@partial(jax.jit, static_argnames="score")
def train(
    weights: Weights,
    data: Float[Array, "M steps B N F"],
    wanted: Float[Array, "M steps B"],
    masks: Weights | None = None,
    *,
    score: str,
) -> tuple[Weights, Float[Array, "M steps"]]:
    """Fit M models side by side, each on its own stream, by Adam on the squared error under cosine decay.

    Args:
        weights: initial ones, with a leading axis of M models.
        data, wanted: the sequences of every step and their answers.
        masks: 1 for a weight that is trained, 0 for one that is zero and stays so; all are trained if not given.
        score: see :class:`Step`.

    Returns:
        The trained weights and the loss of every step.
    """
    say = partial(answer, score)

    def one(single: Weights, x: Array, y: Array, mask: Weights | None) -> tuple[Weights, Array]:
        def loss(single: Weights, x: Array, y: Array) -> Array:
            masked = single if mask is None else jax.tree.map(jnp.multiply, single, mask)
            return jnp.mean((jax.vmap(say, (None, 0))(masked, x) - y) ** 2)

        return descend(loss, single, (x, y), RATE)

    return jax.vmap(one)(weights, data, wanted, masks)


@partial(jax.jit, static_argnames="score")
def answers(weights: Weights, x: Float[Array, "B N F"], *, score: str) -> Float[Array, "M B"]:
    """What each of M models says about each sequence."""
    return jax.vmap(jax.vmap(partial(answer, score), (None, 0)), (0, None))(weights, x)


@partial(jax.jit, static_argnames=("score", "rounds"))
def shortest_paths(
    weights: Weights, lengths: Float[Array, "N N"], source: int, *, score: str, rounds: int
) -> tuple[Float[Array, " N"], Int[Array, " N"]]:
    """Apply one trained step again and again to all nodes of a graph, as Bellman and Ford would.

    Args:
        weights: of one model.
        lengths: of the edge from j to i at ``[i, j]``; ``RANGE`` where there is none, and on the diagonal.
        source: node at distance 0.
        rounds: applications.

    Returns:
        Distances, and each node's predecessor: the token on which its answer depends most (largest gradient).
    """
    say = partial(answer, score)
    nodes = lengths.shape[0]

    def incoming(distance: Array) -> Array:
        return jnp.stack([jnp.broadcast_to(distance, lengths.shape), lengths], -1)

    def relax(distance: Array, _: None) -> tuple[Array, None]:
        return jax.vmap(say, (None, 0))(weights, incoming(distance)).at[source].set(0.0), None

    distance, _ = jax.lax.scan(relax, jnp.full(nodes, RANGE).at[source].set(0.0), None, length=rounds)
    slopes = jax.vmap(jax.grad(say, argnums=1), (None, 0))(weights, incoming(distance))
    return distance, jnp.argmax(jnp.abs(slopes).sum(-1), -1)
