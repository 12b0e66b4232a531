"""Checks an event log whose ranks are ordinals: the proof, of one run, that its schedule had to come to an end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from nanochat.config import ConfigError, OptimConfig
from nanochat.registry import ScheduleRecord
from nanochat.schedule._cantor import Cantor, from_json, natural, polynomial
from nanochat.schedule.registry import SCHEDULES, Schedule

SCHEMA = "mgr.schedule.v1"
FILE = "schedule.json"
SHOWN = 5
"""Faults that a person gets to see."""


def bound(start: Cantor) -> int:
    r"""Most events from :math:`\omega^2 A + \omega B + C`: (A + 1)(B + 1)(C + 1) - 1."""
    restarts, anneals, patience = (start.coefficient(power) for power in (2, 1, 0))
    return (restarts + 1) * (anneals + 1) * (patience + 1) - 1


def check(events: Any) -> list[str]:
    """What is wrong with an event log, one line each; nothing where it is a certificate.

    Each event must lower the rank, and be one of the three that the schedule has: ``wait``, where adding 1 gives the
    rank before; ``anneal``, where exchanging the patience C for omega does; ``restart``, where exchanging
    omega B + C for omega^2 does. B and C are those of the first rank. Nothing of the schedule's own code is used.

    Args:
        events: as in ``schedule.json``; anything else is a fault, not an exception.
    """
    if not isinstance(events, list) or not events:
        return ["events: got none, need a list that begins with the first rank"]
    faults: list[str] = []
    start = before = _parsed(events[0], 0, faults)
    if start is None or before is None:
        return faults
    if events[0]["event"] != "begin" or start != polynomial(*(start.coefficient(power) for power in (2, 1, 0))):
        faults.append(f"event 0: got {events[0]['event']!r} at {start}, need 'begin' below omega^3")
    step = -1
    for number, event in enumerate(events[1:], start=1):
        rank = _parsed(event, number, faults)
        if rank is None:
            return faults
        faults += [f"event {number}: {fault}" for fault in _descent(event["event"], before, rank, start)]
        if event["step"] <= step:
            faults.append(f"event {number}: got step {event['step']} after {step}, need a later one")
        before, step = rank, event["step"]
    if len(events) - 1 > bound(start):
        faults.append(f"events: got {len(events) - 1}, need at most {bound(start)}")
    return faults


def _parsed(event: Any, number: int, faults: list[str]) -> Cantor | None:
    kinds = {"step": int, "event": str, "factor": float, "rank": list}
    if not isinstance(event, Mapping) or set(event) != set(kinds):
        faults.append(f"event {number}: got {str(event)[:60]}, need {', '.join(kinds)}")
        return None
    wrong = [name for name, kind in kinds.items() if type(event[name]) is not kind]
    if wrong:
        faults.append(f"event {number}: got another type of {', '.join(wrong)}")
        return None
    try:
        return from_json(event["rank"])
    except ValueError as error:
        faults.append(f"event {number}: {error}")
        return None


def _descent(kind: str, before: Cantor, rank: Cantor, start: Cantor) -> list[str]:
    """Whether the step from one rank to the next goes down in the way that it says."""
    faults = []
    if not rank < before:
        faults.append(f"got rank {rank} after {before}, need a smaller one")
    a, b, c = (rank.coefficient(power) for power in (2, 1, 0))
    anneals, patience = start.coefficient(1), start.coefficient(0)
    above = {
        "wait": rank + natural(1),
        "anneal": polynomial(a, b, 0) + polynomial(1, 0) if c == patience else None,
        "restart": polynomial(a, 0, 0) + polynomial(1, 0, 0) if (b, c) == (anneals, patience) else None,
    }
    if above.get(kind) != before:
        faults.append(f"got {kind!r} from {before} to {rank}, need a step of that kind")
    return faults


def document(name: str, schedule: Schedule) -> dict[str, Any]:
    """What ``schedule.json`` holds of a run; nothing for a schedule that keeps no log."""
    log = schedule.log()
    return {"schema": SCHEMA, "scheduler_type": name, **log} if log else {}


def certify(name: str, folder: Path) -> dict[str, Any]:
    """Check the event log of a finished run, then replay the schedule on the losses that the run recorded.

    Args:
        name: the schedule's, as for ``--scheduler-type``.
        folder: of the run.

    Returns:
        ``holds``, ``faults``, and ``lines`` for a person.

    Raises:
        ConfigError: no such run, not finished, or trained with another schedule.
        Unknown: no such schedule.
    """
    record = SCHEDULES.get(name)
    config, log = _object(folder / "config.json"), _object(folder / FILE)
    optim = config.get("optim", {})
    if optim.get("scheduler_type") != name:
        raise ConfigError([f"{folder}: got a run of schedule {optim.get('scheduler_type')}, need one of {name}"])
    events = log.get("events")
    faults = check(events) or _replayed(record, optim, log, _steps(folder))
    if faults:
        lines = [*faults[:SHOWN], *([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])]
    else:
        start = from_json(log["events"][0]["rank"])
        lines = [
            f"holds: {len(log['events']) - 1} events of at most {bound(start)}, each with a lower rank than the one "
            f"before, from {start} to {from_json(log['events'][-1]['rank'])}",
            "the recorded losses, replayed, give the same events and the same learning rates",
        ]
    return {"schema": "mgr.certify.v1", "name": name, "run": str(folder), "holds": not faults} | {
        "faults": faults,
        "lines": lines,
    }


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: got no readable JSON, need a finished run whose schedule keeps a log"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: got no object, need a finished run whose schedule keeps a log"])
    return content


def _steps(folder: Path) -> list[dict[str, Any]]:
    """The recorded steps whose loss the schedule heard."""
    from nanochat.record import METRICS, read_metrics

    try:
        lines = read_metrics(folder / METRICS)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{folder / METRICS}: got no readable JSON lines, need those of a finished run"]) from error
    return [line for line in lines if line.get("loss") is not None]


def _replayed(
    record: ScheduleRecord, optim: Mapping[str, Any], log: Mapping[str, Any], steps: list[dict[str, Any]]
) -> list[str]:
    """The schedule itself on the recorded losses: every factor and every event must come out again, to the bit."""
    try:
        schedule, faults = _rebuilt(record, optim, log, len(steps))
        for number, line in enumerate(steps):
            factor = schedule.factor(number)
            if (line["step"], line["lr_factor"]) != (number, factor):
                faults.append(f"step {number}: got factor {line['lr_factor']} at step {line['step']}, need {factor}")
            schedule.observe(line["loss"])
    except (ConfigError, KeyError, TypeError) as error:
        return [f"{FILE}: got what cannot be replayed: {str(error).splitlines()[0]}"]
    again = document(record.name, schedule)
    if again["events"] != log["events"]:
        pairs = enumerate(zip_longest(again["events"], log["events"]))
        faults += [f"event {number}: got {got}, need {need}" for number, (need, got) in pairs if got != need]
    return faults + [f"{FILE}: got another {key}" for key in sorted({*again, *log}) if again.get(key) != log.get(key)]


def _rebuilt(
    record: ScheduleRecord, optim: Mapping[str, Any], log: Mapping[str, Any], steps: int
) -> tuple[Schedule, list[str]]:
    """The schedule as it stood before the first step, and where its options are not those of ``config.json``."""
    warmup = log["warmup_steps"]
    given = {**asdict(record.knobs(**optim["knobs"].get(record.name, {}))), "warmup_steps": optim["warmup_steps"]}
    kept = {**log["knobs"], "warmup_steps": warmup}
    faults = [
        f"{FILE}: got {key} {kept.get(key)}, need {value} as in config.json"
        for key, value in given.items()
        if value is not None and value != kept.get(key)
    ]
    knobs = {record.name: record.knobs(**log["knobs"])}
    config = OptimConfig(**{**optim, "warmup_steps": warmup, "knobs": knobs})
    return record.load()(config, steps + warmup + 1), faults
