"""What a self-test finds. No heavy import."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.bench.observe import Observer


@dataclass(frozen=True, slots=True)
class Measure:
    """One number and where it has to lie.

    Args:
        what: in words.
        value: measured.
        low, high: bounds, both included.
        control: of an engine that is wrong on purpose; the bounds say how wrong it must be seen to be.
    """

    what: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    control: bool = False

    @property
    def passed(self) -> bool:
        return self.low <= self.value <= self.high

    def to_json(self) -> dict[str, Any]:
        ends = {"low": self.low, "high": self.high, "value": self.value}
        return {
            "what": self.what,
            **{name: end if math.isfinite(end) else None for name, end in ends.items()},
            "control": self.control,
            "passed": self.passed,
        }


Told = tuple[Sequence[Measure], str]
"""Measures of a self-test, and what it says of itself in a report: a few words, or none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A finished self-test.

    Args:
        name, claim: see :class:`nanochat.bench.selftests.SelfTest`.
        measures: all of them have to pass.
        headline: a few words for reports; may be empty.
        seconds: it took.
    """

    name: str
    claim: str
    measures: tuple[Measure, ...]
    headline: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return bool(self.measures) and all(measure.passed for measure in self.measures)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "claim": self.claim,
            "passed": self.passed,
            "headline": self.headline,
            "seconds": self.seconds,
            "measures": [measure.to_json() for measure in self.measures],
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """Where self-tests work.

    Args:
        root: a folder of their own.
        jobs: training runs at a time; one per physical core if None.
        observer: hears of training runs.
    """

    root: Path
    jobs: int | None
    observer: Observer


def yes(what: str, holds: bool, *, control: bool = False) -> Measure:
    """Something that holds or does not."""
    return Measure(what, float(holds), 1, 1, control)
