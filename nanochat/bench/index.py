"""A table of the runs in a store, to ask questions of. The folders are the truth: the index can be thrown away.

``<store>/index.sqlite`` has one row per finished run. It is brought up to date before every question: a run that has
appeared is read, one that has gone is dropped.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.bench.clusters.slot import forgotten
from nanochat.bench.lease import gone
from nanochat.bench.queue import Queue
from nanochat.bench.store import RESULT, Outcome, Store
from nanochat.config import ConfigError
from nanochat.registry import unknown

FILE = "index.sqlite"

COLUMNS: Mapping[str, str] = {
    "key": "TEXT PRIMARY KEY",
    "attention": "TEXT",
    "optimizer": "TEXT",
    "scheduler": "TEXT",
    "n_layer": "INTEGER",
    "n_embd": "INTEGER",
    "parameters": "INTEGER",
    "learning_rate": "REAL",
    "seed": "INTEGER",
    "steps": "INTEGER",
    "tokens": "INTEGER",
    "operations": "REAL",
    "bpb": "REAL",
    "diverged": "INTEGER",
    "step_seconds": "REAL",
    "wall_seconds": "REAL",
    "cpu_seconds": "REAL",
    "peak_bytes": "INTEGER",
    "replica": "TEXT",
    "finished": "REAL",
}
"""What is known of a run; ``finished`` in seconds since 1970, ``operations`` by the ledger."""

ABANDONED_SECONDS = 60.0
"""An attempt without a result is left alone this long after its last write, lease or not."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What :meth:`Index.collect` found: folders to remove and the bytes in them; small files of who is gone."""

    attempts: tuple[Path, ...]
    unused: tuple[Path, ...]
    leftovers: tuple[Path, ...]
    bytes: int


