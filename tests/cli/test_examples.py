"""The examples run as their page says, and the page lists all of them."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.attention import MIXERS


def run(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    """In this process, which has imported what takes seconds to import."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(root / "examples" / f"{name}.py"), run_name="__main__")


def bits(printed: str) -> list[float]:
    return [float(found) for found in re.findall(r"([\d.]+) bits per byte", printed)]


@pytest.mark.parametrize("name", ["tropical", "gauge"])
def test_own_model_learns_and_writes(root, monkeypatch, capsys, name):
    run(root, monkeypatch, "own_model", name, "--steps", "12")
    printed = capsys.readouterr().out
    assert bits(printed)[0] > 7.5 and bits(printed)[-1] < 5
    assert f"parameters, {name.capitalize()}" in printed and "    def __init__(self" in printed


@pytest.mark.parametrize("how", [["gauge"], ["tropical", "--by-name"]])
def test_llama_learns_and_generates(root, monkeypatch, capsys, how):
    run(root, monkeypatch, "huggingface_llama", *how, "--steps", "12")
    printed = capsys.readouterr().out
    assert bits(printed)[0] > 7.5 and bits(printed)[-1] < 5.5
    assert "the same without a cache: True" in printed and "'    def __init__(self" in printed


def test_a_wrong_name_is_one_line(root, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(root, monkeypatch, "own_model", "tropcal")
    assert "invalid choice: 'tropcal'" in capsys.readouterr().err


def test_a_wrong_arm_is_one_line(root, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        run(root, monkeypatch, "suite", "standard", "tropcal", "--artifacts-dir", str(tmp_path))
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.slow
def test_suite_gives_a_verdict(root, tmp_path):
    """``pytest -m slow tests/cli/test_examples.py``: some thirty runs of a second each."""
    command = [sys.executable, str(root / "examples" / "suite.py"), "--artifacts-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "standard: BASELINE" in done.stdout and "gauge: INCONCLUSIVE" in done.stdout
    assert "audits passed; report: " in done.stdout and list(tmp_path.glob("bench/suites/*/report.html"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS.names())
def test_own_model_takes_every_mixer_at_full_length(root, monkeypatch, capsys, name):
    """``pytest -m slow tests/cli/test_examples.py``: the example as printed, half a minute each."""
    run(root, monkeypatch, "own_model", name)
    assert bits(capsys.readouterr().out)[-1] < 3.2


def test_the_page_lists_every_example(root):
    page = (root / "examples" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"examples/(\w+\.py)", page)) == {path.name for path in (root / "examples").glob("*.py")}
