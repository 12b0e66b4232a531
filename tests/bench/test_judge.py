"""Verdicts from made-up runs whose truth is known: looks, confirmation, groups, budgets, seconds."""

from dataclasses import replace

import numpy as np
import pytest
from outcomes import OUTCOME
from scipy import stats

from nanochat.bench.config import SuiteConfig
from nanochat.bench.jobs import Failure, Job
from nanochat.bench.judge import CONFIRMATION, EQUAL_TIME, VERDICT, Judge, share_stage
from nanochat.bench.store import Outcome
from nanochat.bench.suite import GAIN_SHARES, SuitePlan, prepare
from nanochat.bench.tuning import Tuned

HASHES = {"data_hash": "d", "tokenizer_hash": "t", "eval_hash": "e"}
ARMS = ("standard", "tropical", "gauge")
NOISE = 0.01


def suite(**options) -> SuitePlan:
    given = {"arms": ARMS, "preset": "standard", "shares": (0.25,), "gain": True, "time_axis": True, **options}
    return prepare(SuiteConfig(**given))


def outcome(plan: SuitePlan, label: str, job: Job, bpb: float | None, **changed) -> Outcome:
    used = job.steps * plan.step_flops(label)
    kept = replace(
        OUTCOME,
        bpb=bpb,
        diverged=bpb is None,
        steps=job.steps,
        tokens=job.steps * plan.batch_size * plan.models[label].sequence_len,
        flops_used=used,
        counted_flops=used,
        parameters=plan.ledgers[label].parameters,
        cpu_seconds=OUTCOME.wall_seconds,
        document_nats=[10.0 * (bpb or 0), 20.0 * (bpb or 0)],
        document_bytes=[100, 200],
        weights=plan.ledgers[label].parameters,
    )
    return replace(kept, **changed)


def runs(plan, label, stage, seeds, bpb, share=1.0, **changed):
    steps = plan.steps_at(label, share)
    jobs = [Job("", label, stage, plan.run_config(label, seed, 0.01, steps, tuning=False), {}) for seed in seeds]
    return [(job, outcome(plan, label, job, score, **changed)) for job, score in zip(jobs, bpb, strict=True)]


def noisy(seeds, mean, key):
    """Scores of seeds, with noise that follows the seed and the arm."""
    return [mean + NOISE * np.random.Generator(np.random.Philox(key=key, counter=seed)).normal() for seed in seeds]


def tuned(plan, scores=(2.7, 2.6, 2.65)):
    grid = dict(zip((-1, 0, 1), scores, strict=True))
    return {label: Tuned(0.01, 0, {0: grid, 1: grid}, at_edge=False) for label in plan.labels}


def played(plan, means, confirm=None, rates=None):
    """A suite whose arms have the given means; ``confirm`` replaces those of the fresh seeds."""
    judge = Judge(plan, HASHES)
    key = {label: number for number, label in enumerate(plan.labels)}
    for number, look in enumerate(plan.looks):
        still = plan.labels if number == 0 else [*plan.baselines, *judge.open]
        for label in still:
            seeds = plan.seeds[:look]
            judge.add(label, VERDICT, runs(plan, label, VERDICT, seeds, noisy(seeds, means[label], key[label])))
        judge.look(look)
    for label in {*judge.wins, *(plan.against[win] for win in judge.wins)}:
        seeds = plan.confirmation_seeds
        mean = (confirm or means).get(label, means[label])
        judge.add(label, CONFIRMATION, runs(plan, label, CONFIRMATION, seeds, noisy(seeds, mean, key[label])))
    return judge, {label: judge.verdict(label, rates or tuned(plan)) for label in plan.labels}


def test_a_clear_win_ends_at_the_first_look_and_is_confirmed():
    plan = suite()
    judge, found = played(plan, {"standard": 2.6, "tropical": 2.5, "gauge": 2.6})
    assert plan.looks == (8, 12)
    assert found["tropical"].verdict == "WIN" and len(found["tropical"].bpb) == 8
    assert found["tropical"].confirmation.verdict == "WIN" and found["tropical"].confirmation.seeds == 8
    assert found["gauge"].verdict == "INCONCLUSIVE" and len(found["gauge"].bpb) == 12
    assert len(found["standard"].bpb) == 12 and found["standard"].verdict == "BASELINE"
    assert found["gauge"].confirmation is None and judge.open == ["gauge"]
    effects = found["tropical"].effects
    assert effects.standardised < -3 and effects.fresh_seed > 0.99 and effects.documents[1] < 0
    assert found["tropical"].p < found["tropical"].p_adjusted < 0.01


