"""The whole engine on a trainer that takes no time: which runs are made, in which order, and what is written."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nanochat.bench import Observer, run
from nanochat.bench.config import SuiteConfig
from nanochat.bench.figures import by_document, undominated
from nanochat.flops import ledger
from nanochat.result import TrainResult

SECONDS = {"standard": 0.01, "tropical": 0.02, "gauge": 0.01}


def trainer(means, *, falls=0.1):
    """Scores that follow mean, seed, budget and rate; steps that take the mechanism's time."""

    def train(config, *, directory, dataset, view):
        name, steps = config.model.attention_type, config.train.max_steps
        costs = ledger(config.model)
        noise = 0.01 * np.random.Generator(np.random.Philox(key=sum(name.encode()), counter=config.train.seed)).normal()
        rate = abs(np.log2(config.optim.learning_rate / 0.02))
        used = costs.run_flops(config.train.batch_size, steps)
        bpb = means[name] * (used / 1e11) ** -falls + noise + 0.01 * rate
        sizes = dataset.eval_set.document_bytes
        per_step = config.train.batch_size * config.model.sequence_len
        Path(directory).mkdir(parents=True)
        return TrainResult(
            directory=directory,
            bpb=bpb,
            val_nats=0.0,
            document_nats=bpb * np.log(2) * sizes,
            document_bytes=sizes,
            val_curve=[],
            loss_curve=[5.0, 4.0],
            steps=steps,
            tokens=steps * per_step,
            parameters=costs.parameters,
            flops_used=used,
            counted_flops=used,
            target_flops=None,
            step_seconds=SECONDS[name],
            wall_seconds=steps * SECONDS[name],
            cpu_seconds=steps * SECONDS[name],
            peak_bytes=10**8,
        )

    return train


class Recorder(Observer):
    def __init__(self):
        self.phases, self.notes, self.runs = [], [], Counter()

    def note(self, line):
        self.notes.append(line)

    def phase(self, name, jobs, missing):
        self.phases.append(name)

    def finished(self, job, outcome, cached):
        self.runs[job.label, job.stage] += 1


def config(tmp_path, **options):
    given = {"arms": ("standard", "tropical", "gauge"), "preset": "quick", "artifacts_dir": str(tmp_path), **options}
    return SuiteConfig(**given)


def test_arms_take_turns_so_that_a_machine_that_slows_down_slows_all(tmp_path):
    made, calls = trainer({"standard": 2.6, "tropical": 2.4, "gauge": 2.6}), []

    def slowing(config, **given):
        calls.append((config.model.attention_type, config.train.seed))
        found = made(config, **given)
        return replace(found, step_seconds=found.step_seconds * 1.02 ** len(calls))

    verdicts = run(config(tmp_path, seeds=8, time_axis=True), trainer=slowing)
    turns = [(name, seed) for name, seed in calls if seed < 8]
    assert turns[:6] == [(name, seed) for seed in (0, 1) for name in ("standard", "tropical", "gauge")]
    for arm in verdicts.arms:  # one arm after the other, the ratio would be off by 1.02 ** 8
        true = SECONDS[arm.label] / SECONDS["standard"]
        assert arm.time_ratio == pytest.approx(true, rel=0.05)
    told = {arm.label: arm for arm in verdicts.arms}["tropical"]
    steps = {job.steps for job, _ in verdicts.runs["tropical"] if job.stage == "equal seconds"}
    assert steps == {round(verdicts.plan.steps["standard"] / told.time_ratio)}


