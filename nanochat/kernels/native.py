"""Builds a C++ kernel on first use and loads it; says why where it cannot.

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
import threading
from pathlib import Path

import torch
from torch.utils import cpp_extension

log = logging.getLogger(__name__)


class KernelUnavailable(RuntimeError):
    """A C++ kernel was asked for by name and cannot be built or loaded here."""


def processor() -> str:
    """What ``-march=native`` depends on: a cached library must not travel to a lesser processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


class Kernel:
    """One C++ file and the library that it becomes.

    Args:
        source: the file; it registers its operators with ``TORCH_LIBRARY``. It may include the ``.h`` beside it.
        name: of the library.
        title: the words for it in messages.
        otherwise: what is used in its place, for the log.
        seconds: a compiler that takes longer is given up.
    """

    def __init__(self, source: Path, name: str, title: str, otherwise: str, seconds: float = 300):
        self.source, self.name, self.title, self.otherwise, self.seconds = source, name, title, otherwise, seconds
        self.processor = processor
        self._reason: str | None = None
        self._lock = threading.Lock()

    def command(self, target: Path) -> list[str]:
        """The compiler command that writes ``target``."""
        flags = ["-std=c++20", "-O3", "-fPIC", "-shared", "-march=native", "-fno-math-errno", "-fno-trapping-math"]
        flags += ["-w", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
        flags += ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-fopenmp"]
        includes = [item for path in cpp_extension.include_paths() for item in ("-isystem", path)]
        libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
        return [
            cpp_extension.get_cxx_compiler(), *flags, *includes, str(self.source), "-o", str(target), *libraries,
            "-ltorch_cpu", "-lc10",
        ]  # fmt: skip

    def library(self) -> Path:
        """Where the built library lies: named by all that it depends on, in torch's per-user extension cache."""
        command = self.command(Path("library"))
        texts = [each.read_text() for each in (self.source, *sorted(self.source.parent.glob("*.h")))]
        parts = (*texts, *command, torch.__version__, self.processor(), platform.machine())
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return Path(cpp_extension.get_default_build_root()) / f"mgr_{self.name}_{digest}" / f"{self.name}.so"

    def build(self, target: Path) -> None:
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
                    self.compile(self.command(part))
                    os.replace(part, target)
        except OSError as error:
            raise KernelUnavailable(f"{error.strerror or error}: {error.filename or target.parent}") from error

    def compile(self, arguments: list[str]) -> None:
        """Run the compiler.

        Raises:
            KernelUnavailable: it complains, or takes too long.
        """
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=self.seconds)
        except subprocess.TimeoutExpired as error:
            raise KernelUnavailable(f"{arguments[0]} took more than {self.seconds} s") from error
        if done.returncode:
            complaints = [line for line in done.stderr.splitlines() if "error" in line]
            raise KernelUnavailable(f"{arguments[0]}: {(complaints or [f'exit code {done.returncode}'])[0].strip()}")

    @property
    def tried(self) -> bool:
        """Whether the kernel was wanted in this process."""
        return self._reason is not None

    def forget(self) -> None:
        """Try again at the next call."""
        self._reason = None

    def reason(self) -> str:
        """Why the kernel cannot be used here; empty where it can. The first call builds it and logs a failure."""
        if self._reason is None:
            with self._lock:
                self._reason = self._try() if self._reason is None else self._reason
        return self._reason

    def _try(self) -> str:
        if sys.platform == "win32":
            return "the kernel needs GCC or Clang vector types"
        try:
            target = self.library()
            if not target.exists():
                self.build(target)
            torch.ops.load_library(target)
        except (KernelUnavailable, OSError) as error:
            log.warning("%s: using %s, since the C++ one cannot be built: %s", self.title, self.otherwise, error)
            return str(error)
        return ""

    def available(self) -> bool:
        """Whether the kernel can be used; the first call builds it (half a minute), later ones are free."""
        return not self.reason()

    def require(self) -> bool:
        """True, or the reason as an error.

        Raises:
            KernelUnavailable: it cannot be built or loaded here.
        """
        if self.reason():
            raise KernelUnavailable(f"{self.title}: got {self.reason()}, need a C++20 compiler")
        return True
