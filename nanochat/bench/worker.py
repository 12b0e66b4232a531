"""Serves the requests of a store: takes a run's lease, trains, commits. One process imports torch once for any number.

The store is the only channel: it does not matter who asks, or on which machine. A worker may be killed at any time; its
lease is free then, and another worker trains the run.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat.bench.jobs import Trainer, code_of, dataset_of, perform, revive
from nanochat.bench.lease import Lease, Lost
from nanochat.bench.queue import MAX_ATTEMPTS, POLL_SECONDS, Queue, Request
from nanochat.bench.store import Store
from nanochat.config import ConfigError, EnvironmentFault, RunConfig
from nanochat.console import View

WATCH_INTERVAL = 1.0
STILL_SECONDS = 3600.0
"""A run that has not taken a step for so long hangs. What comes before the first step and after the last is shorter."""

Tell = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Terms:
    """When a worker goes home, and what it does with runs that this machine cannot train as they were meant.

    Args:
        idle: seconds without work after which it goes; None to wait for ever.
        once: it goes after one run.
        guest: leave such runs to others; otherwise the suite that asks is told and ends.
    """

    idle: float | None = None
    once: bool = False
    guest: bool = False


class LeaseView(View):
    """Tells how far the run is.

    Args:
        lease: where.
    """

    def __init__(self, lease: Lease):
        self.lease = lease
        self._steps = 0

    def start(self, steps: int, done: int, tokens_per_step: int) -> None:
        self._steps = steps

    def step(self, step: int, loss: float) -> None:
        self.lease.tell(step + 1, self._steps, loss if math.isfinite(loss) else None)


class Worker:
    """One worker.

    Args:
        store: that it serves.
        train: ``nanochat.train.run`` or a stand-in.
        terms: see :class:`Terms`.
        tell: is told what it does: ``event`` with ``label``, ``stage``, ``seed`` of the run.
    """

    def __init__(self, store: Store, train: Trainer, terms: Terms, tell: Tell):
        self.store = store
        self.queue = Queue(store)
        self.train = train
        self.terms = terms
        self.tell = tell
        self.lease: Lease | None = None
        self._unfit: set[str] = set()

    def attend(self) -> None:
        """Serve until the terms say to go home."""
        last = time.monotonic()
        while True:
            if any(self._serve(request) for request in self.queue.open()):
                if self.terms.once:
                    return
                last = time.monotonic()
            elif self.terms.idle is not None and time.monotonic() - last >= self.terms.idle:
                return
            else:
                time.sleep(POLL_SECONDS)

    def leave(self) -> None:
        """Give back what is in hand."""
        if self.lease is not None:
            self.lease.release()

    def _serve(self, request: Request) -> bool:
        """Train one run, unless it is another's or this machine cannot; whether it came to an end."""
        if request.key in self._unfit:
            return False
        content = request.content()
        if content is None:
            return False
        if self.queue.orphaned(content):
            request.withdraw()
            return False
        self.lease = self.store.leases.take(request.key)
        if self.lease is None:
            return False
        with self.lease:
            return self._hold(request, content, self.lease)

    def _hold(self, request: Request, content: dict[str, Any], lease: Lease) -> bool:
        if self.store.load(request.key) is not None:
            request.withdraw()
            return False
        if lease.number > MAX_ATTEMPTS:
            self.queue.fail(request.key, "lost", f"its worker was lost {MAX_ATTEMPTS} times")
            request.withdraw()
            return False
        run = revive(content["config"])
        what = {"label": content["label"], "stage": content["stage"], "seed": run.train.seed, "key": request.key}
        begin = time.monotonic()
        self.tell(event="began", **what)
        try:
            self._fits(run, content["facts"])
            perform(lease, run, content["facts"], self.store, self.train, LeaseView(lease))
        except Lost:
            self.tell(event="lost", **what)
            return True
        except Exception as error:  # noqa: BLE001 - the boundary of the process: who asked is told, the log has it all
            return self._failed(request, lease, error, what)
        request.withdraw()
        self.tell(event="done", seconds=time.monotonic() - begin, **what)
        return True

    def _failed(self, request: Request, lease: Lease, error: Exception, what: dict[str, Any]) -> bool:
        kind, reason = _named(error)
        if kind == "crash":
            traceback.print_exc()
        if kind == "environment" and self.terms.guest:
            self._unfit.add(request.key)
            self.tell(event="left", reason=reason, **what)
            return False
        if not lease.lost:  # what went wrong after another took the run over is of no interest
            self.queue.fail(request.key, kind, reason)
            request.withdraw()
        self.tell(event="failed", reason=reason, **what)
        return True

    def _fits(self, run: RunConfig, facts: dict[str, Any]) -> None:
        """This machine trains the run that the key stands for: same code, same torch, same text.

        Raises:
            EnvironmentFault: it would train another.
        """
        found = {"code_hash": code_of(run), "torch": metadata.version("torch")}
        if found["code_hash"] == facts["code_hash"]:
            dataset = dataset_of(run.data, run.model.vocab_size)
            found |= {"data_hash": dataset.manifest.hash, "tokenizer_hash": dataset.tokenizer.hash}
            found |= {"eval_hash": dataset.eval_set.hash}
        for name, value in found.items():
            if value != facts[name]:
                what = name.replace("_hash", "")
                raise EnvironmentFault(
                    f"{what}: got {value[:12]} on {platform.node()}, need {facts[name][:12]} as the suite began with"
                )


def _named(error: Exception) -> tuple[str, str]:
    """Kind and one-line reason of what ended a run."""
    if isinstance(error, ConfigError):
        return "config", str(error)
    if isinstance(error, EnvironmentFault):
        return "environment", str(error)
    return "crash", f"{type(error).__name__}: {error}".splitlines()[0]


def end_with(parent: int, leave: Callable[[], None]) -> None:
    """End this process when its parent is gone, even in the middle of a step."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_INTERVAL)
        leave()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_when_still(worker: Worker, seconds: float) -> None:
    """End this process when its run hangs; the log tells where.

    The lease stays behind. So the next worker counts this one as lost, and a run that always hangs is given up.
    """

    def watch() -> None:
        while (lease := worker.lease) is None or not lease.held or lease.still < seconds:
            time.sleep(min(WATCH_INTERVAL, seconds / 4))
        said = f"run {lease.key[:12]}: no step for {seconds:g} s, this worker ends; it hangs here:\n"
        os.write(2, said.encode())  # its log; not by a buffer, whose lock a hanging thread may hold
        faulthandler.dump_traceback()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    """A worker process; its one argument is JSON: store, cpu, host, lease_seconds, still, and the :class:`Terms`.

    It tells what it does in JSON lines on standard output; whatever else is printed goes to standard error. When its
    parent dies, or at SIGTERM, it gives its run back and ends.
    """
    parent = os.getppid()
    given = json.loads(arguments[0])
    path, cpu, still = Path(given.pop("store")), given.pop("cpu", None), given.pop("still", STILL_SECONDS)
    if cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})
    # Only events may reach the pipe; native code that prints would break a line.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    store = Store(path, **{name: given.pop(name) for name in ("host", "lease_seconds") if name in given})
    from nanochat.train import run

    worker = Worker(store, run, Terms(**given), tell)

    def terminated(number: int, frame: object) -> None:
        worker.leave()
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, terminated)
    end_with(parent, worker.leave)
    end_when_still(worker, still)
    tell(event="ready")
    worker.attend()
    sys.stdout.flush()
