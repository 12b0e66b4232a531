"""Ordinals in Cantor normal form, and a schedule whose rank goes down whatever the losses; each law has a breaker."""

from __future__ import annotations

import copy
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config import OptimConfig
from nanochat.schedule import SCHEDULES, Schedule, build
from nanochat.schedule._cantor import Cantor, from_json, natural, polynomial
from nanochat.schedule._certificate import bound, check

POWERS = 4
DIGITS = st.tuples(*[st.integers(0, 3)] * POWERS)
"""Coefficients of an ordinal below omega^4, highest power first."""


def nested(depth: int) -> st.SearchStrategy[Cantor]:
    """Ordinals with exponents that are ordinals themselves."""
    if depth == 0:
        return st.integers(0, 3).map(natural)
    terms = st.dictionaries(nested(depth - 1), st.integers(1, 3), max_size=3)
    return terms.map(lambda counts: Cantor(tuple(sorted(counts.items(), reverse=True))))


ORDINALS = nested(2)


def at(ordinal: Cantor, base: int) -> int:
    """The value with ``base`` in place of omega, exponents included; for a large base this keeps the order."""
    return sum(base ** at(exponent, base) * count for exponent, count in ordinal.terms)


def initial_segment_sum(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """Sum of coefficient tuples: what is shorter than the right's longest part is absorbed into it."""
    lead = next((place for place, count in enumerate(right) if count), None)
    if lead is None:
        return left
    return (*left[:lead], left[lead] + right[lead], *right[lead + 1 :])


class TestCantorNormalForm:
    @given(DIGITS, DIGITS)
    def test_below_omega_to_the_fourth_it_is_what_tuples_do(self, one, two):
        a, b = polynomial(*one), polynomial(*two)
        assert (a < b, a == b, a > b) == (one < two, one == two, one > two)
        assert a + b == polynomial(*initial_segment_sum(one, two))
        assert a.natural_sum(b) == polynomial(*(x + y for x, y in zip(one, two, strict=True)))
        assert tuple(a.coefficient(power) for power in reversed(range(POWERS))) == one

    @given(ORDINALS, ORDINALS)
    def test_order_and_natural_sum_are_those_of_large_numbers(self, a, b):
        base = 8  # above every coefficient of either and of the sum
        assert (a < b) == (at(a, base) < at(b, base))
        assert at(a.natural_sum(b), base) == at(a, base) + at(b, base)

    @given(ORDINALS, ORDINALS, ORDINALS)
    def test_laws_of_sums(self, a, b, c):
        zero = Cantor()
        assert a + zero == a == zero + a
        assert (a + b) + c == a + (b + c)
        assert (b < c) == (a + b < a + c)
        assert a.natural_sum(b) == b.natural_sum(a) >= max(a + b, b + a)
        assert a.natural_sum(b).natural_sum(c) == a.natural_sum(b.natural_sum(c))

    def test_the_ordinary_sum_does_not_commute_and_is_not_monotone_on_the_left(self):
        omega = polynomial(1, 0)
        assert natural(1) + omega == omega < omega + natural(1)
        assert natural(0) < natural(1) and natural(0) + omega == natural(1) + omega

    @given(ORDINALS.filter(bool))
    def test_giving_up_one_smallest_power(self, a):
        power = Cantor(((a.terms[-1][0], 1),))
        assert a.without_last() < a == a.without_last() + power

    @given(ORDINALS)
    def test_json_round_trip(self, a):
        assert from_json(json.loads(json.dumps(a.to_json()))) == a

    @pytest.mark.parametrize(
        "value", ["3", [[1]], [[1, 0]], [[1, 2], [1, 1]], [[0, 1], [1, 1]], [[0, 1.0]], -1, None, {}]
    )
    def test_what_is_no_normal_form_is_refused(self, value):
        with pytest.raises(ValueError, match="ordinal: got"):
            from_json(value)

    def test_text(self):
        assert str(polynomial(2, 1, 7)) == "ω^2·2 + ω + 7"
        assert str(Cantor(((polynomial(1, 1), 2),))) == "ω^(ω + 1)·2"
        assert str(Cantor()) == "0"


ANY_LOSS = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 10) | st.just(4.0)
STREAMS = st.lists(ANY_LOSS, max_size=120)
KNOBS = st.fixed_dictionaries(
    {
        "restarts": st.integers(0, 2),
        "anneals": st.integers(0, 2),
        "patience": st.integers(1, 4),
        "decay": st.floats(0.1, 0.9),
        "restart_decay": st.floats(0.1, 1.0),
        "epsilon": st.sampled_from([0.0, 0.001, 0.1]),
        "smoothing": st.sampled_from([0.0, 0.5, 0.98]),
        "reset_optimizer": st.booleans(),
        "exhausted": st.sampled_from(["hold", "stop"]),
    }
)


