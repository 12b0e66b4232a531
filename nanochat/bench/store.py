"""Finished runs, kept under the hash of everything that decides their numbers.

``<store>/ab/abcd.../result.json`` is written last and by rename: where it exists the run is done, where it does not the
run never happened. Any number of suites and workers may share a store; a lease (:mod:`nanochat.bench.lease`) keeps them
from training the same run twice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nanochat.bench.lease import LEASE_SECONDS, Lease, Leases
from nanochat.config import ConfigError
from nanochat.record import write_json

SCHEMA = "mgr.job.v2"
RESULT = "result.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the engine keeps of a finished run. Everything is plain JSON.

    Args:
        bpb: held-out bits per byte; None when the run diverged.
        diverged: a loss or gradient was not finite; ``fault`` says which and when.
        steps, tokens: as executed.
        flops_used: the ledger's operations of the executed steps.
        counted_flops: operations counted while one step ran, times the steps.
        parameters: of the model that was trained.
        step_seconds: median seconds of a step.
        wall_seconds, cpu_seconds: of the training loop; their ratio tells whether the timing is valid.
        peak_bytes: largest resident size of the process (on a GPU its largest allocation).
        loss_curve: [step, loss in nats] pairs.
        document_nats, document_bytes: per held-out document.
        data_hash, tokenizer_hash, eval_hash: of what the run itself read.
        rescored, leak, weights, unchecked, replayed: what its weights say, see :class:`nanochat.bench.recheck.Recheck`.
    """

    bpb: float | None
    diverged: bool
    fault: str
    steps: int
    tokens: int
    flops_used: float
    counted_flops: float
    parameters: int
    step_seconds: float
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    loss_curve: list[list[float]]
    document_nats: list[float]
    document_bytes: list[int]
    data_hash: str
    tokenizer_hash: str
    eval_hash: str
    rescored: float | None
    leak: float | None
    weights: int | None
    unchecked: str
    replayed: float | None = None  # runs that were finished before it was asked for have none


def key_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of the facts that decide a run's numbers."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Store:
    """A folder of finished runs.

    Args:
        root: made if it is not there.
        host: see :class:`nanochat.bench.lease.Leases`.
        lease_seconds: after which a worker that is silent counts as lost.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(self, root: Path, host: str | None = None, lease_seconds: float = LEASE_SECONDS):
        self.root = root
        self.leases = Leases(root / "leases", host, lease_seconds)
        try:
            (root / "leases").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise ConfigError(
                [f"--store: got {root}, need a folder that can be written to ({error.strerror})"]
            ) from error

    def directory(self, key: str) -> Path:
        return self.root / key[:2] / key

    def load(self, key: str) -> Outcome | None:
        """The finished run, or None; a file that is not one of ours counts as not finished."""
        try:
            content = json.loads((self.directory(key) / RESULT).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        needed = {item.name for item in fields(Outcome) if item.default is MISSING}
        if not isinstance(content, dict) or content.get("schema") != SCHEMA or not needed <= content.keys():
            return None
        return Outcome(**{item.name: content[item.name] for item in fields(Outcome) if item.name in content})

    def clear(self, key: str) -> Path:
        """An empty folder for the run; what an interrupted attempt left is removed. Hold the lease."""
        directory = self.directory(key)
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        return directory

    def commit(self, key: str, outcome: Outcome, facts: Mapping[str, Any]) -> None:
        """Make the run count as finished. Hold the lease."""
        directory = self.directory(key)
        write_json(directory / "facts.json", dict(facts))
        write_json(directory / RESULT, {"schema": SCHEMA, "key": key, **asdict(outcome)})

    @contextmanager
    def lease(self, key: str) -> Iterator[Lease | None]:
        """Hold the right to train this run; yields None at once when another process has it."""
        lease = self.leases.take(key)
        if lease is None:
            yield None
            return
        with lease:
            yield lease
