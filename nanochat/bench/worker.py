"""The worker process, ``main([STORE, CPU])``: trains what standard input asks for, one JSON line per run.

A worker imports torch once and then runs any number of jobs, pinned to one core. It answers with JSON lines on
standard output; whatever else is printed goes to standard error. When its driver dies it ends by itself.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from nanochat.bench.jobs import execute, revive
from nanochat.bench.store import Store
from nanochat.config import ConfigError, EnvironmentFault
from nanochat.console import View

REPORT_INTERVAL = 0.5
WATCH_INTERVAL = 1.0


class PipeView(View):
    """Sends progress to the driver, a few times a second.

    Args:
        stream: the driver's end.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream
        self._steps = 0
        self._last = 0.0

    def start(self, steps: int, done: int, tokens_per_step: int) -> None:
        self._steps = steps

    def step(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._last >= REPORT_INTERVAL:
            self._last = now
            say(self.stream, event="step", step=step + 1, steps=self._steps)


def say(stream: TextIO, **message: Any) -> None:
    """One JSON line."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def serve(store: Store, requests: TextIO, answers: TextIO) -> None:
    """Answer every request with ``done``, ``busy`` (another process trains it) or ``failed``."""
    from nanochat.train import run

    view = PipeView(answers)
    say(answers, event="ready")
    for line in requests:
        job = json.loads(line)
        try:
            finished = execute(job["key"], revive(job["config"]), job["facts"], store, run, view)
            say(answers, event="done" if finished else "busy")
        except ConfigError as error:
            say(answers, event="failed", kind="config", reason=str(error))
        except EnvironmentFault as error:
            say(answers, event="failed", kind="environment", reason=str(error))
        except Exception as error:  # noqa: BLE001 - the boundary of the process: the driver is told, the log has it all
            traceback.print_exc()
            say(answers, event="failed", kind="crash", reason=f"{type(error).__name__}: {error}".splitlines()[0])


def end_with(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a step."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    """See the head of this file."""
    end_with(os.getppid())
    store, cpu = arguments
    if cpu != "-" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(cpu)})
    # Only answers may reach the driver's pipe; native code that prints would break a line.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Store(Path(store)), sys.stdin, answers)
