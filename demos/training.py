"""Training as every demo does it: one compiled loop over batches that were drawn before, Adam under cosine decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array
from jaxtyping import Float

Weights = Any  # a pytree of arrays


def descend(
    loss: Callable[..., Float[Array, ""]], weights: Weights, batches: tuple[Array, ...], rate: float
) -> tuple[Weights, Float[Array, " steps"]]:
    """The weights after one step of Adam per batch, and the loss before each step; to be compiled by the caller.

    Args:
        loss: ``loss(weights, *batch)``.
        weights: initial ones.
        batches: arrays whose leading axis is the step.
        rate: learning rate at the start; it falls to 0 like a cosine.
    """
    return follow(loss, weights, batches, optax.adam(optax.cosine_decay_schedule(rate, batches[0].shape[0])))


def follow(
    loss: Callable[..., Float[Array, ""]],
    weights: Weights,
    batches: tuple[Array, ...],
    optimizer: optax.GradientTransformation,
) -> tuple[Weights, Float[Array, " steps"]]:
    """The same by any optimizer."""

    def step(state: tuple[Weights, Any], batch: tuple[Array, ...]) -> tuple[tuple[Weights, Any], Array]:
        current, moments = state
        value, gradient = jax.value_and_grad(loss)(current, *batch)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(current, updates), moments), value

    (weights, _), losses = jax.lax.scan(step, (weights, optimizer.init(weights)), batches)
    return weights, losses
