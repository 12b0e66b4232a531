"""A suite as a file: what was decided before anything ran. No heavy import.

The file is TOML; its keys are the fields of :class:`nanochat.bench.config.SuiteConfig`::

    question = "Does max-plus attention help on code at 1e12 operations?"
    arms = ["standard", "tropical"]
    preset = "standard"
    sesoi = 0.01

Beside a file the command line may only say where and how to run (``--jobs``, ``--store``, ...), not what is compared:
the design's hash stands in every report, and a changed design has another one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from nanochat.bench.config import PLACES, SuiteConfig
from nanochat.bench.suite import configure
from nanochat.config import ConfigError
from nanochat.registry import unknown


def read(path: Path, given: Mapping[str, Any]) -> SuiteConfig:
    """The suite that a file describes.

    Args:
        path: of the TOML file.
        given: fields from the command line.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value of another kind, a design option beside the file.
    """
    flags = {item.name: f"--{item.metadata['flag'] or item.name.replace('_', '-')}" for item in fields(SuiteConfig)}
    faults = [
        f"{flags[name]} beside --suite: got both, need the design in {path} alone"
        for name in given
        if name not in PLACES and name != "device"
    ]
    values = _content(path)
    kinds = get_type_hints(SuiteConfig)
    for name, value in values.items():
        if name not in kinds:
            faults.append(f"{path}: {unknown('key', name, list(kinds))}")
        elif not _fits(value, kinds[name]):
            faults.append(f"{path}: {name}: got {value!r}, need {_described(kinds[name])}")
    if faults:
        raise ConfigError(faults)
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return configure({**frozen, **given})
    except ConfigError as error:
        raise ConfigError([f"{path}: {fault}" for fault in error.faults]) from error


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"--suite: got {path} ({error.strerror}), need a TOML file"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"--suite: got {path}, which is not TOML: {error}"]) from error


def _kind(hint: Any) -> type:
    return next((kind for kind in get_args(hint) if kind is not type(None)), hint)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(entry, get_args(hint)[0]) for entry in value)
    kind = _kind(hint)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _described(hint: Any) -> str:
    names = {int: "whole number", float: "number", str: "string", bool: "true or false"}
    if get_origin(hint) is tuple:
        return f"a list of {names[get_args(hint)[0]]}s"
    kind = _kind(hint)
    return names[kind] if kind is bool else f"a {names[kind]}"
