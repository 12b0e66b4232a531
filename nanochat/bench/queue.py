"""Runs that are wanted, as files in the store: the one channel between a suite and its workers, wherever they are.

``<store>/queue/<turn>-<key>.json`` asks for a run. A worker takes the run's lease, tells there how far it is, and
leaves a result in the store or a reason in ``<store>/failures/<key>.json``; then the request goes. Whoever dies, what
is asked for stays asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.bench.jobs import Job
from nanochat.bench.lease import gone, identity
from nanochat.bench.store import Store
from nanochat.config import plain
from nanochat.record import strict_json

MAX_ATTEMPTS = 5
"""A run whose worker is lost this often is given up: it may be what takes them down."""

POLL_SECONDS = 0.2
"""How often workers look for requests."""


@dataclass(frozen=True, slots=True)
class Request:
    """A run that is wanted.

    Args:
        path: its file; requests sort by name: seed by seed, so that the arms of a pair are trained at about the same
            time and a machine that drifts in speed slows both; the longest run of a seed first.
    """

    path: Path

    @property
    def key(self) -> str:
        return self.path.stem.rpartition("-")[2]

    def content(self) -> dict[str, Any] | None:
        """Label, stage, configuration, facts and who asks; None when it is wanted no more."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def withdraw(self) -> None:
        """Want it no more."""
        self.path.unlink(missing_ok=True)


class Queue:
    """All requests of a store.

    Args:
        store: where results are.
    """

    def __init__(self, store: Store):
        self.store = store
        self.folder = store.root / "queue"
        self.failures = store.root / "failures"
        for folder in (self.folder, self.failures):
            folder.mkdir(exist_ok=True)

    def request(self, job: Job) -> Request:
        """The request of a run, whether it has been made or not."""
        return Request(self.folder / f"{job.seed:010d}-{10**9 - job.steps:010d}-{job.key}.json")

    def ask(self, job: Job) -> Request:
        """Want a run. What an earlier request came to is forgotten: asking again is trying again."""
        request = self.request(job)
        (self.failures / f"{job.key}.json").unlink(missing_ok=True)
        content = {"label": job.label, "stage": job.stage, "config": plain(job.run), "facts": dict(job.facts)}
        _put(request.path, {**content, "asked_by": identity(self.store.leases.host)})
        return request

    def open(self) -> Iterator[Request]:
        """All requests, in order."""
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(".json"):
                yield Request(self.folder / name)

    def orphaned(self, content: dict[str, Any]) -> bool:
        """Whether nobody waits for a request any more, as far as this host can tell."""
        return gone(content["asked_by"], self.store.leases.host)

    def fail(self, key: str, kind: str, reason: str) -> None:
        """Tell why a run cannot be finished: ``config``, ``environment``, ``crash`` or ``lost``."""
        owner = identity(self.store.leases.host)
        _put(self.failures / f"{key}.json", {"kind": kind, "reason": reason, "owner": owner})

    def failure(self, key: str) -> dict[str, Any] | None:
        """What :meth:`fail` was told since the run was asked for last."""
        try:
            return json.loads((self.failures / f"{key}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None


def _put(path: Path, value: Any) -> None:
    """Complete or not at all, but not at once on the disk: after a power cut nobody waits for it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(strict_json(value, None), encoding="utf-8")
    os.replace(temporary, path)
