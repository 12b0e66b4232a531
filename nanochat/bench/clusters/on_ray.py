"""Workers on a Ray cluster: one task per slot, spread over the nodes. Ray holds no state: the store does.

Ray is spoken to by a process of its own, ``main``. Its messages to standard output would break a command's ``--json``,
and when the head of a cluster goes, Ray ends the process that is connected to it: that must not be the suite's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nanochat.bench.clusters.slot import LOGS, MARKS, WATCH_SECONDS, Ended, announce, occupy, withdraw
from nanochat.bench.worker import end_with
from nanochat.config import ConfigError, EnvironmentFault, option

POLL_SECONDS = 1.0
CONNECT_SECONDS = 5.0
LEAVE_SECONDS = 20.0
HOME_SECONDS = 3 * WATCH_SECONDS
"""How long workers may take to see that the suite is over and to give back what they have in hand."""

PAUSE_SECONDS = 5.0
"""A slot that lasted shorter has failed, and is filled again after as long."""

MAX_FAILURES = 3
"""Failures in a row, beside one for every slot, that a suite puts up with."""

BOOTSTRAP = "import sys; sys.path[:] = {path!r}; from nanochat.bench.clusters.on_ray import main; main(sys.argv[1:])"


@dataclass(frozen=True, kw_only=True, slots=True)
class RayOptions:
    """Where the cluster is."""

    address: str = option(
        "auto", "`auto` for the cluster that this machine belongs to, `local` for one made here, or HOST:PORT"
    )

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if self.address not in ("auto", "local") and not (host and port.isdecimal()):
            raise ConfigError([f"address: got {self.address!r}, need auto, local or HOST:PORT"])


class RayCrew:
    """Slots on a Ray cluster; a slot whose worker, process or node dies is filled again as soon as a CPU is free.

    Args:
        options: where the cluster is.
        gpu: each worker gets a GPU of its own.
    """

    def __init__(self, options: RayOptions, gpu: bool = False):
        self.options = options
        self.gpu = gpu
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._store = self._log = Path()
        self._mark = ""

    def start(self, store: Path, count: int) -> None:
        """Connect, and fill ``count`` slots; more than the cluster has CPUs wait for some to come.

        Raises:
            EnvironmentFault: nothing listens at the address.
        """
        _listening(self.options.address)
        self._store = store.resolve()
        self._mark = announce(self._store)
        arguments = [self.options.address, str(self._store), self._mark, str(count), str(int(self.gpu))]
        self._log = self._store / LOGS / f"ray-{os.getpid()}.log"
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the driver alone, which then ends this.
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP.format(path=sys.path), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def poll(self) -> list[str]:
        """What happened since the last call, a line each.

        Raises:
            EnvironmentFault: the cluster is gone, or no machine of it can do this work.
        """
        assert self._process is not None and self._process.stdout is not None
        notes = []
        while select.select([self._process.stdout], [], [], 0)[0]:
            received = os.read(self._process.stdout.fileno(), 1 << 16)
            if not received:
                raise EnvironmentFault(f"the Ray cluster is gone; finished runs are kept; see {self._log}")
            *lines, self._heard = (self._heard + received).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if message["hopeless"]:
                    raise EnvironmentFault(message["note"])
                notes.append(message["note"])
        return notes

    def stop(self) -> None:
        """Send all workers home and leave the cluster."""
        if self._process is None:
            return
        withdraw(self._store, self._mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=LEAVE_SECONDS)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


def _listening(address: str) -> None:
    """Ray itself would try for minutes and then end the process."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise EnvironmentFault(
            f"address: got {address}, where no Ray cluster answers ({error.strerror or error}), need `ray start --head`"
        ) from error


def main(arguments: list[str]) -> None:
    """The process that speaks to Ray, ``main([ADDRESS, STORE, MARK, COUNT, GPUS])``; answers are JSON lines."""
    end_with(os.getppid(), lambda: None)
    address, store, mark, count, gpus = arguments
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints is kept in the log
    try:
        _connect(address, int(count))
        _Slots(Path(store), mark, int(gpus), answers).keep(int(count))
    except (ConnectionError, RuntimeError, ValueError) as error:
        _tell(answers, f"address: got {address}: {str(error).splitlines()[0]}", hopeless=True)


def _tell(answers: TextIO, note: str, hopeless: bool = False) -> None:
    answers.write(json.dumps({"note": note, "hopeless": hopeless}) + "\n")
    answers.flush()


def _ray() -> Any:
    import ray  # pyright: ignore[reportMissingImports]  # an extra

    return ray


def _connect(address: str, count: int) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a cluster that starts here tells nobody; there is no other switch
    here = {"num_cpus": count, "include_dashboard": False} if address == "local" else {}
    _ray().init(address=address, log_to_driver=False, logging_level="error", **here)


class _Slots:
    """Tasks under way on the cluster.

    Args:
        store, mark: see :func:`nanochat.bench.clusters.slot.occupy`.
        gpus: of each worker, 0 or 1.
        answers: where notes go.
    """

    def __init__(self, store: Path, mark: str, gpus: int, answers: TextIO):
        root = str(Path(__file__).resolve().parents[3])  # the same sources, where the nodes share them
        self._task = _ray().remote(occupy)
        self._task = self._task.options(
            num_cpus=1,
            num_gpus=gpus,
            max_retries=0,  # a lost slot is told of, then filled again here
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}},
        )
        self.store = store
        self.mark = mark
        self.answers = answers
        self.begun: dict[Any, float] = {}
        self.failures = 0

    def keep(self, count: int) -> None:
        """Keep ``count`` slots filled until the suite is over, which its mark tells."""
        for _ in range(count):
            self._fill()
        while (self.store / MARKS / self.mark).exists():
            for slot in self._ended(POLL_SECONDS):
                lasted = time.monotonic() - self.begun.pop(slot)
                self._refill(_ended(slot), lasted, count)
        deadline = time.monotonic() + HOME_SECONDS
        while self.begun and time.monotonic() < deadline:
            for slot in self._ended(POLL_SECONDS):
                del self.begun[slot]

    def _fill(self) -> None:
        self.begun[self._task.remote(str(self.store), self.mark, None)] = time.monotonic()

    def _ended(self, timeout: float) -> list[Any]:
        return _ray().wait(list(self.begun), num_returns=1, timeout=timeout)[0]

    def _refill(self, ended: Ended, lasted: float, count: int) -> None:
        self.failures = self.failures + 1 if lasted < PAUSE_SECONDS else 0
        if ended.reason:
            _tell(self.answers, ended.reason, ended.hopeless or self.failures > count + MAX_FAILURES)
        time.sleep(PAUSE_SECONDS if self.failures else 0)
        self._fill()


def _ended(slot: Any) -> Ended:
    """How the task came to its end, whatever ended it."""
    ray = _ray()
    try:
        return ray.get(slot)
    except ray.exceptions.RayTaskError as error:
        return Ended(str(error).strip().splitlines()[-1])
    except ray.exceptions.RayError as error:
        return Ended(f"a worker on Ray is lost ({type(error).__name__}); its place is filled again")
