"""Runs jobs on persistent worker processes, one per physical core, and survives the loss of any of them."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from nanochat.bench.jobs import Failure, Job, Trainer, execute
from nanochat.bench.observe import Observer
from nanochat.bench.store import Outcome, Store
from nanochat.config import ConfigError, EnvironmentFault, plain
from nanochat.console import View

MAX_ATTEMPTS = 3
"""A run that takes its worker down this often is given up."""

RETRY_SECONDS = 1.0
"""How long to wait before asking again for a run that another process is training."""

BOOTSTRAP = "import sys; sys.path[:] = {path!r}; from nanochat.bench.worker import main; main(sys.argv[1:])"
"""The worker finds the same packages as its driver, however that one was started."""

Results = dict[str, Outcome | Failure]


class Executor(Protocol):
    """Trains what is not in the store."""

    def run(self, jobs: Sequence[Job]) -> Results: ...


def physical_cores() -> list[int]:
    """One logical CPU of every physical core that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    cores: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    return list(cores.values())


class InProcess:
    """One run after another in this process: for tests that must reach into the training, and for one accelerator.

    Args:
        store: where finished runs are.
        observer: is told of progress.
        train: ``nanochat.train.run`` or a stand-in.
    """

    def __init__(self, store: Store, observer: Observer, train: Trainer):
        self.store = store
        self.observer = observer
        self.train = train

    def run(self, jobs: Sequence[Job]) -> Results:
        results: Results = {}
        for job in jobs:
            self.observer.started(job)
            while not execute(job.key, job.run, job.facts, self.store, self.train, View()):
                time.sleep(RETRY_SECONDS)
            outcome = self.store.load(job.key)
            assert outcome is not None
            results[job.key] = outcome
            self.observer.finished(job, outcome, cached=False)
        return results


