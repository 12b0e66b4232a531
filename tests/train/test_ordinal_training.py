"""The ordinal schedule in real runs: its log, its certificate, resuming, stopping early, resetting the optimizer."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import arguments, config_in, directory, same_bits, trace, trained, with_train

from nanochat.config import ConfigError, OptimConfig, RunConfig
from nanochat.registry import Unknown
from nanochat.result import Interrupted
from nanochat.schedule import SCHEDULES, certify
from nanochat.train import run

STEPS = 24


def config(folder: Path, run_id: str = "run", steps: int = STEPS, **knobs: Any) -> RunConfig:
    """A run whose losses count as improved only now and then."""
    own = {"restarts": 1, "anneals": 1, "patience": 2, "smoothing": 0.5, "epsilon": 0.1, **knobs}
    base = config_in(folder, run_id=run_id, max_steps=steps)
    optim = OptimConfig(
        scheduler_type="ordinal", warmup_steps=2, knobs={"ordinal": SCHEDULES.get("ordinal").knobs(**own)}
    )
    return replace(base, optim=optim)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wanted = config(tmp_path_factory.mktemp("ordinal"))
    run(wanted)
    return directory(wanted)


def events(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "schedule.json").read_text())["events"]


def test_a_run_leaves_a_certificate_that_holds(finished):
    report = certify("ordinal", finished)
    assert report["holds"] and report["faults"] == []
    kinds = {event["event"] for event in events(finished)}
    assert {"begin", "wait", "anneal"} <= kinds
    factors = [line["lr_factor"] for line in trace(finished) if "loss" in line]
    assert factors[:2] == [0.5, 1.0] and len(set(factors)) > 2


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * (not isinstance(value, dict | list)) + [
        leaf for key, item in items for leaf in leaves(item, (*path, key))
    ]


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 0.99 if isinstance(value, float) else f"{value}s"


def test_every_number_and_word_of_the_certificate_is_checked(finished, tmp_path):
    folder = tmp_path / "forged"
    shutil.copytree(finished, folder)
    document = json.loads((finished / "schedule.json").read_text())
    unseen = []
    for path in leaves(document):
        forged = copy.deepcopy(document)
        place = forged
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = other(place[path[-1]])
        (folder / "schedule.json").write_text(json.dumps(forged))
        unseen += [] if certify("ordinal", folder)["faults"] else [path]
    assert unseen == []


@pytest.mark.parametrize("what", ["loss", "lr_factor", "step"])
def test_other_losses_do_not_bear_the_certificate_out(finished, tmp_path, what):
    folder = tmp_path / "forged"
    shutil.copytree(finished, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[3][what] = lines[3][what] * 2 + 1
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not certify("ordinal", folder)["holds"]


def test_what_cannot_be_certified_is_refused_in_one_line(finished, tmp_path):
    for name, folder, message in (
        ("ordinal", tmp_path, "no readable JSON, need a finished run"),
        ("wsd", finished, "got a run of schedule ordinal, need one of wsd"),
    ):
        with pytest.raises(ConfigError, match=message):
            certify(name, folder)
    with pytest.raises(Unknown, match="did you mean 'ordinal'"):
        certify("ordinl", finished)


def test_the_command_line_certifies(mgr, finished, tmp_path):
    done = mgr("certify", "ordinal", str(finished))
    assert done.returncode == 0 and done.stdout.startswith("holds: "), done.stderr
    assert json.loads(mgr("certify", "ordinal", str(finished), "--json").stdout)["holds"]
    folder = tmp_path / "forged"
    shutil.copytree(finished, folder)
    text = (folder / "schedule.json").read_text()
    (folder / "schedule.json").write_text(text.replace('"wait"', '"anneal"', 1))
    done = mgr("certify", "ordinal", str(folder))
    assert done.returncode == 1 and "need a step of that kind" in done.stdout
    done = mgr("certify", "ordinal", str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1


@pytest.mark.parametrize("exhausted", ["hold", "stop"])
def test_interrupted_and_resumed_it_takes_the_same_decisions(tmp_path, exhausted):
    knobs = {"epsilon": 0.9, "patience": 3, "reset_optimizer": True, "exhausted": exhausted}
    whole = config(tmp_path, run_id="whole", **knobs)
    run(whole)
    cut = config(tmp_path, run_id="cut", **knobs)
    asked = iter([False] * 7 + [True])
    with pytest.raises(Interrupted):
        run(cut, stop=lambda: next(asked))
    run(with_train(cut, resume=True))
    same_bits(directory(whole), directory(cut))
    names = ("schedule.json",)
    assert all((directory(whole) / name).read_bytes() == (directory(cut) / name).read_bytes() for name in names)


def test_exhaustion_ends_training_and_commits_the_run(tmp_path):
    wanted = config(tmp_path, epsilon=0.9, patience=1, exhausted="stop")
    result = run(wanted)
    assert result.steps == 2 + 7, "two steps of warm-up, (1 + 1)(1 + 1)(1 + 1) - 1 events"
    assert result.val_curve[-1][0] == result.steps and not result.diverged
    latest = json.loads((directory(wanted) / "latest.json").read_text())["checkpoints"][0]
    assert latest["step"] == result.steps
    assert certify("ordinal", directory(wanted))["holds"]


def test_exhaustion_holds_the_last_level(tmp_path):
    wanted = config(tmp_path, epsilon=0.9, patience=1)
    assert run(wanted).steps == STEPS
    factors = [line["lr_factor"] for line in trace(directory(wanted)) if "loss" in line]
    assert factors[9:] == [0.25] * (STEPS - 9)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("reset", [True, False])
def test_a_restart_empties_the_optimizer_where_asked(tmp_path, optimizer, reset):
    wanted = config(tmp_path, epsilon=0.9, patience=1, anneals=0, reset_optimizer=reset)
    wanted = replace(wanted, model=replace(wanted.model, optimizer_type=optimizer))
    run(wanted)
    (restart,) = [event["step"] for event in events(directory(wanted)) if event["event"] == "restart"]
    latest = json.loads((directory(wanted) / "latest.json").read_text())["checkpoints"][0]
    state = torch.load(directory(wanted) / latest["file"], weights_only=True)["state"]["optimizer"]["state"]
    counts = {int(values["step"]) for values in state.values() if "step" in values}
    assert counts == {STEPS - 1 - restart if reset else STEPS}


def test_a_schedule_without_a_log_writes_none(tmp_path):
    wanted = config_in(tmp_path, max_steps=2)
    run(wanted)
    assert not (directory(wanted) / "schedule.json").exists()


def test_options_on_the_command_line(tmp_path):
    words = ["--scheduler-type", "ordinal", "--ordinal-patience", "0", "--ordinal-restarts", "-1"]
    code, _, err = trained([*arguments(tmp_path), *words])
    assert code == 2
    assert "--ordinal-patience: got 0, need at least 1" in err and "--ordinal-restarts: got -1, need at least 0" in err


@pytest.mark.slow
def test_two_processes_decide_alike(tmp_path):
    """Minutes on a busy machine: torchrun starts two interpreters."""
    knobs = ["--ordinal-patience", "2", "--ordinal-epsilon", "0.1", "--ordinal-smoothing", "0.5"]
    words = [*arguments(tmp_path, run_id="two", max_steps=STEPS), "--scheduler-type", "ordinal", *knobs]
    more = ["--warmup-steps", "2", "--ordinal-restarts", "1", "--ordinal-anneals", "1", "--ordinal-exhausted", "stop"]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    code, _, err = trained([*words, *more], launcher=launcher)
    assert code == 0, err
    folder = directory(config_in(tmp_path, run_id="two"))
    assert certify("ordinal", folder)["holds"]
    one = config(tmp_path, run_id="one", exhausted="stop")
    run(one)
    assert [event["event"] for event in events(folder)] == [event["event"] for event in events(directory(one))]
