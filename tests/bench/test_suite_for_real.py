"""Suites that really train: what must come out the same does, what must lose does, what cheats is caught."""

import html.parser
import io
import json
import math
import subprocess
import sys
from collections import Counter

import psutil
import pytest
import torch
from rich.console import Console
from rich.text import Text

from nanochat.bench import Observer, engine, run, tuning
from nanochat.bench import suite as suites
from nanochat.bench.config import SuiteConfig
from nanochat.bench.jobs import Failure
from nanochat.bench.selftests.cheats import longer
from nanochat.bench.suite import TUNING_SEED, Preset
from nanochat.bench.view import LiveSuite, PlainSuite, verdict_table
from nanochat.config import ConfigError
from nanochat.train import run as train

SMALL = Preset(7.5e8, 2, 1)
"""Two paired seeds of some 400 steps each: enough to see what is audited, not to judge."""


@pytest.fixture
def small(monkeypatch):
    """The least that still is a suite: few steps, three learning rates."""
    monkeypatch.setitem(suites.PRESETS, "smoke", SMALL)
    monkeypatch.setattr(tuning, "MAX_EXTENSIONS", 0)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Honest runs are trained once for all tests of this file; arms that cheat have labels, so keys, of their own."""
    return tmp_path_factory.mktemp("store")


class Recorder(Observer):
    def __init__(self):
        self.done = Counter()
        self.planned_with = []

    def planned(self, plan):
        self.planned_with.append(plan)

    def finished(self, job, outcome, cached):
        self.done[job.stage, cached] += 1


def config(tmp_path, store, *arms, **options):
    given = {
        "preset": "smoke",
        "grid": (-1, 0, 1),
        "undertrained_ok": True,
        "artifacts_dir": str(tmp_path),
        "store": str(store),
        "jobs": 2,
        **options,
    }
    return SuiteConfig(arms=arms, **given)


def test_same_seeds_give_the_same_bits_and_finished_runs_are_not_repeated(tmp_path, store, small):
    wanted = config(tmp_path, store, "standard,label=first", "standard,label=again", baseline="first", seeds=6)
    recorder = Recorder()
    verdicts = run(wanted, view=recorder)
    (again,) = verdicts.contenders
    assert again.bpb == verdicts.baseline.bpb
    assert again.differences == (0.0,) * 6
    assert (again.verdict, again.p, again.low, again.high) == ("TIE", 1.0, 0.0, 0.0)
    assert verdicts.valid
    assert recorder.done == {("tuning", False): 16, ("verdict", False): 12}
    keys = {label: {job.key for job, _ in runs} for label, runs in verdicts.runs.items()}
    assert not keys["first"] & keys["again"]
    # The same command again trains nothing and says the same.
    repeat = Recorder()
    repeated = run(wanted, view=repeat)
    assert repeat.done == {("tuning", True): 16, ("verdict", True): 12}
    assert [arm.bpb for arm in repeated.arms] == [arm.bpb for arm in verdicts.arms]
    # One of the runs in this process, which is pinned to nothing and has trained nothing before: the same bits.
    job, outcome = verdicts.runs["first"][-1]
    alone = train(job.run, directory=tmp_path / "alone")
    assert alone.bpb == outcome.bpb and alone.document_nats.tolist() == outcome.document_nats


def test_an_arm_that_secretly_runs_longer_is_invalid(tmp_path, store, small):
    def trainer(run_config, **options):
        cheats = run_config.model.mlp == "gelu" and run_config.train.seed < TUNING_SEED
        return train(run_config, tamper=longer if cheats else None, **options)

    arms = ("standard", "standard,mlp=gelu,label=longer", "standard,position=none")
    verdicts = run(config(tmp_path, store, *arms), trainer=trainer)
    cheat, honest = verdicts.contenders
    assert cheat.verdict == "INVALID"
    assert any("of the budget" in fault for fault in cheat.audit.faults)
    assert cheat.audit.budget_error == pytest.approx(0.3, abs=0.01)
    assert honest.verdict != "INVALID" and not honest.audit.faults
    assert not verdicts.valid
    summary = json.loads((verdicts.directory / "summary.json").read_text())
    assert summary["valid"] is False and summary["arms"][1]["verdict"] == "INVALID"
    assert "**Failed checks**" in (verdicts.directory / "run.md").read_text()


def test_an_extra_forward_per_step_is_invalid(tmp_path, store, small):
    def doubling(step):
        def take(inputs, targets):
            with torch.no_grad():
                step.forward(inputs, targets)
            return step(inputs, targets)

        return take

    def trainer(run_config, **options):
        cheats = run_config.model.mlp == "gelu"
        return train(run_config, tamper=doubling if cheats else None, **options)

    verdicts = run(config(tmp_path, store, "standard", "standard,mlp=gelu,label=heavier"), trainer=trainer)
    (cheat,) = verdicts.contenders
    assert cheat.verdict == "INVALID"
    assert any("of the ledger's operations" in fault for fault in cheat.audit.faults)


def test_an_arm_that_diverges_is_unstable_and_changes_no_other_verdict(tmp_path, store, small):
    def exploding(step):
        def take(inputs, targets):
            outcome = step(inputs, targets)
            return type(outcome)(outcome.loss * math.nan, outcome.grad_norm, outcome.lr)

        return take

    def trainer(run_config, **options):
        bad = run_config.model.mlp == "gelu" and run_config.train.seed == 1
        return train(run_config, tamper=exploding if bad else None, **options)

    arms = ("standard", "standard,mlp=gelu,label=exploding", "standard,position=none")
    verdicts = run(config(tmp_path, store, *arms), trainer=trainer)
    broken, other = verdicts.contenders
    assert broken.verdict == "UNSTABLE" and broken.note == "diverged in 1 of 2 seeds"
    assert broken.bpb[1] is None and broken.difference is None
    assert other.verdict in ("LOSS", "TIE", "INCONCLUSIVE", "WIN") and None not in other.bpb
    json.loads((verdicts.directory / "summary.json").read_text(), parse_constant=pytest.fail)


def test_a_run_that_cannot_finish_makes_its_arm_invalid_and_keeps_the_rest(tmp_path, store, small, monkeypatch):
    def execute(self, jobs):
        results = honest(self, jobs)
        return {
            job.key: Failure("its worker died 3 times")
            if job.stage == "verdict" and job.seed == 1
            else results[job.key]
            for job in jobs
        }

    honest = engine.InProcess.run
    monkeypatch.setattr(engine.InProcess, "run", execute)
    verdicts = run(config(tmp_path, store, "standard", "standard,label=lost"), trainer=train)
    assert verdicts.contenders[0].verdict == "INVALID"
    assert "worker died" in verdicts.contenders[0].note


class Killer(Recorder):
    """Kills the worker processes when the first verdict run starts, and stops the suite after the last but one."""

    def __init__(self):
        super().__init__()
        self.kills = self.lines = 0

    def note(self, line):
        self.lines += "a worker died" in line

    def started(self, job):
        if job.stage == "verdict" and not self.kills:
            self.kills = 1
            for child in psutil.Process().children():
                child.kill()

    def finished(self, job, outcome, cached):
        super().finished(job, outcome, cached)
        if self.done["verdict", False] == 3:
            raise KeyboardInterrupt


def test_killed_workers_and_an_interrupt_lose_nothing_that_was_finished(tmp_path, store, small):
    wanted = config(tmp_path, store, "standard,label=one", "standard,label=two", baseline="one")
    killer = Killer()
    with pytest.raises(KeyboardInterrupt):
        run(wanted, view=killer)
    assert killer.kills == 1 and killer.lines >= 1
    assert not psutil.Process().children()
    assert not list(tmp_path.rglob("summary.json"))
    rest = Recorder()
    verdicts = run(wanted, view=rest)
    assert rest.done["tuning", False] == 0
    assert rest.done["verdict", True] >= 3 and rest.done["verdict", False] <= 1
    assert verdicts.contenders[0].bpb == verdicts.baseline.bpb


def test_every_arm_is_tuned_with_as_many_trials_on_other_seeds(tmp_path, store, small):
    verdicts = run(config(tmp_path, store, "standard", "standard,position=none"), trainer=train)
    counts = set()
    for runs in verdicts.runs.values():
        tuning = [job for job, _ in runs if job.stage == "tuning"]
        counts.add(len(tuning))
        assert {job.seed for job in tuning}.isdisjoint(verdicts.plan.seeds)
    assert len(counts) == 1
    assert all("verdict words are off" in arm.note for arm in verdicts.contenders)


class Outside(html.parser.HTMLParser):
    """Anything in a page that would make a browser ask the network."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        if tag in ("iframe", "object", "embed", "audio", "video", "img"):
            self.found.append(tag)
        for name, value in attributes:
            if name in ("href", "src", "xlink:href") and value and not value.startswith(("#", "data:")):
                self.found.append(f"{tag} {name}={value}")


