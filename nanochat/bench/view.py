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

from nanochat.bench.observe import Observer
from nanochat.bench.progress import DONE, POINTS, TRAINING, WAITING, Tally, clock

if TYPE_CHECKING:
    from nanochat.bench.jobs import Failure, Job
    from nanochat.bench.store import Outcome
    from nanochat.bench.suite import SuitePlan
    from nanochat.bench.verdicts import ArmVerdict, Verdicts

COLOURS = {"WIN": "green", "LOSS": "red", "TIE": "blue", "INVALID": "yellow", "UNSTABLE": "yellow"}
MARKS = {"negligible": "~", "fragile": "!", "budget": "^", "time": "@"}
REFRESHES = 1
"""Per second. Drawing eleven rows takes 4 ms, on the cores that the runs are timed on."""

BAR, ARM_WIDTH, STATUS_WIDTH = 8, 26, 21
"""Columns of a live row beside 5 or more of seeds and the curve: 80 in all."""

FRAME, MIN_ROWS = 5, 3
"""Lines of the live view around its rows (two headings, the table's own, the summary, the cursor's), and the fewest."""

PLAIN_INTERVAL = 10.0
PLAIN_SHARE = 1 / 60
"""A log line comes when this share of the time so far has passed since the last one, if that is more."""


class LiveSuite(Observer):
    """Rows that renew themselves. Scores stay hidden until the verdict: nobody can stop at a lucky moment.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console):
        self.console = console
        self._live = Live(self, console=console, refresh_per_second=REFRESHES, transient=True)
        self._tally: Tally | None = None

    def note(self, line: str) -> None:
        self.console.print(Text(line, style="dim"))

    def planned(self, plan: SuitePlan) -> None:
        self._tally = Tally(plan)
        self.console.print(preflight(plan))
        self._live.start()

    def phase(self, name: str, jobs: Sequence[Job], missing: int) -> None:
        assert self._tally is not None
        self._tally.phase(name, jobs)

    def started(self, job: Job) -> None:
        assert self._tally is not None
        self._tally.started(job)

    def progress(self, job: Job, step: int, steps: int, loss: float | None = None) -> None:
        assert self._tally is not None
        self._tally.progress(job, step, steps, loss)

    def finished(self, job: Job, outcome: Outcome | Failure, cached: bool) -> None:
        assert self._tally is not None
        self._tally.finished(job, outcome, cached)

    def stop(self) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The rows as they are now."""
        if self._tally is not None:
            yield progress_table(self._tally, console.height)


