"""The ordinal learning-rate schedule as pure functions: the executable definition.

Twin of ``nanochat/schedule/ordinal.py``: the same losses give the same factors, to the bit in float64. The rank
omega^2 a + omega b + c lies in three integers of the state; ``scale_by_ordinal`` puts the schedule behind any optax
optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True, slots=True)
class Knobs:
    """What the schedule is given; hashable, hence a static argument of ``jax.jit``.

    Args:
        restarts: A.
        anneals: B, cuts between restarts.
        patience: C, losses without an improvement at one level.
        decay: learning rate after a cut over that before it.
        restart_decay: learning rate of a restart over that of the one before.
        epsilon: smallest improvement of the smoothed loss, relative.
        smoothing: decay of the loss's exponential average.
        warmup: steps of linear warm-up, in which nothing is an event.
        floor: least factor after warm-up.
    """

    restarts: int = 1
    anneals: int = 5
    patience: int = 50
    decay: float = 0.5
    restart_decay: float = 0.5
    epsilon: float = 0.001
    smoothing: float = 0.98
    warmup: int = 0
    floor: float = 0.0


class State(NamedTuple):
    """Rank, average and best of the loss (NaN where there is none yet), losses seen."""

    a: Int[Array, ""]
    b: Int[Array, ""]
    c: Int[Array, ""]
    average: Float[Array, ""]
    best: Float[Array, ""]
    seen: Int[Array, ""]


def start(knobs: Knobs) -> State:
    """The first state: rank omega^2 A + omega B + C."""
    a, b, c, seen = (jnp.asarray(count) for count in (knobs.restarts, knobs.anneals, knobs.patience, 0))
    return State(a, b, c, jnp.asarray(jnp.nan), jnp.asarray(jnp.nan), seen)


def factor(knobs: Knobs, state: State) -> Float[Array, ""]:
    """What learning rates are multiplied by at the next step: (t + 1)/W in warm-up, then by level, never below r.

    max(r, sigma^(A - a) gamma^(B - b)), read from a table, so that no power is rounded in another way elsewhere.
    """
    table = [
        [max(knobs.floor, knobs.restart_decay**restart * knobs.decay**cut) for cut in range(knobs.anneals + 1)]
        for restart in range(knobs.restarts + 1)
    ]
    level = jnp.asarray(table)[knobs.restarts - state.a, knobs.anneals - state.b]
    return jnp.where(state.seen < knobs.warmup, (state.seen + 1) / max(1, knobs.warmup), level)


def averaged(knobs: Knobs, average: Float[Array, ""], loss: Float[Array, ""]) -> Float[Array, ""]:
    """beta m + (1 - beta) x, and x for the first. No sum has a product for an operand: XLA would round them as one."""
    first = jnp.isnan(average)
    return jnp.where(first, 0, knobs.smoothing * average) + jnp.where(first, loss, (1 - knobs.smoothing) * loss)


def descended(knobs: Knobs, a: Array, b: Array, c: Array) -> tuple[Array, Array, Array]:
    """The next rank: c - 1; at a limit omega becomes C, or omega^2 becomes omega B + C; 0 stays."""
    wait, anneal, restart = c > 0, (c == 0) & (b > 0), (c == 0) & (b == 0) & (a > 0)
    return (
        a - restart,
        jnp.where(restart, knobs.anneals, b - anneal),
        jnp.where(restart | anneal, knobs.patience, c - wait),
    )


def observe(knobs: Knobs, state: State, loss: Float[Array, ""]) -> State:
    """The state after a loss: an event, unless the average fell by more than the margin or warm-up is on.

    Example:
        >>> state = start(Knobs(restarts=0, anneals=1, patience=1))
        >>> for loss in (4.0, 4.0, 4.0):
        ...     state = observe(Knobs(restarts=0, anneals=1, patience=1), state, loss)
        >>> int(state.b), int(state.c)
        (0, 1)
    """
    new = averaged(knobs, state.average, jnp.asarray(loss))
    finite = jnp.isfinite(new)
    gained = state.best - new > knobs.epsilon * jnp.abs(state.best)
    improved = finite & (jnp.isnan(state.best) | gained)
    average = jnp.where(finite, new, state.average)
    event = ~improved & (state.seen >= knobs.warmup)
    lower = descended(knobs, state.a, state.b, state.c)
    a, b, c = (jnp.where(event, low, old) for low, old in zip(lower, (state.a, state.b, state.c), strict=True))
    limit = (a != state.a) | (b != state.b)
    return State(a, b, c, average, jnp.where(improved | limit, average, state.best), state.seen + 1)


def restarted(before: State, after: State) -> Bool[Array, ""]:
    """Whether a restart lies between two states: the moment to empty an optimizer's state, if one wants to."""
    return after.a != before.a


def exhausted(state: State) -> Bool[Array, ""]:
    """Rank 0: there is nothing left to try."""
    return (state.a == 0) & (state.b == 0) & (state.c == 0)


def bound(knobs: Knobs) -> int:
    """Most events of any stream: (A + 1)(B + 1)(C + 1) - 1."""
    return (knobs.restarts + 1) * (knobs.anneals + 1) * (knobs.patience + 1) - 1


def scale_by_ordinal(knobs: Knobs) -> optax.GradientTransformationExtraArgs:
    """Updates times :func:`factor`; ``update`` takes the step's loss as ``value``, as ``optax.contrib`` has it.

    Raises:
        ValueError: an update without a loss.

    Example:
        >>> optimizer = optax.chain(optax.adamw(1e-3), scale_by_ordinal(Knobs()))
        >>> updates, state = optimizer.update(gradients, state, parameters, value=loss)
    """

    def init(params: Any) -> State:
        return start(knobs)

    def update(updates: Any, state: Any, params: Any = None, *, value: Any = None, **_: Any) -> tuple[Any, State]:
        if value is None:
            raise ValueError("scale_by_ordinal: got no loss, need update(..., value=loss)")
        scale = factor(knobs, state)
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), updates), observe(knobs, state, value)

    return optax.GradientTransformationExtraArgs(init, update)