def test_the_report_is_complete_and_asks_for_nothing(tmp_path, store, small):
    verdicts = run(config(tmp_path, store, "standard", "standard,position=none", run_id="page"), trainer=train)
    text = (tmp_path / "bench" / "suites" / "page" / "report.html").read_text()
    outside = Outside()
    outside.feed(text)
    assert outside.found == [] and "@import" not in text
    assert all(f"<b>{name}</b>" in text for name in ("Seeds", "Learning, by seconds", "Learning rate", "Passages"))
    assert "position=none" in text and "mgr bench-fixed-flops -a standard -a standard,position=none" in text
    summary = json.loads((verdicts.directory / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["schema"] == "mgr.suite.v1"
    assert all(run["key"] for arm in summary["arms"] for run in arm["runs"])
    assert {path.name for path in verdicts.directory.iterdir()} == {
        "config.json",
        "env.json",
        "run.md",
        "report.html",
        "summary.json",
        "verdict.json",
    }


def test_a_terminal_sees_rows_and_then_a_table_of_80_columns(tmp_path, store, small):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    wanted = config(tmp_path, store, "standard", "standard,position=none", "standard,label=seen")
    verdicts = run(wanted, view=LiveSuite(console))
    console.print(verdict_table(verdicts))
    shown = Text.from_ansi(console.file.getvalue()).plain
    assert "verdict runs" in shown and "INCONCLUSIVE" in shown and "BASELINE" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    lines = []
    run(wanted, view=PlainSuite(lines.append))
    assert "verdict runs: 6 runs, 6 of them in the store" in lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_flops": 1e6}, "need 200 steps"),
        ({"optimizers": ("adamv",)}, "did you mean 'adamw'"),
        ({"schedulers": ("cosin",)}, "did you mean 'cosine'"),
        ({"baseline": "standrad"}, "did you mean 'standard'"),
    ],
)
def test_a_design_that_cannot_work_is_refused_in_words(tmp_path, store, options, words):
    with pytest.raises(ConfigError) as caught:
        run(config(tmp_path, store, "standard", "standard,position=none", undertrained_ok=False, **options))
    assert any(words in fault for fault in caught.value.faults)


