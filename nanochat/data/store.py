"""The per-user cache: folders named by the hash of what they hold, written once, by one process, whole or not at all.

A folder is built beside its final place under a lock and renamed into it. ``seal.json``, written last, holds a
fingerprint of every file; a folder whose files do not match it is thrown away and built again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.config import EnvironmentFault

BLOCK = 1 << 20
BLOCKS = 64
_SEAL = "seal.json"

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
"""What a file system answers when it is full, read-only or not ours."""


def cache_root(cache_dir: str | None) -> Path:
    """``cache_dir`` if given, else ``model-guided-research`` in the user's cache folder (XDG base directories)."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return home / "model-guided-research"


@contextmanager
def storage(root: Path) -> Iterator[None]:
    """Turn what the file system refuses (full, read-only, no permission) into one line for the user."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise EnvironmentFault(
            f"data cache {root}: {error.strerror}, need a writable folder with room (--cache-dir)"
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the system releases it when a process dies."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def obtain(folder: Path, build: Callable[[Path], None], report: Callable[[str], None]) -> Path:
    """The sealed ``folder``; built by ``build(temporary)`` if it is missing or damaged."""
    if is_intact(folder):
        return folder
    with locked(folder.parent / f"{folder.name}.lock"):
        if is_intact(folder):  # another process was faster
            return folder
        if folder.exists():
            report(f"cache {folder} is damaged, building it again")
            shutil.rmtree(folder)
        publish(folder, build)
    return folder


def publish(folder: Path, build: Callable[[Path], None]) -> None:
    """Build in a temporary folder, seal it, rename it to ``folder``. The caller holds a lock on ``folder``."""
    temporary = folder.with_name(f"building-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir(parents=True)
    try:
        build(temporary)
        seal(temporary)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def seal(folder: Path) -> None:
    """Record the fingerprint of every file, then flush all of them to the disk."""
    prints = {path.name: fingerprint(path) for path in sorted(folder.iterdir())}
    write_json(folder / _SEAL, prints)
    for name in prints:
        with open(folder / name, "rb") as stream:
            os.fsync(stream.fileno())


def is_intact(folder: Path) -> bool:
    """Whether every file of a sealed folder is there and has its fingerprint."""
    try:
        prints = json.loads((folder / _SEAL).read_bytes())
        return (
            isinstance(prints, dict)
            and bool(prints)
            and all(fingerprint(folder / name) == prints[name] for name in prints)
        )
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size and bytes; of 64 blocks of 1 MiB, evenly spaced, when it is longer than these."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    count = -(-size // BLOCK)
    chosen = range(count) if count <= BLOCKS else [round(k * (count - 1) / (BLOCKS - 1)) for k in range(BLOCKS)]
    with open(path, "rb") as stream:
        for block in chosen:
            stream.seek(block * BLOCK)
            digest.update(stream.read(BLOCK))
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON by rename, so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(value, stream, allow_nan=False, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The value of a JSON file, or None where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