class Worker:
    """One child process and the run it has in hand."""

    def __init__(self, store: Path, number: int, cpu: int | None):
        logs = store / "logs"
        logs.mkdir(exist_ok=True)
        # A session of its own: Ctrl-C reaches the driver alone, which then ends the workers.
        with (logs / f"worker-{os.getpid()}-{number}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP.format(path=sys.path), str(store), "-" if cpu is None else str(cpu)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )
        self.job: Job | None = None
        self.ready = False
        self._heard = b""

    @property
    def answers(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def hear(self) -> list[dict[str, Any]] | None:
        """The complete lines that have come; None at the end of file. Call when there is something to read."""
        received = os.read(self.answers.fileno(), 1 << 16)
        if not received:
            return None
        *lines, self._heard = (self._heard + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def give(self, job: Job) -> None:
        assert self.process.stdin is not None and self.job is None
        self.job = job
        request = {"key": job.key, "config": plain(job.run), "facts": job.facts}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Workers:
    """A pool that lasts for a suite. Use as a context manager, so that no child outlives it.

    Args:
        store: where finished runs are.
        observer: is told of progress.
        count: processes; one per physical core if None. Up to that number each is pinned to a core of its own.
    """

    def __init__(self, store: Store, observer: Observer, count: int | None = None):
        self.store = store
        self.observer = observer
        cores = physical_cores()
        count = len(cores) if count is None else count
        self._cpus = [cores[number] if count <= len(cores) else None for number in range(count)]
        self._pool: dict[int, Worker] = {}
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._pool):
            self._end(number)
        self._selector.close()

    def _start(self, number: int) -> None:
        worker = Worker(self.store.root, number, self._cpus[number])
        self._pool[number] = worker
        self._selector.register(worker.answers, selectors.EVENT_READ, number)

    def _end(self, number: int) -> None:
        worker = self._pool.pop(number)
        self._selector.unregister(worker.answers)
        worker.end()

    def run(self, jobs: Sequence[Job]) -> Results:
        """Train every job. A worker that dies loses its current run only; that run is tried again elsewhere."""
        return _Batch(self, jobs).finish()

    def grow(self, wanted: int) -> None:
        """Start workers up to what the remaining jobs can use."""
        for number in range(min(wanted, len(self._cpus))):
            if number not in self._pool:
                self._start(number)

    def idle(self) -> Iterator[Worker]:
        return (worker for worker in self._pool.values() if worker.ready and worker.job is None)

    def busy(self) -> int:
        return sum(worker.job is not None for worker in self._pool.values())

    def messages(self, timeout: float) -> Iterator[tuple[int, Worker, list[dict[str, Any]] | None]]:
        """What workers said; None when one is gone."""
        for ready, _ in self._selector.select(timeout):
            worker = self._pool[ready.data]
            yield ready.data, worker, worker.hear()

    def replace(self, number: int) -> str:
        """End a worker that is gone; returns how it went."""
        worker = self._pool[number]
        code = worker.process.wait()
        self._end(number)
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


class _Batch:
    """The jobs of one call of :meth:`Workers.run`."""

    def __init__(self, pool: Workers, jobs: Sequence[Job]):
        self.pool = pool
        # The longest first, so that the last ones to finish are short.
        self.pending = deque(sorted(jobs, key=lambda job: -job.steps))
        self.waiting: list[tuple[float, Job]] = []
        self.attempts: Counter[str] = Counter()
        self.deaths = 0
        self.results: Results = {}

    def finish(self) -> Results:
        while self.pending or self.waiting or self.pool.busy():
            now = time.monotonic()
            self.pending += [job for due, job in self.waiting if due <= now]
            self.waiting = [(due, job) for due, job in self.waiting if due > now]
            self.pool.grow(len(self.pending) + self.pool.busy())
            for worker in self.pool.idle():
                if self.pending:
                    self._give(worker, self.pending.popleft())
            for number, worker, messages in self.pool.messages(RETRY_SECONDS / 2):
                if messages is None:
                    self._lost(number, worker)
                for message in messages or ():
                    self._heard(worker, message)
        return self.results

    def _give(self, worker: Worker, job: Job) -> None:
        self.pool.observer.started(job)
        try:
            worker.give(job)
        except BrokenPipeError:
            return  # it died idle: its end of file is next in the selector and puts the job back

    def _heard(self, worker: Worker, message: Mapping[str, Any]) -> None:
        event, job = message["event"], worker.job
        if event == "ready":
            worker.ready = True
            return
        assert job is not None
        if event == "step":
            self.pool.observer.progress(job, message["step"], message["steps"])
            return
        worker.job = None
        if event == "busy":
            self.waiting.append((time.monotonic() + RETRY_SECONDS, job))
        elif event == "done":
            outcome = self.pool.store.load(job.key)
            self._settle(job, Failure("its result is not readable") if outcome is None else outcome)
        elif message["kind"] == "config":
            raise ConfigError(str(message["reason"]).splitlines())
        elif message["kind"] == "environment":
            raise EnvironmentFault(message["reason"])
        else:
            self._settle(job, Failure(str(message["reason"])))

    def _lost(self, number: int, worker: Worker) -> None:
        how = self.pool.replace(number)
        if not worker.ready:
            self.deaths += 1
            if self.deaths >= MAX_ATTEMPTS:
                raise EnvironmentFault(f"workers do not start ({how}), see {self.pool.store.root / 'logs'}")
        job = worker.job
        if job is None:
            return
        self.attempts[job.key] += 1
        if self.attempts[job.key] >= MAX_ATTEMPTS:
            self._settle(job, Failure(f"its worker died {MAX_ATTEMPTS} times ({how})"))
        else:
            self.pool.observer.note(f"a worker died ({how}); {job.label} seed {job.seed} starts again")
            self.pending.append(job)

    def _settle(self, job: Job, outcome: Outcome | Failure) -> None:
        self.results[job.key] = outcome
        self.pool.observer.finished(job, outcome, cached=False)
