"""What this machine offers, and what to do about what is missing. Data only; ``mgr doctor`` renders it.

PyTorch and JAX are asked in a process of their own: a doctor has to survive an installation that crashes on import.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

OK, WARN, FAIL = "ok", "warn", "fail"
DISTRIBUTION = "model-guided-research"
GIB = 2**30
PROBE_SECONDS = 120

PROBES = {
    "torch": """
import json, torch
cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"version": torch.__version__, "devices": ["cpu", *cuda], "threads": torch.get_num_threads()}))
""",
    "jax": """
import json, jax
print(json.dumps({"version": jax.__version__, "devices": sorted({str(d.device_kind) for d in jax.devices()})}))
""",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Args:
        name: what was looked at.
        status: ``ok``, ``warn`` (works, but slower or with less) or ``fail`` (something will not work).
        found: what is there, one line.
        advice: what to do about it; empty when there is nothing to do.
    """

    name: str
    status: str
    found: str
    advice: str = ""


Probe = Callable[[str], dict[str, Any]]


def probe(package: str) -> dict[str, Any]:
    """Import a framework in a child process and return what it says of itself, or ``{"error": one line}``."""
    command = [sys.executable, "-c", PROBES[package]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_SECONDS} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"error": lines[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def examine(artifacts: Path = Path("artifacts"), cache: Path | None = None, ask: Probe = probe) -> list[Check]:
    """All checks, in the order in which things are needed.

    Args:
        artifacts: where runs will write.
        cache: where prepared corpora live; the user's cache folder if not given.
        ask: asks a framework about itself; replaced in tests.
    """
    from nanochat.data.store import cache_root

    torch = ask("torch")
    return [
        python(),
        framework("torch", torch),
        framework("jax", ask("jax")),
        devices(torch),
        threads(torch),
        disk(artifacts),
        memory(),
        compiler(),
        ninja(),
        writable("artifacts", artifacts),
        writable("cache", cache or cache_root(None)),
        *extras(),
    ]


def healthy(checks: list[Check]) -> bool:
    """Whether nothing fails; warnings are allowed."""
    return all(check.status != FAIL for check in checks)


def python(version: tuple[int, int, int] = sys.version_info[:3]) -> Check:
    """The interpreter, at least 3.11."""
    found = ".".join(map(str, version))
    if version < (3, 11):
        return Check("python", FAIL, found, "need 3.11 or later: make demo PYTHON=python3.13")
    return Check("python", OK, found)


def framework(name: str, answer: dict[str, Any]) -> Check:
    """PyTorch or JAX: its version, or why it does not import."""
    if "error" in answer:
        return Check(name, FAIL, answer["error"], f"pip install --force-reinstall {name} -c constraints.txt")
    return Check(name, OK, f"{answer['version']} on {', '.join(answer['devices'])}")


def devices(torch: dict[str, Any]) -> Check:
    """Accelerators that PyTorch can use."""
    found = [name for name in torch.get("devices", []) if name != "cpu"]
    if found:
        return Check("devices", OK, ", ".join(found))
    return Check("devices", OK, "cpu only", "enough for every preset; for a GPU install PyTorch's build for it")


def threads(torch: dict[str, Any], cores: int | None = None) -> Check:
    """Threads that PyTorch will use, against the cores this process may run on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = cores or usable
    used = torch.get("threads", cores)
    found = f"{used} PyTorch threads on {cores} cores"
    if used > cores:
        return Check("threads", WARN, found, f"more threads than cores is slower: --threads {cores}")
    if used < cores:
        return Check("threads", OK, found, f"one run may use all: --threads {cores}; a suite runs several at a time")
    return Check("threads", OK, found)


def disk(folder: Path, free: int | None = None) -> Check:
    """Free space where runs write."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free if free is None else free
    found = f"{free / GIB:.1f} GiB free at {there}"
    if free < GIB // 2:
        return Check("disk", FAIL, found, "need 0.5 GiB for checkpoints: free some, or --artifacts-dir elsewhere")
    if free < 4 * GIB:
        return Check("disk", WARN, found, "a large suite needs 4 GiB: free some, or --artifacts-dir elsewhere")
    return Check("disk", OK, found)


def memory(available: int | None = None) -> Check:
    """Memory that is free now."""
    if available is None:
        import psutil

        available = psutil.virtual_memory().available
    found = f"{available / GIB:.1f} GiB available"
    if available < GIB:
        return Check("memory", FAIL, found, "need 1 GiB per run: close something, or use a smaller --batch-size")
    if available < 4 * GIB:
        return Check("memory", WARN, found, "parallel runs of a suite need 4 GiB: bench-fixed-flops --jobs 1")
    return Check("memory", OK, found)


def compiler() -> Check:
    """A C++ compiler, for the native kernels."""
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return Check("compiler", OK, path)
    advice = "native kernels fall back to slower PyTorch forms: install g++ (Debian: apt-get install g++)"
    return Check("compiler", WARN, "no c++, g++ or clang++ on the path", advice)


def ninja() -> Check:
    """The build tool that PyTorch's extension loader calls."""
    path = shutil.which("ninja", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath])) or shutil.which(
        "ninja"
    )
    if path:
        return Check("ninja", OK, path)
    return Check("ninja", WARN, "not found", "native kernels fall back to slower PyTorch forms: pip install ninja")


def writable(name: str, folder: Path) -> Check:
    """Whether a folder can be written, tried with a file, since permission bits alone can mislead."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    trial = there / f".mgr-doctor-{os.getpid()}"
    try:
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        advice = f"choose another folder: --{'artifacts-dir' if name == 'artifacts' else 'cache-dir'} PATH"
        return Check(name, FAIL, f"{folder.absolute()}: {error.strerror or error}", advice)
    return Check(name, OK, f"{folder.absolute()} can be written")


def extras() -> list[Check]:
    """The optional groups of packages of this distribution; an absent one is no fault."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return [Check("extras", WARN, f"{DISTRIBUTION} is not installed, only on the path", "pip install -e .")]
    found: dict[str, list[str]] = {}
    for line in requirements:
        if match := re.match(r"([A-Za-z0-9._-]+).*extra == ['\"](\w+)['\"]", line):
            found.setdefault(match[2], []).append(match[1])
    return [extra(name, packages) for name, packages in found.items()]


def extra(name: str, packages: list[str]) -> Check:
    """One optional group: present, or what is missing."""
    missing = [package for package in packages if package != DISTRIBUTION and not installed(package)]
    if missing:
        return Check(f"extra {name}", OK, f"not installed: {', '.join(missing)}", f"pip install -e '.[{name}]'")
    return Check(f"extra {name}", OK, "present")


def installed(package: str) -> bool:
    """Whether a distribution of that name is installed."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
