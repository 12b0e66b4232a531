"""A curve learned from noisy points under learning-rate schedules that were all tuned with as many trials.

Task: points (x, y + noise) of a curve, a few at a time. On some streams the curve stays, on the others it shifts or
drifts or is drowned in noise for a while, at times that nobody knows; nobody knows either when the run will be stopped.
Legend: L streams, T steps, B points of a step, W waves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from demos.ordinal import maths
from demos.ordinal.checks import waves

WAVES, POINTS, NOISE = 3, 8, 1.0
MOMENTUM = 0.9
CUTS = 2  # of the learning rate between restarts
RATES = tuple(np.geomspace(3e-4, 3e-2, 5).tolist())
FIRST = 0.1  # share of the run before which nothing shifts


class Curve(nn.Module):
    """A sum of waves with learned weights, from 0."""

    @nn.compact
    def __call__(self, seen: Float[Array, "B 2W"]) -> Float[Array, " B"]:
        """Heights of the curve, from the waves at B places."""
        return nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, param_dtype=seen.dtype)(seen)[:, 0]


class Streams(NamedTuple):
    """What is seen of L streams, and the curve behind it."""

    seen: Any  # (L, T, B, 2W)
    heights: Any  # (L, T, B)
    curves: Any  # (L, T, 2W)


def still(random: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """One curve, one amount of noise."""
    return np.broadcast_to(drawn(random), (steps, 2 * WAVES)), np.ones(steps)


def shifts(random: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Another curve from two times on."""
    times = random.integers(int(FIRST * steps), steps, 2)
    pieces = np.stack([drawn(random) for _ in range(3)])
    return pieces[(np.arange(steps)[:, None] >= times).sum(-1)], np.ones(steps)


