"""A suite on a terminal: a live row per arm while it runs, the verdict table at the end. Nothing prints by itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nanochat.bench.jobs import Failure
from nanochat.bench.observe import Observer

if TYPE_CHECKING:
    from nanochat.bench.jobs import Job
    from nanochat.bench.store import Outcome
    from nanochat.bench.suite import SuitePlan
    from nanochat.bench.verdicts import ArmVerdict, Verdicts

COLOURS = {"WIN": "green", "LOSS": "red", "TIE": "blue", "INVALID": "yellow", "UNSTABLE": "yellow"}
MARKS = {"negligible": "~", "fragile": "!", "budget": "^", "time": "@"}
BAR = 16
PLAIN_INTERVAL = 10.0
REFRESHES = 4


class LiveSuite(Observer):
    """Rows that renew themselves. Scores stay hidden until the verdict: nobody can stop at a lucky moment.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console):
        self.console = console
        self._live = Live(self, console=console, refresh_per_second=REFRESHES, transient=True)
        self._plan: SuitePlan | None = None
        self._tally = Tally()

    def note(self, line: str) -> None:
        self.console.print(Text(line, style="dim"))

    def planned(self, plan: SuitePlan) -> None:
        self._plan = plan
        self._tally = Tally()
        self.console.print(preflight(plan))
        self._live.start()

    def phase(self, name: str, jobs: Sequence[Job], missing: int) -> None:
        self._tally.phase(name, jobs)

    def progress(self, job: Job, step: int, steps: int) -> None:
        self._tally.progress(job, step)

    def finished(self, job: Job, outcome: Outcome | Failure, cached: bool) -> None:
        self._tally.finished(job, outcome, cached)

    def stop(self) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The rows as they are now."""
        if self._plan is not None:
            yield progress_table(self._plan, self._tally)


class PlainSuite(Observer):
    """A line now and then, for logs and pipes.

    Args:
        write: takes one line.
        interval: seconds between lines.
    """

    def __init__(self, write: Callable[[str], object], interval: float = PLAIN_INTERVAL):
        self._write = write
        self._interval = interval
        self._last = 0.0
        self._tally = Tally()

    def note(self, line: str) -> None:
        self._write(line)

    def planned(self, plan: SuitePlan) -> None:
        for line in sentences(plan):
            self._write(line)

    def phase(self, name: str, jobs: Sequence[Job], missing: int) -> None:
        self._tally.phase(name, jobs)
        self._write(f"{name}: {len(jobs)} runs, {len(jobs) - missing} of them in the store")

    def finished(self, job: Job, outcome: Outcome | Failure, cached: bool) -> None:
        self._tally.finished(job, outcome, cached)
        now = time.monotonic()
        if not cached and (now - self._last >= self._interval or self._tally.complete):
            self._last = now
            self._write(f"{self._tally.name}: {self._tally.done_count} of {self._tally.total_count} runs")


class Tally:
    """What has happened in the phase under way, in steps, and how fast."""

    def __init__(self) -> None:
        self.name = "preparing"
        self.total: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.troubled: Counter[str] = Counter()
        self.running: dict[str, tuple[str, int]] = {}
        self.total_count = self.done_count = 0
        self._begin = time.monotonic()
        self._trained = 0

    @property
    def complete(self) -> bool:
        return self.done_count == self.total_count

    def phase(self, name: str, jobs: Sequence[Job]) -> None:
        self.name = name
        self.total, self.done = Counter(), Counter()
        self.running.clear()
        for job in jobs:
            self.total[job.label] += job.steps
        self.total_count, self.done_count = len(jobs), 0
        self._begin, self._trained = time.monotonic(), 0

    def progress(self, job: Job, step: int) -> None:
        self.running[job.key] = (job.label, step)

    def finished(self, job: Job, outcome: Outcome | Failure, cached: bool) -> None:
        self.running.pop(job.key, None)
        self.done[job.label] += job.steps
        self.done_count += 1
        self._trained += 0 if cached else job.steps
        self.troubled[job.label] += isinstance(outcome, Failure) or outcome.diverged

    def share(self, label: str) -> float:
        """Of the arm's steps of this phase, 0 to 1."""
        under_way = sum(step for name, step in self.running.values() if name == label)
        return min(1.0, (self.done[label] + under_way) / self.total[label]) if self.total[label] else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Of this phase at the pace so far; None before there is one."""
        taken = self._trained + sum(step for _, step in self.running.values())
        elapsed = time.monotonic() - self._begin
        left = self.total.total() - self.done.total() - sum(step for _, step in self.running.values())
        return elapsed * left / taken if taken and elapsed > 1 else None


def clock(seconds: float | None) -> str:
    """m:ss."""
    return "-:--" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def sentences(plan: SuitePlan) -> list[str]:
    """What is about to happen."""
    runs = len(plan.arms) * len(plan.seeds)
    return [
        plan.size,
        f"{len(plan.arms)} arms x {len(plan.seeds)} paired seeds = {runs} verdict runs of {plan.budget:.3g} "
        "operations, after the same learning-rate search for every arm",
        *left_out(plan),
    ]


def left_out(plan: SuitePlan) -> list[str]:
    """Which arms cannot be built, in one sentence for each rule that they break."""
    arms: dict[str, list[str]] = {}
    for why in plan.excluded.values():
        arm, _, fault = why.partition(": ")
        arms.setdefault(fault.partition(": got ")[0], []).append(arm.removeprefix("-a "))
    everything = len(plan.arms) + len(plan.excluded)
    return [
        f"left out {len(each)} of {everything}: {rule} ({', '.join(dict.fromkeys(each))}; reasons in the report)"
        for rule, each in arms.items()
    ]


def preflight(plan: SuitePlan) -> RenderableType:
    """The same on a terminal."""
    return Group(*(Text(line, style="dim") for line in sentences(plan)))


def progress_table(plan: SuitePlan, tally: Tally) -> Table:
    """One row per arm: share of the phase's steps, runs that went wrong."""
    table = Table(
        box=None, pad_edge=False, title=f"{tally.name}, {clock(tally.seconds_left)} left", title_justify="left"
    )
    table.add_column("arm", max_width=30, no_wrap=True)
    table.add_column("steps", no_wrap=True)
    table.add_column("", justify="right")
    table.add_column("", style="yellow")
    for arm in plan.arms:
        share = tally.share(arm.label)
        filled = round(share * BAR)
        bar = Text("━" * filled, style="green") + Text("━" * (BAR - filled), style="bright_black")
        trouble = f"{tally.troubled[arm.label]} diverged or failed" if tally.troubled[arm.label] else ""
        table.add_row(Text(arm.label), bar, f"{share:.0%}", trouble)
    return table


