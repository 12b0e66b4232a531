"""The phases of a suite, in the order in which they run, and the steps that each trains. No heavy import."""

from __future__ import annotations

from collections.abc import Mapping

from nanochat.bench.suite import GAIN_SHARES, SuitePlan
from nanochat.bench.tuning import RUNGS

TIMING, PILOT, TUNING = "timing", "pilot", "tuning"
VERDICT, CONFIRMATION, EQUAL_TIME = "verdict", "confirmation", "equal seconds"
"""What a run is for; smaller and larger budgets have :func:`share_stage`."""

TIMING_PHASE = "timing steps"
TIMED_STEPS = 12


def share_stage(share: float) -> str:
    """The stage of runs at another budget."""
    return f"share {share:g}"


def rung_phase(rung: int) -> str:
    """Name of a rung of the learning-rate search."""
    return f"learning rates, rung {rung + 1}"


def look_phase(plan: SuitePlan, seeds: int) -> str:
    """Name of the verdict runs up to a look at ``seeds`` seeds."""
    return "verdict runs" if len(plan.looks) == 1 else f"verdict runs, {seeds} seeds"


def times_steps(plan: SuitePlan) -> bool:
    """Whether a few steps of every arm are timed first."""
    return bool(plan.pilot_seeds) or plan.config.match == "time" or plan.preset.time_axis


def planned_steps(plan: SuitePlan) -> dict[str, Mapping[str, int]]:
    """Steps by arm of every phase that is decided beforehand.

    What nobody knows beforehand is left out: learning rates beyond the grid's edge, the confirmation of a WIN, that an
    early look may end an arm, the steps of equal seconds (those of equal operations stand for them).
    """
    steps: dict[str, Mapping[str, int]] = {}
    if times_steps(plan):
        steps[TIMING_PHASE] = dict.fromkeys(plan.labels, TIMED_STEPS)
    if plan.pilot_seeds:
        steps[PILOT] = {plan.baseline.label: len(plan.pilot_seeds) * plan.steps[plan.baseline.label]}
    points = len(plan.config.grid)
    for number, rung in enumerate(RUNGS):
        trials = points * len(rung.of(plan.tuning_seeds))
        steps[rung_phase(number)] = {label: trials * plan.steps_at(label, rung.share) for label in plan.labels}
        points = rung.kept
    for before, seeds in zip((0, *plan.looks), plan.looks, strict=False):
        steps[look_phase(plan, seeds)] = {label: (seeds - before) * plan.steps[label] for label in plan.labels}
    others = [(share, plan.labels) for share in plan.preset.shares]
    others += [(share, plan.baselines) for share in GAIN_SHARES if plan.preset.gain]
    for share, labels in others:
        phase = steps.setdefault(share_stage(share), {})
        steps[share_stage(share)] = {
            **{label: len(plan.seeds) * plan.steps_at(label, share) for label in labels},
            **phase,
        }
    if plan.preset.time_axis:
        steps[EQUAL_TIME] = {label: len(plan.seeds) * plan.steps[label] for label in plan.contenders}
    return steps
