from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from tiny_run import (
    arguments,
    config_in,
    directory,
    same_bits,
    start,
    trace,
    trained,
    with_model,
    with_optim,
    with_train,
)

from nanochat.config import ConfigError
from nanochat.console import View
from nanochat.optim.hoss import HossKnobs
from nanochat.result import Interrupted
from nanochat.train import Stopper, run

STEPS = 60


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(words: list[str], metrics: Path, lines: int) -> None:
    """Start the run and SIGKILL it once its record has that many lines."""
    process = start(words)
    try:
        while process.poll() is None and lines_in(metrics) < lines:
            time.sleep(0.0005)
    finally:
        process.kill()
        process.communicate(timeout=60)


def kill_and_resume(tmp_path: Path, kills: int, seed: int) -> list[int]:
    """Kill at random steps, resume after each, and hold the end to an undisturbed run; steps at which it was cut."""
    undisturbed = config_in(tmp_path, max_steps=STEPS, run_id="undisturbed", checkpoint_interval=7)
    run(undisturbed)
    cut = config_in(tmp_path, max_steps=STEPS, run_id="cut", checkpoint_interval=7)
    words = arguments(tmp_path, max_steps=STEPS, run_id="cut", checkpoint_interval=7)
    metrics = directory(cut) / "metrics.jsonl"
    rng = random.Random(seed)
    places = []
    for number in range(kills):
        kill_at([*words, "--resume"] if number else words, metrics, rng.randrange(2, STEPS))
        places.append(lines_in(metrics))
    code, _, err = trained([*words, "--resume"])
    # The last kill can come after the summary was committed: then there is nothing left to resume.
    assert code == 0 or "completed" in err, err
    same_bits(directory(undisturbed), directory(cut))
    one, two = (json.loads((directory(c) / "summary.json").read_text()) for c in (undisturbed, cut))
    same = ("bpb", "val_nats", "steps", "tokens", "flops_used", "counted_flops", "val_curve")
    assert {key: one[key] for key in same} == {key: two[key] for key in same}
    documents = [(directory(c) / "eval_documents.json").read_bytes() for c in (undisturbed, cut)]
    assert documents[0] == documents[1]
    return places


def test_killed_twice_and_resumed_ends_in_the_same_bits(tmp_path):
    assert any(0 < place < STEPS for place in kill_and_resume(tmp_path, kills=2, seed=1))


@pytest.mark.slow
def test_killed_at_ten_random_steps_and_resumed_ends_in_the_same_bits(tmp_path):
    kill_and_resume(tmp_path, kills=10, seed=2)


NOISY = {"hoss": HossKnobs(krylov=3, refresh=4, temperature=1e-6)}
"""Stopped between two looks at the curvature, with noise: both must be taken up where they were."""


@pytest.mark.parametrize(("optimizer", "knobs"), [("adamw", {}), ("muon", {}), ("hoss", NOISY)])
def test_stopping_saves_and_resuming_continues(tmp_path, optimizer, knobs):
    def chosen(**train):
        return with_optim(with_model(config_in(tmp_path, **train), optimizer_type=optimizer), knobs=knobs)

    undisturbed = chosen(run_id="whole")
    run(undisturbed)
    config = chosen()
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted) as stop:
        run(config, stop=lambda: next(asked))
    assert stop.value.step == 6 and "--resume" in str(stop.value)
    result = run(with_train(config, resume=True))
    assert result.steps == 12 and len(result.loss_curve) == 12
    whole, parts = trace(directory(undisturbed)), trace(directory(config))
    assert whole == parts
    same_bits(directory(undisturbed), directory(config))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_130(tmp_path, number):
    words = arguments(tmp_path, max_steps=100_000, checkpoint_interval=0, val_interval=0)
    metrics = directory(config_in(tmp_path)) / "metrics.jsonl"
    process = start(words)
    while process.poll() is None and lines_in(metrics) < 3:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err and err.count("\n") == 1
    latest = json.loads((metrics.parent / "latest.json").read_text())
    assert latest["checkpoints"][0]["step"] == lines_in(metrics)


def test_a_stopper_waits_for_the_loop_and_forgives_an_echo(monkeypatch):
    stopper = Stopper()
    with pytest.raises(KeyboardInterrupt):
        stopper.hear(signal.SIGINT, None)
    assert not stopper()
    clock = iter([10.0, 10.5, 13.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stopper.hear(signal.SIGINT, None)
    stopper.hear(signal.SIGTERM, None)
    assert stopper()
    with pytest.raises(KeyboardInterrupt):
        stopper.hear(signal.SIGINT, None)


@pytest.mark.slow
def test_a_signal_to_two_processes_saves_once_and_resumes(tmp_path):
    words = arguments(tmp_path, max_steps=100_000, checkpoint_interval=0, val_interval=0)
    metrics = directory(config_in(tmp_path)) / "metrics.jsonl"
    process = start(words, launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"))
    while process.poll() is None and lines_in(metrics) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    latest = json.loads((metrics.parent / "latest.json").read_text())
    assert latest["checkpoints"][0]["step"] == lines_in(metrics)


def test_resuming_needs_only_the_name(tmp_path):
    config = config_in(tmp_path)
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        run(config, stop=lambda: next(asked))
    code, out, err = trained(["--artifacts-dir", config.train.artifacts_dir, "--run-id", "run", "--resume"])
    assert code == 0, err
    assert "resuming after step 6" in out and "after 12 steps" in out


def test_resuming_under_another_configuration_names_the_difference(tmp_path):
    config = config_in(tmp_path)
    asked = iter([True])
    with pytest.raises(Interrupted):
        run(config, stop=lambda: next(asked))
    with pytest.raises(ConfigError, match=r"train.seed 1, need 0"):
        run(with_train(config, resume=True, seed=1))
    assert run(with_train(config, resume=True)).steps == 12


def test_resuming_where_nothing_was_started_is_refused(tmp_path):
    config = config_in(tmp_path, resume=True)
    with pytest.raises(ConfigError, match="no run at"):
        run(config)


def test_resuming_before_the_first_checkpoint_starts_over(tmp_path):
    heard = []

    class Ear(View):
        def note(self, line: str) -> None:
            heard.append(line)

    class Crash(Exception):
        pass

    def crash(step):
        def take(inputs, targets):
            if step.executed == 2:
                raise Crash
            return step(inputs, targets)

        return take

    config = config_in(tmp_path)
    with pytest.raises(Crash):
        run(config, tamper=crash)
    assert run(with_train(config, resume=True), view=Ear()).steps == 12
    assert any("starting at step 0" in line for line in heard)
    whole = config_in(tmp_path, run_id="whole")
    run(whole)
    same_bits(directory(whole), directory(config))
