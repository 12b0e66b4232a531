"""Schedules: shape, warm-up, ends, and that no two of them are the same."""

import json
import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config import ConfigError, OptimConfig
from nanochat.schedule import SCHEDULES, Schedule, build, faults

STEPS = 200
NAMES = SCHEDULES.names()
DECAYING = ("cosine", "linear", "wsd")


def curve(name: str, **options) -> list[float]:
    """The factors of a run whose loss never moves."""
    schedule = build(OptimConfig(scheduler_type=name, **options), STEPS)
    factors = []
    for step in range(STEPS):
        factors.append(schedule.factor(step))
        schedule.observe(4.0)
    return factors


def test_the_names_the_user_was_promised():
    assert {"none", "cosine", "linear", "wsd", "plateau", "ordinal"} == set(NAMES)


@pytest.mark.parametrize(("first", "second"), list(combinations(NAMES, 2)))
def test_each_differs_from_every_other(first, second):
    difference = max(abs(a - b) for a, b in zip(curve(first), curve(second), strict=True))
    assert difference > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_warmup_is_a_line_to_the_peak(name):
    factors = curve(name, warmup_steps=20)
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20] == pytest.approx(1.0)
    assert max(factors) <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_warmup_is_five_percent_if_not_given(name):
    assert curve(name) == curve(name, warmup_steps=10)
    assert curve(name, warmup_steps=0)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_decays_to_the_final_fraction_and_no_further(name, final):
    schedule = build(OptimConfig(scheduler_type=name, final_lr_fraction=final), STEPS)
    factors = [schedule.factor(step) for step in range(10, STEPS)]
    assert all(a >= b for a, b in zip(factors, factors[1:], strict=False))
    assert factors[-1] > final
    assert schedule.factor(STEPS) == pytest.approx(final)
    assert schedule.factor(STEPS + 50) == pytest.approx(final)


def test_wsd_stays_until_its_decay_begins():
    factors = curve("wsd", decay_fraction=0.25)
    assert factors[10:151] == [1.0] * 141
    assert factors[175] == pytest.approx(0.5)


@settings(deadline=None)
@given(
    name=st.sampled_from(NAMES),
    total=st.integers(2, 500),
    decay=st.floats(0, 1),
    final=st.floats(0, 1),
    data=st.data(),
)
def test_the_factor_lies_between_zero_and_one(name, total, decay, final, data):
    warmup = data.draw(st.integers(0, total - 1))
    step = data.draw(st.integers(0, total))
    optim = OptimConfig(scheduler_type=name, warmup_steps=warmup, decay_fraction=decay, final_lr_fraction=final)
    assert 0 <= build(optim, total).factor(step) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip(name):
    schedule = build(OptimConfig(scheduler_type=name), STEPS)
    for step in range(60):
        schedule.factor(step)
        schedule.observe(4.0)
    again = build(OptimConfig(scheduler_type=name), STEPS)
    again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    for step in range(60, STEPS):
        assert again.factor(step) == schedule.factor(step)
        again.observe(4.0)
        schedule.observe(4.0)
    assert again.state_dict() == schedule.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_state_is_refused(name):
    with pytest.raises(ValueError, match="got \\['patience'\\]"):
        build(OptimConfig(scheduler_type=name), STEPS).load_state_dict({"patience": 3})


@pytest.mark.parametrize("name", NAMES)
def test_warmup_is_the_same_whatever_the_losses(name):
    schedule = build(OptimConfig(scheduler_type=name, warmup_steps=20), STEPS)
    for step in range(20):
        assert schedule.factor(step) == (step + 1) / 20
        schedule.observe(math.nan if step % 2 else 4.0 + step)
    assert schedule.factor(20) == 1.0


def test_knobs_of_another_schedule_are_refused():
    knobs = SCHEDULES.get("plateau").knobs()
    assert faults(OptimConfig(knobs={"ordinal": knobs})) == ["knobs of ordinal: got PlateauKnobs, need OrdinalKnobs"]


def plateau(**options) -> Schedule:
    knobs = SCHEDULES.get("plateau").knobs(**{"patience": 3, "smoothing": 0.0, "epsilon": 0.01, **options})
    return build(OptimConfig(scheduler_type="plateau", warmup_steps=0, knobs={"plateau": knobs}), STEPS)


@pytest.mark.parametrize(
    ("losses", "cuts"),
    [
        ([5.0] * 4, 1),  # the first value improves on nothing
        ([5.0] * 3, 0),
        ([5.0] * 7, 2),
        ([5.0, 5.0, 5.0, 4.0, 4.0, 4.0], 0),  # an improvement starts the count again
        ([5.0, 4.96, 4.96, 4.96], 1),  # less than 1 % below the best is none
        ([5.0, 4.94, 4.94, 4.94], 0),
        ([5.0, math.nan, math.inf, -math.inf], 1),
        ([-5.0, -5.04, -5.04, -5.04], 1),  # relative to the size, also below zero
        ([-5.0, -5.06, -5.06, -5.06], 0),
        ([math.nan, math.nan, 5.0], 0),
    ],
)
def test_plateau_cuts_where_the_losses_stop_falling(losses, cuts):
    schedule = plateau(decay=0.5)
    for loss in losses:
        schedule.observe(loss)
    assert schedule.factor(len(losses)) == 0.5**cuts


def test_plateau_stops_at_the_final_fraction():
    knobs = SCHEDULES.get("plateau").knobs(patience=1)
    optim = OptimConfig(scheduler_type="plateau", warmup_steps=0, final_lr_fraction=0.1, knobs={"plateau": knobs})
    schedule = build(optim, STEPS)
    for _ in range(20):
        schedule.observe(1.0)
    assert schedule.factor(20) == 0.1


@pytest.mark.parametrize("name", ["plateau", "ordinal"])
def test_faults_of_knobs_are_found_together(name):
    with pytest.raises(ConfigError) as caught:
        SCHEDULES.get(name).knobs(smoothing=1.0, epsilon=-0.1, decay=0.0, patience=0)
    flags = [fault.partition(":")[0] for fault in caught.value.faults]
    assert flags == [f"--{name}-{knob}" for knob in ("smoothing", "epsilon", "decay", "patience")]


def test_faults_come_together_and_without_an_exception():
    found = faults(OptimConfig(scheduler_type="cosin", warmup_steps=300), STEPS)
    assert len(found) == 2
    assert "did you mean 'cosine'" in found[0]
    assert "got 300, need fewer than the run's 200 steps" in found[1]
    with pytest.raises(ConfigError):
        build(OptimConfig(scheduler_type="cosin"), STEPS)


def test_negative_step():
    with pytest.raises(ValueError, match="got step -1"):
        build(OptimConfig(), STEPS).factor(-1)