def verdict_table(verdicts: Verdicts) -> RenderableType:
    """The result in 80 columns, what spoils it, and where the report lies."""
    from nanochat.bench.report import number, time_text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm", max_width=18, overflow="ellipsis", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for heading in ("Δ bpb", "interval", "p", "seeds*", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in verdicts.arms:
        span = "" if arm.low is None or arm.high is None else f"{arm.low:+.3f} {arm.high:+.3f}"
        table.add_row(
            Text(arm.label),
            Text(
                arm.verdict + "".join(MARKS[flag] for flag in arm.flags),
                style=f"bold {COLOURS.get(arm.verdict, 'dim')}",
            ),
            number(arm.difference, "+.4f") if arm.difference is not None else number(arm.mean, ".4f"),
            span,
            number(arm.p_adjusted, ".1g"),
            _needed(arm),
            time_text(arm).replace(" (busy)", "?"),
        )
    return Group(table, *(Text(line, style="dim") for line in _below(verdicts)))


def _needed(arm: ArmVerdict) -> str:
    """Seeds in at most six characters."""
    if arm.difference is None:
        return ""
    return ">1e6" if arm.seeds_needed is None or arm.seeds_needed > 10**6 else str(arm.seeds_needed)


def _below(verdicts: Verdicts) -> list[str]:
    plan = verdicts.plan
    lines = [
        f"Δ bits per byte against {', '.join(plan.baselines)} (its row: bits per byte), {len(plan.seeds)} seeds; "
        f"interval and p for {len(plan.contenders)} arms at once",
        f"* to detect {plan.config.sesoi:g} with 80 % power; time per step against the baseline's",
    ]
    explained = {
        "negligible": f"real, but smaller than {plan.config.sesoi:g}",
        "fragile": "better at one learning rate only",
        "budget": "the other way round at a smaller budget: ranking not stable in budget",
        "time": "another verdict at equal seconds",
    }
    raised = {flag for arm in verdicts.arms for flag in arm.flags}
    lines += [f"{MARKS[flag]} {text}" for flag, text in explained.items() if flag in raised]
    if not all(arm.audit.time_valid for arm in verdicts.arms):
        lines.append("? other work shared the cores: not a measurement")
    lines += [f"{arm.label}: {arm.note}" for arm in verdicts.arms if arm.note]
    lines.append(
        f"{verdicts.trained} runs trained, {verdicts.served} from the store, {clock(verdicts.wall_seconds)} min; "
        f"report: {verdicts.directory / 'report.html'}"
    )
    return lines