def test_a_win_that_fresh_seeds_do_not_repeat_is_not_called_one():
    _, found = played(suite(), {"standard": 2.6, "tropical": 2.5, "gauge": 2.6}, confirm={"tropical": 2.61})
    assert found["tropical"].verdict == "INCONCLUSIVE" and "8 fresh seeds did not confirm" in found["tropical"].note
    assert found["tropical"].difference < -0.05


def test_an_arm_that_diverges_or_breaks_a_promise_is_barred_and_others_keep_their_share_of_alpha():
    plan = suite()
    judge = Judge(plan, HASHES)
    seeds = plan.seeds[:8]
    judge.add("standard", VERDICT, runs(plan, "standard", VERDICT, seeds, noisy(seeds, 2.6, 0)))
    judge.add("tropical", VERDICT, runs(plan, "tropical", VERDICT, seeds, [None, *noisy(seeds[1:], 2.6, 1)]))
    judge.add("gauge", VERDICT, runs(plan, "gauge", VERDICT, seeds, noisy(seeds, 2.4, 2), flops_used=1.0))
    judge.look(8)
    assert judge.open == [] and judge.wins == []
    found = {label: judge.verdict(label, tuned(plan)) for label in plan.labels}
    assert found["tropical"].verdict == "UNSTABLE" and found["tropical"].note == "diverged in 1 of 8 seeds"
    assert found["tropical"].difference is None and found["tropical"].effects.divergence_p == pytest.approx(1)
    assert found["gauge"].verdict == "INVALID" and found["gauge"].difference < -0.1


def test_a_failed_baseline_bars_every_arm():
    plan = suite()
    judge = Judge(plan, HASHES)
    seeds = plan.seeds[:8]
    for label in plan.labels:
        judge.add(label, VERDICT, runs(plan, label, VERDICT, seeds, noisy(seeds, 2.5, 1)))
    (job, _), *rest = judge.runs["standard"][VERDICT]
    judge.add("standard", VERDICT, [(job, Failure("its worker died 3 times")), *rest])
    judge.look(8)
    words = [judge.verdict(label, tuned(plan)) for label in plan.contenders]
    assert all(word.verdict == "INVALID" and word.note.startswith("baseline: ") for word in words)


def test_budgets_that_rank_otherwise_equal_seconds_and_gain_are_told():
    plan = suite()
    judge, _ = played(plan, {"standard": 2.6, "tropical": 2.5, "gauge": 2.6})
    for label, (small, timed) in {"standard": (3.0, 2.6), "tropical": (3.2, 2.7), "gauge": (3.0, 2.6)}.items():
        seeds = plan.seeds[: len(judge.runs[label][VERDICT])]
        stage, key = share_stage(0.25), len(label)
        judge.add(label, stage, runs(plan, label, stage, seeds, noisy(seeds, small, key), share=0.25))
        judge.add(label, EQUAL_TIME, runs(plan, label, EQUAL_TIME, seeds, noisy(seeds, timed, key)))
    for share, mean in zip(GAIN_SHARES, (2.75, 2.45), strict=True):
        stage = share_stage(share)
        scores = noisy(plan.seeds, mean, 0)
        judge.add("standard", stage, runs(plan, "standard", stage, plan.seeds, scores, share=share))
    found = judge.verdict("tropical", tuned(plan))
    small = found.shares[0.25]
    assert small.verdict == "LOSS" and small.change == pytest.approx(0.3, abs=0.02) and small.change_p < 1e-6
    assert found.time.verdict == "LOSS" and set(found.flags) == {"budget", "time"}
    assert 1.3 < found.effects.gain.factor < 1.9 and not found.effects.gain.extrapolated
    busy = [(job, replace(run, cpu_seconds=0.3)) for job, run in judge.runs["tropical"][EQUAL_TIME]]
    judge.add("tropical", EQUAL_TIME, busy)
    assert judge.verdict("tropical", tuned(plan)).time.verdict == "INVALID"


def timed(plan, label, seconds):
    return [
        (job, replace(run, step_seconds=each))
        for (job, run), each in zip(
            runs(plan, label, VERDICT, range(len(seconds)), [2.6] * len(seconds)), seconds, strict=True
        )
    ]


def test_step_times_are_compared_pair_by_pair():
    plan, drift = suite(), 1.3 ** np.arange(8)
    judge = Judge(plan, HASHES)
    judge.add("standard", VERDICT, timed(plan, "standard", 0.01 * drift))
    judge.add("tropical", VERDICT, timed(plan, "tropical", 0.015 * drift))
    judge.add("gauge", VERDICT, timed(plan, "gauge", [0.01, 0.05] * 4))
    assert judge.time_ratio("standard") == judge.time_ratio("standard")[:1] * 3 == (1.0, 1.0, 1.0)
    assert judge.time_ratio("tropical") == pytest.approx((1.5, 1.5, 1.5))
    ratio, low, high = judge.time_ratio("gauge")
    logs = np.log(np.array([0.01, 0.05] * 4) / (0.01 * drift))
    half = stats.t.ppf(0.975, 7) * logs.std(ddof=1) / 8**0.5
    assert np.log([ratio, low, high]) == pytest.approx(logs.mean() + half * np.array([0, -1, 1]))
    assert Judge(plan, HASHES).time_ratio("gauge") is None


