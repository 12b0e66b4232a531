"""A suite that was written down beforehand, through the command line; and its export."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import cli

DESIGN = """
question = "Does a model without positions lose?"
preset = "smoke"
target_flops = 4e8
undertrained_ok = true
arms = ["standard", "standard,position=none,label=blind"]
grid = [-1, 0, 1]
seeds = 2
"""


def test_a_suite_file_runs_and_can_be_exported(mgr, tmp_path: Path) -> None:
    (tmp_path / "design.toml").write_text(DESIGN)
    done = mgr("bench-fixed-flops", "--suite", "design.toml", "--run-id", "written", "--jobs", "1", "--plain")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("verdict runs: 4 of 4 runs, 0:00 left; suite: 100% of") for line in lines)
    assert any(line.startswith("blind ") and "INCONCLUSIVE" in line for line in lines)
    summary = json.loads((tmp_path / "artifacts/bench/suites/written/summary.json").read_text())
    assert summary["question"] == "Does a model without positions lose?" and summary["budget"] == 4e8
    assert [arm["label"] for arm in summary["arms"]] == ["standard", "blind"]
    assert {entry["seed"] for entry in summary["arms"][1]["runs"] if entry["stage"] == "verdict"} == {0, 1}

    exported = mgr("runs", "export", "tables", "--csv", "--suite", "written", "--json")
    assert exported.returncode == 0, exported.stderr
    with (tmp_path / "tables/verdicts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in rows] == [arm["mean"] for arm in summary["arms"]]
    keys = {entry["key"] for arm in summary["arms"] for entry in arm["runs"]}
    assert json.loads(exported.stdout)["runs"] == len(keys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('preset = "smoke"\nsede = 3\n', "unknown key 'sede': need one of question, arms, "),
        ('preset = "smoke"\nseeds = "two"\n', "seeds: got 'two', need a whole number"),
        ("preset = smoke\n", "which is not TOML"),
        ('preset = "smok"\n', "unknown --preset 'smok': need one of smoke, quick, "),
        ('arms = ["standard", "tropcal"]\n', "unknown -a 'tropcal': need one of "),
        (None, "--suite: got design.toml (No such file or directory), need a TOML file"),
    ],
)
def test_a_faulty_file_is_one_line(
    content: str | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("design.toml").write_text(content)
    assert cli.execute(["bench-fixed-flops", "--suite", "design.toml"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("mgr: ") and words in sentence
    assert not Path("artifacts").exists()


def test_a_folder_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.execute(["bench-fixed-flops", "--suite", "."]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "--suite: got . (Is a directory), need a TOML file" in sentence


def test_an_export_that_lacks_its_package_is_the_environments_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.execute(["runs", "export", "new", "--wandb"]) == 3
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "wandb not installed" in sentence and "pip install -e '.[wandb]'" in sentence
    assert not Path("new").exists()