def ordinal(warmup: int = 0, final: float = 0.0, total: int = 1000, **knobs) -> Schedule:
    own = SCHEDULES.get("ordinal").knobs(**knobs)
    optim = OptimConfig(scheduler_type="ordinal", warmup_steps=warmup, final_lr_fraction=final, knobs={"ordinal": own})
    return build(optim, total)


def events_of(schedule: Schedule) -> list[dict]:
    return schedule.log()["events"]


def ranks(schedule: Schedule) -> list[Cantor]:
    return [from_json(event["rank"]) for event in events_of(schedule)]


def hear(schedule: Schedule, losses: list[float]) -> Schedule:
    for loss in losses:
        schedule.observe(loss)
    return schedule


class Refilling:
    """The patience of ReduceLROnPlateau under the same rank: what an improvement does there. No ranking function."""

    def __init__(self, patience: int):
        self.patience = patience
        self.ranks = [polynomial(1, 1, patience)]
        self.best = math.inf

    def observe(self, loss: float) -> None:
        rank = self.ranks[-1]
        if loss < self.best:
            self.best = loss
            refilled = polynomial(rank.coefficient(2), rank.coefficient(1), self.patience)
            if refilled != rank:
                self.ranks.append(refilled)
        else:
            self.ranks.append(rank.without_last())


class TestRank:
    @given(KNOBS, STREAMS)
    def test_falls_on_every_event_of_any_stream(self, knobs, losses):
        schedule = hear(ordinal(**knobs), losses)
        descent = ranks(schedule)
        assert all(low < high for high, low in zip(descent, descent[1:], strict=False))
        assert len(descent) - 1 <= bound(descent[0])
        assert check(events_of(schedule)) == []

    def test_a_patience_that_is_refilled_has_no_rank(self):
        schedule = Refilling(patience=2)
        for loss in [3.0, 3.0, 2.0, 2.0, 1.0]:
            schedule.observe(loss)
        assert any(low >= high for high, low in zip(schedule.ranks, schedule.ranks[1:], strict=False))

    @given(KNOBS, st.sampled_from([4.0, math.nan, math.inf, -math.inf]))
    def test_the_bound_is_attained_by_every_stream_that_never_improves(self, knobs, loss):
        schedule = ordinal(**knobs)
        most = (knobs["restarts"] + 1) * (knobs["anneals"] + 1) * (knobs["patience"] + 1) - 1
        hear(schedule, [4.0] + [loss] * (most - 1))
        assert ranks(schedule)[-1] and not schedule.finished, "one event is still to come"
        hear(schedule, [loss] * 10)
        assert len(events_of(schedule)) - 1 == most == bound(ranks(schedule)[0])
        assert not ranks(schedule)[-1]
        assert schedule.finished == (knobs["exhausted"] == "stop")

    @given(KNOBS, STREAMS)
    def test_an_event_is_exactly_a_loss_without_improvement(self, knobs, losses):
        schedule = ordinal(**knobs)
        for loss in losses:
            before, best = len(events_of(schedule)), schedule.watch.best
            open_ended = bool(ranks(schedule)[-1])
            schedule.observe(loss)
            average = schedule.watch.average
            improved = math.isfinite(loss) and (best is None or best - average > knobs["epsilon"] * abs(best))
            assert len(events_of(schedule)) - before == (open_ended and not improved)

    @given(KNOBS, STREAMS, st.integers(0, 20), st.floats(0, 1))
    def test_factors_only_scale(self, knobs, losses, warmup, final):
        schedule = ordinal(warmup=warmup, final=final, **knobs)
        lowest = knobs["restart_decay"] ** knobs["restarts"] * knobs["decay"] ** knobs["anneals"]
        for step, loss in enumerate(losses):
            factor = schedule.factor(step)
            assert factor == (step + 1) / warmup if step < warmup else max(final, lowest) <= factor <= 1
            schedule.observe(loss)
        assert all(event["step"] >= warmup for event in events_of(schedule)[1:])


