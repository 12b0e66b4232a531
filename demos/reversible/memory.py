"""What a gradient needs to remember, by depth: read from the compiled programs, nothing is estimated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from demos.reversible import maths

WIDTH, HIDDEN, BATCH = 16, 32, 64
Run = Callable[..., tuple[Array, Array]]


def half(weights: dict[str, Array], x: Array) -> Array:
    """tanh(x W + b) V."""
    return jnp.tanh(x @ weights["into"] + weights["bias"]) @ weights["out"]


def checkpointed_stack(f: maths.Half, g: maths.Half, parameters: Any, first: Array, second: Array) -> Any:
    """The competitor: each layer is recomputed from its stored input."""
    body = jax.checkpoint(lambda pair, layer: (maths.couple(f, g, layer, *pair), None))
    return jax.lax.scan(body, (first, second), parameters)[0]


METHODS: dict[str, Run] = {
    "stored": maths.stored_stack,
    "checkpointed": checkpointed_stack,
    "rebuilt": maths.stack,
}


def weights(layers: int) -> tuple[dict[str, np.ndarray], ...]:
    """Small weights of F and G with a leading axis of layers."""
    one = {
        "into": np.full((layers, WIDTH, HIDDEN), 0.1),
        "bias": np.zeros((layers, HIDDEN)),
        "out": np.full((layers, HIDDEN, WIDTH), 0.01),
    }
    return one, one


@functools.cache
def compiled(method: str, layers: int) -> Any:
    """The compiled gradient of a quadratic loss through a stack of that depth."""

    def loss(parameters: Any, first: Array, second: Array) -> Array:
        first, second = METHODS[method](half, half, parameters, first, second)
        return jnp.mean(first**2) + jnp.mean(second**2)

    stream = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float64)
    return jax.jit(jax.grad(loss)).lower(weights(layers), stream, stream).compile()


def working_bytes(program: Any) -> int:
    """Bytes of temporary buffers of a compiled program: activations and scratch, neither weights nor gradients."""
    return int(program.memory_analysis().temp_size_in_bytes)