class Index:
    """The runs of one store.

    Args:
        store: the store.
    """

    def __init__(self, store: Store):
        self.store = store
        self.path = store.root / FILE

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The table, made if it is not there; a file that is no database, or has other columns, is made anew."""
        try:
            connection = self._connect()
        except sqlite3.DatabaseError:
            self.drop()
            connection = self._connect()
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"CREATE TABLE IF NOT EXISTS runs ({columns})")
            known = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
            if known != list(COLUMNS):
                raise sqlite3.DatabaseError("columns of another version")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def drop(self) -> None:
        """Throw the index away; the next question makes it anew."""
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(FILE + suffix).unlink(missing_ok=True)

    def refresh(self) -> int:
        """Bring the index up to date and give the number of runs."""
        present = {path.parent.name: path for path in self.store.root.glob(f"??/*/{RESULT}")}
        with self._open() as connection:
            known = {key for (key,) in connection.execute("SELECT key FROM runs")}
            gone = [(key,) for key in known - present.keys()]
            connection.executemany("DELETE FROM runs WHERE key = ?", gone)
            rows = (self._row(key, present[key]) for key in sorted(present.keys() - known))
            marks = ", ".join("?" for _ in COLUMNS)
            found = [tuple(row[name] for name in COLUMNS) for row in rows if row is not None]
            connection.executemany(f"INSERT OR REPLACE INTO runs VALUES ({marks})", found)
            return connection.execute("SELECT count(*) FROM runs").fetchone()[0]

    def _row(self, key: str, path: Path) -> dict[str, Any] | None:
        outcome = self.store.load(key)
        facts = self.facts(key)
        if outcome is None or facts is None:
            return None
        model, optim, train = facts["model"], facts["optim"], facts["train"]
        return {
            "key": key,
            "attention": model["attention_pattern"] or model["attention_type"],
            "optimizer": model["optimizer_type"],
            "scheduler": optim["scheduler_type"],
            "n_layer": model["n_layer"],
            "n_embd": model["n_embd"],
            "parameters": outcome.parameters,
            "learning_rate": optim["learning_rate"],
            "seed": train["seed"],
            "steps": outcome.steps,
            "tokens": outcome.tokens,
            "operations": outcome.flops_used,
            "bpb": outcome.bpb,
            "diverged": int(outcome.diverged),
            "step_seconds": outcome.step_seconds,
            "wall_seconds": outcome.wall_seconds,
            "cpu_seconds": outcome.cpu_seconds,
            "peak_bytes": outcome.peak_bytes,
            "replica": facts["replica"],
            "finished": path.stat().st_mtime,
        }

    def facts(self, key: str) -> dict[str, Any] | None:
        """What the run's key is the hash of; None where the file is missing or is not JSON."""
        try:
            return json.loads((self.store.directory(key) / "facts.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None

    def rows(self, where: Iterable[str] = (), sort: str = "finished", limit: int | None = None) -> list[dict[str, Any]]:
        """Runs that meet every ``column=value``, newest or largest first.

        Args:
            where: conditions, such as ``attention=gauge``; several values of one column are alternatives.
            sort: a column.
            limit: at most so many.

        Raises:
            ConfigError: a condition without ``=`` or with an unknown column.
        """
        wanted = conditions(where)
        if sort not in COLUMNS:
            raise ConfigError([f"--sort: {unknown('column', sort, list(COLUMNS))}"])
        self.refresh()
        clauses = [f"{name} IN ({', '.join('?' for _ in values)})" for name, values in wanted.items()]
        text = "SELECT * FROM runs" + (" WHERE " + " AND ".join(clauses) if clauses else "")
        text += f" ORDER BY {sort} DESC, key LIMIT {-1 if limit is None else int(limit)}"
        with self._open() as connection:
            found = connection.execute(text, [value for values in wanted.values() for value in values])
            return [dict(zip(COLUMNS, row, strict=True)) for row in found]

    def find(self, prefix: str) -> tuple[str, Outcome, dict[str, Any]]:
        """The one run whose key begins so: key, result, facts.

        Raises:
            ConfigError: none, or several.
        """
        self.refresh()
        with self._open() as connection:
            query = "SELECT key FROM runs WHERE substr(key, 1, ?) = ? ORDER BY key"
            keys = [key for (key,) in connection.execute(query, (len(prefix), prefix))]
        if len(keys) != 1:
            got = "no run" if not keys else f"{len(keys)} runs"
            raise ConfigError(
                [f"{prefix}: got {got} of {self.store.root}, need the beginning of one key (mgr runs list)"]
            )
        outcome, facts = self.store.load(keys[0]), self.facts(keys[0])
        assert outcome is not None and facts is not None
        return keys[0], outcome, facts

    def collect(self, reports: Path, *, unused: bool, remove: bool) -> Garbage:
        """Find, and if asked remove, what is of no use.

        Args:
            reports: folder of suites, whose ``summary.json`` name the runs that are used.
            unused: finished runs that no report rests on count too.
            remove: really remove; otherwise only say.
        """
        attempts = tuple(path for path in self.store.root.glob("??/*") if path.is_dir() and self._abandoned(path))
        used = used_keys(reports)
        idle = [path.parent for path in self.store.root.glob(f"??/*/{RESULT}") if path.parent.name not in used]
        spare = tuple(sorted(idle)) if unused else ()
        size = sum(file.stat().st_size for path in (*attempts, *spare) for file in path.rglob("*") if file.is_file())
        for path in (*attempts, *spare) if remove else ():
            with self.store.lease(path.name) as held:
                if held:
                    shutil.rmtree(path)
        leftovers = tuple(self._leftovers())
        for path in leftovers if remove else ():
            path.unlink(missing_ok=True)
        if remove:
            self.refresh()
        return Garbage(attempts, spare, leftovers, size)

    def _leftovers(self) -> Iterator[Path]:
        """What suites and workers that were processes of this machine and are gone left behind; what failed."""
        queue, host = Queue(self.store), self.store.leases.host
        for request in queue.open():
            content = request.content()
            if content is not None and queue.orphaned(content):
                yield request.path
        yield from queue.failures.glob("*.json")
        for key, sight in self.store.leases.held().items():
            if gone(sight.owner, host):
                yield self.store.leases.folder / f"{key}.{sight.number}"
        yield from forgotten(self.store.root)

    def _abandoned(self, directory: Path) -> bool:
        if (directory / RESULT).exists():
            return False
        with self.store.lease(directory.name) as held:
            latest = max((path.stat().st_mtime for path in (directory, *directory.rglob("*"))), default=0.0)
            return held is not None and time.time() - latest > ABANDONED_SECONDS


def used_keys(reports: Path) -> set[str]:
    """Keys of all runs that finished suites rest on."""
    used: set[str] = set()
    for path in reports.glob("*/summary.json"):
        try:
            arms = json.loads(path.read_text(encoding="utf-8"))["arms"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ConfigError([f"{path}: got no summary of a suite, need one to know which runs are used"]) from error
        used |= {run["key"] for arm in arms for run in arm["runs"]}
    return used


def conditions(where: Iterable[str]) -> dict[str, list[str]]:
    """``column=value`` as values by column."""
    found: dict[str, list[str]] = {}
    faults = []
    for text in where:
        name, equals, value = text.partition("=")
        if not equals or name not in COLUMNS:
            need = unknown("column", name, list(COLUMNS)) if equals else f"got {text!r}, need column=value"
            faults.append(f"--where: {need}")
        found.setdefault(name, []).append(value)
    if faults:
        raise ConfigError(faults)
    return found
