"""The JAX schedule and the PyTorch trainer's: the same losses, the same ranks and factors, to the bit."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demos.ordinal import maths
from nanochat.config import OptimConfig
from nanochat.schedule import SCHEDULES, Schedule, build

STEPS = 60
CASES = {
    "smooth": maths.Knobs(restarts=2, anneals=1, patience=2, smoothing=0.7, epsilon=0.003, warmup=3),
    "raw": maths.Knobs(restarts=1, anneals=2, patience=3, smoothing=0.0, epsilon=0.0, decay=0.3),
    "floor": maths.Knobs(restarts=1, anneals=3, patience=1, smoothing=0.98, restart_decay=0.7, floor=0.2, warmup=1),
}
LOSS = st.floats(allow_nan=True, allow_infinity=True) | st.floats(3.9, 4.1) | st.just(4.0)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=CASES)
def knobs(request) -> maths.Knobs:
    return CASES[request.param]


def trainer(knobs: maths.Knobs) -> Schedule:
    names = ("restarts", "anneals", "patience", "decay", "restart_decay", "epsilon", "smoothing")
    own = SCHEDULES.get("ordinal").knobs(**{name: getattr(knobs, name) for name in names})
    optim = OptimConfig(
        scheduler_type="ordinal",
        warmup_steps=knobs.warmup,
        final_lr_fraction=knobs.floor,
        knobs={"ordinal": own},
    )
    return build(optim, 1000)


def trace(schedule: Schedule, losses: list[float]) -> list[tuple[float, ...]]:
    rows = []
    for step, loss in enumerate(losses):
        factor = schedule.factor(step)
        schedule.observe(loss)
        digits = dict(schedule.log()["events"][-1]["rank"])
        rows.append((factor, *(float(digits.get(power, 0)) for power in (2, 1, 0))))
    return rows


@partial(jax.jit, static_argnums=0)
def twin_trace(knobs: maths.Knobs, losses: jax.Array) -> jax.Array:
    def step(state, loss):
        after = maths.observe(knobs, state, loss)
        return after, jnp.stack([maths.factor(knobs, state), after.a * 1.0, after.b * 1.0, after.c * 1.0])

    return jax.lax.scan(step, maths.start(knobs), losses)[1]


@settings(max_examples=60)
@given(st.sampled_from(list(CASES.values())), st.lists(LOSS, min_size=STEPS, max_size=STEPS))
def test_any_stream_gives_the_same_trace(knobs, losses):
    with jax.enable_x64(True):
        got = np.asarray(twin_trace(knobs, jnp.asarray(losses)))
    np.testing.assert_array_equal(got, trace(trainer(knobs), losses))


def test_a_noisy_training_curve_gives_the_same_trace(knobs):
    """Averages of ordinary losses, where a product that is not rounded before the sum would show."""
    noise = np.random.default_rng(0).normal(0, 0.1, STEPS)
    losses = 2 + 3 * np.exp(-np.arange(STEPS) / 20) + noise
    np.testing.assert_array_equal(twin_trace(knobs, jnp.asarray(losses)), trace(trainer(knobs), losses.tolist()))


def test_averages_agree_to_the_bit(knobs):
    losses = np.random.default_rng(1).normal(4, 1, 200)
    schedule = trainer(knobs)
    step = jax.jit(maths.observe, static_argnums=0)
    state = maths.start(knobs)
    for loss in losses:
        state = step(knobs, state, loss)
        schedule.observe(float(loss))
        assert float(state.average) == schedule.watch.average and float(state.best) == schedule.watch.best


def test_the_bound_is_the_same_and_attained(knobs):
    state = maths.start(knobs)
    step = jax.jit(maths.observe, static_argnums=0)
    for _ in range(max(1, knobs.warmup) + maths.bound(knobs)):
        assert not maths.exhausted(state)
        state = step(knobs, state, 4.0)
    assert maths.exhausted(state)
    assert maths.descended(knobs, state.a, state.b, state.c) == (0, 0, 0)


def test_behind_an_optax_optimizer():
    """Scaled like any learning rate: steps of SGD under it are those of SGD with the trainer's factors."""
    knobs = CASES["raw"]
    optimizer = optax.chain(optax.sgd(0.1), maths.scale_by_ordinal(knobs))
    weights = {"w": jnp.ones(3)}
    state = optimizer.init(weights)
    schedule = trainer(knobs)
    with pytest.raises(ValueError, match="got no loss"):
        optimizer.update(weights, state, weights)
    for step, loss in enumerate([4.0, 4.0, math.nan, 3.0, 3.0, 3.0, 3.0, 3.0]):
        before = state[1]
        updates, state = optimizer.update({"w": jnp.ones(3)}, state, weights, value=loss)
        np.testing.assert_allclose(updates["w"], -0.1 * schedule.factor(step), rtol=1e-15)
        schedule.observe(loss)
        assert bool(maths.restarted(before, state[1])) == (int(before.a) != int(state[1].a))
