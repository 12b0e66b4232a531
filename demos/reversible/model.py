"""A reversible stack that learns the flow of a pendulum, its controls, and training.

Task: from a state (q, p) of the pendulum H = p^2/2 - cos q to the state 0.5 later, a map that preserves area. The stack
couples q and p (one channel each), so it preserves area whatever it learns; the residual control need not.
Legend: L layers, H hidden units, B states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from demos.reversible import maths
from demos.training import Weights, descend

LAYERS = 6
HIDDEN = 20  # of each half: 3 H weights
CONTROL_HIDDEN = 24  # of a residual layer: 5 H weights, so that 2 * 3 * 20 = 5 * 24
RATE = 5e-3
FLOW_TIME = 0.5
Backward = Literal["rebuilt", "stored"]


def half(weights: Weights, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """What one stream adds to the other: tanh(x W + b) V + t x; ``tilt`` t is 0 without Cayley mixing."""
    return jnp.tanh(x @ weights["into"] + weights["bias"]) @ weights["out"] + weights["tilt"] * x


def couplings(free: Weights) -> tuple[Weights, Weights]:
    """The (F, G) weights of every coupling, from the free ones.

    With ``mix`` (one Cayley parameter a per pair of neighbouring layers) each pair is joined by the rotation
    [[1 - a^2, -2a], [2a, 1 - a^2]] / (1 + a^2) of the two streams. It is a product of three shears with coefficients
    -a, 2a / (1 + a^2), -a, hence a coupling too: the first two are a layer of their own, the third joins the next F.
    """
    f, g = free["f"], free["g"]
    layers = f["bias"].shape[0]
    if "mix" not in free:
        zero = jnp.zeros((layers, 1))
        return f | {"tilt": zero}, g | {"tilt": zero}
    a = free["mix"][:, None]
    between = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[1:]), (f, g))

    def weave(layer: Array, joint: Array) -> Array:
        pairs = jnp.stack([layer[:-1], joint], 1).reshape(-1, *layer.shape[1:])
        return jnp.concatenate([pairs, layer[-1:]])

    woven = jax.tree.map(weave, (f, g), between)
    start = jnp.zeros((1, 1))
    tilts = weave(jnp.concatenate([start, -a]), -a), weave(jnp.zeros((layers, 1)), 2 * a / (1 + a**2))
    return woven[0] | {"tilt": tilts[0]}, woven[1] | {"tilt": tilts[1]}


def flow(free: Weights, state: Float[Array, "B 2"] | np.ndarray, backward: Backward = "rebuilt") -> Float[Array, "B 2"]:
    """The stack on states (q, p); ``backward`` says whether activations are rebuilt or stored for the gradient."""
    run = cast("Callable[..., tuple[Array, Array]]", maths.stack if backward == "rebuilt" else maths.stored_stack)
    first, second = run(half, half, couplings(free), state[..., :1], state[..., 1:])
    return jnp.concatenate([first, second], -1)


class Residual(nn.Module):
    """The control: residual layers x + tanh(x W + b) V on both numbers at once, equally many weights."""

    layers: int = LAYERS
    hidden: int = CONTROL_HIDDEN

    @nn.compact
    def __call__(self, state: Float[Array, "B 2"]) -> Float[Array, "B 2"]:
        for layer in range(self.layers):
            into = nn.Dense(self.hidden, name=f"into{layer}", param_dtype=state.dtype)
            out = nn.Dense(2, use_bias=False, name=f"out{layer}", param_dtype=state.dtype)
            state = state + out(jnp.tanh(into(state)))
        return state


def initial(random: np.random.Generator, rev_cayley: bool) -> Weights:
    """Free weights of the reversible stack; ``mix`` only with Cayley mixing."""

    def one() -> Weights:
        return {
            "into": random.normal(0, 1, (LAYERS, 1, HIDDEN)),
            "bias": random.normal(0, 1, (LAYERS, HIDDEN)),
            "out": random.normal(0, 0.1, (LAYERS, HIDDEN, 1)),
        }

    free: Weights = {"f": one(), "g": one()}
    return free | {"mix": random.normal(0, 0.1, LAYERS - 1)} if rev_cayley else free


def initial_control(random: np.random.Generator) -> Weights:
    """Weights of the residual control, at the same scales."""
    shapes = jax.eval_shape(Residual().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), jnp.float64))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: random.normal(0, 0.1 if "out" in jax.tree_util.keystr(path) else 1.0, leaf.shape), shapes
    )


def pendulum(state: np.ndarray, duration: float = FLOW_TIME, steps: int = 50) -> np.ndarray:
    """The true flow by a fine leapfrog, error below 1e-5."""
    q, p, step = state[..., 0], state[..., 1], duration / steps
    for _ in range(steps):
        p = p - step / 2 * np.sin(q)
        q = q + step * p
        p = p - step / 2 * np.sin(q)
    return np.stack([q, p], -1)


def energy(state: np.ndarray) -> np.ndarray:
    """p^2 / 2 - cos q."""
    return state[..., 1] ** 2 / 2 - np.cos(state[..., 0])


def draw(random: np.random.Generator, *shape: int) -> np.ndarray:
    """States (*shape, 2) inside the region of oscillation, uniform in a box around it."""
    return random.uniform([-1.8, -1.3], [1.8, 1.3], (*shape, 2))


@partial(jax.jit, static_argnames="model")
def train(
    weights: Weights,
    data: Float[Array, "steps B 2"],
    wanted: Float[Array, "steps B 2"],
    *,
    model: Callable[[Weights, Array], Array],
) -> tuple[Weights, Float[Array, " steps"]]:
    """Adam on the squared error of the next state, under cosine decay.

    Args:
        weights: initial ones.
        data, wanted: states of every step and where the flow takes them.
        model: ``model(weights, states) -> states``.
    """
    return descend(lambda w, x, y: jnp.mean((model(w, x) - y) ** 2), weights, (data, wanted), RATE)


@partial(jax.jit, static_argnames=("model", "steps"))
def rollout(
    weights: Weights, state: Float[Array, "B 2"], *, model: Callable[[Weights, Array], Array], steps: int
) -> Float[Array, "steps B 2"]:
    """Apply the learned flow again and again."""

    def advance(state: Array, _: None) -> tuple[Array, Array]:
        state = model(weights, state)
        return state, state

    return jax.lax.scan(advance, state, None, length=steps)[1]
