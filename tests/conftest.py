"""Settings of the whole test run: reproducible hypothesis, paths, a command line to drive."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

# A shell starts background jobs with Ctrl-C ignored, and so would every command that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What is printed is as wide as the terminal of whoever starts the tests, also where it goes into a pipe.
os.environ["COLUMNS"] = "80"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where demos keep compiled programs: one folder for all processes of a test run, empty at its start."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one demo go to one process, which then runs it once: those with its name as parameter or in the code."""
    for item in items:
        if item.path.name in ("test_demo_run.py", "test_certificates.py") and isinstance(item, pytest.Function):
            found = re.search(r'(?:result|by_id)\(\s*"([\w-]+)"', inspect.getsource(item.function))
            name = item.callspec.params.get("name") if hasattr(item, "callspec") else found and found.group(1)
            if name:
                item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture
def mgr(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `mgr` as a user does, in a folder of its own: ``mgr("list", "--json")``."""

    def call(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "import cli; cli.main()", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)

    return call
