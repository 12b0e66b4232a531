"""Everything that has a name and can be chosen, as plain values for tables and JSON. No heavy import."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from nanochat.registry import Record

if TYPE_CHECKING:
    from nanochat.config import GPTConfig

BATCH, CACHED = 16, 1024
"""Sequences of the step, and tokens of the past, for which costs are told."""


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


def told(kind: str, record: Record) -> dict[str, Any]:
    """As :func:`describe`, with how to train with it and what that costs, in the order of a reader's questions."""
    entry = describe(record)
    train = f"python -m nanochat.train --{kind.replace('_', '-')[:-1]} {record.name}"
    first = {"name": entry.pop("name"), "title": entry.pop("title"), "train": train, "options": entry.pop("options")}
    return first | {"cost": cost(kind, record)} | entry


def cost(kind: str, record: Record) -> list[str]:
    """What the operation ledger charges for it in the default model, against the default choice; sentences."""
    from nanochat.config import GPTConfig

    usual = GPTConfig()
    if kind == "attention_types":
        return _cost_of_attention(usual, GPTConfig(attention_type=record.name))
    if kind == "optimizer_types":
        own, other = (step_flops(config) for config in (GPTConfig(optimizer_type=record.name), usual))
        return [f"one step of {BATCH} sequences takes {own / other:.2f} times the operations of {usual.optimizer_type}"]
    return ["no operations that the ledger counts: one number per step"]


def step_flops(config: GPTConfig) -> float:
    """Operations of one optimizer step of ``BATCH`` sequences."""
    from nanochat.flops import ledger

    return ledger(config).step_flops(BATCH)


def _cost_of_attention(usual: GPTConfig, config: GPTConfig) -> list[str]:
    from nanochat.flops import ledger

    own, other = ledger(config), ledger(usual)
    return [
        f"training takes {own.training.total / other.training.total:.2f} times the operations of "
        f"{usual.attention_type} ({config.n_layer} layers of {config.n_embd} channels, {own.length} tokens)",
        f"one decoded token takes {own.decode.total / other.decode.total:.2f} times as many",
        f"decoding keeps {kept(config) / 1024:.0f} KiB of {CACHED} tokens, {usual.attention_type} "
        f"{kept(usual) / 1024:.0f}",
    ]


def kept(config: GPTConfig) -> int:
    """Bytes that all layers keep of ``CACHED`` tokens to decode one more."""
    from nanochat.architecture import plan

    built = plan(config)
    return sum(each.state(config, 1, CACHED) for each in (*built.mixers, *(built.block,) * config.n_layer))
