"""Schedules: shape, warm-up, ends, and that no two of them are the same."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config import ConfigError, OptimConfig
from nanochat.schedule import SCHEDULES, build, faults

STEPS = 200
NAMES = SCHEDULES.names()
DECAYING = ("cosine", "linear", "wsd")


def curve(name: str, **options) -> list[float]:
    schedule = build(OptimConfig(scheduler_type=name, **options), STEPS)
    return [schedule.factor(step) for step in range(STEPS)]


def test_the_names_the_user_was_promised():
    assert {"none", "cosine", "linear", "wsd"} <= set(NAMES)


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
    for step in range(30):
        schedule.factor(step)
        schedule.observe(4.0)
    again = build(OptimConfig(scheduler_type=name), STEPS)
    again.load_state_dict(schedule.state_dict())
    assert again.factor(30) == schedule.factor(30)


def test_a_foreign_state_is_refused():
    with pytest.raises(ValueError, match="got \\['patience'\\]"):
        build(OptimConfig(scheduler_type="wsd"), STEPS).load_state_dict({"patience": 3})


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