class PlainSuite(Observer):
    """A line now and then, for logs and pipes: the longer a suite has run, the rarer.

    Args:
        write: takes one line.
        interval: seconds between lines at first.
        now: a clock, seconds.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        interval: float = PLAIN_INTERVAL,
        now: Callable[[], float] = time.monotonic,
    ):
        self._write = write
        self._interval = interval
        self._now = now
        self._begin = self._last = now()
        self._tally: Tally | None = None

    def note(self, line: str) -> None:
        self._write(line)

    def planned(self, plan: SuitePlan) -> None:
        self._tally = Tally(plan, self._now)
        for line in sentences(plan):
            self._write(line)

    def phase(self, name: str, jobs: Sequence[Job], missing: int) -> None:
        assert self._tally is not None
        self._tally.phase(name, jobs)
        self._write(f"{name}: {len(jobs)} runs, {len(jobs) - missing} of them in the store")

    def started(self, job: Job) -> None:
        assert self._tally is not None
        self._tally.started(job)

    def progress(self, job: Job, step: int, steps: int, loss: float | None = None) -> None:
        assert self._tally is not None
        self._tally.progress(job, step, steps, loss)
        self._tell(self._tally)

    def finished(self, job: Job, outcome: Outcome | Failure, cached: bool) -> None:
        assert self._tally is not None
        self._tally.finished(job, outcome, cached)
        if not cached:
            self._tell(self._tally)

    def _tell(self, tally: Tally) -> None:
        now = self._now()
        pause = max(self._interval, PLAIN_SHARE * (now - self._begin))
        if now - self._last >= pause or tally.runs_done == tally.runs:
            self._last = now
            self._write("; ".join(headings(tally)))


def headings(tally: Tally) -> list[str]:
    """How far the phase and the whole suite are, and how long each will take, each in under 80 columns."""
    phase, suite = tally.seconds_left
    used, budget = tally.operations
    share = f"{used / budget:.0%}" if budget else "100%"
    return [
        f"{tally.name}: {tally.runs_done} of {tally.runs} runs, {clock(phase)} left",
        f"suite: {share} of {budget:.3g} operations, {clock(suite)} left",
    ]


def progress_table(tally: Tally, height: int) -> RenderableType:
    """One row per arm, in 80 columns and at most ``height`` lines; where arms do not fit, those that train come first.

    Columns: the arm, its seeds, its share of the phase, the shape of one run's learning curve (each on a scale of its
    own, so without numbers: see :mod:`nanochat.bench.progress`), and what it does.
    """
    labels = tally.plan.labels
    space = max(MIN_ROWS, height - FRAME)
    shown = labels if len(labels) <= space else _urgent(tally, space - 1)
    table = Table(box=None, pad_edge=False)
    for heading, width in (("arm", ARM_WIDTH), ("seeds", None), ("phase", None), ("", None), ("", STATUS_WIDTH)):
        side = "right" if heading == "seeds" else "left"
        table.add_column(heading, justify=side, max_width=width, no_wrap=True, header_style="dim")
    for label in shown:
        filled = round(tally.share(label) * BAR)
        bar = Text("━" * filled, style="green") + Text("━" * (BAR - filled), style="bright_black")
        seeds = f"{tally.seeds[label]}/{len(tally.plan.seeds)}"
        curve = Text(f"{tally.shape(label):{POINTS}}", style="cyan")
        table.add_row(Text(label), seeds, bar, curve, _status(tally, label))
    lines = [Text(line, style="bold" if number == 0 else "") for number, line in enumerate(headings(tally))]
    hidden = Counter(tally.status(label) for label in labels if label not in shown)
    rest = ", ".join(f"{count} {status}" for status, count in sorted(hidden.items()))
    return Group(*lines, table, *([Text(f"and {hidden.total()} more arms: {rest}", style="dim")] if hidden else []))


def _urgent(tally: Tally, space: int) -> list[str]:
    """The arms to show where not all fit: those that train, then those that wait, in the plan's order."""
    order = (TRAINING, WAITING, DONE)
    first = sorted(tally.plan.labels, key=lambda label: order.index(tally.status(label)))[:space]
    return [label for label in tally.plan.labels if label in first]


def _status(tally: Tally, label: str) -> Text:
    """What an arm does, and how many of its runs diverged; ``lost`` where some of them failed otherwise."""
    status = tally.status(label)
    text = Text(status, style={TRAINING: "", WAITING: "dim", DONE: "green"}[status])
    diverged, failed = tally.diverged[label], tally.failed[label]
    if diverged or failed:
        text.append(f", {diverged + failed} {'lost' if failed else 'diverged'}", style="yellow")
    return text


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


def verdict_table(verdicts: Verdicts) -> RenderableType:
    """The result in 80 columns, what spoils it, and where the report lies."""
    from nanochat.bench.wording import number, time_text

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
    used = sorted({len(arm.bpb) for arm in verdicts.contenders})  # an early look may have settled some
    seeds = " or ".join(map(str, used)) + (f" of {len(plan.seeds)}" if used != [len(plan.seeds)] else "")
    count = len(plan.contenders)
    lines = [
        f"Δ bits per byte against {', '.join(plan.baselines)} (its row: bits per byte), {seeds} seeds; "
        f"interval and p for {f'{count} arms at once' if count > 1 else 'one arm'}",
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
    lines.append(verdicts.provenance["selftests"]["badge"])
    lines.append(
        f"{verdicts.trained} runs trained, {verdicts.served} from the store, {clock(verdicts.wall_seconds)} min; "
        f"report: {verdicts.directory / 'report.html'}"
    )
    return lines
