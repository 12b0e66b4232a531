"""How far a suite is and how long it will take, from the steps that runs report. No score and no verdict is in here.

Nobody may stop a suite at a lucky moment, so what is kept of a run's training loss is a shape: each curve is scaled
between its own highest and lowest value. It tells whether a run learns, is stuck or breaks out, and not how low it is;
two of them cannot be compared.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from nanochat.bench.jobs import Failure
from nanochat.bench.stages import PILOT, TIMING_PHASE, VERDICT, planned_steps

if TYPE_CHECKING:
    from nanochat.bench.jobs import Job
    from nanochat.bench.store import Outcome
    from nanochat.bench.suite import SuitePlan

WAITING, TRAINING, DONE = "waiting", "training", "done"

POINTS = 12
BLOCKS = "▁▂▃▄▅▆▇█"

MIN_ELAPSED = 1.0
"""Seconds of training without a forecast."""


class Curve:
    """Training loss of one run, as means over equal stretches of it.

    Args:
        key: of the run.
    """

    def __init__(self, key: str):
        self.key = key
        self._stretches: list[list[float]] = [[] for _ in range(POINTS)]

    def add(self, share: float, loss: float) -> None:
        """A loss in nats, at ``share`` of the run; what is not finite is not drawn."""
        if math.isfinite(loss):
            self._stretches[min(POINTS - 1, max(0, int(share * POINTS)))].append(loss)

    @property
    def shape(self) -> str:
        """One block per stretch, scaled to this curve alone; a space where there is no point yet."""
        levels = [fmean(stretch) if stretch else None for stretch in self._stretches]
        known = [level for level in levels if level is not None]
        low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
        top = len(BLOCKS) - 1
        heights = [None if level is None else round((level - low) / span * top) if span else 0 for level in levels]
        return "".join(" " if height is None else BLOCKS[height] for height in heights)


class Tally:
    """What has happened so far.

    Args:
        plan: of the suite.
        now: a clock, seconds.
    """

    def __init__(self, plan: SuitePlan, now: Callable[[], float] = time.monotonic):
        self.plan = plan
        self.name = "preparing"
        self.runs = 0
        self.diverged: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.seeds: Counter[str] = Counter()
        self._now = now
        self._flops = {label: plan.step_flops(label) for label in plan.labels}
        self._ahead = planned_steps(plan)
        self._later = _total(self._ahead.values())
        self._finished: set[str] = set()
        self._open: dict[str, Job] = {}
        self._running: dict[str, tuple[Job, int]] = {}
        self._curves: dict[str, Curve] = {}
        self._step_seconds: dict[str, float] = {}
        # Steps by arm: of this phase, and of those that are not finished; finished so far, and trained by this suite.
        self._phase: Counter[str] = Counter()
        self._todo: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._trained: Counter[str] = Counter()
        self._begin: float | None = None

    def phase(self, name: str, jobs: Sequence[Job]) -> None:
        """A phase begins; all that was planned before it is over."""
        self.name = name
        every = {job.key: job for job in jobs}
        self.runs = len(every)
        self._open = {key: job for key, job in every.items() if key not in self._finished}
        self._phase, self._todo = _steps(every.values()), _steps(self._open.values())
        self._running.clear()
        names = list(self._ahead)
        for passed in names[: names.index(name) + 1] if name in names else ():
            del self._ahead[passed]
        self._later = _total(self._ahead.values())

    def started(self, job: Job) -> None:
        """A worker took a run. The clock begins here: workers that start, and a dozen timed steps, tell no pace."""
        if self._begin is None and self.name != TIMING_PHASE:
            self._begin = self._now()
            self._trained.clear()
        if job.key in self._open:
            self._running[job.key] = (job, 0)

    def progress(self, job: Job, step: int, steps: int, loss: float | None) -> None:
        """A run has taken ``step`` of its ``steps``."""
        if job.key not in self._open:
            return
        self._running[job.key] = (job, step)
        if loss is not None and self._curve(job).key == job.key:
            self._curve(job).add((step - 1) / steps, loss)

    def finished(self, job: Job, outcome: Outcome | Failure, cached: bool) -> None:
        """A run is done; one that an earlier phase has counted is not counted again."""
        self._running.pop(job.key, None)
        if self._open.pop(job.key, None) is None:
            return
        self._finished.add(job.key)
        self._todo[job.label] -= job.steps
        self._done[job.label] += job.steps
        self._trained[job.label] += 0 if cached else job.steps
        self.seeds[job.label] += job.stage == VERDICT
        if isinstance(outcome, Failure):
            self.failed[job.label] += 1
            return
        self.diverged[job.label] += outcome.diverged
        self._step_seconds[job.label] = outcome.step_seconds
        if self._curve(job).key == job.key:
            whole = self._curves[job.label] = Curve(job.key)
            for step, loss in outcome.loss_curve:
                whole.add(step / job.steps, loss)

    def _curve(self, job: Job) -> Curve:
        """The curve that its arm shows: of one run until that is finished, then of the next that is heard of."""
        shown = self._curves.get(job.label)
        if shown is None or (shown.key != job.key and shown.key not in self._running):
            shown = self._curves[job.label] = Curve(job.key)
        return shown

    @property
    def runs_done(self) -> int:
        """Of the phase."""
        return self.runs - len(self._open)

    @property
    def operations(self) -> tuple[float, float]:
        """Spent, and in all as far as is known beforehand, of the whole suite."""
        done = self._done + self._under_way()
        return self._cost(done), self._cost(done + self._left() + self._later)

    @property
    def seconds_left(self) -> tuple[float | None, float | None]:
        """Of the phase, and of the whole suite: by the measured time of each arm's steps, at the pace so far."""
        elapsed = 0.0 if self._begin is None else self._now() - self._begin
        worked = self._work(self._trained + self._under_way())
        if elapsed < MIN_ELAPSED or not worked:
            return None, None
        left = self._left()
        return elapsed * self._work(left) / worked, elapsed * self._work(left + self._later) / worked

    def share(self, label: str) -> float:
        """Of the arm's steps of this phase, 0 to 1; 1 where it has none."""
        return 1 - self._left()[label] / self._phase[label] if self._phase[label] else 1.0

    def status(self, label: str) -> str:
        """``training``; ``waiting`` for a worker; ``done`` with this phase, for whatever reason."""
        if any(job.label == label for job, _ in self._running.values()):
            return TRAINING
        not_yet = self.name in (TIMING_PHASE, PILOT) and not self._phase[label]
        return WAITING if self._todo[label] or not_yet else DONE

    def shape(self, label: str) -> str:
        """The learning curve of one of its runs; see the head of this file."""
        return self._curves[label].shape if label in self._curves else ""

    def _under_way(self) -> Counter[str]:
        """Steps taken by runs that are not finished."""
        steps: Counter[str] = Counter()
        for job, step in self._running.values():
            steps[job.label] += min(step, job.steps)
        return steps

    def _left(self) -> Counter[str]:
        """Steps of the phase that are to be taken."""
        return self._todo - self._under_way()

    def _cost(self, steps: Counter[str]) -> float:
        """Operations."""
        return sum(count * self._flops[label] for label, count in steps.items())

    def _work(self, steps: Counter[str]) -> float:
        """Seconds on one worker; an arm that is not measured has the mean pace of the others by its operations."""
        measured = {label: seconds for label, seconds in self._step_seconds.items() if seconds > 0}
        operations = sum(self._flops[label] for label in measured)
        pace = sum(measured.values()) / operations if measured else 1.0
        return sum(count * measured.get(label, pace * self._flops[label]) for label, count in steps.items())


def _steps(jobs: Iterable[Job]) -> Counter[str]:
    """Steps by arm."""
    steps: Counter[str] = Counter()
    for job in jobs:
        steps[job.label] += job.steps
    return steps


def _total(phases: Iterable[Mapping[str, int]]) -> Counter[str]:
    return sum(map(Counter, phases), Counter())


def clock(seconds: float | None) -> str:
    """h:mm:ss, without the hours where there are none."""
    if seconds is None:
        return "-:--"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
