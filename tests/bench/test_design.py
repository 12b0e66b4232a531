"""Suites as files, and what crossing, matching and short budgets do to a plan."""

from pathlib import Path

import pytest

from nanochat.architecture import attention_types
from nanochat.bench.config import SuiteConfig
from nanochat.bench.design import read
from nanochat.bench.suite import PRESETS, prepare
from nanochat.config import ConfigError
from nanochat.optim import OPTIMIZERS

ROOT = Path(__file__).resolve().parents[2]
SUITES = sorted((ROOT / "suites").glob("*.toml"))
PARTS = {"winners-seconds"}
"""Suites that ask again about some of the arms; in every other one no mechanism is left out."""


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_shipped_suite_can_be_planned(path):
    plan = prepare(read(path, {}))
    assert plan.config.question.endswith("?") and len(plan.design) == 64
    named = {arm.attention_type for arm in plan.arms}
    assert named <= set(attention_types()) and (named == set(attention_types()) or path.stem in PARTS)


def test_the_full_matrix_is_eleven_by_three_by_two_and_says_what_it_leaves_out():
    plan = prepare(read(ROOT / "suites" / "full-matrix.toml", {}))
    assert len(plan.arms) + len(plan.excluded) == 11 * 3 * 2
    assert {arm.optimizer for arm in plan.arms} == set(OPTIMIZERS.names())
    assert all("+hoss+" in label and "second derivatives" in why for label, why in plan.excluded.items())
    assert len(plan.baselines) == 6 and plan.against["gauge+muon+ordinal"] == "standard+muon+ordinal"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arms = [", "is not TOML"),
        ('arm = ["standard"]', "unknown key 'arm'"),
        ('arms = "tropical"', "arms: got 'tropical', need a list of strings"),
        ("seeds = 8.5", "seeds: got 8.5, need a whole number"),
        ("seeds = true", "seeds: got True, need a whole number"),
        ("sesoi = -1", "--sesoi: got -1, need more than 0"),
        ("gain = 1", "gain: got 1, need true or false"),
    ],
)
def test_a_faulty_file_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(path, {})
    assert words in caught.value.faults[0] and str(path) in caught.value.faults[0]


def test_the_design_stands_in_the_file_alone(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text('arms = ["standard", "gauge"]\n')
    with pytest.raises(ConfigError, match="--seeds beside --suite"):
        read(path, {"seeds": 9})
    moved = read(path, {"jobs": 1, "artifacts_dir": "elsewhere"})
    assert prepare(moved).design == prepare(read(path, {})).design
    with pytest.raises(ConfigError, match="need a TOML file"):
        read(tmp_path / "missing.toml", {})


def test_a_pattern_is_one_more_arm():
    plan = prepare(SuiteConfig(arms=("standard",), attention_patterns=("standard/tropical",)))
    assert plan.models[plan.contenders[0]].pattern == ("standard", "tropical")


def test_equal_parameters_are_reached_by_the_feed_forward_width():
    arms = ("standard", "simplicial", "ultrametric")
    plain, matched = (prepare(SuiteConfig(arms=arms, match=match)) for match in ("flops", "params"))
    counts = [matched.ledgers[label].parameters for label in matched.labels]
    assert max(counts) / min(counts) < 1.01 < plain.ledgers["simplicial"].parameters / counts[0]
    assert matched.models["simplicial"].mlp_width < plain.models["simplicial"].mlp_width


def test_what_no_optimizer_can_train_is_a_fault_and_what_one_cannot_is_left_out():
    with pytest.raises(ConfigError, match="second derivatives"):
        prepare(SuiteConfig(arms=("standard", "gauge"), optimizers=("hoss",), undertrained_ok=True))
    plan = prepare(SuiteConfig(arms=("standard", "gauge"), optimizers=("adamw", "hoss"), undertrained_ok=True))
    assert plan.labels == ("standard+adamw", "gauge+adamw") and list(plan.excluded) == ["gauge+hoss"]


def test_under_trained_and_too_short_designs_are_refused_unless_insisted_on():
    small = {"arms": ("standard", "gauge"), "target_flops": 1e9}
    with pytest.raises(ConfigError, match="tokens per weight"):
        prepare(SuiteConfig(**small))
    with pytest.raises(ConfigError, match=r"steps at --share 0.1, need 200"):
        prepare(SuiteConfig(shares=(0.1,)))
    assert prepare(SuiteConfig(**small, undertrained_ok=True)).steps["standard"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"looks": (9,)}, "--look: got 9, need at most the 8 seeds"),
        ({"looks": (1,)}, "--look: got 1, need at least 2"),
        ({"shares": (1.5,)}, "--share: got 1.5"),
        ({"grid": (1, 2)}, "--grid"),
        ({"pilot": 1}, "--pilot: got 1"),
        ({"confirm": 5}, "--confirm: got 5, need 0 or at least 6"),
        ({"optimizers": ("adamw", "adamw")}, "--optimizer: got the same value twice"),
    ],
)
def test_a_design_that_means_nothing_is_refused(options, words):
    with pytest.raises(ConfigError) as caught:
        prepare(SuiteConfig(**options))
    assert len(caught.value.faults) == 1
    assert any(words in fault for fault in caught.value.faults)


def test_faults_of_the_suite_and_of_its_arms_come_together():
    with pytest.raises(ConfigError) as caught:
        prepare(SuiteConfig(arms=("tropcal",), confirm=3, looks=(9,), optimizers=("adamv",)))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "--look",
        "--confirm",
        "unknown --optimizer 'adamv'",
        "unknown -a 'tropcal'",
    ]
    assert prepare(SuiteConfig(confirm=6)).confirmation_seeds and not prepare(SuiteConfig(confirm=0)).confirmation_seeds


def test_seeds_of_all_stages_are_disjoint():
    plan = prepare(SuiteConfig(preset="standard"))
    stages = (plan.seeds, plan.tuning_seeds, plan.pilot_seeds, plan.confirmation_seeds)
    assert sum(map(len, stages)) == len({seed for stage in stages for seed in stage})
    assert PRESETS["standard"].looks == (8,) and plan.looks == (8, 12)
