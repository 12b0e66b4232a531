"""One worker's place on a machine of a cluster: where the store is seen, a worker begins.

The scheduler (Ray, Slurm) runs :func:`occupy`; the worker is a process of its own below it, so that memory and time
are measured as everywhere else, and it ends with the process that the scheduler knows.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.bench.crew import BOOTSTRAP, STOP_SECONDS
from nanochat.bench.lease import gone, identity, this_host

MARKS, LOGS = "crews", "logs"
PATIENCE = 10.0
"""Seconds that a shared folder may take to show on one machine what another wrote into it."""

WATCH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a slot came to its end.

    Args:
        reason: one line; empty where the worker went home since nothing was left to do.
        hopeless: another try would end the same way, whoever makes it.
    """

    reason: str = ""
    hopeless: bool = False


def announce(store: Path) -> str:
    """Leave a mark that every machine which sees this very folder can find, until the suite is over; its name."""
    name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    for folder in (MARKS, LOGS):
        (store / folder).mkdir(exist_ok=True)
    (store / MARKS / name).write_text(json.dumps(identity(this_host())))
    return name


def forgotten(store: Path) -> Iterator[Path]:
    """Marks whose suite was a process of this machine and is gone, without a chance to take them away."""
    for mark in sorted((store / MARKS).glob("*")):
        try:
            owner = json.loads(mark.read_text())
        except (FileNotFoundError, ValueError):  # taken away, or not yet written
            continue
        if gone(owner, this_host()):
            yield mark


def withdraw(store: Path, mark: str) -> None:
    """Take the mark away: workers go home."""
    (store / MARKS / mark).unlink(missing_ok=True)


def occupy(store: str, mark: str, idle: float | None) -> Ended:
    """Serve a store until the suite is over or there has been nothing to do for ``idle`` seconds.

    Args:
        store: its path, the same on all machines.
        mark: what :func:`announce` returned where the suite was started.
        idle: None to wait for work without end.
    """
    machine, root = platform.node(), Path(store)
    if not _seen(root / MARKS / mark):
        need = "need a folder that all machines share, under the same path"
        return Ended(f"--store: got {store}, which {machine} does not see; {need}", hopeless=True)
    with (root / LOGS / f"worker-{machine}-{os.getpid()}.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP.format(path=sys.path), json.dumps({"store": store, "idle": idle})],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        code = _wait(worker, root / MARKS / mark)
    finally:  # the scheduler may end this process by a signal that raises
        _end(worker)
    if code == 0:
        return Ended()
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return Ended(f"a worker on {machine} died ({how})")


def _seen(mark: Path) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not mark.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(PATIENCE / 20)
    return True


def _wait(worker: subprocess.Popen[bytes], mark: Path) -> int:
    """Exit code of the worker; 0 too when the suite is over, which its mark tells."""
    while mark.exists():
        try:
            return worker.wait(timeout=WATCH_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    return 0


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Let it give its run back, if it still has one."""
    worker.terminate()
    try:
        worker.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