class TestSteps:
    def test_levels_of_a_loss_that_never_moves(self):
        schedule = ordinal(restarts=1, anneals=2, patience=1, decay=0.1, restart_decay=0.5)
        factors = []
        for step in range(14):
            factors.append(schedule.factor(step))
            schedule.observe(4.0)
        levels = [1.0] * 3 + [0.1] * 2 + [0.01] * 2 + [0.5] * 2 + [0.05] * 2 + [0.005] * 3
        assert factors == pytest.approx(levels)
        kinds = [event["event"] for event in events_of(schedule)]
        assert kinds == "begin wait anneal wait anneal wait restart wait anneal wait anneal wait".split()
        assert [str(rank) for rank in ranks(schedule)][:4] == ["ω^2 + ω·2 + 1", "ω^2 + ω·2", "ω^2 + ω + 1", "ω^2 + ω"]

    def test_improvements_are_free(self):
        schedule = ordinal(patience=2, smoothing=0.0, epsilon=0.01)
        hear(schedule, [4.0 * 0.9**step for step in range(50)])
        assert len(events_of(schedule)) == 1
        hear(schedule, [4.0 * 0.9**49 * 0.995])
        assert len(events_of(schedule)) == 2, "half a per cent is none"

    def test_a_limit_step_compares_anew(self):
        """After the ground has shifted, falling losses are improvements again, though not below the old best."""
        schedule = ordinal(patience=2, smoothing=0.0)
        hear(schedule, [1.0, 5.0, 5.0, 5.0])
        assert [event["event"] for event in events_of(schedule)] == ["begin", "wait", "wait", "anneal"]
        hear(schedule, [4.5, 4.0, 3.0])
        assert len(events_of(schedule)) == 4

    def test_the_average_starts_at_the_first_value_and_ignores_what_is_not_finite(self):
        schedule = hear(ordinal(smoothing=0.5), [math.nan, 8.0, math.inf, 4.0, math.nan])
        assert schedule.watch.average == 6.0

    def test_the_patience_of_a_run_pays_for_the_whole_descent(self):
        schedule = ordinal(total=1000, warmup=50, restarts=1, anneals=5)
        assert bound(ranks(schedule)[0]) <= 950
        assert bound(ranks(ordinal(total=1000, warmup=50, patience=79))[0]) > 950

    @given(st.lists(st.floats(0.5, 8), max_size=60), st.integers(-20, 20))
    def test_the_scale_of_the_loss_does_not_matter(self, losses, power):
        knobs = {"patience": 2, "smoothing": 0.7, "epsilon": 0.01}
        scaled = hear(ordinal(**knobs), [loss * 2.0**power for loss in losses])
        assert events_of(scaled) == events_of(hear(ordinal(**knobs), losses))

    def test_its_zero_does(self):
        losses = [4.0, 3.9, 3.8, 3.7]
        shifted = hear(ordinal(smoothing=0.0, epsilon=0.01), [loss + 100 for loss in losses])
        assert len(events_of(hear(ordinal(smoothing=0.0, epsilon=0.01), losses))) == 1 < len(events_of(shifted))

    @pytest.mark.parametrize("reset", [True, False])
    def test_says_when_the_optimizer_is_to_forget(self, reset):
        schedule = ordinal(restarts=1, anneals=0, patience=1, reset_optimizer=reset)
        said = []
        for _ in range(5):
            schedule.observe(4.0)
            said.append(schedule.restarted)
        assert said == [False, False, reset, False, False]


