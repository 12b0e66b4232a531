"""The doctor: what it finds on this machine, and what it says when something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from nanochat import doctor
from nanochat.doctor import FAIL, GIB, OK, WARN, Check

HEALTHY = {
    "torch": {"version": "2.13.0", "devices": ["cpu"], "threads": 1},
    "jax": {"version": "0.10.2", "devices": ["cpu"]},
}


def found(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_asks_about_everything_a_user_needs(tmp_path: Path) -> None:
    checks = found(doctor.examine(tmp_path / "artifacts", tmp_path / "cache", lambda name: HEALTHY[name]))
    wanted = "python torch jax devices threads disk memory compiler ninja artifacts cache".split()
    assert list(checks)[: len(wanted)] == wanted
    assert checks["torch"] == Check("torch", OK, "2.13.0 on cpu")
    assert not (tmp_path / "artifacts").exists(), "looking must not create anything"


def test_a_framework_that_does_not_import_is_reported_not_raised(tmp_path: Path) -> None:
    def ask(name: str) -> dict[str, Any]:
        return {"error": "ImportError: libcudart.so"} if name == "torch" else HEALTHY[name]

    checks = doctor.examine(tmp_path, tmp_path, ask)
    torch = found(checks)["torch"]
    assert (torch.status, torch.found) == (FAIL, "ImportError: libcudart.so") and "pip install" in torch.advice
    assert not doctor.healthy(checks)


def test_the_probe_survives_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PROBES, "torch", "import os; os.kill(os.getpid(), 11)")
    assert "exit status" in doctor.probe("torch")["error"]
    monkeypatch.setitem(doctor.PROBES, "torch", "raise ImportError('no such library')")
    assert doctor.probe("torch") == {"error": "ImportError: no such library"}


@pytest.mark.parametrize(
    ("check", "status", "advice"),
    [
        (lambda: doctor.python((3, 10, 2)), FAIL, "3.11"),
        (lambda: doctor.disk(Path("."), 100 * 2**20), FAIL, "--artifacts-dir"),
        (lambda: doctor.disk(Path("."), 2 * GIB), WARN, "--artifacts-dir"),
        (lambda: doctor.disk(Path("."), 9 * GIB), OK, ""),
        (lambda: doctor.memory(GIB // 2), FAIL, "--batch-size"),
        (lambda: doctor.memory(2 * GIB), WARN, "--jobs 1"),
        (lambda: doctor.memory(9 * GIB), OK, ""),
        (lambda: doctor.threads({"threads": 8}, 2), WARN, "--threads 2"),
        (lambda: doctor.threads({"threads": 2}, 2), OK, ""),
        (lambda: doctor.devices({"devices": ["cpu", "H200"]}), OK, ""),
        (lambda: doctor.writable("cache", Path("/proc/nothing-can-be-written-here")), FAIL, "--cache-dir"),
        (lambda: doctor.extra("x", ["pytest", "no-such-distribution"]), OK, ".[x]"),
        (lambda: doctor.extra("x", ["pytest"]), OK, ""),
    ],
)
def test_each_shortage_has_a_status_and_a_way_out(check: Callable[[], Check], status: str, advice: str) -> None:
    result = check()
    assert result.status == status
    assert advice in result.advice and bool(result.advice) == bool(advice)


def test_without_a_compiler_the_advice_is_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name, path=None: None)
    assert doctor.compiler().status == WARN and "g++" in doctor.compiler().advice
    assert doctor.ninja().status == WARN and "ninja" in doctor.ninja().advice


def test_command_prints_json_and_exit_code(mgr: Callable[..., CompletedProcess[str]]) -> None:
    done = mgr("doctor", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "mgr.doctor.v1"
    assert done.returncode == (0 if document["healthy"] else 3), done.stderr
    torch = next(check for check in document["checks"] if check["name"] == "torch")
    assert torch["status"] == OK and " on cpu" in torch["found"]
