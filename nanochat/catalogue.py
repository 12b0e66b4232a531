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
    values: dict[str, Any] = {item.name: getattr(record, item.name) for item in fields(record)}
    entry |= {name: values[name] for name in ("page", "twin", "no_twin", "learning_rate") if name in values}
    if values.get("reduces_to") is not None:
        entry["reduces_to"] = values["reduces_to"].statement
    if "requires" in values:
        entry["requires"] = [re.sub(r"\{config\.(\w+)\}", r"<\1>", need.sentence) for need in values["requires"]]
        entry["claims"] = list(values["claims"])
    flags = {knob.name: knob.metadata["flag"] or f"{record.name}-{knob.name}" for knob in fields(record.knobs)}
    options = {f"--{flags[knob.name].replace('_', '-')}": knob.metadata["help"] for knob in fields(record.knobs)}
    return entry | {"options": options}
