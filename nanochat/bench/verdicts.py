"""What a suite says: one record per arm, and one of the whole. ``nanochat.bench.judge`` fills them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.bench.audit import Audit
from nanochat.bench.effects import Gain
from nanochat.bench.jobs import Failure, Job
from nanochat.bench.store import Outcome
from nanochat.bench.suite import SuitePlan
from nanochat.bench.tuning import Tuned

Run = tuple[Job, Outcome | Failure]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """An arm against its baseline a second time: on fresh seeds, at another budget, or at equal seconds.

    Args:
        verdict: ``WIN LOSS TIE INCONCLUSIVE UNSTABLE INVALID``.
        seeds: pairs it rests on.
        difference, low, high: mean paired difference in bits per byte with its 95 % interval; None where pairs lack.
        p: of the paired t test.
        note: why, where the word does not say it all.
        change, change_p: difference here minus difference at the full budget, and the paired test of it.
    """

    verdict: str
    seeds: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    note: str = ""
    change: float | None = None
    change_p: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """How much a difference is, beside bits per byte; see :mod:`nanochat.bench.effects`.

    Args:
        standardised: mean over sd of the paired differences; None without spread.
        fresh_seed: chance of beating the baseline on one more seed.
        documents: interval for new seeds *and* new documents, bits per byte.
        divergence_p: Fisher's exact test of how often runs diverge.
        rank_p: signed ranks, a diverged run being the worst.
        gain: compute-equivalent gain; None where it was not asked for or has no line to read.
    """

    standardised: float | None
    fresh_seed: float | None
    documents: tuple[float, float] | None
    divergence_p: float
    rank_p: float
    gain: Gain | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Untuned:
    """Everyone at the baseline's learning rate: what a comparison without a search for the arm would have seen.

    Read from the first rung of both searches, complete runs of a part of the budget on tuning seeds. No verdict.

    Args:
        learning_rate: of that rung at the baseline's chosen point of the grid.
        difference: bits per byte, arm minus baseline, mean over tuning seeds; None where either diverged.
    """

    learning_rate: float
    difference: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmVerdict:
    """One arm against its baseline. Differences are in bits per byte, arm minus baseline; negative is better.

    Args:
        label: the arm.
        against: label of its baseline; empty for a baseline.
        verdict: ``WIN LOSS TIE INCONCLUSIVE UNSTABLE INVALID``, or ``BASELINE``.
        note: why, in a few words; empty where the word says it all.
        flags: what qualifies the word: ``negligible`` (real, but under the smallest effect of interest), ``fragile``
            (better at one learning rate only), ``budget`` (another sign at a smaller budget), ``time`` (another word at
            equal seconds).
        bpb: held-out bits per byte by verdict seed; None where the run diverged or failed.
        mean, mean_interval: of ``bpb`` over finite seeds, with its 95 % interval.
        difference, low, high: Delta with its simultaneous interval; None for the baseline or where it cannot be had.
        differences: paired, by seed.
        sd: of the paired differences.
        p, p_adjusted, p_sign_flip, p_tie: paired t; the same over all arms and looks; exact sign flips; equivalence.
        detectable: the difference that this design detects with 80 % power.
        seeds_needed: to detect the smallest effect of interest with 80 % power; None where no number would do.
        steps, parameters, operations: of a verdict run.
        step_seconds, seconds: medians over seeds, of a step and of the training loop.
        time_ratio, time_ratio_interval: step seconds over the baseline's, pair by pair, with its 95 % interval.
        peak_bytes: median over seeds.
        tuned: the learning-rate search.
        untuned: the difference at the baseline's learning rate; None for a baseline, or where the arm was not tried
            there: its grid was extended to the other side, or is another optimizer's.
        audit: the checks.
        effects: other measures of the difference; None for a baseline.
        confirmation: of a WIN on fresh seeds; None where there was none to confirm.
        shares: the comparison at smaller budgets, by share.
        time: the comparison at equal seconds; None where it was not asked for.
    """

    label: str
    against: str
    verdict: str
    note: str
    flags: tuple[str, ...] = ()
    bpb: tuple[float | None, ...]
    mean: float | None
    mean_interval: tuple[float, float] | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    differences: tuple[float | None, ...] = ()
    sd: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    p_sign_flip: float | None = None
    p_tie: float | None = None
    detectable: float | None = None
    seeds_needed: int | None = None
    steps: int
    parameters: int
    operations: float
    step_seconds: float | None
    seconds: float | None
    time_ratio: float | None
    time_ratio_interval: tuple[float, float] | None
    peak_bytes: float | None
    tuned: Tuned
    untuned: Untuned | None = None
    audit: Audit
    effects: Effects | None = None
    confirmation: Comparison | None = None
    shares: Mapping[float, Comparison] = field(default_factory=dict)
    time: Comparison | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """The result of a suite.

    Args:
        plan: what was asked and promised.
        arms: in the plan's order: by group, the baseline first.
        runs: all runs by arm, of all stages.
        directory: where the report lies.
        wall_seconds: of this call, served runs included at no cost.
        trained, served: runs that were trained now, and that the store had.
        core_seconds: processor time of all runs the report rests on.
        provenance: versions, machine, hashes.
        forecast: what was said beforehand about cost and power, one sentence each.
        passages: how each held-out passage begins.
    """

    plan: SuitePlan
    arms: tuple[ArmVerdict, ...]
    runs: Mapping[str, tuple[Run, ...]]
    directory: Path
    wall_seconds: float
    trained: int
    served: int
    core_seconds: float
    provenance: Mapping[str, Any]
    forecast: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()

    @property
    def baseline(self) -> ArmVerdict:
        """The first one, where there are several."""
        return self.arms[0]

    @property
    def contenders(self) -> tuple[ArmVerdict, ...]:
        return tuple(arm for arm in self.arms if arm.against)

    @property
    def valid(self) -> bool:
        """No audit failed; the command exits with 1 otherwise."""
        return not any(arm.audit.faults for arm in self.arms)


def untuned(own: Tuned, centre: float, base: Tuned, base_centre: float) -> Untuned | None:
    """An arm at the rate that its baseline's search chose. Arms of a group share the middle of their grids."""
    if base.point not in own.scores[0] or centre != base_centre:
        return None
    difference = own.scores[0][base.point] - base.scores[0][base.point]
    rate = base_centre * 2.0**base.point
    return Untuned(learning_rate=rate, difference=difference if math.isfinite(difference) else None)


def excess(tuned: Tuned) -> float | None:
    """Learning-rate sensitivity for strict JSON: mean excess loss over the grid, None where a point diverged."""
    return tuned.sensitivity if math.isfinite(tuned.sensitivity) else None