class TestState:
    @given(KNOBS, STREAMS, st.data())
    def test_a_cut_anywhere_changes_nothing(self, knobs, losses, data):
        cut = data.draw(st.integers(0, len(losses)))
        whole = hear(ordinal(warmup=3, **knobs), losses)
        first = hear(ordinal(warmup=3, **knobs), losses[:cut])
        second = ordinal(warmup=3, **knobs)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        hear(second, losses[cut:])
        assert second.state_dict() == whole.state_dict()
        assert second.factor(len(losses)) == whole.factor(len(losses))
        assert second.log() == whole.log()

    def test_a_state_is_no_window_into_the_schedule(self):
        schedule = hear(ordinal(patience=2), [4.0] * 3)
        state = schedule.state_dict()
        before = copy.deepcopy(state)
        hear(schedule, [4.0] * 5)
        assert state == before

    def test_a_state_of_other_knobs_is_refused(self):
        state = ordinal(patience=2).state_dict()
        with pytest.raises(ValueError, match="events of another schedule"):
            ordinal(patience=3).load_state_dict(state)


FALLING = hear(ordinal(restarts=2, anneals=2, patience=3, smoothing=0.0), [4.0, 3.0] + [3.0] * 25)


class TestCertificate:
    def test_holds_at_every_length(self):
        events = events_of(FALLING)
        assert {event["event"] for event in events} == {"begin", "wait", "anneal", "restart"}
        assert all(check(events[:length]) == [] for length in range(1, len(events) + 1))

    @given(st.data())
    def test_any_other_rank_is_found(self, data):
        events = copy.deepcopy(events_of(FALLING))
        event = data.draw(st.sampled_from(events))
        other = polynomial(*data.draw(st.tuples(*[st.integers(0, 4)] * 3))).to_json()
        changed = other != event["rank"]
        event["rank"] = other
        assert bool(check(events)) == changed

    @given(st.data())
    def test_any_other_kind_is_found(self, data):
        events = copy.deepcopy(events_of(FALLING))
        event = data.draw(st.sampled_from(events))
        kind = data.draw(st.sampled_from(["begin", "wait", "anneal", "restart", "improve"]))
        changed = kind != event["event"]
        event["event"] = kind
        assert bool(check(events)) == changed

    @given(st.data())
    def test_an_event_that_is_missing_doubled_or_moved_is_found(self, data):
        events = copy.deepcopy(events_of(FALLING))
        place = data.draw(st.integers(0, len(events) - 2))
        kind = data.draw(st.sampled_from(["missing", "doubled", "moved"]))
        if kind == "missing":
            del events[place]
        elif kind == "doubled":
            events.insert(place, events[place])
        else:
            events[place], events[place + 1] = events[place + 1], events[place]
        assert check(events)

    def test_one_event_too_many_is_found(self):
        done = hear(ordinal(restarts=0, anneals=0, patience=1), [4.0] * 3)
        events = [*events_of(done), {"step": 9, "event": "wait", "rank": [], "factor": 1.0}]
        assert any("need at most 1" in fault for fault in check(events))

    @settings(max_examples=50)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
        )
    )
    def test_anything_else_is_a_fault_and_no_exception(self, value):
        assert check(value)
        assert check([value])
        assert check([*events_of(FALLING), value])

    @given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
    def test_the_bound_is_the_number_of_ordinals_met_on_the_way_down(self, a, b, c):
        """Counted, not multiplied."""
        steps, digits = 0, (a, b, c)
        while any(digits):
            x, y, z = digits
            digits = (x, y, z - 1) if z else (x, y - 1, c) if y else (x - 1, b, c)
            steps += 1
        assert bound(polynomial(a, b, c)) == steps
