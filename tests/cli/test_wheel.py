"""The wheel, installed into another environment, works outside the repository: lists, trains, compiles its kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Installed:
    """A wheel and the environment it was installed into."""

    wheel: Path
    binaries: Path
    elsewhere: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self.binaries / program), *arguments]
        return subprocess.run(command, cwd=self.elsewhere, env=clean, capture_output=True, text=True, timeout=240)


def run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build from a copy without build folders; borrow the heavy packages of this environment through a path file."""
    folder = tmp_path_factory.mktemp("wheel")
    source, environment, elsewhere = folder / "source", folder / "environment", folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("nanochat", "demos"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "cli_runs.py", "cli_study.py", "cli_view.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(str(Path(metadata.distribution("torch").locate_file("")).resolve()) + "\n")
    return Installed(wheel, environment / "bin", elsewhere)


def test_wheel_holds_the_code_and_its_kernels_and_nothing_else(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert {"cli.py", "nanochat/gpt.py", "demos/registry.py", "nanochat/kernels/maxplus/cpu.cpp"} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "cli.py",
        "cli_runs.py",
        "cli_study.py",
        "cli_view.py",
        "nanochat",
        "demos",
        "model_guided_research-0.1.0.dist-info",
    }


def test_the_installed_code_is_what_runs(installed: Installed) -> None:
    done = installed.run("python", "-c", "import cli, nanochat, demos; print(cli.__file__, nanochat.__file__)")
    assert done.stdout.count(str(installed.binaries.parent)) == 2, done.stdout + done.stderr


def test_mgr_lists_and_shows_a_configuration(installed: Installed) -> None:
    done = installed.run("mgr", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert {"standard", "tropical", "reversible"} <= {
        entry["name"] for entry in json.loads(done.stdout)["attention_types"]
    }
    assert installed.run("mgr", "--version").stdout == "mgr 0.1.0\n"
    assert installed.run("mgr", "config", "show", "--json").returncode == 0


def test_one_training_step_with_a_kernel_of_the_package(installed: Installed) -> None:
    text = installed.elsewhere / "text"
    text.mkdir()
    for number in range(30):
        (text / f"{number}.txt").write_text(f"document {number} says that {number} is a number. " * 20)
    line = (
        "--attention-type tropical --n-layer 1 --n-head 2 --n-embd 32 --sequence-len 32 --batch-size 2 --max-steps 1 "
        "--tokenizer byte --data text --cache-dir cache --eval-documents 2 --eval-bytes 64 --threads 1 --run-id one"
    )
    done = installed.run("python", "-m", "nanochat.train", *line.split())
    assert done.returncode == 0, done.stdout + done.stderr
    (summary,) = installed.elsewhere.glob("artifacts/**/one/summary.json")
    assert json.loads(summary.read_text())["schema"] == "mgr.run.v1"
