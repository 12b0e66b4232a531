"""What every demo runs in: float64, compiled programs kept between runs, NaN checks when asked."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from demos.result import DemoConfig


def cache_directory() -> Path:
    """Where this user's compiled programs are kept: the platform's cache folder."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "mgr" / "jax"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "mgr" / "jax"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mgr" / "jax"


@contextlib.contextmanager
def session(config: DemoConfig) -> Iterator[None]:
    """Double precision, the compilation cache and, with ``debug``, NaN checks, for the duration of a demo.

    A cache folder that cannot be written is no error: the demo then compiles everything again.
    """
    if config.cache:
        _keep_compiled(cache_directory())
    with jax.enable_x64(True), jax.debug_nans(config.debug):
        yield


def _keep_compiled(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(directory, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def seconds(function: Callable[..., Any], *arguments: Any, repeats: int = 5) -> float:
    """Smallest wall time of a compiled function over several calls, after one call to warm up."""
    jax.block_until_ready(function(*arguments))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        best = min(best, time.perf_counter() - start)
    return best
