"""From finished runs to verdicts: what is compared, what may not be, and what the result is called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from nanochat.bench.audit import Audit, audit
from nanochat.bench.jobs import Failure, Job
from nanochat.bench.statistics import (
    MIN_SEEDS,
    Decision,
    decide,
    detectable_effect,
    interval,
    seeds_needed,
    sign_flip_p,
)
from nanochat.bench.store import Outcome
from nanochat.bench.suite import SuitePlan
from nanochat.bench.tuning import Tuned

Run = tuple[Job, Outcome | Failure]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmVerdict:
    """One arm against the baseline. Differences are in bits per byte, arm minus baseline; negative is better.

    Args:
        label: the arm.
        verdict: ``WIN LOSS TIE INCONCLUSIVE UNSTABLE INVALID``, or ``BASELINE``.
        note: why, in a few words; empty where the word says it all.
        bpb: held-out bits per byte by verdict seed; None where the run diverged or failed.
        mean, mean_interval: of ``bpb`` over finite seeds, with its 95 % interval.
        difference, low, high: Delta with its simultaneous interval; None for the baseline or where it cannot be had.
        differences: paired, by seed.
        sd: of the paired differences.
        p, p_holm, p_sign_flip, p_tie: see :class:`nanochat.bench.statistics.Decision`.
        detectable: the difference that this design detects with 80 % power.
        seeds_needed: to detect the smallest effect of interest with 80 % power; None where no number would do.
        steps, parameters, operations: of a verdict run.
        step_seconds, seconds: medians over seeds, of a step and of the training loop.
        time_ratio: step seconds over the baseline's.
        peak_bytes: median over seeds.
        tuned: the learning-rate search.
        audit: the checks.
    """

    label: str
    verdict: str
    note: str
    bpb: tuple[float | None, ...]
    mean: float | None
    mean_interval: tuple[float, float] | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    differences: tuple[float | None, ...] = ()
    sd: float | None = None
    p: float | None = None
    p_holm: float | None = None
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
    peak_bytes: float | None
    tuned: Tuned
    audit: Audit


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """The result of a suite.

    Args:
        plan: what was asked and promised.
        arms: the baseline first.
        runs: all runs by arm, tuning and verdict.
        directory: where the report lies.
        wall_seconds: of this call, served runs included at no cost.
        trained, served: runs that were trained now, and that the store had.
        core_seconds: processor time of all runs the report rests on.
        provenance: versions, machine, hashes.
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

    @property
    def baseline(self) -> ArmVerdict:
        return self.arms[0]

    @property
    def contenders(self) -> tuple[ArmVerdict, ...]:
        return self.arms[1:]

    @property
    def valid(self) -> bool:
        """No audit failed; the command exits with 1 otherwise."""
        return not any(arm.audit.faults for arm in self.arms)


def judge(
    plan: SuitePlan,
    runs: Mapping[str, Sequence[Run]],
    tuned: Mapping[str, Tuned],
    hashes: Mapping[str, str],
) -> tuple[ArmVerdict, ...]:
    """All verdicts of a suite.

    Args:
        plan: the suite.
        runs: verdict runs by arm, one per seed in the order of ``plan.seeds``.
        tuned: learning-rate searches by arm.
        hashes: of the suite's data, see :func:`nanochat.bench.audit.audit`.
    """
    labels = [arm.label for arm in plan.arms]
    audits = {label: audit(plan, label, runs[label], hashes) for label in labels}
    scores = {label: tuple(_score(outcome) for _, outcome in runs[label]) for label in labels}
    base = labels[0]
    reasons = {label: _reason(label, base, audits, runs) for label in labels[1:]}
    decisions = _decisions(plan, reasons, scores)
    timings = {label: _timing(runs[label]) for label in labels}
    arms = []
    for label in labels:
        statistics = _statistics(plan, decisions[label], scores, label) if label in decisions else {}
        if label == base:
            verdict, note = ("INVALID", audits[base].faults[0]) if audits[base].faults else ("BASELINE", "")
        else:
            verdict, note = reasons[label] or _word(plan, decisions[label])
        finite = np.array([value for value in scores[label] if value is not None])
        step_seconds, seconds, peak = timings[label]
        against = timings[base][0]
        arms.append(
            ArmVerdict(
                label=label,
                verdict=verdict,
                note=note,
                bpb=scores[label],
                mean=float(finite.mean()) if len(finite) else None,
                mean_interval=interval(finite) if len(finite) else None,
                **statistics,
                steps=plan.steps[label],
                parameters=plan.ledgers[label].parameters,
                operations=plan.steps[label] * plan.step_flops(label),
                step_seconds=step_seconds,
                seconds=seconds,
                time_ratio=step_seconds / against if step_seconds and against else None,
                peak_bytes=peak,
                tuned=tuned[label],
                audit=audits[label],
            )
        )
    return tuple(arms)


