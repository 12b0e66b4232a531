"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere, nothing for programs."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_INTERVAL = 5.0
"""Seconds between plain lines."""


class View:
    """Hears of a run's progress; this one shows nothing."""

    def note(self, line: str) -> None:
        """A sentence for the user."""

    def start(self, steps: int, done: int, tokens_per_step: int) -> None:
        """The loop begins at step ``done`` of ``steps``."""

    def step(self, step: int, loss: float) -> None:
        """Step number ``step`` (from 0) was taken; its training loss in nats."""

    def evaluated(self, step: int, bits_per_byte: float) -> None:
        """The held-out text was scored after ``step`` steps."""

    def stop(self) -> None:
        """The loop ended, however it did."""


class Pace:
    """Rolling tokens per second and the time left, over the last steps seen."""

    def __init__(self, steps: int, done: int, tokens_per_step: int, window: int = 50):
        self.steps = steps
        self.tokens_per_step = tokens_per_step
        self._marks: deque[tuple[int, float]] = deque([(done, time.perf_counter())], maxlen=window)

    def mark(self, done: int) -> None:
        self._marks.append((done, time.perf_counter()))

    @property
    def steps_per_second(self) -> float:
        (first, begin), (last, end) = self._marks[0], self._marks[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.steps_per_second * self.tokens_per_step

    @property
    def left(self) -> str:
        """Time left as h:mm:ss."""
        rate = self.steps_per_second
        if not rate:
            return "-:--"
        seconds = round((self.steps - self._marks[-1][0]) / rate)
        hours, rest = divmod(seconds, 3600)
        clock = f"{rest // 60:02d}:{rest % 60:02d}"
        return f"{hours}:{clock}" if hours else clock


class PlainView(View):
    """One line every few seconds.

    Args:
        stream: where the lines go.
        interval: seconds between them.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = PLAIN_INTERVAL):
        self.stream = sys.stdout if stream is None else stream
        self.interval = interval
        self._last = 0.0
        self._bits: float | None = None
        self._pace: Pace | None = None

    def note(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()

    def start(self, steps: int, done: int, tokens_per_step: int) -> None:
        self._pace = Pace(steps, done, tokens_per_step)
        self._last = time.perf_counter()

    def step(self, step: int, loss: float) -> None:
        assert self._pace is not None
        self._pace.mark(step + 1)
        now = time.perf_counter()
        if now - self._last >= self.interval or step + 1 == self._pace.steps:
            self._last = now
            self.note(progress_line(self._pace, step + 1, loss, self._bits))

    def evaluated(self, step: int, bits_per_byte: float) -> None:
        self._bits = bits_per_byte
        self.note(f"step {step}: held-out {bits_per_byte:.4f} bits per byte")


def progress_line(pace: Pace, done: int, loss: float, bits: float | None) -> str:
    """Step, loss, held-out bits per byte, speed and time left, in under 80 columns."""
    held_out = "      " if bits is None else f"{bits:.4f}"
    return (
        f"step {done}/{pace.steps}  loss {loss:.4f}  bits/byte {held_out}  "
        f"{pace.tokens_per_second:,.0f} tokens/s  {pace.left} left"
    )


class LiveView(View):
    """A bar that renews itself on a terminal, through rich."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._bits: float | None = None
        self._pace: Pace | None = None

    def note(self, line: str) -> None:
        if self._progress is None:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        else:
            self._progress.console.print(line, markup=False, highlight=False)

    def start(self, steps: int, done: int, tokens_per_step: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._pace = Pace(steps, done, tokens_per_step)
        self._progress = Progress(BarColumn(bar_width=12), TextColumn("{task.description}", markup=False))
        self._task = self._progress.add_task("starting", total=steps, completed=done)
        self._progress.start()

    def step(self, step: int, loss: float) -> None:
        assert self._progress is not None and self._pace is not None
        self._pace.mark(step + 1)
        line = progress_line(self._pace, step + 1, loss, self._bits)
        self._progress.update(self._task, completed=step + 1, description=line)

    def evaluated(self, step: int, bits_per_byte: float) -> None:
        self._bits = bits_per_byte

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def view_for(json_only: bool, writes: bool) -> View:
    """The view of ``python -m nanochat.train``: live on a terminal, plain lines on a pipe; rank 0 only.

    With ``--json`` standard output belongs to the summary, and progress goes to standard error.
    """
    if not writes:
        return View()
    if json_only:
        return PlainView(sys.stderr)
    return LiveView() if sys.stdout.isatty() else PlainView()
