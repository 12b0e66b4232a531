"""Everything that has a name and can be chosen, as plain values for tables and JSON. No heavy import."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from nanochat.registry import Record


def mechanisms() -> dict[str, list[Record]]:
    """Records behind ``--attention-type``, ``--optimizer-type`` and ``--scheduler-type``."""
    from nanochat.architecture import attention_types, mechanism
    from nanochat.optim import OPTIMIZERS
    from nanochat.schedule import SCHEDULES

    return {
        "attention_types": [mechanism(name) for name in attention_types()],
        "optimizer_types": list(OPTIMIZERS),
        "scheduler_types": list(SCHEDULES),
    }


def describe(record: Record) -> dict[str, Any]:
    """A registry entry as plain values; functions and classes are left out."""
    entry: dict[str, Any] = {"name": record.name, "title": record.title, "source": record.source}
    for item in fields(record):
        value = getattr(record, item.name)
        if item.name in ("page", "twin", "no_twin", "learning_rate"):
            entry[item.name] = value
        elif item.name == "reduces_to" and value is not None:
            entry["reduces_to"] = value.statement
        elif item.name == "requires":
            entry["requires"] = [re.sub(r"\{config\.(\w+)\}", r"<\1>", need.sentence) for need in value]
        elif item.name == "claims":
            entry["claims"] = list(value)
    flags = {knob.name: knob.metadata["flag"] or f"{record.name}-{knob.name}" for knob in fields(record.knobs)}
    options = {f"--{flags[knob.name].replace('_', '-')}": knob.metadata["help"] for knob in fields(record.knobs)}
    return entry | {"options": options}