def test_a_budget_that_is_too_small_is_refused_before_torch_is_imported(tmp_path):
    code = (
        "import sys\n"
        "from nanochat.bench import SuiteConfig, run\n"
        "from nanochat.config import ConfigError\n"
        "try:\n"
        f"    run(SuiteConfig(target_flops=1e6, artifacts_dir={str(tmp_path)!r}))\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "print([name for name in ('torch', 'numpy', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "need 200 steps" in done.stdout


def test_an_artifacts_folder_that_cannot_be_written_is_found_before_training(tmp_path, store):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="need a writable folder"):
        run(config(tmp_path / "file", store, "standard", "standard,position=none"))


def test_without_positions_the_baseline_loses(tmp_path, store, small):
    wanted = config(tmp_path, store, "standard", "standard,position=none", target_flops=2e10, seeds=6)
    (arm,) = run(wanted).contenders
    assert arm.verdict == "LOSS" and arm.low > 0


@pytest.mark.slow
def test_without_positions_the_baseline_loses_the_quick_preset_too(tmp_path, store):
    """The planted effect at a budget where it is measurable: +0.20 bits per byte, p = 3e-8."""
    wanted = config(tmp_path, store, "standard", "standard,position=none", preset="quick", target_flops=5e10)
    (arm,) = run(wanted).contenders
    assert arm.verdict == "LOSS" and arm.difference is not None and arm.difference > 0.01