def _score(outcome: Outcome | Failure) -> float | None:
    return None if isinstance(outcome, Failure) or outcome.diverged else outcome.bpb


def _reason(
    label: str, base: str, audits: Mapping[str, Audit], runs: Mapping[str, Sequence[Run]]
) -> tuple[str, str] | None:
    """Why an arm may not be compared at all: INVALID before UNSTABLE, its own faults before the baseline's."""
    for name, whose in ((label, ""), (base, "baseline: ")):
        if audits[name].faults:
            more = len(audits[name].faults) - 1
            return "INVALID", whose + audits[name].faults[0] + (f" (and {more} more)" if more else "")
    for name, whose in ((label, ""), (base, "baseline ")):
        diverged = sum(not isinstance(outcome, Failure) and _score(outcome) is None for _, outcome in runs[name])
        if diverged:
            return "UNSTABLE", f"{whose}diverged in {diverged} of {len(runs[name])} seeds"
    return None


def _decisions(
    plan: SuitePlan, reasons: Mapping[str, tuple[str, str] | None], scores: Mapping[str, Sequence[float | None]]
) -> dict[str, Decision]:
    """The test of every arm that has all its seeds.

    Holm steps over the arms that may be compared. The others still count in the family, so that an arm that dropped out
    makes no other verdict easier, and where they have numbers these are shown beside the reason.
    """
    base = plan.baseline.label
    groups = [[label for label in reasons if not reasons[label]]]
    groups += [[label] for label in reasons if reasons[label] and None not in (*scores[label], *scores[base])]
    decisions = {}
    for group in groups:
        if group:
            differences = np.array([_differences(scores, label, base) for label in group], dtype=np.float64)
            judged = decide(differences, sesoi=plan.config.sesoi, alpha=plan.config.alpha, arms=len(reasons))
            decisions |= {label: judged.row(number) for number, label in enumerate(group)}
    return decisions


def _differences(scores: Mapping[str, Sequence[float | None]], label: str, base: str) -> list[float | None]:
    return [
        None if ours is None or theirs is None else ours - theirs
        for ours, theirs in zip(scores[label], scores[base], strict=True)
    ]


def _statistics(
    plan: SuitePlan, decision: Decision, scores: Mapping[str, Sequence[float | None]], label: str
) -> dict[str, Any]:
    """The numbers of one arm."""
    differences = np.array(_differences(scores, label, plan.baseline.label), dtype=np.float64)
    sd = float(decision.sd)
    alpha = plan.config.alpha / (len(plan.arms) - 1)
    return {
        "difference": float(decision.mean),
        "low": float(decision.low),
        "high": float(decision.high),
        "differences": tuple(differences.tolist()),
        "sd": sd,
        "p": float(decision.p),
        "p_holm": float(decision.p_holm),
        "p_sign_flip": sign_flip_p(differences),
        "p_tie": float(decision.p_tie),
        "detectable": detectable_effect(len(differences), alpha) * sd,
        "seeds_needed": seeds_needed(plan.config.sesoi / sd, alpha) if sd > 0 else MIN_SEEDS,
    }


def _word(plan: SuitePlan, decision: Decision) -> tuple[str, str]:
    word = str(decision.verdict)
    if not plan.preset.verdict or len(plan.seeds) < MIN_SEEDS:
        return "INCONCLUSIVE", f"verdict words are off: {len(plan.seeds)} seeds, need {MIN_SEEDS}"
    if word in ("WIN", "LOSS") and abs(float(decision.mean)) < plan.config.sesoi:
        return word, "negligible"
    return word, ""


def _timing(runs: Sequence[Run]) -> tuple[float | None, float | None, float | None]:
    """Medians over finished seeds: seconds per step, seconds of the loop, peak bytes."""
    done = [outcome for _, outcome in runs if not isinstance(outcome, Failure) and not outcome.diverged]
    if not done:
        return None, None, None
    return (
        median(outcome.step_seconds for outcome in done),
        median(outcome.wall_seconds for outcome in done),
        median(outcome.peak_bytes for outcome in done),
    )


def excess(tuned: Tuned) -> float | None:
    """Learning-rate sensitivity for strict JSON: mean excess loss over the grid, None where a point diverged."""
    return tuned.sensitivity if math.isfinite(tuned.sensitivity) else None
