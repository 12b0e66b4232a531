"""Several demos at a time, each in a process of its own, so that none can take another down."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demos.result import DemoConfig

BOOTSTRAP = "import sys; sys.path[:] = {path!r}; from demos.worker import main; main()"
"""The worker finds the same packages as this process, however that one was started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What every demo of a pool is asked to write, and by which function it runs.

    Args:
        exports: folder for one JSON file per demo.
        plots: folder for the figures.
        suffix: ``png`` or ``svg``.
        play: dotted name of a function from :class:`DemoConfig` to ``Result``.
    """

    exports: Path | None = None
    plots: Path | None = None
    suffix: str = "png"
    play: str = "demos.worker.perform"

    def line(self, config: DemoConfig, cores: Sequence[int]) -> bytes:
        """What the worker reads."""
        folders = {name: str(path) if path else "" for name, path in (("exports", self.exports), ("plots", self.plots))}
        request = {"config": asdict(config), "cores": list(cores), "suffix": self.suffix, "play": self.play, **folders}
        return json.dumps(request).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one demo went.

    Args:
        name: demo.
        document: the result as ``mgr run --export-json`` writes it; ``None`` when the demo did not get to its end.
        reason: one line on what went wrong; empty when it ran.
        details: what the process wrote to its error stream.
        seconds: wall time, with the start of the process.
    """

    name: str
    document: dict[str, Any] | None
    reason: str = ""
    details: str = ""
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the demo ran and all its certificates hold."""
        return all(item["holds"] for item in self.certificates)

    @property
    def certificates(self) -> list[dict[str, Any]]:
        """Those of the result; of a demo that did not finish, one that says so and does not hold."""
        if self.document is not None:
            return self.document["certificates"]
        statement = f"the demo runs to its end: {self.reason}"
        return [{"id": f"{self.name}.end", "statement": statement, "value": 1.0, "tolerance": 0.0, "holds": False}]

    @property
    def verdict(self) -> str:
        """How many certificates hold, or that there are none."""
        if self.document is None:
            return "failed"
        return f"{sum(item['holds'] for item in self.certificates)} of {len(self.certificates)}"

    @property
    def closing(self) -> list[str]:
        """The two closing sentences, or what went wrong."""
        return self.document["closing"] if self.document is not None else [self.reason, ""]

    @property
    def gist(self) -> list[str]:
        """What was learned and what was lost in a few words; where a demo has none, its closing sentences."""
        short = self.document["gist"] if self.document is not None else ["", ""]
        return [few or long for few, long in zip(short, self.closing, strict=True)]


class Pool:
    """Processes that end with the block that uses them.

    Args:
        cores: logical CPUs, one for each core that may be used.
        jobs: demos at a time; each gets its share of the cores, or the run of all where there are more jobs than cores.
        request: what each of them is asked for.
    """

    def __init__(self, cores: Sequence[int], jobs: int, request: Request):
        self.request = request
        self._jobs = jobs
        self._shares: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
        for number in range(jobs):
            self._shares.put(cores[number::jobs] if jobs <= len(cores) else ())
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    def run(self, configs: Sequence[DemoConfig]) -> Iterator[Outcome]:
        """Outcomes in the order in which the demos finish. However the caller leaves, no process outlives it."""
        threads = ThreadPoolExecutor(self._jobs)
        try:
            for future in as_completed([threads.submit(self._one, config) for config in configs]):
                yield future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            self._end()
            threads.shutdown()

    def _one(self, config: DemoConfig) -> Outcome:
        share = self._shares.get()
        start = time.perf_counter()
        try:
            code, answer, errors = self._process(self.request.line(config, share))
        finally:
            self._shares.put(share)
        spent, details = time.perf_counter() - start, errors.decode(errors="replace").strip()
        if code == 0:
            return Outcome(config.name, json.loads(answer), details=details, seconds=spent)
        said = details.splitlines()[-1] if details else "it said nothing"
        how = f"killed by signal {-code}" if code < 0 else said
        return Outcome(config.name, None, how, details, spent)

    def _process(self, line: bytes) -> tuple[int, bytes, bytes]:
        """Exit code, standard output and error stream of one worker."""
        with self._lock:
            if self._over:
                return 1, b"", b"not started"
            process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP.format(path=sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others
            )
            self._running.add(process)
        answer, errors = process.communicate(line)
        with self._lock:
            self._running.discard(process)
        return process.returncode, answer, errors

    def _end(self) -> None:
        with self._lock:
            self._over = True
            for process in self._running:
                process.kill()
