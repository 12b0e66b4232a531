"""Builds the C++ max-plus kernel on first use and loads it; says why where it cannot.

One file, one compiler command with the include and library paths that ``torch.utils.cpp_extension`` knows. The library
is written under another name and renamed, so that no killed build leaves a half-written or locked one behind; an
advisory lock, which the operating system drops with its holder, keeps parallel processes from building it twice.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from torch.utils import cpp_extension

SOURCE = Path(__file__).with_name("cpu.cpp")
BUILD_SECONDS = 300
"""A compiler that takes longer is given up."""

log = logging.getLogger(__name__)


class KernelUnavailable(RuntimeError):
    """The C++ kernel was asked for by name and cannot be built or loaded here."""


def command(target: Path) -> list[str]:
    """The compiler command that writes ``target``."""
    flags = ["-std=c++20", "-O3", "-fPIC", "-shared", "-march=native", "-fno-math-errno", "-fno-trapping-math"]
    flags += ["-w", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    flags += ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-fopenmp"]
    includes = [item for path in cpp_extension.include_paths() for item in ("-isystem", path)]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    return [
        cpp_extension.get_cxx_compiler(), *flags, *includes, str(SOURCE), "-o", str(target), *libraries,
        "-ltorch_cpu", "-lc10",
    ]  # fmt: skip


def _processor() -> str:
    """What ``-march=native`` depends on: a cached library must not travel to a lesser processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def library() -> Path:
    """Where the built library lies: named by all that it depends on, in torch's per-user extension cache."""
    parts = (SOURCE.read_text(), *command(Path("library")), torch.__version__, _processor(), platform.machine())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return Path(cpp_extension.get_default_build_root()) / f"mgr_maxplus_{digest}" / "maxplus.so"


def build(target: Path) -> None:
    """Compile to ``target``, once among parallel processes.

    Raises:
        KernelUnavailable: with the compiler's first complaint.
    """
    import fcntl

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                part = target.with_suffix(".part")
                _compile(command(part))
                os.replace(part, target)
    except OSError as error:
        raise KernelUnavailable(f"{error.strerror or error}: {error.filename or target.parent}") from error


def _compile(arguments: list[str]) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise KernelUnavailable(f"{arguments[0]} took more than {BUILD_SECONDS} s") from error
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if "error" in line] or [f"exit code {done.returncode}"]
        raise KernelUnavailable(f"{arguments[0]}: {complaints[0].strip()}")


@cache
def reason() -> str:
    """Why the C++ kernel cannot be used here; empty where it can. The first call builds it and logs a failure."""
    if sys.platform == "win32":
        return "the kernel needs GCC or Clang vector types"
    try:
        target = library()
        if not target.exists():
            build(target)
        torch.ops.load_library(target)
    except (KernelUnavailable, OSError) as error:
        log.warning("max-plus kernel: using PyTorch tiles, since the C++ one cannot be built: %s", error)
        return str(error)
    return ""


def available() -> bool:
    """Whether the C++ kernel can be used; the first call builds it (half a minute), later ones are free."""
    return not reason()


def require() -> bool:
    """True, or the reason as an error.

    Raises:
        KernelUnavailable: it cannot be built or loaded here.
    """
    if reason():
        raise KernelUnavailable(f"max-plus kernel: got {reason()}, need a C++20 compiler")
    return True
