"""What a terminal and a log show of a suite: what is left out, how far it is, how long it takes, and no verdict."""

import io
import math
from dataclasses import replace

import pytest
from made_suites import Truth, made
from outcomes import OUTCOME
from rich.console import Console

from nanochat.bench.config import SuiteConfig
from nanochat.bench.jobs import Failure, Job
from nanochat.bench.progress import DONE, POINTS, TRAINING, WAITING, Curve, Tally, clock
from nanochat.bench.stages import PILOT, TUNING, VERDICT, planned_steps
from nanochat.bench.suite import SuitePlan, prepare
from nanochat.bench.view import LiveSuite, PlainSuite, left_out, progress_table, verdict_table

LINES, COLUMNS = 24, 80


def suite(**options) -> SuitePlan:
    return prepare(SuiteConfig(**{"arms": ("standard", "gauge"), "seeds": 8, "pilot": 0, "confirm": 0, **options}))


def matrix() -> SuitePlan:
    """54 arms and more, as the matrix of all types, optimizers and schedules has."""
    types = ("standard", "tropical", "ultrametric", "simplicial", "quaternion", "octonion", "braid", "fractal", "gauge")
    return suite(arms=types, optimizers=("adamw", "muon"), schedulers=("wsd", "ordinal", "cosine"))


def jobs(plan, stage, labels=(), seeds=None) -> list[Job]:
    return [
        Job(f"{stage} {label} {seed}", label, stage, plan.run_config(label, seed, 0.01, steps, tuning=False), {})
        for label, steps in plan.steps.items()
        for seed in plan.seeds[:seeds]
        if label in (labels or plan.labels)
    ]


def drawn(tally: Tally, lines=LINES) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=COLUMNS, height=lines)
    console.print(progress_table(tally, lines))
    return console.file.getvalue().splitlines()


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def test_what_cannot_be_built_is_told_beforehand_in_one_sentence_per_rule():
    arms = ("standard", "gauge", "braid", "tropical")
    wanted = SuiteConfig(arms=arms, optimizers=("adamw", "hoss"), schedulers=("wsd", "ordinal"), undertrained_ok=True)
    (sentence,) = left_out(prepare(wanted))
    assert sentence.startswith("left out 4 of 16: ") and "second derivatives (gauge, braid; " in sentence
    assert left_out(prepare(SuiteConfig(arms=arms))) == []


