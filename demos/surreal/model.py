"""A layer that reads the value of the largest of several numbers, its control, and training.

Task ``largest``: N tokens, each a number of magnitude 10^e in a random direction with a value written beside it; answer
the value of the largest. Task ``match``: the value of the token whose direction fits best, whatever its magnitude.
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
from jaxtyping import Float

from demos.surreal import maths
from demos.training import Weights, descend

CHANNELS = 8
DIRECTIONS = 4
RATE = 0.03
"""Best of 0.01, 0.03 and 0.1 for the worse of the two arms."""

SURREAL, SOFTMAX, NORMED = "surreal", "softmax", "normed"


class Reader(nn.Module):
    """Attention of one learned query over N numbers and their values.

    Args:
        form: ``surreal`` (keys as exponent and direction), ``normed`` (directions alone), ``softmax`` (keys as they
            are). All three have the same parameters, a temperature among them.
    """

    form: str
    channels: int = CHANNELS

    @nn.compact
    def __call__(self, x: Float[Array, "N F"], values: Float[Array, " N"]) -> Float[Array, ""]:
        """The answer for one sequence."""
        q = self.param("q", nn.initializers.normal(1.0), (self.channels,), x.dtype)
        sharp = jnp.exp(self.param("sharpness", nn.initializers.zeros, (), x.dtype))
        keys = nn.Dense(self.channels, use_bias=False, name="key", param_dtype=x.dtype)(x)
        power = maths.exponents(keys[None])[0]
        if self.form != SOFTMAX:
            keys = keys * jnp.exp(-power)[:, None]
        scores = keys @ q / self.channels**0.5
        scores = scores + sharp * power if self.form == SURREAL else sharp * scores
        return jax.nn.softmax(scores) @ values


def largest(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Value beside the number of largest magnitude."""
    winner = (x**2).sum(-1).argmax(-1)
    return np.take_along_axis(values, winner[..., None], -1)[..., 0]


def match(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Value beside the number that points most along the first axis."""
    winner = (x[..., 0] / np.sqrt((x**2).sum(-1))).argmax(-1)
    return np.take_along_axis(values, winner[..., None], -1)[..., 0]


TASKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"largest": largest, "match": match}


def draw(random: np.random.Generator, decades: float, tokens: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in random directions with magnitudes over 2 ``decades`` powers of ten, and values in [-1, 1].

    The two largest of a sequence are at least a tenth of a power of ten apart.
    """
    direction = random.normal(size=(*shape, tokens, DIRECTIONS))
    direction /= np.sqrt((direction**2).sum(-1, keepdims=True))
    exponent = random.uniform(-decades, decades, (*shape, tokens))
    top = exponent.argmax(-1)[..., None]
    np.put_along_axis(exponent, top, np.take_along_axis(exponent, top, -1) + 0.1, -1)
    return direction * 10 ** exponent[..., None], random.uniform(-1, 1, (*shape, tokens))


def answer(form: str, weights: Weights, x: Float[Array, "N F"], values: Float[Array, " N"]) -> Float[Array, ""]:
    """What one model says about one sequence."""
    return jnp.asarray(Reader(form).apply(weights, x, values))


def initial(random: np.random.Generator, copies: int) -> Weights:
    """Weights for ``copies`` models, the same for every form: normal with variance 1/fan-in, no sharpness yet."""
    shapes = jax.eval_shape(
        Reader(SOFTMAX).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((3, DIRECTIONS), jnp.float64),
        jax.ShapeDtypeStruct((3,), jnp.float64),
    )

    def fill(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        scale = 0.0 if "sharpness" in name else 1.0 if "'q'" in name else leaf.shape[0] ** -0.5
        return random.normal(size=(copies, *leaf.shape)) * scale

    return jax.tree_util.tree_map_with_path(fill, shapes)


@partial(jax.jit, static_argnames="form")
def train(
    weights: Weights,
    x: Float[Array, "M steps B N F"],
    values: Float[Array, "M steps B N"],
    wanted: Float[Array, "M steps B"],
    *,
    form: str,
) -> tuple[Weights, Float[Array, "M steps"]]:
    """Fit M models side by side, each on its own stream: the trained weights and the loss of every step."""
    say = jax.vmap(partial(answer, form), (None, 0, 0))

    def loss(single: Weights, numbers: Array, beside: Array, y: Array) -> Array:
        return jnp.mean((say(single, numbers, beside) - y) ** 2)

    return jax.vmap(lambda single, *batches: descend(loss, single, batches, RATE))(weights, x, values, wanted)


@partial(jax.jit, static_argnames="form")
def answers(
    weights: Weights, x: Float[Array, "B N F"], values: Float[Array, "B N"], *, form: str
) -> Float[Array, "M B"]:
    """What each of M models says about each sequence."""
    one = jax.vmap(partial(answer, form), (None, 0, 0))
    return jax.vmap(one, (0, None, None))(weights, x, values)
