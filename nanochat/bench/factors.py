"""Factors of an ablation: knobs with the values they take, and the combinations that can be built. No heavy import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from nanochat.architecture import mechanism
from nanochat.bench.config import SuiteConfig
from nanochat.bench.suite import PRESETS, SuitePlan, configure, prepare, refusals
from nanochat.bench.tuning import RUNGS
from nanochat.config import ConfigError

MOST = 64
"""Combinations of one ablation: each is tuned and trained on its own."""

Cell = tuple[int, ...]
"""The level of every factor, by index; zeros are the baseline."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One knob and the values it takes, the baseline's first."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """A factorial ready to run.

    Args:
        mechanism: whose knobs are varied.
        factors: the knobs.
        cells: combinations that can be built, the baseline first.
        refused: the others, each with the reason.
        plan: the suite of them.
    """

    mechanism: str
    factors: tuple[Factor, ...]
    cells: tuple[Cell, ...]
    refused: Mapping[Cell, str]
    plan: SuitePlan

    def label(self, cell: Cell) -> str:
        """The arm of a combination."""
        return arm(self.mechanism, self.factors, cell)


def grid(factors: Sequence[Factor]) -> list[Cell]:
    """All combinations, the baseline first, the last factor varying fastest."""
    return list(product(*(range(len(factor.levels)) for factor in factors)))


def combination(factors: Sequence[Factor], cell: Cell) -> str:
    """``knob=value`` of every factor, commas between."""
    return ",".join(f"{factor.name}={factor.levels[level]}" for factor, level in zip(factors, cell, strict=True))


def arm(name: str, factors: Sequence[Factor], cell: Cell) -> str:
    """A combination as the suite writes it, so that runs are shared with every suite that has the same arm."""
    return f"{name},{combination(factors, cell)}"


def parse(texts: Iterable[str]) -> tuple[Factor, ...]:
    """Read ``KNOB=a,b[,c]``.

    Raises:
        ConfigError: all faults together.

    Example:
        >>> parse(["group=so3,u1"])
        (Factor(name='group', levels=('so3', 'u1')),)
    """
    factors, faults = [], []
    for text in texts:
        name, _, values = (part.strip() for part in text.partition("="))
        levels = tuple(value.strip() for value in values.split(","))
        if not name or len(levels) < 2 or not all(levels) or len(set(levels)) < len(levels):
            faults.append(f"--factor: got {text!r}, need KNOB=a,b with two or more different values")
        elif name == "label":
            faults.append(f"--factor: got {text!r}, need a knob: a label changes nothing")
        elif name in [factor.name for factor in factors]:
            faults.append(f"--factor: got {name} twice, need each knob once")
        else:
            factors.append(Factor(name, levels))
    if not factors and not faults:
        faults.append("--factor: got none, need at least one, as in --factor KNOB=a,b")
    count = prod(len(factor.levels) for factor in factors)
    if count > MOST:
        faults.append(f"--factor: got {count} combinations, need at most {MOST}")
    if faults:
        raise ConfigError(faults)
    return tuple(factors)


def design(name: str, texts: Iterable[str], given: Mapping[str, Any]) -> Ablation:
    """The factorial of a mechanism's knobs, found to be buildable.

    Args:
        name: the mechanism.
        texts: factors, see :func:`parse`.
        given: fields of :class:`SuiteConfig` from the command line.

    Raises:
        ConfigError: an unknown mechanism or knob, a value that no combination accepts, a baseline that cannot be built.
    """
    mechanism(name)
    factors = parse(texts)
    for field in ("optimizers", "schedulers"):
        if len(given.get(field, ())) > 1:
            raise ConfigError([f"--{field[:-1]}: got {len(given[field])}, need one: an ablation varies knobs"])
    cells = grid(factors)
    config = _suite(name, factors, cells, given)
    refused = refusals(config, [arm(name, factors, cell) for cell in cells])
    reasons = {cell: refused[text] for cell in cells if (text := arm(name, factors, cell)) in refused}
    faults = _hopeless(factors, cells, reasons)
    if faults:
        raise ConfigError(faults)
    kept = tuple(cell for cell in cells if cell not in reasons)
    plan = prepare(_suite(name, factors, kept, given))
    return Ablation(name, factors, kept, reasons, plan)


def _suite(name: str, factors: Sequence[Factor], cells: Sequence[Cell], given: Mapping[str, Any]) -> SuiteConfig:
    """The suite of some combinations; all of them get all seeds, for what an early look ends would bias contrasts."""
    texts = tuple(arm(name, factors, cell) for cell in cells)
    seeds = given.get("seeds") or PRESETS.get(given.get("preset", SuiteConfig().preset), PRESETS["quick"]).seeds
    return configure({**given, "arms": texts, "baseline": texts[0], "looks": (seeds,)})


def _hopeless(factors: Sequence[Factor], cells: Sequence[Cell], reasons: Mapping[Cell, str]) -> list[str]:
    """What is wrong with the factors themselves: a value that nothing accepts, a baseline that cannot be built."""
    found: dict[str, str] = {}
    for at, factor in enumerate(factors):
        for level, value in enumerate(factor.levels):
            those = [cell for cell in cells if cell[at] == level]
            if all(cell in reasons for cell in those):
                found.setdefault(reasons[those[0]], f"{factor.name}={value}")
    faults = [f"--factor {where}: {reason}" for reason, where in found.items()]
    if not faults and cells[0] in reasons:
        first = combination(factors, cells[0])
        faults.append(f"--factor: the baseline {first} (first values) cannot be built: {reasons[cells[0]]}")
    return faults


def forecast(ablation: Ablation) -> list[str]:
    """What it will take, told before anything is spent."""
    plan = ablation.plan
    preset, arms = plan.preset, len(plan.arms)
    points = (len(plan.config.grid), *(rung.kept for rung in RUNGS))
    trials = [count * len(rung.of(plan.tuning_seeds)) for count, rung in zip(points, RUNGS, strict=False)]
    tuning = sum(trials)
    runs = arms * (tuning + preset.seeds * (1 + len(preset.shares) + preset.time_axis)) + preset.pilot
    tuned = sum(count * rung.share for count, rung in zip(trials, RUNGS, strict=True))
    spent = arms * (tuned + preset.seeds * (1 + sum(preset.shares) + preset.time_axis)) + preset.pilot
    knobs = len(ablation.factors)
    lines = [
        f"{len(grid(ablation.factors))} combinations of {knobs} knob{'s' * (knobs > 1)}, {arms} of which can be built; "
        f"about {runs} runs ({tuning} to tune and {preset.seeds} to judge each), {spent * plan.budget:.2g} operations"
    ]
    for cell, reason in ablation.refused.items():
        lines.append(f"left out: {combination(ablation.factors, cell)}: {reason}")
    return lines
