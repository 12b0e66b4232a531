"""Command-line options and TOML files, generated from the fields of the configuration. Nothing heavy is imported.

Precedence: defaults, then the run that ``--resume`` continues, then ``--config FILE.toml``, then the command line. All
faults of all sections are reported together. The file has the sections of :class:`nanochat.config.RunConfig`::

    [model]
    attention_type = "tropical"
    [model.knobs.tropical]
    score = "dot"
    [train]
    max_steps = 500
"""

from __future__ import annotations

import argparse
import difflib
import json
import shutil
import sys
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from nanochat import architecture, optim, schedule
from nanochat.attention import MIXERS
from nanochat.block import BLOCKS
from nanochat.config import ConfigError, DataConfig, GPTConfig, OptimConfig, RunConfig, TrainConfig
from nanochat.optim import OPTIMIZERS
from nanochat.registry import Record, qualified, unknown
from nanochat.schedule import SCHEDULES
from nanochat.sizing import BYTE_VOCABULARY, fit, plan_steps

SECTIONS: dict[str, type] = {"model": GPTConfig, "optim": OptimConfig, "data": DataConfig, "train": TrainConfig}
TITLES = {"model": "model", "optim": "optimizer and schedule", "data": "text", "train": "run"}
SIZES = ("n_layer", "n_head", "n_kv_head", "n_embd")
"""Options that say how large the model is; with none of them a budget chooses the size."""

DEFAULT_STEPS = 1000
"""Length of a run for which neither steps nor a budget is given."""

Values = dict[tuple[str, ...], Any]
"""Given values by path: ``("model", "n_layer")`` or ``("model", "knobs", "tropical", "score")``."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, valid.

    Args:
        config: the whole run.
        json: whether only the summary goes to standard output.
        notes: choices made for the user, one sentence each.
    """

    config: RunConfig
    json: bool = False
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Option:
    """One field as an option.

    Args:
        path: where its value goes.
        flag: with dashes.
        kind: ``int``, ``float``, ``bool`` or ``str``.
        help: one line with unit and default.
        group: heading under which the help shows it.
    """

    path: tuple[str, ...]
    flag: str
    kind: type
    help: str
    group: str


def options() -> list[Option]:
    """Every option: the fields of the four sections, then the knobs of each registered mechanism."""
    found = []
    for section, cls in SECTIONS.items():
        found += _options_of(cls, (section,), "", TITLES[section])
    for section, record in _records():
        path = (section, "knobs", record.name)
        found += _options_of(record.knobs, path, f"{record.name}-", f"{record.name} ({record.title})")
    return found


def _records() -> list[tuple[str, Record]]:
    model: list[tuple[str, Record]] = [("model", record) for registry in (MIXERS, BLOCKS) for record in registry]
    return model + [("optim", record) for registry in (OPTIMIZERS, SCHEDULES) for record in registry]


def _options_of(cls: type, path: tuple[str, ...], prefix: str, group: str) -> list[Option]:
    hints = typing.get_type_hints(cls)
    found = []
    for item in fields(cls):
        if "help" not in item.metadata:
            continue
        name = item.metadata.get("flag") or prefix + item.name.replace("_", "-")
        found.append(Option((*path, item.name), f"--{name}", _scalar(hints[item.name]), _help(item), group))
    return found


def _scalar(hint: Any) -> type:
    """The type without None."""
    if isinstance(hint, types.UnionType):
        (hint,) = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    assert hint in (int, float, bool, str), f"no option can be made of {hint}"
    return hint


def _help(item: Field[Any]) -> str:
    notes = []
    if item.metadata.get("choices"):
        notes.append("one of " + ", ".join(item.metadata["choices"]))
    if item.metadata.get("unit"):
        notes.append(f"in {item.metadata['unit']}")
    if item.default is not MISSING and item.default is not None and item.default != "":
        default = {True: "on", False: "off"}[item.default] if isinstance(item.default, bool) else f"{item.default}"
        notes.append(f"default {default}")
    text = item.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")
    return text.replace("%", "%%")


class _Parser(argparse.ArgumentParser):
    """Complains in one line and ends with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option to a parser, grouped; values stay text until :func:`read` checks them all together."""
    groups: dict[str, Any] = {}
    for item in options():
        group = groups.setdefault(item.group, None) or parser.add_argument_group(item.group)
        groups[item.group] = group
        if item.kind is bool:
            group.add_argument(
                item.flag, dest=item.flag, action=argparse.BooleanOptionalAction, default=None, help=item.help
            )
        else:
            metavar = {int: "N", float: "X", str: "NAME"}[item.kind]
            group.add_argument(item.flag, dest=item.flag, metavar=metavar, default=None, help=item.help)
    group = parser.add_argument_group("input and output")
    group.add_argument("--config", metavar="FILE", help="TOML file with sections model, optim, data, train")
    group.add_argument("--json", action="store_true", help="print only the summary, as JSON, on standard output")


