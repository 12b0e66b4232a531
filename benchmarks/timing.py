"""What the benchmarks share: options, interleaved rounds, paired ratios, the load of the machine, the artifact.

Contenders take turns, one step each per round, so that a machine that drifts slows them alike; a ratio is taken inside
a round, and the median over rounds is shown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat.record import environment, write_bytes, write_json

SCHEMA = "mgr.perf.v1"
QUIET = 0.1
"""Processors that others may keep busy before figures count as rough."""


@dataclass(frozen=True, slots=True)
class Lap:
    """One execution: seconds on the clock, and seconds that all threads of this process computed."""

    seconds: float
    processor: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of paired laps: median and quartiles by the clock, median by processor time."""

    median: float
    low: float
    high: float
    processor: float


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[Lap]]:
    """Laps of each contender, one in turn per round; the first ``warm_up`` rounds are not kept."""
    laps: dict[str, list[Lap]] = {name: [] for name in contenders}
    for turn in range(rounds + warm_up):
        for name, contender in contenders.items():
            start, computed = time.perf_counter(), time.process_time()
            contender()
            lap = Lap(time.perf_counter() - start, time.process_time() - computed)
            if turn >= warm_up:
                laps[name].append(lap)
    return laps


def seconds(laps: Sequence[Lap]) -> float:
    """Their median by the clock."""
    return statistics.median(lap.seconds for lap in laps)


def ratio(laps: Sequence[Lap], base: Sequence[Lap]) -> Ratio:
    """How much longer than the base laps of the same rounds."""
    clock = [own.seconds / other.seconds for own, other in zip(laps, base, strict=True)]
    computed = [own.processor / other.processor for own, other in zip(laps, base, strict=True)]
    low, _, high = statistics.quantiles(clock, n=4, method="inclusive") if len(clock) > 1 else clock * 3
    return Ratio(statistics.median(clock), low, high, statistics.median(computed))


class Load:
    """Processors that other processes kept busy since this object was made; needs Linux's ``/proc/stat``."""

    def __init__(self) -> None:
        self.start = (time.perf_counter(), self._all(), self._own())

    @staticmethod
    def _all() -> float | None:
        statistic = Path("/proc/stat")
        if not statistic.exists():
            return None
        user, nice, system, _idle, _wait, *rest = statistic.read_text().split("\n", 1)[0].split()[1:]
        return sum(map(int, (user, nice, system, *rest[:3]))) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own() -> float:
        return sum(os.times()[:4])

    def others(self) -> float | None:
        """Mean number of processors; None where the system does not say."""
        began, before, own = self.start
        now = self._all()
        if before is None or now is None:
            return None
        return max(0.0, (now - before - (self._own() - own)) / (time.perf_counter() - began))

    def sentence(self) -> str:
        """For people."""
        others = self.others()
        if others is None:
            return "load by other processes: unknown on this system"
        found = f"other processes kept {others:.2f} of {os.cpu_count()} processors busy"
        return f"{found}: THE MACHINE WAS BUSY, take the figures as rough" if others > QUIET else found


def parser(text: str, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=positive, default=rounds, help=f"interleaved rounds (default {rounds})")
    made.add_argument("--threads", type=positive, default=torch.get_num_threads())
    made.add_argument("--artifacts-dir", type=Path, default=Path("artifacts"), help="the figures go to perf/ there")
    made.add_argument("--json", type=Path, help="write the figures to this file too")
    return made


def positive(text: str) -> int:
    """A whole number from 1 on, as an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, need at least 1")
    return number


class Report:
    """Prints lines as they come; at the end they and the figures become ``artifacts/perf/<topic>/<time>/``.

    Args:
        topic: name of the benchmark.
        options: of :func:`parser`.
        about: what is measured, in words.
    """

    def __init__(self, topic: str, options: argparse.Namespace, about: str):
        torch.set_num_threads(options.threads)
        self.topic, self.options, self.about = topic, options, about
        self.environment = environment()
        self.lines: list[str] = []
        self.load = Load()
        versions, machine = self.environment["versions"], self.environment["processor"]
        self.say(f"{about}; torch {versions['torch']}, {machine}, {options.threads} thread(s), {options.rounds} rounds")

    def say(self, text: str = "") -> None:
        """One or more lines."""
        print(text, flush=True)
        self.lines.append(text)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """See :func:`table`."""
        for line in table(head, rows):
            self.say(line)

    def finish(self, figures: Mapping[str, Any]) -> Path:
        """Say how busy the machine was, then write the artifact; returns its folder."""
        self.say()
        self.say(self.load.sentence())
        summary = {
            "about": self.about,
            "command": sys.argv,
            "rounds": self.options.rounds,
            "threads": self.options.threads,
            "others": self.load.others(),
            **figures,
        }
        return store(self.topic, self.options, self.lines, summary, self.environment)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, readable as text and as Markdown; the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (head, rule, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"| {' | '.join([row[0].ljust(widths[0]), *cells])} |")
    return lines


def store(
    topic: str,
    options: argparse.Namespace,
    lines: Sequence[str],
    figures: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> Path:
    """Write ``artifacts/perf/<topic>/<time>/`` and what ``--json`` asks for; returns the folder."""
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}"
    folder = options.artifacts_dir / "perf" / topic / name
    folder.mkdir(parents=True)
    summary = {"schema": SCHEMA, "topic": topic, **figures}
    write_json(folder / "env.json", environment)
    write_bytes(folder / "run.md", "\n".join([f"# {topic} {name}", "", *lines, ""]).encode())
    write_json(folder / "summary.json", summary)
    if options.json:
        write_json(options.json, summary)
    print(f"written: {folder}")
    return folder


def plain(laps: Mapping[str, Sequence[Lap]]) -> dict[str, list[dict[str, float]]]:
    """For JSON."""
    return {name: [asdict(lap) for lap in found] for name, found in laps.items()}
