"""Which block stack and which mixers a configuration means, and whether it can be built. No heavy import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nanochat.attention import MIXERS
from nanochat.block import BLOCKS
from nanochat.config import ConfigError, GPTConfig
from nanochat.optim import OPTIMIZERS
from nanochat.registry import Hessian, Mechanism, Registry, qualified, unknown

RESIDUAL = "residual"


def attention_types() -> list[str]:
    """What ``--attention-type`` accepts: every mixer, and every block stack that replaces the residual one."""
    return MIXERS.names() + [name for name in BLOCKS.names() if name != RESIDUAL]


def mechanism(name: str) -> Mechanism:
    """The record behind a value of ``--attention-type``."""
    registry: Registry[Mechanism] = MIXERS if name in MIXERS else BLOCKS
    if name not in registry or name == RESIDUAL:
        raise ConfigError([unknown("--attention-type", name, attention_types())])
    return registry.get(name)


@dataclass(frozen=True, slots=True)
class Plan:
    """A block stack and the mixer of each layer."""

    block: Mechanism
    mixers: tuple[Mechanism, ...]


def plan(config: GPTConfig) -> Plan:
    """Resolve ``--attention-type``: a mixer inside residual blocks, or a block stack around its inner mixer.

    With ``--attention-pattern`` the pattern alone decides: layer l of the residual stack gets mixer l mod its length.
    ``--attention-type`` then has no say, and must stay at its default or name one of the pattern's mixers.
    """
    if config.pattern:
        return _mixed(config)
    record = mechanism(config.attention_type)
    if config.attention_type in MIXERS:
        return Plan(BLOCKS.get(RESIDUAL), (record,) * config.n_layer)
    inner = knobs_of(config, record).inner
    if inner not in MIXERS:
        raise ConfigError([unknown(f"--{record.name}-inner", inner, MIXERS.names())])
    return Plan(record, (MIXERS.get(inner),) * config.n_layer)


def _mixed(config: GPTConfig) -> Plan:
    names = config.pattern
    found = [_no_mixer(name) for name in dict.fromkeys(names) if name not in MIXERS]
    if config.attention_type not in (GPTConfig().attention_type, *names):
        found.append(
            f"--attention-type: got {config.attention_type} beside --attention-pattern {config.attention_pattern}, "
            "need none, or a mixer of the pattern"
        )
    if len(names) > config.n_layer:
        found.append(f"--attention-pattern: got {len(names)} mixers, need at most --n-layer {config.n_layer}")
    if found:
        raise ConfigError(found)
    return Plan(BLOCKS.get(RESIDUAL), tuple(MIXERS.get(names[layer % len(names)]) for layer in range(config.n_layer)))


def _no_mixer(name: str) -> str:
    if name in attention_types():
        return f"--attention-pattern: got {name}, a block stack, need mixers only: {', '.join(MIXERS.names())}"
    return unknown("--attention-pattern", name, MIXERS.names())


def knobs_of(config: GPTConfig, record: Mechanism) -> Any:
    """The mechanism's own options: those in the configuration, or its defaults."""
    return config.knobs.get(record.name, record.knobs())


def hessian(config: GPTConfig, record: Mechanism, length: int) -> Hessian | str:
    """What second derivatives of one layer cost per token, or why there are none."""
    return "nobody has tested its second derivative" if record.hessian is None else record.hessian(config, length)


def _curvature_faults(config: GPTConfig, built: Plan) -> list[str]:
    """Mechanisms without the second derivatives that the optimizer asks for."""
    name = config.optimizer_type
    if name not in OPTIMIZERS or OPTIMIZERS.get(name).curvature is None:
        return []
    found = []
    for record in dict.fromkeys((built.block, *built.mixers)):
        reason = hessian(config, record, config.sequence_len)
        if isinstance(reason, str):
            found.append(f"--optimizer-type {name} needs second derivatives: got {record.name}: {reason}")
    return found


def faults(config: GPTConfig) -> list[str]:
    """Everything about the mechanisms that this configuration gets wrong, one line each."""
    found = []
    for name, knobs in config.knobs.items():
        known = MIXERS.get(name) if name in MIXERS else BLOCKS.get(name) if name in BLOCKS else None
        if known is None:
            found.append(unknown("knobs of", name, MIXERS.names() + BLOCKS.names()))
        elif not isinstance(knobs, known.knobs):
            found.append(f"knobs of {name}: got {type(knobs).__name__}, need {known.knobs.__name__}")
    try:
        built = plan(config)
    except ConfigError as error:
        return found + list(error.faults)
    for record in dict.fromkeys(built.mixers):
        if config.logit_scaling != "none" and not record.length_aware:
            able = ", ".join(mixer.name for mixer in MIXERS if mixer.length_aware)
            why = f", {record.length_blind}" if record.length_blind else ""
            found.append(f"--logit-scaling {config.logit_scaling}: got {record.name}{why}, need one of {able}")
    for record in dict.fromkeys((built.block, *built.mixers)):
        found += [fault for need in record.requires if (fault := need.fault(config))]
    return found or _curvature_faults(config, built)


def check(config: GPTConfig) -> None:
    """Raise :class:`ConfigError` with every fault of the mechanisms that the configuration names."""
    found = faults(config)
    if found:
        raise ConfigError(found)


MIXER_FIELDS = ("n_embd", "n_head", "n_kv_head", "sequence_len", "position", "qk_norm", "logit_scaling")
"""What of :class:`GPTConfig` concerns a mixer by itself."""


def mixer_config(name: str, options: Mapping[str, Any]) -> GPTConfig:
    """The configuration of one mixer, checked, from keywords named as on the command line (``gauge_group="u1"``).

    Args:
        name: a mixer; block stacks hold mixers and are none.
        options: :data:`MIXER_FIELDS`, the mixer's own options, or those as a dataclass in ``knobs``.

    Raises:
        ConfigError: everything that is wrong, one line each.
    """
    if name not in MIXERS:
        raise ConfigError([_no_lone_mixer(name)])
    sizes = {key: value for key, value in options.items() if key in MIXER_FIELDS}
    try:
        found, knobs = [], _knobs_from(MIXERS.get(name), options)
    except ConfigError as error:
        found, knobs = list(error.faults), {}
    try:
        config = GPTConfig(attention_type=name, knobs=knobs, **sizes)
    except ConfigError as error:
        raise ConfigError([*found, *error.faults]) from None
    found += faults(config)
    if found:
        raise ConfigError(found)
    return config


def _knobs_from(record: Mechanism, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mixer's own options among the keywords; every other keyword must be one of :data:`MIXER_FIELDS`."""
    name = record.name
    own = {item.metadata["flag"].replace("-", "_") or f"{name}_{item.name}": item.name for item in fields(record.knobs)}
    known = [*MIXER_FIELDS, *own, "knobs"]
    found = [unknown(f"option of {name}", key, known) for key in options if key not in known]
    given = {own[key]: value for key, value in options.items() if key in own}
    knobs: Mapping[str, Any] = options.get("knobs", {})
    if given and name in knobs:
        found.append(f"knobs: got {name} beside {', '.join(sorted(options.keys() & own))}, need one of them")
    try:
        knobs = {**knobs, name: record.knobs(**given)} if given else knobs
    except ConfigError as error:
        found += [qualified(fault, record) for fault in error.faults]
    if found:
        raise ConfigError(found)
    return knobs


def _no_lone_mixer(name: str) -> str:
    if name in attention_types():
        return f"{name}: got a block stack, which replaces whole blocks, need a mixer: {', '.join(MIXERS.names())}"
    return unknown("mixer", name, MIXERS.names())
