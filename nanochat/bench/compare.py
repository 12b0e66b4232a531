"""Two or more suites side by side: has something become worse? The verdict engine's rules, applied over time.

A seed is a pair here too: run s of the old suite and run s of the new one saw the same text and, where the model's
shape is the same, the same initial weights. Memory and speed have rules of their own: they are compared as ratios of
medians, and speed only where both machines were idle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.bench.statistics import MIN_SEEDS, decide
from nanochat.config import ConfigError

WORSE, BETTER, SAME, UNKNOWN, FAILED = "WORSE", "BETTER", "SAME", "UNKNOWN", "FAILED"

MEMORY_RATIO = 1.05
SPEED_RATIO = 1.10
"""Ratios new over old up to which memory and seconds per step count as the same."""

SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one measure of one arm.

    Args:
        arm: its label.
        measure: ``bits per byte``, ``memory`` or ``step time``.
        word: ``WORSE BETTER SAME UNKNOWN``, or ``FAILED`` where the new suite has no number and the old one had.
        old, new: the measure; None where it is missing.
        low, high: simultaneous interval of the difference, for bits per byte.
        note: why.
    """

    arm: str
    measure: str
    word: str
    old: float | None
    new: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """A finished suite as its summary tells it."""

    name: str
    path: Path
    summary: Mapping[str, Any]

    @property
    def arms(self) -> dict[str, Mapping[str, Any]]:
        return {arm["label"]: arm for arm in self.summary["arms"]}


def read(name: str, reports: Path) -> Suite:
    """A suite by its folder, its ``summary.json`` or its name among the reports.

    Raises:
        ConfigError: nothing there, or no summary of a suite.
    """
    places = [Path(name), Path(name) / SUMMARY, reports / name / SUMMARY]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        known = sorted(each.parent.name for each in reports.glob(f"*/{SUMMARY}"))
        raise ConfigError([f"{name}: got no suite, need a folder or one of {', '.join(known) or 'none yet'}"])
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        missing = {"schema", "arms", "hashes", "sesoi", "alpha"} - summary.keys()
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError([f"{path}: got no summary of a suite ({error})"]) from error
    if missing or not str(summary["schema"]).startswith("mgr.suite."):
        raise ConfigError([f"{path}: got no summary of a suite, need one that mgr bench-fixed-flops wrote"])
    return Suite(summary.get("run_id", path.parent.name), path, summary)


def regressions(old: Suite, new: Suite) -> list[Change]:
    """Every change of every arm that both suites have.

    Raises:
        ConfigError: no arm in common, or other text: such suites cannot be compared.
    """
    labels = [label for label in old.arms if label in new.arms]
    if not labels:
        raise ConfigError([f"{new.name}: got no arm of {old.name}, need at least one in common"])
    different = [name for name, value in old.summary["hashes"].items() if new.summary["hashes"].get(name) != value]
    if different:
        raise ConfigError([f"{new.name}: got another {different[0].replace('_', ' ')} than {old.name}, need the same"])
    found = _losses(labels, old, new)
    for label in labels:
        before, after = old.arms[label], new.arms[label]
        found.append(_ratio(label, "memory", before["peak_bytes"], after["peak_bytes"], MEMORY_RATIO))
        idle = before["audit"]["time_valid"] and after["audit"]["time_valid"]
        timed = _ratio(label, "step time", before["step_seconds"], after["step_seconds"], SPEED_RATIO)
        found.append(timed if idle else _unmeasured(timed))
    return found


def _losses(labels: Sequence[str], old: Suite, new: Suite) -> list[Change]:
    """The paired test of every arm that has enough pairs, corrected for the number of arms."""
    pairs = {label: list(zip(old.arms[label]["bpb"], new.arms[label]["bpb"], strict=False)) for label in labels}
    found: list[Change] = []
    tested = []
    for label in labels:
        before, after = old.arms[label]["mean"], new.arms[label]["mean"]
        failed = sum(b is None for a, b in pairs[label] if a is not None)
        if failed:
            note = f"{failed} of {len(pairs[label])} seeds diverged or failed that did not before"
            found.append(Change(label, "bits per byte", FAILED, before, after, note=note))
        elif len(pairs[label]) < MIN_SEEDS or any(a is None for a, _ in pairs[label]):
            note = f"{len(pairs[label])} pairs, need {MIN_SEEDS} that finished in both"
            found.append(Change(label, "bits per byte", UNKNOWN, before, after, note=note))
        else:
            tested.append(label)
    for label in tested:
        differences = np.array([[b - a for a, b in pairs[label]]], dtype=np.float64)
        judged = decide(differences, sesoi=new.summary["sesoi"], alpha=new.summary["alpha"], arms=len(labels)).row(0)
        word = {"WIN": BETTER, "LOSS": WORSE, "TIE": SAME}.get(str(judged.verdict), UNKNOWN)
        if not differences.any():
            word = SAME
        means = (float(np.mean([side[number] for side in pairs[label]])) for number in (0, 1))
        note = "" if word != UNKNOWN else "the interval holds zero and what would matter"
        found.append(
            Change(label, "bits per byte", word, *means, low=float(judged.low), high=float(judged.high), note=note)
        )
    return found


def _ratio(label: str, measure: str, old: float | None, new: float | None, allowed: float) -> Change:
    if old is None or new is None or not old:
        word = FAILED if new is None and old is not None else UNKNOWN
        return Change(label, measure, word, old, new, note="not measured in both")
    ratio = new / old
    word = WORSE if ratio > allowed else BETTER if ratio < 1 / allowed else SAME
    return Change(label, measure, word, old, new, note=f"{ratio:.2f}x")


def _unmeasured(change: Change) -> Change:
    if change.word == FAILED:
        return change
    note = "other work shared the cores: seconds are no measurement"
    return Change(change.arm, change.measure, UNKNOWN, change.old, change.new, note=note)


def broken(changes: Sequence[Change]) -> bool:
    """Whether something became worse or failed."""
    return any(change.word in (WORSE, FAILED) for change in changes)


def side_by_side(suites: Sequence[Suite]) -> list[dict[str, Any]]:
    """One entry per arm: its verdict, difference and mean in every suite that has it."""
    labels = list(dict.fromkeys(label for suite in suites for label in suite.arms))
    rows = []
    for label in labels:
        found = {suite.name: suite.arms[label] for suite in suites if label in suite.arms}
        kept = {
            name: {key: arm[key] for key in ("verdict", "difference", "low", "high", "mean", "step_seconds", "steps")}
            for name, arm in found.items()
        }
        rows.append({"arm": label, "suites": kept})
    return rows