def drift(random: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """From one curve to another and on, without a rest."""
    turn = np.linspace(0, np.pi, steps)[:, None]
    return np.cos(turn) * drawn(random) + np.sin(turn) * drawn(random), np.ones(steps)


def bursts(random: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """One curve; for a tenth of the run, from an unknown time on, five times the noise: a false alarm."""
    start = random.integers(int(FIRST * steps), steps)
    loud = (np.arange(steps) >= start) & (np.arange(steps) < start + steps // 10)
    return still(random, steps)[0], np.where(loud, 5.0, 1.0)


KINDS: dict[str, Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]] = {
    "shifts": shifts,
    "drift": drift,
    "bursts": bursts,
}


def drawn(random: np.random.Generator) -> np.ndarray:
    """A curve: its weights, of total variance 2."""
    return random.normal(size=2 * WAVES) * WAVES**-0.5


def draw(random: np.random.Generator, kind: str, count: int, steps: int) -> Streams:
    """Twice ``count`` streams: the first half stays as it is."""
    made = [still(random, steps) for _ in range(count)] + [KINDS[kind](random, steps) for _ in range(count)]
    curves, loud = (np.stack(part) for part in zip(*made, strict=True))
    seen = waves(random.uniform(-1, 1, (2 * count, steps, POINTS)), WAVES)
    noise = NOISE * loud[..., None] * random.normal(size=seen.shape[:-1])
    return Streams(seen, (seen @ curves[..., None])[..., 0] + noise, curves)


class Plateau(NamedTuple):
    """Options of ``optax.contrib.reduce_on_plateau``."""

    decay: float
    patience: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting of a schedule: what listens to the loss, the factors that are fixed before, how rates are spaced."""

    said: str
    listener: maths.Knobs | Plateau | None
    factors: np.ndarray
    rates: tuple[float, ...] = RATES


def trials(steps: int, restarts: int) -> dict[str, list[Trial]]:
    """Three settings for each schedule, each with five rates; the constant one gets fifteen rates.

    The patience of the ordinal schedule is what a run that never improves can pay for, or a third of that.
    """
    flat = np.ones(steps)
    passed = np.arange(steps)

    def listening(decay: float, share: int) -> Trial:
        patience = max(1, steps // ((restarts + 1) * (CUTS + 1) * share))
        knobs = maths.Knobs(
            restarts=restarts,
            anneals=CUTS,
            patience=patience,
            decay=decay,
            restart_decay=1.0,
            epsilon=0.01,
        )
        return Trial(f"C = {patience}, decay {decay:g}", knobs, flat)

    def cosine(floor: float) -> Trial:
        return Trial(f"floor {floor:g}", None, np.asarray(optax.cosine_decay_schedule(1.0, steps, floor)(passed)))

    def stable(share: float) -> Trial:
        start = int((1 - share) * steps)
        line = optax.linear_schedule(1.0, 0.0, max(1, steps - start), start)
        return Trial(f"decay in {share:.0%}", None, np.asarray(line(passed)))

    def plateau(decay: float, share: int) -> Trial:
        patience = max(1, steps // share)
        return Trial(f"patience {patience}, decay {decay:g}", Plateau(decay, patience), flat)

    between = [tuple(rate * factor for rate in RATES) for factor in (0.68, 1.0, 1.47)]
    return {
        "ordinal": [listening(0.5, 1), listening(0.5, 3), listening(0.3, 1)],
        "constant": [Trial("", None, flat, rates) for rates in between],
        "cosine": [cosine(0.0), cosine(0.1), cosine(0.3)],
        "wsd": [stable(0.1), stable(0.3), stable(0.6)],
        "plateau": [plateau(0.5, 30), plateau(0.5, 10), plateau(0.7, 15)],
    }


class Run(NamedTuple):
    """What training leaves behind, of L streams or of one."""

    losses: Any  # (L, T)
    errors: Any  # (L, T)
    ranks: Any  # (L, T, 3)
    factors: Any  # (L, T)
    weights: Any  # (L, 2W)


def scaler(listener: maths.Knobs | Plateau | None) -> optax.GradientTransformationExtraArgs:
    """What stands behind the optimizer and hears the loss."""
    if isinstance(listener, maths.Knobs):
        return maths.scale_by_ordinal(listener)
    if isinstance(listener, Plateau):
        return optax.contrib.reduce_on_plateau(listener.decay, listener.patience, rtol=1e-3)
    return optax.with_extra_args_support(optax.identity())


def heard(listener: maths.Knobs | Plateau | None, state: Any) -> tuple[Array, Array]:
    """The rank, 0 of those that have none, and the factor of the next step."""
    if isinstance(listener, maths.Knobs):
        return jnp.stack([state.a, state.b, state.c]), maths.factor(listener, state)
    return jnp.zeros(3, int), state.scale if isinstance(listener, Plateau) else jnp.ones(())


def second(state: Any) -> Any:
    """The schedule's part of the state of two chained transformations."""
    return state[1]


@partial(jax.jit, static_argnames="listener")
def train(streams: Streams, rates: Any, factors: Any, *, listener: maths.Knobs | Plateau | None) -> Run:
    """Descent with momentum along each stream, one rate for each, under one schedule.

    The error is the mean squared distance of the learned curve from the one behind the stream: the waves are
    orthonormal, so it is that of the weights.
    """
    model = Curve()
    optimizer = optax.chain(optax.trace(MOMENTUM), scaler(listener))

    def along(stream: Streams, rate: Array) -> Run:
        def step(carry: tuple[Any, Any], now: tuple[Streams, Array]) -> tuple[tuple[Any, Any], tuple[Array, ...]]:
            (weights, state), (shown, fixed) = carry, now
            _, before = heard(listener, second(state))

            def loss(current: Any) -> Array:
                return jnp.mean((jnp.asarray(model.apply(current, shown.seen)) - shown.heights) ** 2)

            value, gradient = jax.value_and_grad(loss)(weights)
            error = jnp.sum((flat(weights) - shown.curves) ** 2)
            updates, state = optimizer.update(gradient, state, weights, value=value)
            weights = optax.apply_updates(weights, jax.tree.map(lambda leaf: -rate * fixed * leaf, updates))
            rank, _ = heard(listener, second(state))
            return (weights, state), (value, error, rank, before * fixed)

        weights = model.init(jax.random.key(0), stream.seen[0])
        (weights, _), found = jax.lax.scan(step, (weights, optimizer.init(weights)), (stream, factors))
        losses, errors, ranks, used = found
        return Run(losses, errors, ranks, used, flat(weights))

    return jax.vmap(along)(streams, rates)


def flat(weights: Any) -> Float[Array, " 2W"]:
    """The weights as a row."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(weights)])


@dataclass(frozen=True, slots=True)
class Tuned:
    """A trial with the rate that did best on streams which were then put away."""

    trial: Trial
    rate: float
    run: Run

    def typical(self, part: slice) -> float:
        """Error at an even stopping time; the geometric mean over streams, so that none outweighs the rest."""
        return float(np.exp(np.log(np.asarray(self.run.errors)[part].mean(-1)).mean()))


def tune(found: list[tuple[Trial, np.ndarray]], score: Callable[[np.ndarray], np.ndarray], streams: Streams) -> Tuned:
    """The best trial and rate by a score of errors (rates, streams, T), run on fresh streams.

    Args:
        found: trials and their errors on the streams for tuning.
        score: to be small.
        streams: fresh ones.
    """
    scores = np.stack([score(errors) for _, errors in found])
    trial, rate = np.unravel_index(np.nanargmin(scores), scores.shape)
    chosen = found[int(trial)][0]
    best = chosen.rates[int(rate)]
    rates = np.full(len(streams.heights), best)
    return Tuned(chosen, best, train(streams, rates, chosen.factors, listener=chosen.listener))


def tried(streams: Streams, choices: list[Trial]) -> list[tuple[Trial, np.ndarray]]:
    """Errors (rates, streams, T) of every trial at each of its rates."""
    count = len(streams.heights)
    repeated = Streams(*(np.concatenate([part] * len(RATES)) for part in streams))
    found = []
    for trial in choices:
        rates = np.repeat(trial.rates, count)
        errors = train(repeated, rates, trial.factors, listener=trial.listener).errors
        found.append((trial, np.asarray(errors).reshape(len(RATES), count, -1)))
    return found


@partial(jax.jit, static_argnames="knobs")
def descend(losses: Float[Array, "L T"], *, knobs: maths.Knobs) -> Int[Array, "L T 3"]:
    """Ranks after every loss of L streams."""

    def step(state: maths.State, loss: Array) -> tuple[maths.State, Array]:
        after = maths.observe(knobs, state, loss)
        return after, jnp.stack([after.a, after.b, after.c])

    return jax.vmap(lambda stream: jax.lax.scan(step, maths.start(knobs), stream)[1])(losses)
