"""What an arm of a comparison is, and how one is written: ``NAME[,field=value]*``.

    standard                         the baseline
    standard,position=none           a field of GPTConfig changed
    tropical,score=dot               an option of the mechanism itself
    reversible,inner=tropical,tropical.score=dot
    standard,attention_pattern=standard/tropical,tropical.score=maxplus    a mixed model; a slash, as commas end fields
    standard,label=again             the same arm under another name, trained on its own (A/A)

Sizes, sequence length, vocabulary, batch and optimizer belong to the suite: all arms share them. Where a suite has
several optimizers or schedules, every arm runs with each and is compared with the baseline under the same ones.
No heavy import.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from nanochat.architecture import attention_types, check, mechanism
from nanochat.attention import MIXERS
from nanochat.bench.config import SuiteConfig
from nanochat.block import BLOCKS
from nanochat.config import ConfigError, GPTConfig, OptimConfig
from nanochat.registry import unknown

SHARED = ("n_layer", "n_head", "n_embd", "sequence_len", "vocab_size", "optimizer_type", "attention_type", "knobs")
"""Fields of GPTConfig that an arm may not change: the suite sets them for all arms alike."""

MAX_ARMS = 128

MIXED = GPTConfig().attention_type
"""The attention type that an arm with a pattern of its own leaves in place: the pattern decides."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm.

    Args:
        label: its name in every table; unique in a suite.
        text: as the user wrote it.
        attention_type: mixer or block stack.
        overrides: fields of GPTConfig that differ from the suite's.
        knobs: options by mechanism.
        replica: keeps an A/A arm's runs apart from those of an otherwise equal arm; empty for all others.
        optimizer, scheduler: that it is trained with.
    """

    label: str
    text: str
    attention_type: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    knobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    replica: str = ""
    optimizer: str = GPTConfig().optimizer_type
    scheduler: str = OptimConfig().scheduler_type

    def model(self, shape: Mapping[str, Any]) -> GPTConfig:
        """The model of this arm at the shape that all arms share.

        Raises:
            ConfigError: a value out of range or a requirement of the mechanism that the shape breaks.
        """
        knobs = {name: _record(name).knobs(**values) for name, values in self.knobs.items()}
        chosen = {**shape, **self.overrides, "knobs": knobs}
        config = GPTConfig(attention_type=self.attention_type, optimizer_type=self.optimizer, **chosen)
        check(config)
        return config


def resolve(config: SuiteConfig) -> tuple[Arm, ...]:
    """All arms of a suite, the baseline first.

    Raises:
        ConfigError: every fault of every arm together.
    """
    patterns = [f"{MIXED},attention_pattern={pattern.replace(',', '/')}" for pattern in config.attention_patterns]
    texts = [*config.arms, *patterns]
    if not any(_label_of(text) == config.baseline or text.strip() == config.baseline for text in texts):
        texts.insert(0, config.baseline)
    faults: list[str] = []
    arms = []
    for text in texts:
        try:
            arms.append(parse(text))
        except ConfigError as error:
            faults += error.faults
    labels = [arm.label for arm in arms]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        faults.append(f"-a {label}: got it {labels.count(label)} times, need one label each (add ,label=NAME)")
    if not faults and len(arms) < 2:
        faults.append(f"-a: got only the baseline {config.baseline!r}, need at least one other arm")
    if len(arms) > MAX_ARMS:
        faults.append(f"-a: got {len(arms)} arms, need at most {MAX_ARMS}")
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    first = [arm for arm in arms if config.baseline in (arm.label, arm.text)]
    return (first[0], *(arm for arm in arms if arm is not first[0]))


def cross(arms: Iterable[Arm], optimizers: Iterable[str], schedulers: Iterable[str]) -> list[tuple[Arm, ...]]:
    """Every arm with every optimizer and schedule: one group per pair, labelled by what differs between groups."""
    optimizers, schedulers = tuple(optimizers), tuple(schedulers)
    groups = []
    for optimizer in optimizers:
        for scheduler in schedulers:
            tail = f"+{optimizer}" * (len(optimizers) > 1) + f"+{scheduler}" * (len(schedulers) > 1)
            groups.append(
                tuple(replace(arm, label=arm.label + tail, optimizer=optimizer, scheduler=scheduler) for arm in arms)
            )
    return groups


def parse(text: str) -> Arm:
    """Read one arm.

    Raises:
        ConfigError: its faults, one line each, all together.

    Example:
        >>> parse("standard,position=none").overrides
        {'position': 'none'}
    """
    name, *pairs = (part.strip() for part in text.split(","))
    faults: list[str] = []
    if name not in attention_types():
        raise ConfigError([unknown("-a", name, attention_types())])
    overrides: dict[str, Any] = {}
    knobs: dict[str, dict[str, Any]] = {}
    label = ""
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key or not value:
            hint = " (a pattern has slashes: a/b)" if pair in MIXERS and "attention_pattern" in overrides else ""
            faults.append(f"-a {text}: got {pair!r}, need field=value{hint}")
        elif key == "label":
            label = value
        else:
            _assign(name, key, value, overrides, knobs, faults, text)
    if not faults:
        faults += _value_faults(text, overrides, knobs)
    if faults:
        raise ConfigError(faults)
    return Arm(label or text.strip(), text.strip(), name, overrides, knobs, replica=label)


def _assign(
    name: str,
    key: str,
    value: str,
    overrides: dict[str, Any],
    knobs: dict[str, dict[str, Any]],
    faults: list[str],
    text: str,
) -> None:
    owner, dot, knob = key.rpartition(".")
    owner, knob = (owner, knob) if dot else (name, key)
    changeable = {item.name for item in fields(GPTConfig)} - set(SHARED)
    known = {item.name for item in fields(_record(owner).knobs)} if owner in MIXERS or owner in BLOCKS else set()
    try:
        if not dot and key in changeable:
            overrides[key] = convert(value, get_type_hints(GPTConfig)[key])
        elif not dot and key in SHARED:
            faults.append(f"-a {text}: got {key}, need a field that arms may differ in; the suite sets {key}")
        elif knob in known:
            knobs.setdefault(owner, {})[knob] = convert(value, get_type_hints(_record(owner).knobs)[knob])
        else:
            names = sorted(changeable) + sorted(item.name for item in fields(mechanism(name).knobs))
            faults.append(f"-a {text}: {unknown('field', key, names)}")
    except ConfigError as error:
        faults += [f"-a {text}: {key}: {fault}" for fault in error.faults]


def _value_faults(text: str, overrides: Mapping[str, Any], knobs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Values out of range, found before the suite's shape is known; those that depend on it come with it."""
    faults: list[str] = []
    heads = max(1, overrides.get("n_kv_head") or 1)
    for build in (
        lambda: GPTConfig(n_embd=32 * heads, n_head=heads, **overrides),
        *(lambda name=name, values=values: _record(name).knobs(**values) for name, values in knobs.items()),
    ):
        try:
            build()
        except ConfigError as error:
            faults += [f"-a {text}: {fault}" for fault in error.faults]
    return faults


def convert(text: str, hint: Any) -> Any:
    """A value of the type that a dataclass field is annotated with; ``none`` where the field is optional."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() in ("none", "null"):
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    if kind is bool:
        values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in values:
            raise ConfigError([f"got {text!r}, need true or false"])
        return values[text.lower()]
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError as error:
        need = {"int": "a whole number", "float": "a number"}[kind.__name__]
        raise ConfigError([f"got {text!r}, need {need}"]) from error


def _record(name: str) -> Any:
    return MIXERS.get(name) if name in MIXERS else BLOCKS.get(name)


def _label_of(text: str) -> str:
    labels = [part.partition("=")[2].strip() for part in text.split(",") if part.strip().startswith("label=")]
    return labels[-1] if labels else text.strip()


def models(arms: Iterable[Arm], shape: Mapping[str, Any]) -> tuple[dict[str, GPTConfig], dict[str, list[str]]]:
    """The model of every arm by label, and the faults of those that cannot be built."""
    faults: dict[str, list[str]] = {}
    built = {}
    for arm in arms:
        try:
            built[arm.label] = arm.model(shape)
        except ConfigError as error:
            faults[arm.label] = [f"-a {arm.text}: {fault}" for fault in error.faults]
    return built, faults
