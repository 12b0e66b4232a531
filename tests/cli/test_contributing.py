"""CONTRIBUTING says that a mechanism is one file. Its example, dropped into a copy of the package, is tried."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's code with the example's file added."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("nanochat", "demos", "tests", "markdown_documentation"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "cli_runs.py", "cli_study.py", "cli_view.py", "pyproject.toml"):
        shutil.copy(root / name, folder)
    (example,) = re.findall(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)
    (folder / "nanochat" / "attention" / "laplace.py").write_text(example, encoding="utf-8")
    return folder


def python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python inside the copy, which comes before the installed package on the path."""
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=240)


def test_the_new_mechanism_is_listed_and_its_style_is_ours(copy: Path) -> None:
    done = python(copy, "-c", "import cli; cli.main()", "list", "--json")
    assert "laplace" in [entry["name"] for entry in json.loads(done.stdout)["attention_types"]], done.stderr
    for command in (["check"], ["format", "--check"]):
        ruff = python(copy, "-m", "ruff", *command, "nanochat/attention/laplace.py")
        assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def test_it_trains(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for number in range(30):
        (tmp_path / "text" / f"{number}.txt").write_text(f"document {number} says that {number} is a number. " * 20)
    sizes = "--n-layer 1 --n-head 2 --n-embd 32 --sequence-len 32 --batch-size 2 --max-steps 3 --tokenizer byte"
    where = ["--data", str(tmp_path / "text"), "--cache-dir", str(tmp_path), "--artifacts-dir", str(tmp_path)]
    few = "--eval-documents 2 --eval-bytes 64 --threads 1 --json"
    done = python(copy, "-m", "nanochat.train", "--attention-type", "laplace", *sizes.split(), *few.split(), *where)
    assert done.returncode == 0, done.stderr
    (config,) = tmp_path.glob("baseline/**/config.json")
    assert json.loads(config.read_text())["model"]["attention_type"] == "laplace"
    assert json.loads(done.stdout)["steps"] == 3


def test_it_is_held_to_the_contract_because_it_exists(copy: Path) -> None:
    chosen = "laplace and not reversible and not compiled and not traced"
    done = python(copy, "-m", "pytest", "tests/contract/test_contract.py", "-k", chosen, "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-4000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 20


def test_a_mechanism_that_breaks_the_contract_is_caught(copy: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(copy, broken)
    path = broken / "nanochat" / "attention" / "laplace.py"
    path.write_text(path.read_text().replace(".triu(keys - queries + 1)", ".triu(keys - queries + 2)"))
    done = python(broken, "-m", "pytest", "tests/contract/test_contract.py", "-k", "future and laplace")
    assert done.returncode == 1 and "failed" in done.stdout
