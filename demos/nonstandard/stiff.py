"""Stiff quadratics: paths through a valley, and how far each way of going gets with the same work.

Legend: n numbers, R rates, k Hessian products to a step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

from demos.nonstandard import maths
from demos.nonstandard.model import CONTROLS, PRODUCT, Arm, bounded, falling

NUMBERS = 12
STEPS = 50
RATES = 10.0 ** np.arange(-4, 6.1, 0.5)
START = np.ones(2)
MACRO_TIME = 0.25
MACRO_STEPS = 16
OTHER_STEPS = 40


def truncated(values: np.ndarray, order: int) -> np.ndarray:
    """e^{-values} by its power series up to an order: what one step of that order multiplies by. Order 1 is Euler's."""
    total, term = np.ones_like(values), np.ones_like(values)
    for k in range(1, order + 1):
        term = -term * values / k
        total = total + term
    return total


def reach(order: int) -> float:
    """Largest z up to which the series of that order stays within -1 and 1: steps up to z / curvature are stable."""
    z = np.linspace(0, 2 * order + 2, 200 * (order + 1))
    return float(z[np.abs(truncated(z, order)) > 1 + 1e-9][0])


def paths(condition: float, order: int) -> dict[str, np.ndarray]:
    """From (1, 1) in a valley with curvature 1 along and ``condition`` across it: the flow and three ways to go.

    Adam sees the valley turned, so that no coordinate of its own runs along it.
    """
    curvature = np.array([1.0, condition])
    times = np.concatenate([np.linspace(0, 8 / condition, 200), np.geomspace(8 / condition, 5, 400)])
    size = 0.95 * reach(order) / condition
    powers = np.arange(OTHER_STEPS + 1)[:, None]
    axes = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
    whole = np.diag(np.pad(curvature, (0, NUMBERS - 2), constant_values=1.0))
    start = np.pad(START, (0, NUMBERS - 2))
    macro = macro_paths(whole, start, np.array([MACRO_TIME]), NUMBERS, MACRO_STEPS)[:, 0, :2]
    adam = np.asarray(adam_path(axes * curvature @ axes.T, axes @ START)) @ axes
    series = truncated(size * curvature, order) ** powers * START
    return {"flow": np.exp(-times[:, None] * curvature) * START, "macro": macro, "series": series, "Adam": adam}


@jax.jit
def adam_path(matrix: Float[Array, "n n"], start: Float[Array, " n"]) -> Float[Array, "steps n"]:
    """Steps of Adam at a rate of 0.1."""
    optimizer = optax.adam(0.1)

    def step(state: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], Array]:
        w, moments = state
        updates, moments = optimizer.update(matrix @ w, moments)
        return (w + jnp.asarray(updates), moments), w

    return jax.lax.scan(step, (start, optimizer.init(start)), None, length=OTHER_STEPS + 1)[1]


@jax.jit
def macro_steps(
    matrix: Float[Array, "n n"], starts: Float[Array, "S n"], times: Float[Array, " S"], krylov: Any
) -> Float[Array, "S n"]:
    """One macro step from each start on w H w / 2, each after a time of its own, in spaces of ``krylov`` products."""

    def one(w: Array, time: Array) -> Array:
        space = maths.lanczos(lambda v: matrix @ v, matrix @ w, len(w))
        return maths.macro_step(w, matrix @ w, within(space, krylov), time)

    return jax.vmap(one)(starts, times)


def within(space: maths.Space, krylov: Any) -> maths.Space:
    """The space that the first ``krylov`` products span, as one of the same shape: what is left out is zero."""
    kept = jnp.arange(len(space.basis)) < krylov
    return maths.Space(space.basis * kept[:, None], space.projected * kept * kept[:, None])


def quadratic(random: np.random.Generator, condition: float) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (n, n) with curvatures from condition^-1/2 to condition^1/2 and random axes, and a start (n)."""
    axes = np.linalg.qr(random.normal(size=(NUMBERS, NUMBERS)))[0]
    curvatures = np.geomspace(condition**-0.5, condition**0.5, NUMBERS)
    return axes * curvatures @ axes.T, random.normal(size=NUMBERS)


def spent(krylov: int) -> int:
    """Gradients that a macro step is worth; a space has no more directions than there are numbers."""
    return 1 + PRODUCT * min(krylov, NUMBERS)


def race(matrix: np.ndarray, start: np.ndarray, krylov: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Loss left by each rate, over the loss at the start, after ``STEPS`` steps and with equal work.

    Equal is the work of ``STEPS`` macro steps of ``krylov`` products; whole spaces take as many steps as that allows.
    """
    work = spent(krylov) * STEPS
    few = min(STEPS, work // spent(NUMBERS))
    whole, part = macro_left(matrix, start, NUMBERS), macro_left(matrix, start, krylov)
    found = {"whole space": (whole[:, STEPS], whole[:, few]), "macro": (part[:, STEPS], part[:, STEPS])}
    for name, arm in CONTROLS.items():
        each = np.asarray(left(matrix, start, np.array([STEPS, work]), arm=arm, steps=work))
        found[name] = each[:, 0], each[:, 1]
    return found


def macro_left(matrix: np.ndarray, start: np.ndarray, krylov: int) -> Float[np.ndarray, "R steps"]:
    """Loss over the first before and after each macro step, by rate; ``RATES`` are the times of the steps."""
    path = macro_paths(matrix, start, RATES, krylov, STEPS)
    losses = np.einsum("sri,ij,srj->rs", path, matrix, path)
    return losses / losses[:, :1]


def macro_paths(matrix: np.ndarray, start: np.ndarray, times: np.ndarray, krylov: int, steps: int) -> np.ndarray:
    """Macro steps (steps + 1, times, n) from one start, one path for each time."""
    every = np.resize(times, len(RATES))  # always as many, so that one program serves all
    path = [np.tile(start, (len(every), 1))]
    for _ in range(steps):
        path.append(np.asarray(macro_steps(matrix, path[-1], every, krylov)))
    return np.array(path)[:, : len(times)]


@partial(jax.jit, static_argnames=("arm", "steps"))
def left(matrix: Array, start: Array, horizons: Array, *, arm: Arm, steps: int) -> Float[Array, "R horizons"]:
    """Loss left over the first, by rate and by the number of steps within which the rate falls to 0."""

    def loss(w: Array, _: Array) -> Array:
        return bounded(w @ matrix @ w / 2)

    def one(rate: Array, horizon: Array) -> Array:
        end = arm(loss, start, jnp.zeros(steps), falling(rate, horizon)).weights
        return loss(end, end) / loss(start, start)

    return jax.vmap(lambda rate: jax.vmap(lambda horizon: one(rate, horizon))(horizons))(jnp.asarray(RATES))


def conjugate_gradients(matrix: np.ndarray, start: np.ndarray, products: int) -> float:
    """Loss left over the first after so many products: the simple method for quadratics, without any rate."""
    w, residual = start.copy(), -matrix @ start
    direction = residual
    for _ in range(products):
        square = residual @ residual
        if square == 0:
            break
        image = matrix @ direction
        size = square / (direction @ image)
        w, residual = w + size * direction, residual - size * image
        direction = residual + (residual @ residual) / square * direction
    return float((w @ matrix @ w) / (start @ matrix @ start))
