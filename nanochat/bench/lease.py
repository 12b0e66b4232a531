"""Who is training which run: one small file per run under way, renewed while its owner lives.

``<store>/leases/<key>.<number>`` is made with ``O_EXCL``, which shared folders know too. Its owner writes into it how
far the run is, every few seconds at the least. A lease is free when it has not changed for :data:`LEASE_SECONDS` by
the clock of the process that looks (clocks of hosts need not agree), or at once when its owner was a process of this
machine and is gone. Whoever takes a free lease makes the next number, which only one can: nothing that lives is ever
overwritten, and the number tells how often the run's worker was lost.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

LEASE_SECONDS = 30.0
BEAT_SHARE = 0.1
"""A lease is renewed ten times before it would be free."""

TELL_SECONDS = 0.5
"""Progress is written at most this often."""

SIZE = 512
"""Bytes of a lease: all writes cover it whole, so that no reader sees the end of an earlier one."""


@cache
def this_host() -> str:
    """A name for the set of processes that this one can see: machine, boot and, in containers, process namespace."""
    parts = [platform.node(), platform.machine()]
    for path in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        if path.exists():
            parts.append(os.readlink(path) if path.is_symlink() else path.read_text().strip())
    return f"{platform.node()[:64]}#{sha256('|'.join(parts).encode()).hexdigest()[:8]}"


def birth(process: int) -> str:
    """When a process of this machine began; empty when there is no such process (one that waits to be buried is none).

    Together with its number this names a process for good: numbers are used again.
    """
    if not Path("/proc/self/stat").exists():
        import psutil

        try:
            found = psutil.Process(process)
            return "" if found.status() == psutil.STATUS_ZOMBIE else str(found.create_time())
        except psutil.NoSuchProcess:
            return ""
    try:
        values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if values[0] in "ZX" else values[19]


def identity(host: str) -> dict[str, Any]:
    """This process, for others to find out whether it is still there."""
    return {"host": host, "process": os.getpid(), "began": birth(os.getpid())}


def gone(owner: Any, host: str) -> bool:
    """Whether the process with this :func:`identity` was one of ``host`` and is no more. Unknown counts as there."""
    if not isinstance(owner, dict) or owner.get("host") != host:
        return False
    return birth(int(owner["process"])) != owner["began"]


class Lost(RuntimeError):
    """The lease in hand was taken by another process, which took this one for dead."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a lease tells.

    Args:
        number: 1, and one more for every owner that was lost.
        owner: see :func:`identity`, with ``step``, ``steps`` and ``loss``; empty while the lease is being made.
    """

    number: int
    owner: dict[str, Any]


class Lease:
    """A lease in hand; renewed by a thread until it is released. Use as a context manager.

    Args:
        path: of the file, just made.
        file: its descriptor.
        host: this one's name.
        seconds: after which others take it for free.
    """

    def __init__(self, path: Path, file: int, host: str, seconds: float):
        self.path = path
        self.key, _, number = path.name.rpartition(".")
        self.number = int(number)
        self.lost = False
        self._file = file
        self._content = {
            **identity(host),
            "token": secrets.token_hex(8),
            "step": 0,
            "steps": 0,
            "loss": None,
            "beat": 0,
        }
        self._moved = time.monotonic()
        self._beat = BEAT_SHARE * seconds
        self._told = threading.Event()
        self._released = threading.Event()
        self._lock = threading.RLock()  # a signal may release it anywhere
        self._write()
        threading.Thread(target=self._renew, daemon=True, name=f"lease {self.key[:8]}").start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write(self) -> None:
        """Into the file that this process made: should it have been taken away, nobody else's is touched."""
        self._content["beat"] += 1
        text = json.dumps(self._content).encode().ljust(SIZE)
        assert len(text) == SIZE
        os.pwrite(self._file, text, 0)

    def _renew(self) -> None:
        last = time.monotonic()
        while not self._released.wait(min(TELL_SECONDS, self._beat)):
            due = time.monotonic() - last >= self._beat
            if not due and not self._told.is_set():
                continue
            with self._lock:
                if self._released.is_set():
                    return
                self._told.clear()
                self._write()
                if due:
                    os.fsync(self._file)  # other hosts see what has reached the server
                    last = time.monotonic()
                    self.lost = self.lost or not self._ours()

    def _ours(self) -> bool:
        return _read(self.path).get("token") == self._content["token"] and _numbers(self.path.parent, self.key)[
            -1:
        ] == [self.number]

    def tell(self, step: int, steps: int, loss: float | None) -> None:
        """How far the run is.

        Raises:
            Lost: another process has taken the lease.
        """
        if self.lost:
            raise Lost(self.key)
        self._content |= {"step": step, "steps": steps, "loss": loss}
        self._moved = time.monotonic()
        self._told.set()

    @property
    def still(self) -> float:
        """Seconds since the run last told of a step; renewing the lease is no step."""
        return time.monotonic() - self._moved

    def check(self) -> None:
        """Make sure that the run is still this process's.

        Raises:
            Lost: it is not.
        """
        if self.lost or not self._ours():
            self.lost = True
            raise Lost(self.key)

    @property
    def held(self) -> bool:
        """Neither given back nor lost."""
        return not (self._released.is_set() or self.lost)

    def release(self) -> None:
        """Give it back; a lease that was lost is another's and stays."""
        with self._lock:
            if self._released.is_set():
                return
            self._released.set()
            if self._ours():
                self.path.unlink(missing_ok=True)
            os.close(self._file)


class Leases:
    """The leases of a store, as one process sees them.

    Args:
        folder: where they are.
        host: name of this one; another only to play several hosts on one machine.
        seconds: without change, after which a lease is free.
    """

    def __init__(self, folder: Path, host: str | None = None, seconds: float = LEASE_SECONDS):
        self.folder = folder
        self.host = host or this_host()
        self.seconds = seconds
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def take(self, key: str) -> Lease | None:
        """The lease of a run, or None while another process has it."""
        found = _numbers(self.folder, key)
        if found and not self._free(self.folder / f"{key}.{found[-1]}"):
            return None
        path = self.folder / f"{key}.{found[-1] + 1 if found else 1}"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return None
        lease = Lease(path, file, self.host, self.seconds)
        if not set(_numbers(self.folder, key)) - {lease.number} <= set(found):
            lease.release()  # what was seen was given back meanwhile, and another began anew
            return None
        for number in found:
            (self.folder / f"{key}.{number}").unlink(missing_ok=True)
        return lease

    def _free(self, path: Path) -> bool:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return False
        if gone(_parsed(content), self.host):
            return True
        now = time.monotonic()
        before, since = self._seen.get(path, (b"", now))
        if before != content:
            self._seen[path] = (content, now)
            return False
        return now - since > self.seconds

    def held(self) -> dict[str, Sight]:
        """What the leases tell, by key; the latest where there are several."""
        found: dict[str, int] = {}
        for name in os.listdir(self.folder):
            key, _, number = name.rpartition(".")
            if number.isdigit():
                found[key] = max(found.get(key, 0), int(number))
        return {key: Sight(number, _read(self.folder / f"{key}.{number}")) for key, number in found.items()}


def _numbers(folder: Path, key: str) -> list[int]:
    ends = (name.removeprefix(f"{key}.") for name in os.listdir(folder) if name.startswith(f"{key}."))
    return sorted(int(end) for end in ends if end.isdigit())


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    """The owner; empty where the file has only just been made or is being written."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
