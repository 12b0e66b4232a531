"""Training towards a sparse mixture: in rounds, half of the channels and half of the key coordinates are given up.

A channel is a column of the value matrix, its bias and its weight in the read-out; a key coordinate is a component of
the query and a column of the key matrix. What is given up is set to zero, gets no gradient any more, and is chosen by
the loss without it. In the end one of each is left, and such a layer can be read: its answer is
o max_j f(x_j) + b with f piecewise linear, and with o < 0 its error on any number of tokens is at most the largest on
one, because a minimum moves by no more than what it is taken over.
Source: gradual pruning, arXiv:1710.01878; here whole summands and factors of the mixture instead of single weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from demos.certificate import Certificate, certify
from demos.result import Text
from demos.training import Weights
from demos.tropical import checks
from demos.tropical.model import CHANNELS, RANGE, answer, train
from demos.words import number

ROUNDS = CHANNELS.bit_length()  # 8, 4, 2, 1
JUDGES = 8  # batches by which it is decided what is given up


def mask(like: Weights, channels: Float[Array, " C"], keys: Float[Array, " C"]) -> Weights:
    """Ones and zeros in the shape of a model's weights, from what is kept of its channels and key coordinates.

    The bias of the read-out stays.
    """
    inner = like["params"]
    ones = jnp.ones_like
    return {
        "params": {
            "q": keys,
            "key": {"kernel": ones(inner["key"]["kernel"]) * keys},
            "value": {"kernel": ones(inner["value"]["kernel"]) * channels, "bias": channels},
            "out": {"kernel": channels[:, None], "bias": ones(inner["out"]["bias"])},
        }
    }


@partial(jax.jit, static_argnames="score")
def losses_without(
    weights: Weights, kept: Float[Array, "M 2 C"], x: Float[Array, "M B N F"], y: Float[Array, "M B"], *, score: str
) -> Float[Array, "M 2 C"]:
    """Loss of each of M models when one more channel, or one more key coordinate, is given up."""

    def one(single: Weights, own: Array, x: Array, y: Array) -> Array:
        def loss(rest: Array) -> Array:
            masked = jax.tree.map(jnp.multiply, single, mask(single, *rest))
            said = jax.vmap(partial(answer, score), (None, 0))(masked, x)
            return jnp.mean((said - y) ** 2)

        changes = own * (1 - jnp.eye(own.size).reshape(own.size, *own.shape))
        return jax.vmap(loss)(changes).reshape(own.shape)

    return jax.vmap(one)(weights, kept, x, y)


def halve(kept: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Keep the half, of what each model still has, whose loss would hurt most."""
    cost = np.where(kept > 0, without, -np.inf)
    order = np.argsort(-cost, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1)
    return (rank < kept.sum(-1, keepdims=True) // 2).astype(float)


def train_sparse(
    weights: Weights, data: Float[np.ndarray, "M steps B N F"], wanted: Float[np.ndarray, "M steps B"], *, score: str
) -> tuple[Weights, Float[np.ndarray, "M steps"]]:
    """As :func:`demos.tropical.model.train`, in ``ROUNDS`` parts, each on half of what the one before kept."""
    models, steps = wanted.shape[:2]
    kept = np.ones((models, 2, CHANNELS))
    losses: list[Array] = []
    each = max(1, steps // ROUNDS)
    for part in range(ROUNDS):
        first = min(part * each, steps - each)  # fewer steps than rounds: the last one again
        span = slice(first, first + each)
        masks = jax.vmap(mask)(weights, jnp.asarray(kept[:, 0]), jnp.asarray(kept[:, 1]))
        rest = jax.tree.map(np.multiply, weights, masks)
        x, y = jnp.asarray(data[:, span]), jnp.asarray(wanted[:, span])
        weights, curve = train(rest, x, y, masks, score=score)
        losses.append(curve)
        if part < ROUNDS - 1:
            judges = (array[:, -JUDGES:].reshape(models, -1, *array.shape[3:]) for array in (x, y))
            kept = halve(kept, np.asarray(losses_without(weights, jnp.asarray(kept), *judges, score=score)))
    return weights, np.concatenate(losses, 1)


def formula(layer: dict[str, Any], out: np.ndarray, offset: float, score: str) -> str:
    """What is left of a layer, written out: the best over tokens of a piecewise linear function of d and w."""
    channel = int(np.flatnonzero(out)[0])
    (used,) = np.nonzero(np.abs(layer["key"]).sum(0))
    factor, level = float(out[channel]), float(layer["q"][used].sum())
    linear = factor * layer["value"][:, channel]
    constant = factor * float(layer["bias"][channel]) + offset
    slopes = layer["key"][:, used].sum(1) * (-1 if score == "hilbert" else 1)
    corners = level + np.array([0, slopes[0], slopes[1], slopes.sum()]) * RANGE
    weight = -factor if score == "hilbert" else factor
    bend = ""
    if (corners >= 0).all() or (corners <= 0).all():  # one piece only: it adds to the linear part
        sign = np.sign(corners.sum()) if score == "hilbert" else float(corners.sum() > 0)
        linear, constant = linear + weight * sign * slopes, constant + weight * sign * level
    else:
        inside = f"{level:.3f} {slopes[0]:+.3f} d_j {slopes[1]:+.3f} w_j"
        bend = f" {weight:+.3f} |{inside}|" if score == "hilbert" else f" {weight:+.3f} max(0, {inside})"
    return f"{'min' if factor < 0 else 'max'}_j ({linear[0]:.4f} d_j {linear[1]:+.4f} w_j {constant:+.4f}{bend})"


def reading(weights: Weights, layer: dict[str, Any], x: np.ndarray) -> tuple[Text, Certificate, float]:
    """The formula of a sparse layer, and the bound on its error that holds for any number of tokens.

    Args:
        weights: of one model.
        layer: the same, as the checks take it, with its score.
        x: sequences on which the bound is tried.
    """
    inner = weights["params"]
    read = {"out": np.asarray(inner["out"]["kernel"])[:, 0], "offset": float(inner["out"]["bias"][0])}
    bound = checks.worst(limit=RANGE, **layer, **read)
    count = sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(weights))
    learned = formula(layer, score=layer["score"], **read)
    why = "A minimum moves no more than what it is taken over" if learned.startswith("min") else "It is no minimum yet"
    text = Text(
        f"In {ROUNDS} rounds all but {count} weights were given up, and the rest can be read: the answer is {learned}. "
        f"{why}: its error on any number of tokens is at most {number(bound)}."
    )
    statement = f"the layer with one channel left errs by at most {number(bound)} on any number of tokens"
    certificate = certify("tropical.uniform", statement, 1e-12, x=x, limit=RANGE, bound=bound, **layer, **read)
    return text, certificate, bound
