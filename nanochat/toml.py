"""A configuration as TOML text, the inverse of what ``--config FILE`` reads. The standard library only reads TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def write(values: Mapping[str, Any]) -> str:
    """The text of a TOML file that loads into the same values; ``None``, which TOML lacks, becomes a comment.

    Example:
        >>> print(write({"model": {"n_layer": 4, "n_kv_head": None}}), end="")
        [model]
        n_layer = 4
        # n_kv_head: not given
    """
    return "".join(f"{line}\n" for line in _lines(values, ""))


def _lines(values: Mapping[str, Any], section: str) -> Iterator[str]:
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    if section and len(tables) < len(values):
        yield f"[{section}]"
    for key, value in values.items():
        if value is None:
            yield f"# {key}: not given"
        elif key not in tables:
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
    for key, value in tables.items():
        yield from _lines(value, f"{section}.{key}" if section else key)
