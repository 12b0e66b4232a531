"""Has runs trained: asks for them in the store and waits for what appears there. Workers may be lost, runs are not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nanochat.bench.crew import Crew, LocalCrew, physical_cores
from nanochat.bench.jobs import Failure, Job, Trainer, execute
from nanochat.bench.lease import Sight
from nanochat.bench.observe import Observer
from nanochat.bench.queue import Queue
from nanochat.bench.store import Outcome, Store
from nanochat.config import ConfigError, EnvironmentFault
from nanochat.console import View

RETRY_SECONDS = 1.0
"""How long to wait before asking again for a run that another process is training."""

LOOK_SECONDS = 0.1
"""How often a suite looks for requests that are gone, which is one folder to list."""

PROGRESS_SECONDS = 0.5
SWEEP_SECONDS = 5.0
"""How often it looks for the results of runs that still seem to be wanted: a worker may die between result and request.
Each look opens files of every pending run, on the cores that the runs are timed on."""

Results = dict[str, Outcome | Failure]


class Executor(Protocol):
    """Trains what is not in the store."""

    def run(self, jobs: Sequence[Job]) -> Results: ...


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


class Workers:
    """A crew that lasts for a suite. Use as a context manager, so that it goes home.

    Args:
        store: where finished runs are.
        observer: is told of progress.
        count: workers; one per physical core if None.
        crew: who trains; processes of this machine if None.
    """

    def __init__(self, store: Store, observer: Observer, count: int | None = None, crew: Crew | None = None):
        self.store = store
        self.queue = Queue(store)
        self.observer = observer
        self.crew = crew or LocalCrew()
        self.count = len(physical_cores()) if count is None else count
        self._started = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            self.crew.stop()

    def run(self, jobs: Sequence[Job]) -> Results:
        """Train every job. A worker that dies loses its current run only; that run is tried again elsewhere."""
        batch = _Batch(self, jobs)
        try:
            batch.ask()
            if not self._started:
                self._started = True
                self.crew.start(self.store.root, self.count)
            return batch.finish()
        finally:
            batch.withdraw()


@dataclass
class _Asked:
    """A run that was asked for, and what has been seen of its lease."""

    job: Job
    number: int = 0
    step: int = 0


class _Batch:
    """The jobs of one call of :meth:`Workers.run`."""

    def __init__(self, workers: Workers, jobs: Sequence[Job]):
        self.workers = workers
        self.queue = workers.queue
        self.observer = workers.observer
        self.pending = {job.key: _Asked(job) for job in jobs}
        self.results: Results = {}

    def ask(self) -> None:
        for asked in self.pending.values():
            self.queue.ask(asked.job)

    def withdraw(self) -> None:
        """Of a suite that was interrupted; what another suite wants too, that one asks for again."""
        for asked in self.pending.values():
            self.queue.request(asked.job).withdraw()

    def finish(self) -> Results:
        told = swept = 0.0
        while self.pending:
            for note in self.workers.crew.poll():
                self.observer.note(note)
            wanted = {request.key for request in self.queue.open()}
            now = time.monotonic()
            if now - told >= PROGRESS_SECONDS:
                told = now
                self._progress()
            sweep = now - swept >= SWEEP_SECONDS
            swept = now if sweep else swept
            for key, asked in list(self.pending.items()):
                if sweep or key not in wanted:
                    self._look(asked, key in wanted)
            time.sleep(LOOK_SECONDS if self.pending else 0)
        return self.results

    def _look(self, asked: _Asked, wanted: bool) -> None:
        """Settle what has come to an end; what another suite has withdrawn is asked for again."""
        job = asked.job
        outcome: Outcome | Failure | None = self.workers.store.load(job.key)
        failure = None if outcome is not None else self.queue.failure(job.key)
        if failure is not None:
            if failure["kind"] == "config":
                raise ConfigError(failure["reason"].splitlines())
            if failure["kind"] == "environment":
                raise EnvironmentFault(failure["reason"])
            outcome = Failure(failure["reason"])
        if outcome is None:
            if not wanted:
                self.queue.ask(job)
            return
        self.queue.request(job).withdraw()
        if not asked.number:
            self.observer.started(job)
        del self.pending[job.key]
        self.results[job.key] = outcome
        self.observer.finished(job, outcome, cached=False)

    def _progress(self) -> None:
        """What the leases tell."""
        held = self.workers.store.leases.held()
        for key, asked in self.pending.items():
            if key in held:
                self._seen(asked, held[key])

    def _seen(self, asked: _Asked, sight: Sight) -> None:
        if sight.number > asked.number:
            self.observer.started(asked.job)
            if asked.number:
                self.observer.note(f"{asked.job.label} seed {asked.job.seed} starts again: its worker was lost")
            asked.number, asked.step = sight.number, 0
        step = sight.owner.get("step", 0)
        if step > asked.step:
            asked.step = step
            self.observer.progress(asked.job, step, sight.owner["steps"], sight.owner["loss"])
