"""Checkpoints that are complete or absent, and say so when something else lies in their place.

A checkpoint is ``step-XXXXXXXX.pt``: tensors and plain values only, read with ``weights_only=True``. ``latest.json``
names the good ones, newest first, with the SHA-256 of each; it is replaced by rename after the file it names is on
disk, so a crash or a full disk at any moment leaves the previous checkpoint valid.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanochat.config import ConfigError
from nanochat.record import write_bytes, write_json

SCHEMA = "mgr.checkpoint.v1"
LATEST = "latest.json"
KEEP = 2
"""Checkpoints that stay: the newest, and one to fall back on."""


def save(directory: Path, state: dict[str, Any], step: int, config_hash: str) -> Path:
    """Write a checkpoint and commit it.

    Args:
        directory: the run's folder.
        state: nested dicts and lists of tensors and plain values.
        step: optimizer steps taken.
        config_hash: of the run that it belongs to.

    Raises:
        EnvironmentFault: the disk refused; the checkpoints before this one are intact.
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "step": step, "config_hash": config_hash, "state": state}, buffer)
    content = buffer.getvalue()
    path = directory / f"step-{step:08d}.pt"
    write_bytes(path, content)
    entry = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "step": step, "config_hash": config_hash}
    older = [item for item in _entries(directory) if item["step"] < step] if (directory / LATEST).exists() else []
    kept = [entry, *older][:KEEP]
    write_json(directory / LATEST, {"schema": SCHEMA, "checkpoints": kept})
    for stale in directory.glob("step-*.pt"):
        if stale.name not in {item["file"] for item in kept}:
            stale.unlink()
    return path


def load(directory: Path, config_hash: str, report: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that is whole: (steps taken, state), or None where none was saved yet.

    Args:
        directory: the run's folder.
        config_hash: of the run that wants to continue.
        report: hears, in one line each, of checkpoints that had to be passed over.

    Raises:
        ConfigError: all checkpoints are damaged, or they belong to another run.
    """
    if not (directory / LATEST).exists():
        return None
    faults = []
    for entry in _entries(directory):
        try:
            state = _read(directory / entry["file"], entry, config_hash)
        except ConfigError as error:
            faults += error.faults
            continue
        for fault in faults:
            report(f"{fault}; continuing from the one before, step {entry['step']}")
        return entry["step"], state
    raise ConfigError(faults)


def _entries(directory: Path) -> list[dict[str, Any]]:
    path = directory / LATEST
    try:
        latest = json.loads(path.read_text(encoding="utf-8"))
        entries = latest["checkpoints"]
        wanted = {"file": str, "sha256": str, "step": int, "config_hash": str}
        sound = latest["schema"] == SCHEMA and all(
            isinstance(entry[key], kind) for entry in entries for key, kind in wanted.items()
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"{path}: got something that is not a checkpoint index, need {SCHEMA}"]) from error
    if not sound or not entries:
        raise ConfigError([f"{path}: got something that is not a checkpoint index, need {SCHEMA}"])
    return entries


def _read(path: Path, entry: dict[str, Any], config_hash: str) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError([f"{path}: the checkpoint is missing, need the file that {LATEST} names"])
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ConfigError([f"{path}: the checkpoint is damaged or foreign ({len(content)} bytes), its hash is wrong"])
    try:
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        schema, owner, state = value["schema"], value["config_hash"], value["state"]
    except (
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        raise ConfigError([f"{path}: got a file that is not a checkpoint, need {SCHEMA}"]) from error
    if schema != SCHEMA:
        raise ConfigError([f"{path}: got a checkpoint of format {schema!r}, need {SCHEMA}"])
    if owner != config_hash:
        raise ConfigError(
            [f"{path}: got a checkpoint of configuration {owner[:8]}, need {config_hash[:8]} as in config.json"]
        )
    return state