def test_time_left_follows_measured_steps_and_counts_what_is_still_to_come():
    plan, now = suite(), Clock()
    tally = Tally(plan, now)
    assert tally.seconds_left == (None, None)
    steps, cost = plan.steps, {label: plan.step_flops(label) for label in plan.labels}
    batch = jobs(plan, VERDICT)
    tally.phase("verdict runs", batch)
    speed = {"standard": 0.01, "gauge": 0.03}
    for label in plan.labels:  # one run of each arm, one after the other, at its own speed
        job = next(job for job in batch if job.label == label)
        tally.started(job)
        now.seconds += speed[label] * steps[label]
        tally.finished(job, replace(OUTCOME, step_seconds=speed[label]), cached=False)
    expected = 7 * sum(speed[label] * steps[label] for label in plan.labels)
    assert tally.seconds_left == (pytest.approx(expected), pytest.approx(expected))
    done = sum(steps[label] * cost[label] for label in plan.labels)
    assert tally.operations == (pytest.approx(done), pytest.approx(8 * done))
    tally.progress(batch[1], steps["standard"] // 2, steps["standard"], 3.0)
    now.seconds += 0.01 * (steps["standard"] // 2)
    assert tally.seconds_left[0] == pytest.approx(expected - 0.01 * (steps["standard"] // 2))


def test_the_whole_suite_is_counted_before_its_first_run_and_each_run_once():
    plan, now = suite(preset="standard", seeds=12, shares=(0.25,), gain=False, time_axis=False), Clock()
    tally = Tally(plan, now)
    whole = sum(
        count * plan.step_flops(label) for steps in planned_steps(plan).values() for label, count in steps.items()
    )
    assert tally.operations == (0.0, pytest.approx(whole))
    first = jobs(plan, VERDICT, seeds=8)
    tally.phase("verdict runs, 8 seeds", first)
    for job in first:
        tally.finished(job, OUTCOME, cached=False)
    used, _ = tally.operations
    again = [job for job in jobs(plan, VERDICT) if job.label == "standard"]  # the other arm is settled
    tally.phase("verdict runs, 12 seeds", again)
    for job in again[:8]:
        tally.finished(job, OUTCOME, cached=True)
    assert tally.operations[0] == pytest.approx(used) and tally.operations[1] < whole
    assert tally.runs_done == 8 and tally.seeds["standard"] == tally.seeds["gauge"] == 8
    assert tally.status("standard") == WAITING and tally.status("gauge") == DONE


def test_an_arm_waits_trains_and_is_done_and_its_lost_runs_are_counted():
    plan = suite()
    tally = Tally(plan, Clock())
    batch = jobs(plan, TUNING)
    tally.phase(PILOT, [])
    assert tally.status("gauge") == WAITING
    tally.phase("learning rates, rung 1", batch)
    assert tally.status("gauge") == WAITING
    own = [job for job in batch if job.label == "gauge"]
    tally.started(own[0])
    assert tally.status("gauge") == TRAINING
    tally.progress(own[0], 3, own[0].steps, None)
    assert tally.status("gauge") == TRAINING and tally.shape("gauge").strip() == ""
    for job, outcome in zip(own, (Failure("lost"), *[replace(OUTCOME, bpb=None, diverged=True)] * 7), strict=True):
        tally.finished(job, outcome, cached=False)
    assert tally.status("gauge") == DONE
    assert drawn(tally)[-1].rstrip().endswith("done, 8 lost")
    tally.progress(own[0], 3, own[0].steps, None)
    assert tally.status("gauge") == DONE, "a report that comes late changes nothing"


def test_a_curve_has_a_shape_and_no_height():
    low, high, rising = Curve("a"), Curve("b"), Curve("c")
    for point in range(100):
        low.add(point / 100, 2.0 - 0.01 * point)
        high.add(point / 100, 9.0 - 0.03 * point)
        rising.add(point / 100, math.nan if point > 50 else 1.0 + point)
    assert low.shape == high.shape and low.shape[0] == "█" and low.shape[-1] == "▁" and len(low.shape) == POINTS
    assert rising.shape[0] == "▁" and rising.shape.rstrip()[-1] == "█" and rising.shape[-1] == " "


def test_the_rows_show_nothing_that_tells_arms_apart_by_score():
    """Two suites whose arms differ in their losses only look the same."""
    plan = suite()
    views = []
    for scale in ({"standard": 1.0, "gauge": 1.0}, {"standard": 1.0, "gauge": 0.5}):
        tally = Tally(plan, Clock())
        batch = jobs(plan, VERDICT)
        tally.phase("verdict runs", batch)
        for job in batch:
            curve = [[step, scale[job.label] * (5.0 - 2.0 * step / job.steps)] for step in range(0, job.steps, 5)]
            tally.finished(job, replace(OUTCOME, bpb=scale[job.label] * 3, loss_curve=curve), cached=False)
        views.append(drawn(tally))
    assert views[0] == views[1] and not any(word in "".join(views[0]) for word in ("WIN", "LOSS", "bpb"))


def test_a_matrix_stays_on_a_small_terminal_with_the_arms_that_train():
    plan = matrix()
    assert len(plan.arms) == 54
    tally = Tally(plan, Clock())
    batch = jobs(plan, VERDICT, seeds=2)
    tally.phase("verdict runs", batch)
    for job in batch[:20]:
        tally.finished(job, OUTCOME, cached=False)
    for job in batch[-2:]:
        tally.progress(job, 3, job.steps, 5.0)
    lines = drawn(tally)
    assert len(lines) < LINES and max(map(len, lines)) <= COLUMNS
    assert any(plan.labels[-1] in line and TRAINING in line for line in lines)
    shown = len(lines) - 4
    assert lines[-1].startswith(f"and {54 - shown} more arms: 10 done, ")
    assert len(drawn(tally, lines=100)) == 57


def test_a_terminal_shows_two_headings_and_a_row_per_arm():
    console = Console(file=io.StringIO(), force_terminal=True, width=COLUMNS, height=LINES)
    plan = suite(arms=("standard", "gauge,label=[b]a name that is much longer than its column"))
    view = LiveSuite(console)
    view.planned(plan)
    batch = jobs(plan, VERDICT)
    view.phase("verdict runs", batch, len(batch))
    view.progress(batch[0], 5, batch[0].steps, 5.0)
    view.stop()
    with console.capture() as captured:
        console.print(view)
    lines = captured.get().splitlines()
    assert lines[0].strip().endswith("-:-- left\x1b[0m") and "suite: " in lines[1] and len(lines) == 5
    assert "[b]a name" in lines[4] and "…" in lines[4]


def test_a_log_gets_fewer_lines_the_longer_it_takes():
    plan, now, lines = suite(seeds=1000), Clock(), []
    view = PlainSuite(lines.append, now=now)
    view.planned(plan)
    batch = jobs(plan, VERDICT)
    view.phase("verdict runs", batch, len(batch))
    times = []
    for job in batch:
        view.started(job)
        now.seconds += 5.0
        told = len(lines)
        view.finished(job, OUTCOME, cached=False)
        times += [now.seconds] * (len(lines) - told)
    assert times[0] == 10 and times[-1] == 10_000 and len(times) < 500
    assert times[-2] - times[-3] > 100
    assert "verdict runs: 2 of 2000 runs, " in lines[3] and "suite: " in lines[3] and "left" in lines[3]
    assert lines[-1].startswith("verdict runs: 2000 of 2000 runs, 0:00 left; suite: 100%")


@pytest.mark.parametrize(("seconds", "text"), [(None, "-:--"), (0, "0:00"), (59.6, "1:00"), (7325, "2:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_the_result_says_how_many_seeds_it_rests_on():
    def printed(**options):
        console = Console(width=80, file=io.StringIO())
        console.print(verdict_table(made(Truth({"octonion": 0.4, "gauge": 0.4}), **options)))
        return " ".join(console.file.getvalue().split())

    assert "bits per byte), 8 seeds; interval" in printed(arms=("standard", "octonion"))
    large = {"preset": "standard", "target_flops": 1e12, "undertrained_ok": True}
    assert "bits per byte), 8 of 12 seeds; interval" in printed(arms=("standard", "octonion", "gauge"), **large)
