"""Workers on a store. The crew of this machine is here; whatever else can start ``mgr worker`` somewhere is one too."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from nanochat.config import EnvironmentFault

MAX_STARTS = 3
"""Workers that die this often, one after another, before they could begin will not begin."""

STOP_SECONDS = 3.0

BOOTSTRAP = "import sys; sys.path[:] = {path!r}; from nanochat.bench.worker import main; main(sys.argv[1:])"
"""The worker finds the same packages as its driver, however that one was started."""


class Crew(Protocol):
    """Workers on a store, wherever they are. What they do and how far they are, the store tells."""

    def start(self, store: Path, count: int) -> None:
        """Have up to ``count`` workers come, as soon as there is work for them."""
        ...

    def poll(self) -> list[str]:
        """What happened to them since the last call, a line each; replaces the lost. Called several times a second.

        Raises:
            EnvironmentFault: they cannot work.
        """
        ...

    def stop(self) -> None:
        """Send them home; a run in hand is given back."""
        ...


def physical_cores() -> list[int]:
    """One logical CPU of every physical core that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    cores: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    return list(cores.values())


class Absent:
    """No workers of one's own: others serve the store."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def start(self, store: Path, count: int) -> None:
        self._notes.append(f"no workers of its own (--jobs 0): waiting for others, such as: mgr worker --store {store}")

    def poll(self) -> list[str]:
        notes, self._notes = self._notes, []
        return notes

    def stop(self) -> None:
        pass


class Child:
    """One worker process of this machine.

    Args:
        store: that it serves.
        number: of the worker, for its log's name.
        options: see :func:`nanochat.bench.worker.main`.
    """

    def __init__(self, store: Path, number: int, options: dict[str, Any]):
        logs = store / "logs"
        logs.mkdir(exist_ok=True)
        # A session of its own: Ctrl-C reaches its parent alone, which then ends the workers.
        with (logs / f"worker-{os.getpid()}-{number}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP.format(path=sys.path), json.dumps({"store": str(store), **options})],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )
        self.ready = False
        self._rest = b""
        os.set_blocking(self._events.fileno(), False)

    @property
    def _events(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def hear(self) -> list[dict[str, Any]]:
        """What it says of itself since the last call; the work is not among it, for that is in the store."""
        received = self._events.read() or b""
        *lines, self._rest = (self._rest + received).split(b"\n")
        said = [json.loads(line) for line in lines]
        self.ready = self.ready or bool(said)
        return said

    def end(self, deadline: float) -> None:
        """Wait for it; after the deadline not any longer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        self.process.kill()
        self.process.wait()
        self._events.close()


class LocalCrew:
    """Processes of this machine, each pinned to a core of its own as long as there are enough.

    Args:
        hear: is told what workers say of themselves, as :func:`nanochat.bench.worker.attend` tells it.
        eager: have all workers at once, not as many as there are requests.
        options: of the workers, see :func:`nanochat.bench.worker.main`.
    """

    def __init__(self, hear: Callable[[dict[str, Any]], object] | None = None, *, eager: bool = False, **options: Any):
        self._hear = hear
        self._eager = eager
        self._options = options
        self._store = Path()
        self._cpus: list[int | None] = []
        self._children: dict[int, Child] = {}
        self._home: set[int] = set()
        self._deaths = 0

    @property
    def working(self) -> bool:
        """Not all workers have gone home by themselves."""
        return len(self._home) < len(self._cpus)

    def start(self, store: Path, count: int) -> None:
        self._store = store
        cores = physical_cores()
        self._cpus = [cores[number] if count <= len(cores) else None for number in range(count)]
        self._grow()

    def _grow(self) -> None:
        """No more workers than there are requests: one costs a second to start."""
        wanted = (
            len(self._cpus)
            if self._eager
            else sum(name.endswith(".json") for name in os.listdir(self._store / "queue"))
        )
        for number, cpu in enumerate(self._cpus):
            if number not in self._children and number not in self._home and len(self._children) < wanted:
                self._children[number] = Child(self._store, number, {"cpu": cpu, **self._options})

    def poll(self) -> list[str]:
        notes = []
        for number, child in list(self._children.items()):
            code = child.process.poll()
            for event in child.hear():
                if self._hear is not None:
                    self._hear(event)
            if code is None:
                continue
            del self._children[number]
            child.end(time.monotonic())
            if code == 0:
                self._home.add(number)
            else:
                notes.append(self._lost(code, child.ready))
        self._grow()
        return notes

    def _lost(self, code: int, ready: bool) -> str:
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self._deaths = 0 if ready else self._deaths + 1
        if self._deaths >= MAX_STARTS:
            raise EnvironmentFault(f"workers do not start ({how}), see {self._store / 'logs'}")
        return f"a worker died ({how})"

    def stop(self) -> None:
        for child in self._children.values():
            child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._children:
            self._children.popitem()[1].end(deadline)
        self._cpus = []
