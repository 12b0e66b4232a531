"""What a suite resolves to before anything is trained."""

import json
from dataclasses import replace

import pytest

from nanochat.bench.config import SuiteConfig
from nanochat.bench.jobs import Job, revive, thinned
from nanochat.bench.report import command
from nanochat.bench.store import key_of
from nanochat.bench.suite import EVALUATION_SHARE, PRESETS, TUNING_SEED, prepare, run_facts
from nanochat.config import ConfigError, plain

HASHES = {"data_hash": "d", "tokenizer_hash": "t", "eval_hash": "e", "code_hash": "c", "torch": "2"}


def key(run, replica="", **changed):
    return key_of(run_facts(run, replica, HASHES | changed))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_arm_spends_the_budget_on_the_same_shape_and_batches(preset):
    plan = prepare(SuiteConfig(preset=preset))
    shapes = {(model.n_layer, model.n_head, model.n_embd, model.sequence_len) for model in plan.models.values()}
    assert len(shapes) == 1
    for label, steps in plan.steps.items():
        assert steps >= 200
        assert steps * plan.step_flops(label) == pytest.approx(plan.budget, rel=0.0025)


@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_evaluation_stays_within_its_share(preset):
    plan = prepare(SuiteConfig(preset=preset))
    tokens = plan.data.eval_documents * plan.data.eval_bytes
    assert plan.ledgers["standard"].forward.total * tokens <= 2.1 * EVALUATION_SHARE * plan.budget


def test_the_documents_own_command_means_something():
    plan = prepare(SuiteConfig(run_id="X", target_flops=2e9, arms=("standard", "tropical", "reversible")))
    assert plan.name == "X" and len(plan.seeds) == 8
    assert min(plan.steps.values()) >= 200


def test_tuning_and_verdict_seeds_never_meet():
    plan = prepare(SuiteConfig(seeds=1000))
    assert max(plan.seeds) < TUNING_SEED <= min(plan.tuning_seeds)


def test_a_short_run_has_its_own_warm_up_and_decay():
    plan = prepare(SuiteConfig())
    short = plan.run_config("standard", 0, 0.01, plan.steps_at("standard", 1 / 8), tuning=True)
    full = plan.run_config("standard", 0, 0.01, plan.steps["standard"], tuning=False)
    assert short.train.max_steps == pytest.approx(full.train.max_steps / 8, abs=1)
    assert short.optim == full.optim and short.model == full.model


def test_faults_of_all_arms_at_the_shape_come_together():
    with pytest.raises(ConfigError) as caught:
        prepare(SuiteConfig(arms=("standard,n_kv_head=7", "tropical,n_kv_head=5"), target_flops=2e9))
    assert len(caught.value.faults) == 2


def test_the_key_follows_what_decides_the_numbers_and_nothing_else():
    plan = prepare(SuiteConfig())
    run = plan.run_config("standard", 0, 0.01, plan.steps["standard"], tuning=False)
    base = key(run)
    for section, name, value in (
        ("train", "seed", 1),
        ("train", "max_steps", 999),
        ("train", "threads", 2),
        ("optim", "learning_rate", 0.02),
        ("model", "position", "none"),
        ("data", "eval_bytes", 99),
    ):
        other = replace(run, **{section: replace(getattr(run, section), **{name: value})})
        assert key(other) != base, name
    for name in HASHES:
        assert key(run, **{name: "other"}) != base
    assert key(run, "again") != base
    moved = replace(run, train=replace(run.train, artifacts_dir="elsewhere", run_id="named"))
    assert key(replace(moved, data=replace(run.data, cache_dir="elsewhere"))) == base


@pytest.mark.parametrize("arm", ["standard,window=8", "tropical", "reversible,inner=tropical", "standard,mlp=gelu"])
def test_a_run_survives_the_way_to_a_worker(arm):
    plan = prepare(SuiteConfig(arms=(arm,)))
    run = plan.run_config(arm, 3, 0.01, plan.steps[arm], tuning=False)
    assert revive(json.loads(json.dumps(plain(run)))) == run
    assert Job(key(run), arm, "verdict", run, {}).seed == 3


def test_the_command_repeats_the_suite():
    config = SuiteConfig(arms=("standard", "standard,position=none"), target_flops=5e10, sesoi=0.02, run_id="a")
    assert command(config) == (
        "mgr bench-fixed-flops -a standard -a standard,position=none --target-flops 50000000000 --sesoi 0.02 --run-id a"
    )
    assert command(SuiteConfig()) == "mgr bench-fixed-flops"


def test_an_unnamed_suite_is_named_after_its_design_and_not_its_place():
    name = prepare(SuiteConfig()).name
    assert name.startswith("quick-")
    assert prepare(SuiteConfig(artifacts_dir="elsewhere", jobs=1)).name == name
    assert prepare(SuiteConfig(seeds=9)).name != name


def test_curves_are_thinned_by_means():
    curve = [[step, float(step)] for step in range(1000)]
    short = thinned(curve, 100)
    assert len(short) == 100 and short[0] == [9, 4.5] and short[-1] == [999, 994.5]
    assert thinned(curve[:3], 100) == curve[:3]
