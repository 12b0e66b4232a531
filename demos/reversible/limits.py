"""Where reversibility costs or loses: low precision, and accuracy over a short time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from demos.reversible import maths
from demos.reversible.model import Weights, couplings, draw, half

PRECISIONS = {"float64": jnp.float64, "float32": jnp.float32, "bfloat16": jnp.bfloat16}


def float_inverse(random: np.random.Generator, free: Weights, kind: Any, passes: int = 20) -> float:
    """Largest error after so many passes forth and back in a floating-point format."""
    layers = jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), couplings(free))
    state = jnp.asarray(draw(random, 64), kind)

    @jax.jit
    def there_and_back(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
        def forth(_: int, pair: Any) -> Any:
            return maths.stored_stack(half, half, layers, *pair)

        def back(_: int, pair: Any) -> Any:
            return maths.inverse_stack(half, half, layers, *pair)

        return jax.lax.fori_loop(0, passes, back, jax.lax.fori_loop(0, passes, forth, (first, second)))

    returned = jnp.concatenate(there_and_back(state[:, :1], state[:, 1:]), -1)
    return float(jnp.abs((returned - state).astype(jnp.float64)).max())


def short_orbit(eccentricity: float, steps: int) -> tuple[float, float]:
    """Distance from the start after one period, by the leapfrog and by the classical method of order four."""
    start = maths.kepler_start(eccentricity)
    run = jax.jit(maths.rollout, static_argnums=(0, 1, 4))
    ends = [
        run(method, maths.kepler_force, start, 2 * np.pi / steps, steps)[0][-1]
        for method in (maths.leapfrog, maths.runge_kutta)
    ]
    frog, runge = (float(jnp.linalg.norm(end - start[0])) for end in ends)
    return frog, runge
