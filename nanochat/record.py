"""The single writer of ``artifacts/``: one folder per run, strict JSON, every file complete or absent.

A run is ``<artifacts-dir>/<kind>/<topic>/<run-id>/`` with ``config.json``, ``env.json``, ``metrics.jsonl`` (appended,
flushed), ``eval_documents.json``, ``schedule.json`` where the schedule keeps a log, ``run.md`` and ``summary.json``.
The summary is written last, by rename: a folder that has one is complete, one that lacks it can be resumed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat.config import ConfigError, EnvironmentFault, RunConfig, plain

SCHEMA = "mgr.run.v1"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"


def strict_json(value: Any, indent: int | None = 2) -> str:
    """JSON text without NaN or Infinity tokens: they raise ``ValueError``. Keys keep their order."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def finite(value: float | None) -> float | None:
    """The number, or None where JSON has no word for it."""
    return value if value is not None and abs(value) < float("inf") else None


def write_bytes(path: Path, content: bytes) -> None:
    """Put the whole content in place or leave what was there: temporary file, fsync, rename, fsync of the folder.

    Raises:
        EnvironmentFault: the disk is full or cannot be written; the previous file is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise save_failed(path, len(content), error) from error


def save_failed(path: Path, size: int, error: OSError) -> EnvironmentFault:
    """One line for a write that the disk refused."""
    room = " (no space left)" if error.errno == errno.ENOSPC else f" ({error.strerror or error})"
    return EnvironmentFault(
        f"{path}: could not save{room}; need {size / 2**20:.1f} MiB free; what was saved before is intact"
    )


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """:func:`write_bytes` of strict JSON."""
    write_bytes(path, (strict_json(value, indent) + "\n").encode())


def environment(directory: Path | None = None) -> dict[str, Any]:
    """What the numbers of a run depend on besides its configuration: interpreter, libraries, processor, commit.

    Args:
        directory: folder whose git commit is recorded; the one of this package if not given.
    """
    names = ("torch", "numpy", "jax", "tiktoken", "rustbpe", "pyarrow", "model-guided-research")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: _version(name) for name in names},
        "commit": _commit(directory or Path(__file__).parent),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def _commit(directory: Path) -> str | None:
    """The commit of the checkout, with ``+changes`` where tracked files differ from it; None outside a checkout."""
    command = ["git", "-C", str(directory), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


OUTPUT_ONLY = ("artifacts_dir", "artifacts_kind", "artifacts_topic", "run_id", "resume", "checkpoint_interval")


def identity(config: RunConfig) -> dict[str, Any]:
    """The configuration without what cannot change a weight: output places and how often state is saved."""
    value = plain(config)
    for name in OUTPUT_ONLY:
        del value["train"][name]
    del value["data"]["cache_dir"]
    return value


def config_hash(config: RunConfig) -> str:
    """SHA-256 of :func:`identity` as canonical JSON."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True, allow_nan=False).encode()).hexdigest()


def directory_of(config: RunConfig) -> Path:
    """Where the run writes: ``<artifacts-dir>/<kind>/<topic>/<run-id>``; an unnamed run gets time and hash."""
    train = config.train
    name = train.run_id or f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{config_hash(config)[:8]}"
    return Path(train.artifacts_dir) / train.artifacts_kind / train.artifacts_topic / name


class RunRecord:
    """The folder of one run, held by this process alone while it is open.

    Args:
        directory: created if it is not there.
        config: stored as ``config.json``.
        resume: whether an unfinished run may lie there already.

    Raises:
        ConfigError: not writable, in use by another process, or holding a run that would be lost.
    """

    def __init__(self, directory: Path, config: RunConfig, resume: bool):
        self.directory = directory
        self.config = config
        self._lock = _claim(directory)
        try:
            self._refuse_loss(resume)
            for torn in directory.glob(".*.tmp"):  # what a killed process was writing; the lock says that nobody is
                torn.unlink()
            if not resume:
                write_json(directory / "config.json", plain(config))
        except BaseException:
            self._lock.close()
            raise
        self._metrics: io.FileIO | None = None

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_loss(self, resume: bool) -> None:
        if (self.directory / SUMMARY).exists():
            raise ConfigError([f"{self.directory}: got a completed run, need another --run-id"])
        if not resume and (self.directory / METRICS).exists():
            raise ConfigError([f"{self.directory}: got an unfinished run, need --resume or another --run-id"])
        if resume:
            _same_run(self.directory, self.config)

    def start_metrics(self, steps: int) -> list[dict[str, Any]]:
        """Keep the metrics of the first ``steps`` steps, drop later ones, and open the file for appending.

        Returns:
            the kept lines: a resumed record then equals that of a run that was never interrupted.
        """
        path = self.directory / METRICS
        kept = [line for line in read_metrics(path) if line["step"] < steps] if path.exists() else []
        write_bytes(path, "".join(strict_json(line, None) + "\n" for line in kept).encode())
        self._metrics = path.open("ab", buffering=0)  # a line is on its way to the disk when metric() returns
        return kept

    def metric(self, **values: Any) -> None:
        """Append one line to ``metrics.jsonl``; ``step`` counts from 0."""
        assert self._metrics is not None, "metric before start_metrics"
        try:
            self._metrics.write((strict_json(values, None) + "\n").encode())
        except OSError as error:
            raise save_failed(self.directory / METRICS, 0, error) from error

    def write(self, name: str, value: Any, indent: int | None = 2) -> None:
        """Write a JSON file of the run; long lists go on one line with ``indent=None``."""
        write_json(self.directory / name, value, indent)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``run.md``, then commit the run with ``summary.json``."""
        write_bytes(self.directory / "run.md", page(summary, self.directory.name).encode())
        write_json(self.directory / SUMMARY, {"schema": SCHEMA, **summary})

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        self._lock.close()


def _same_run(directory: Path, config: RunConfig) -> None:
    """Refuse to continue a run under a configuration that would take other steps; every difference is named."""
    try:
        stored = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            [f"--resume: got no run at {directory}, need the --run-id of one that was started"]
        ) from error
    except ValueError as error:
        raise ConfigError(
            [f"{directory / 'config.json'}: got text that is not JSON, need a run's configuration"]
        ) from error
    wanted = json.loads(strict_json(identity(config)))
    faults = [
        f"--resume: got {section}.{name} {value!r}, need {old!r} as the run began"
        for section, values in wanted.items()
        for name, value in values.items()
        if value != (old := stored.get(section, {}).get(name))
    ]
    if faults:
        raise ConfigError(faults)


def _claim(directory: Path) -> io.TextIOWrapper:
    """Create the folder and take its lock, which the kernel releases however the process ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--artifacts-dir: got {directory} ({error.strerror}), need a writable folder"]) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        raise ConfigError([f"{directory}: got a run that {owner} is writing, need another --run-id"]) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of ``metrics.jsonl``; a last line cut short by a crash is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        lines.append(json.loads(line))
    return lines


def page(summary: Mapping[str, Any], name: str) -> str:
    """``run.md``: the summary as a table, with the command that repeats the run."""
    rows = [f"| {key} | {_cell(value)} |" for key, value in summary.items() if not isinstance(value, list | dict)]
    table = "\n".join(["| what | value |", "|---|---|", *rows])
    return f"# Run {name}\n\n{table}\n\nConfiguration: `config.json`; machine and versions: `env.json`.\n"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    import resource

    status = Path("/proc/self/status")  # Linux, where getrusage's figure begins with that of the parent process
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