def test_everything_in_order_and_written_down(tmp_path):
    recorder = Recorder()
    wanted = config(
        tmp_path, seeds=12, looks=(8,), shares=(0.4,), gain=True, time_axis=True, sesoi=0.002, question="Which?"
    )
    verdicts = run(wanted, view=recorder, trainer=trainer({"standard": 2.6, "tropical": 2.4, "gauge": 2.6}))
    assert recorder.phases[:2] == ["timing steps", "pilot"]
    assert recorder.phases[-7:] == [
        "verdict runs, 8 seeds",
        "verdict runs, 12 seeds",
        "confirmation",
        "share 0.4",
        "share 0.5",
        "share 2",
        "equal seconds",
    ]
    found = {arm.label: arm for arm in verdicts.arms}
    tropical, gauge = found["tropical"], found["gauge"]
    assert tropical.verdict == "WIN" and len(tropical.bpb) == 8 and tropical.confirmation.verdict == "WIN"
    assert gauge.verdict in ("INCONCLUSIVE", "TIE") and len(gauge.bpb) == 12
    assert tropical.shares[0.4].verdict == "WIN" and tropical.shares[0.4].seeds == 8
    # Half as many steps of twice the time: 2 ** 0.1 worse by the made-up curve, 7 % better by the mean.
    assert tropical.time.difference == pytest.approx(tropical.difference + 0.06 * 2.4, abs=0.08)
    assert tropical.effects.gain.factor > 1.5
    assert recorder.runs["standard", "pilot"] == 4 and recorder.runs["gauge", "confirmation"] == 0
    assert any("pilot of 4 seeds" in note for note in recorder.notes)
    assert any("worker" in note for note in recorder.notes) and len(verdicts.forecast) == 2
    summary = json.loads((verdicts.directory / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["question"] == "Which?" and summary["design"] == verdicts.plan.design
    assert summary["arms"][1]["confirmation"]["seeds"] == 8 and summary["arms"][1]["shares"]["0.4"]["verdict"] == "WIN"
    assert {entry["stage"] for entry in summary["arms"][1]["runs"]} >= {
        "tuning",
        "verdict",
        "confirmation",
        "share 0.4",
    }
    for arm in summary["arms"][1:]:
        base, own = (
            {trial["learning_rate"]: trial["bpb"] for trial in each["tuning"]["rungs"][0]["trials"]}
            for each in (summary["arms"][0], arm)
        )
        rate = arm["untuned"]["learning_rate"]
        assert arm["untuned"]["difference"] == pytest.approx(own[rate] - base[rate])
    assert summary["overlap"]["evaluation"]["before"] > summary["overlap"]["evaluation"]["after"] == 0
    assert summary["overlap"]["removed_bytes"] > 0 and summary["overlap"]["documents"] > 0
    for name in ("run.md", "report.html"):
        text = (verdicts.directory / name).read_text()
        assert re.search(r"also stand in the training text: 0\.00% \(\d+\.\d\d% before [\d,]+ kB", text)
    assert verdicts.valid
    for label, factor in (("tropical", tropical), ("gauge", gauge)):
        np.testing.assert_allclose(by_document(verdicts, label).mean(), factor.difference, atol=0.01)


def test_a_front_has_no_arm_that_another_beats_in_both():
    points = [(1.0, 5.0), (2.0, 3.0), (2.5, 3.0), (3.0, 4.0), (4.0, 1.0), (1.0, 5.0)]
    assert undominated(points) == [(1.0, 5.0), (2.0, 3.0), (4.0, 1.0)]


def test_the_same_suite_again_trains_nothing_and_says_the_same(tmp_path):
    wanted = config(tmp_path, shares=(0.4,))
    train = trainer({"standard": 2.6, "tropical": 2.4, "gauge": 2.6})
    first, second = run(wanted, trainer=train), run(wanted, trainer=train)
    assert first.trained > 0 == second.trained
    assert [arm.difference for arm in first.arms] == [arm.difference for arm in second.arms]


def test_equal_seconds_give_a_slow_arm_fewer_steps(tmp_path):
    wanted = config(tmp_path, match="time", pilot=0, confirm=0)
    train = trainer({"standard": 2.6, "tropical": 2.6, "gauge": 2.6})
    verdicts = run(wanted, trainer=train)
    steps = {arm.label: arm.steps for arm in verdicts.arms}
    assert steps["tropical"] == pytest.approx(steps["standard"] / 2, abs=1) and steps["gauge"] == steps["standard"]
    assert {arm.label: arm.verdict for arm in verdicts.contenders}["tropical"] == "LOSS" and verdicts.valid


def test_optimizers_are_crossed(tmp_path):
    wanted = config(tmp_path, arms=("standard", "gauge"), optimizers=("adamw", "muon"), pilot=0)
    verdicts = run(wanted, trainer=trainer({"standard": 2.6, "gauge": 2.5}))
    assert [arm.label for arm in verdicts.contenders] == ["gauge+adamw", "gauge+muon"]
    assert all(arm.verdict == "WIN" for arm in verdicts.contenders)
    assert "| gauge+muon | WIN |" in (verdicts.directory / "run.md").read_text()