def parser(program: str) -> argparse.ArgumentParser:
    """The parser of ``python -m nanochat.train``."""
    width = min(80, shutil.get_terminal_size().columns)
    made = _Parser(
        prog=program,
        description="Train one model on real text and record the run.",
        usage=f"{program} [options]",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=width),
    )
    add_options(made)
    return made


def parse(arguments: Sequence[str], program: str = "nanochat.train") -> Request:
    """The request that the arguments make; every fault goes to standard error, one a line, and the exit code is 2."""
    made = parser(program)
    namespace, rest = made.parse_known_args(list(arguments))
    faults = [_unknown(word) for word, before in zip(rest, ["", *rest], strict=False) if not _belongs(word, before)]
    try:
        request = read(vars(namespace), faults)
    except ConfigError as error:
        for fault in error.faults:
            sys.stderr.write(f"{program}: {fault}\n")
        raise SystemExit(2) from None
    return request


def _belongs(word: str, before: str) -> bool:
    """Whether a word is the value of the unknown option before it, which is complained about already."""
    return before.startswith("--") and "=" not in before and not word.startswith("--")


def _unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"got {word!r}, need options only; see --help"
    name = word.partition("=")[0]
    close = difflib.get_close_matches(name, [item.flag for item in options()], n=1, cutoff=0.7)
    return f"unknown option {name}" + (f"; did you mean {close[0]}?" if close else "; see --help")


def read(given: Mapping[str, Any], faults: Sequence[str] = ()) -> Request:
    """Turn parsed text into a valid request.

    Args:
        given: value by flag (None where not given), ``config`` and ``json``.
        faults: found already; reported with the rest.

    Raises:
        ConfigError: all faults together.
    """
    found = list(faults)
    line = _typed(given, found)
    file = _from_file(given["config"], found) if given.get("config") else {}
    values = {**_resumed({**file, **line}, found), **file, **line}
    notes: list[str] = []
    _vocabulary(values, found)
    config = _build(values, found)
    if config is not None and config.train.target_flops is not None:
        config = _spend(config, values, notes, found)
    if config is not None:
        found += schedule.faults(config.optim, steps_of(config))
    if config is None or found:
        raise ConfigError(list(dict.fromkeys(found)))
    return Request(config, bool(given.get("json")), tuple(notes))


def _typed(given: Mapping[str, Any], faults: list[str]) -> Values:
    values: Values = {}
    for item in options():
        text = given.get(item.flag)
        if text is None:
            continue
        value = _number(text, item.kind) if isinstance(text, str) else text
        if value is None:
            faults.append(f"{item.flag}: got {text!r}, need {_word(item.kind)}")
        else:
            values[item.path] = value
    return values