def test_equal_seconds_need_a_steady_machine():
    plan = suite()
    judge, _ = played(plan, {"standard": 2.6, "tropical": 2.5, "gauge": 2.7})
    for label in plan.labels:
        seeds = plan.seeds[: len(judge.runs[label][VERDICT])]
        judge.add(label, EQUAL_TIME, runs(plan, label, EQUAL_TIME, seeds, noisy(seeds, 2.6 + (label == "tropical"), 5)))
    assert judge.verdict("tropical", tuned(plan)).time.verdict == "LOSS"
    unsteady = [
        (job, replace(run, step_seconds=run.step_seconds * (1 + place % 2)))
        for place, (job, run) in enumerate(judge.runs["tropical"][VERDICT])
    ]
    judge.add("tropical", VERDICT, unsteady)
    found = judge.verdict("tropical", tuned(plan))
    assert found.time.verdict == "INVALID" and found.time.difference is None and "too wide" in found.time.note
    assert found.time_ratio_interval[0] < found.time_ratio < found.time_ratio_interval[1]


def test_a_win_at_one_rate_only_is_fragile_and_a_tiny_one_negligible():
    plan = suite(sesoi=0.2)
    rates = tuned(plan)
    rates["tropical"] = replace(rates["tropical"], scores={0: {-1: 2.9, 0: 2.5, 1: 2.8}, 1: {0: 2.5}})
    _, found = played(plan, {"standard": 2.6, "tropical": 2.5, "gauge": 2.6}, rates=rates)
    assert found["tropical"].verdict == "WIN" and found["tropical"].flags == ("negligible", "fragile")


def test_everyone_at_the_baselines_rate_is_told_beside_the_verdict():
    plan = suite()
    judge, _ = played(plan, {"standard": 2.6, "tropical": 2.5, "gauge": 2.5})
    grids = tuned(plan)
    base = Tuned(0.01, -1, {0: {-1: 2.6, 0: 2.7, 1: 2.8}, 1: {-1: 2.5}}, at_edge=False)
    late = Tuned(0.01, 2, {0: {0: 2.9, 1: 2.7, 2: 2.5}, 1: {2: 2.5}}, at_edge=False)
    wild = Tuned(0.01, 0, {0: {-1: np.inf, 0: 2.5, 1: 2.6}, 1: {0: 2.5}}, at_edge=False)
    grids |= {"standard": base, "tropical": late, "gauge": wild}
    found = {label: judge.verdict(label, grids).untuned for label in plan.labels}
    assert found["standard"] is None and found["tropical"] is None  # never tried there
    assert found["gauge"].difference is None  # diverged there
    assert found["gauge"].learning_rate == pytest.approx(plan.centre("gauge") / 2)
    other = judge.verdict("gauge", {**grids, "gauge": tuned(plan)["gauge"]})
    assert other.untuned.difference == pytest.approx(2.7 - 2.6)
    assert other.difference == pytest.approx(-0.1, abs=0.02)  # the verdict is of the tuned arm


def test_every_group_is_compared_with_its_own_baseline():
    plan = suite(arms=("standard", "tropical", "gauge"), optimizers=("adamw", "muon"))
    assert plan.baselines == ("standard+adamw", "standard+muon") and len(plan.contenders) == 4
    means = dict.fromkeys(plan.labels, 2.6) | {"standard+muon": 2.4, "gauge+muon": 2.4, "tropical+muon": 2.3}
    _, found = played(plan, means)
    assert found["tropical+muon"].verdict == "WIN" and found["tropical+muon"].against == "standard+muon"
    assert found["gauge+muon"].verdict == "INCONCLUSIVE" and found["tropical+adamw"].verdict == "INCONCLUSIVE"
    assert abs(found["gauge+muon"].difference) < 0.02


def test_equal_seconds_without_equal_operations_are_held_to_their_own_steps():
    plan = suite(match="time", gain=False, shares=(), time_axis=False)
    judge = Judge(replace(plan, steps=plan.steps | {"gauge": plan.steps["gauge"] // 2}), HASHES)
    seeds = plan.seeds[:8]
    for label in plan.labels:
        judge.add(label, VERDICT, runs(judge.plan, label, VERDICT, seeds, noisy(seeds, 2.5, 1)))
    judge.look(8)
    assert not judge.barred