def _word(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _number(text: str, kind: type) -> int | float | str | None:
    """The text as a value of this type (``1e3`` is a whole number too), or None."""
    if kind is str:
        return text
    try:
        value = float(text)
        if kind is float:
            return value
        return int(text) if value != int(value) or "e" not in text.lower() else int(value)
    except (ValueError, OverflowError):
        return None


def _from_file(name: str, faults: list[str]) -> Values:
    try:
        content = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(f"--config: got {name} ({error.strerror}), need a readable TOML file")
        return {}
    except ValueError as error:
        faults.append(f"--config: got {name}, need TOML: {str(error).splitlines()[0]}")
        return {}
    return _take(content, f"--config {name}", faults)


def _take(content: Mapping[str, Any], where: str, faults: list[str]) -> Values:
    """The values of a nested mapping, each checked against the option it stands for."""
    known = {item.path: item for item in options()}
    values: Values = {}
    for path, value in _leaves(content, ()):
        item = known.get(path)
        dotted = ".".join(path)
        if item is None:
            faults.append(f"{where}: unknown key {dotted}{_nearest(dotted, known)}")
        elif item.kind is float and isinstance(value, int) and not isinstance(value, bool):
            values[path] = float(value)
        elif type(value) is not item.kind:
            faults.append(f"{where}: {dotted}: got {value!r}, need {_word(item.kind)}")
        else:
            values[path] = value
    return values


def _leaves(content: Mapping[str, Any], path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for key, value in content.items():
        found += _leaves(value, (*path, key)) if isinstance(value, Mapping) else [((*path, key), value)]
    return found


def _nearest(dotted: str, known: Mapping[tuple[str, ...], Option]) -> str:
    close = difflib.get_close_matches(dotted, [".".join(path) for path in known], n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "; need one of model.*, optim.*, data.*, train.*"


def _resumed(values: Values, faults: list[str]) -> Values:
    """With ``--resume`` the stored configuration stands for everything that is not said again."""
    name = values.get(("train", "run_id"))
    if not values.get(("train", "resume")) or not isinstance(name, str):
        return {}
    chosen = {path[1]: value for path, value in values.items() if path[0] == "train"}
    defaults = {item.name: item.default for item in fields(TrainConfig)}
    places = ("artifacts_dir", "artifacts_kind", "artifacts_topic")
    path = Path(*(str(chosen.get(place, defaults[place])) for place in places)) / name / "config.json"
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        faults.append(f"{path}: got text that is not JSON, need a run's configuration")
        return {}
    kept = {key: value for key, value in _leaves(stored, ()) if value is not None}
    return {key: value for key, value in kept.items() if key in {item.path for item in options()}}


def _vocabulary(values: Values, faults: list[str]) -> None:
    """The byte tokenizer has one vocabulary."""
    if values.get(("data", "tokenizer")) == "byte":
        asked = values.setdefault(("model", "vocab_size"), BYTE_VOCABULARY)
        if asked != BYTE_VOCABULARY:
            faults.append(f"--vocab-size: got {asked}, need {BYTE_VOCABULARY} (or none) with --tokenizer byte")


def _spend(config: RunConfig, values: Values, notes: list[str], faults: list[str]) -> RunConfig | None:
    """With a budget: the size by the compute-optimal rule where none was given, and a design of at least 200 steps."""
    budget = config.train.target_flops
    assert budget is not None
    try:
        if any(("model", name) in values for name in SIZES):
            plan_steps(config.model, config.train.batch_size, budget, config.optim)
            return config
        given = {path[1]: getattr(config.model, path[1]) for path in values if path[0] == "model"}
        given |= {path[1]: value for path, value in values.items() if path[1] in ("batch_size", "tokenizer")}
        sized = fit(budget, {**given, "knobs": config.model.knobs}, optim=config.optim)
    except ConfigError as error:
        faults += error.faults
        return None
    notes.append(sized.sentence)
    return replace(
        config,
        model=sized.model,
        data=replace(config.data, tokenizer=sized.tokenizer),
        train=replace(config.train, batch_size=sized.batch_size),
    )


def steps_of(config: RunConfig) -> int:
    """Optimizer steps of the run: as given, or what the budget pays for.

    Raises:
        ConfigError: the budget pays for fewer than 200.
    """
    if config.train.target_flops is None:
        return config.train.max_steps or DEFAULT_STEPS
    return plan_steps(config.model, config.train.batch_size, config.train.target_flops, config.optim)


def _build(values: Values, faults: list[str]) -> RunConfig | None:
    """The configuration, section by section, so that the faults of all are found."""
    for path in [path for path in values if "knobs" in path]:
        owner = values.setdefault((*path[:3], ""), {})
        owner[path[3]] = values.pop(path)
    knobs: dict[str, dict[str, Any]] = {"model": {}, "optim": {}}
    for section, record in _records():
        own = values.pop((section, "knobs", record.name, ""), None)
        if own is not None:
            found: list[str] = []
            _make(record.knobs, own, found, into=knobs[section], name=record.name)
            faults += [qualified(fault, record) for fault in found]
    parts: dict[str, Any] = {}
    for section, cls in SECTIONS.items():
        own = {path[1]: value for path, value in values.items() if path[0] == section}
        if section in knobs:
            own["knobs"] = knobs[section]
        _make(cls, own, faults, into=parts, name=section)
    _names(values, parts, faults)
    return RunConfig(**parts) if len(parts) == len(SECTIONS) and not faults else None


def _make(cls: type, values: dict[str, Any], faults: list[str], *, into: dict[str, Any], name: str) -> None:
    try:
        into[name] = cls(**values)
    except ConfigError as error:
        faults += error.faults


def _names(values: Values, parts: Mapping[str, Any], faults: list[str]) -> None:
    """Mechanisms: names that exist, requirements that hold, no option of a mechanism that takes no part."""
    mixer = values.get(("model", "attention_type"), GPTConfig().attention_type)
    optimizer = values.get(("model", "optimizer_type"), GPTConfig().optimizer_type)
    scheduler = values.get(("optim", "scheduler_type"), OptimConfig().scheduler_type)
    model = parts.get("model")
    if model is not None:
        faults += architecture.faults(model)
    elif mixer not in architecture.attention_types():
        faults.append(unknown("--attention-type", mixer, architecture.attention_types()))
    faults += optim.faults(optimizer, OptimConfig()) + schedule.faults(OptimConfig(scheduler_type=scheduler))
    if model is not None and "optim" in parts and not faults:
        built = architecture.plan(model)
        used = {built.block.name, *(record.name for record in built.mixers), optimizer, scheduler}
        idle = sorted({*model.knobs, *parts["optim"].knobs} - used)
        faults += [f"options of {name}: got some in a run that does not use it, need none" for name in idle]
