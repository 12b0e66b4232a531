"""Was the comparison what it says it was? One broken promise makes an arm INVALID, whatever its score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nanochat.bench.jobs import Failure, Job
from nanochat.bench.store import Outcome
from nanochat.bench.suite import SuitePlan

BUDGET_TOLERANCE = 0.005
"""Operations used over the budget may differ from 1 by this much."""

LEDGER_TOLERANCE = 0.02
"""Operations counted while training over those of the ledger may differ from 1 by this much."""

RESCORE_TOLERANCE = 1e-4
"""Scores that the recheck makes of the weights may differ from the reported ones by this much, relatively. Honest runs
differ by 1e-8, in bf16 too (other batches, other order of sums); a context twice as long moves a document of the
quick suite by 6e-3 after 50 steps, 4e-2 at the end."""

LEAK_TOLERANCE = 1e-4
"""A logit may change by this much when the future does. On a CPU it is exactly 0 for all mechanisms; the room is for
sums that a GPU orders anew each time."""

REPLAY_LEAST = 0.6
"""Least correlation of the last training losses with those of the final weights on the planned batches. Of 80 honest
runs of all mechanisms, schedules and rates from 1/4 to 16 times the prior the least had 0.90, under a schedule that
never decays; of batches that were not read a share of 2e-4 reaches it, in one seed."""

BUSY = 0.95
"""Below this ratio of processor seconds to wall seconds the timing says more about the machine than about the arm."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The checks of one arm.

    Args:
        faults: broken promises, one line each; empty if all held.
        runs: verdict runs checked.
        budget_error: largest |used / C - 1|.
        ledger_error: largest |counted / ledger - 1|.
        rescored: largest relative difference between reported scores and those of the recheck.
        leak: largest change of a logit by later tokens.
        replayed: least correlation of training losses with those on the planned batches; None where none is known.
        time_valid: every run had its core to itself.
    """

    faults: tuple[str, ...]
    runs: int
    budget_error: float
    ledger_error: float
    rescored: float
    leak: float
    replayed: float | None
    time_valid: bool


def audit(
    plan: SuitePlan,
    label: str,
    runs: Iterable[tuple[Job, Outcome | Failure]],
    hashes: Mapping[str, str],
    share: float | None = 1.0,
) -> Audit:
    """Check the runs of one arm and stage against the plan.

    Args:
        plan: what was promised.
        label: the arm.
        runs: all of them, diverged and failed ones too.
        hashes: ``data_hash``, ``tokenizer_hash`` and ``eval_hash`` of the suite's data.
        share: of the budget that each must have spent; None where seconds were equal instead.
    """
    faults: list[str] = []
    budget_errors, ledger_errors, rescored, leaks, busy = [0.0], [0.0], [0.0], [0.0], False
    replayed: list[float] = []
    count = 0
    for job, outcome in runs:
        count += 1
        if isinstance(outcome, Failure):
            faults.append(f"seed {job.seed}: {outcome.reason}")
            continue
        faults += [f"seed {job.seed}: {fault}" for fault in _same_text(outcome, hashes)]
        faults += [f"seed {job.seed}: {fault}" for fault in _same_size(plan, label, outcome)]
        if outcome.diverged:
            continue
        faults += [f"seed {job.seed}: {fault}" for fault in _same_weights(plan, label, outcome)]
        rescored.append(outcome.rescored or 0.0)
        leaks.append(outcome.leak or 0.0)
        replayed += [] if outcome.replayed is None else [outcome.replayed]
        planned = job.steps * plan.step_flops(label) if share is None else share * plan.budget
        used = outcome.flops_used / planned - 1
        counted = outcome.counted_flops / outcome.flops_used - 1
        budget_errors.append(abs(used))
        ledger_errors.append(abs(counted))
        busy |= outcome.cpu_seconds < BUSY * outcome.wall_seconds
        allowed = max(BUDGET_TOLERANCE, 0.51 / job.steps)  # no run is nearer than half a step
        if abs(used) > allowed:
            faults.append(f"seed {job.seed}: used {1 + used:.3f} of the budget, need 1 +- {allowed:.2g}")
        if outcome.steps != job.steps:
            faults.append(f"seed {job.seed}: took {outcome.steps} steps, planned {job.steps}")
        if abs(counted) > LEDGER_TOLERANCE:
            faults.append(
                f"seed {job.seed}: executed {1 + counted:.3f} of the ledger's operations, need 1 +- {LEDGER_TOLERANCE}"
            )
    return Audit(
        faults=tuple(faults),
        runs=count,
        budget_error=max(budget_errors),
        ledger_error=max(ledger_errors),
        rescored=max(rescored),
        leak=max(leaks),
        replayed=min(replayed, default=None),
        time_valid=not busy,
    )


def _same_text(outcome: Outcome, hashes: Mapping[str, str]) -> list[str]:
    names = {"data_hash": "training text", "tokenizer_hash": "tokenizer", "eval_hash": "held-out text"}
    return [
        f"read another {name} ({getattr(outcome, field)[:8]}, planned {hashes[field][:8]})"
        for field, name in names.items()
        if getattr(outcome, field) != hashes[field]
    ]


def _same_size(plan: SuitePlan, label: str, outcome: Outcome) -> list[str]:
    faults: list[str] = []
    planned = plan.ledgers[label].parameters
    if outcome.parameters != planned:
        faults.append(f"trained {outcome.parameters} parameters, planned {planned}")
    per_step = plan.batch_size * plan.models[label].sequence_len
    expected = outcome.steps * per_step
    if outcome.tokens != expected:
        faults.append(f"saw {outcome.tokens} tokens in {outcome.steps} steps, planned {expected}")
    return faults


def _same_weights(plan: SuitePlan, label: str, outcome: Outcome) -> list[str]:
    """What :mod:`nanochat.bench.recheck` found in the weights."""
    if outcome.unchecked or outcome.rescored is None or outcome.leak is None:
        return [f"could not be rechecked: {outcome.unchecked}"]
    faults = []
    if outcome.weights != plan.ledgers[label].parameters:
        faults.append(f"left {outcome.weights} parameters, planned {plan.ledgers[label].parameters}")
    if outcome.rescored > RESCORE_TOLERANCE:
        faults.append(
            f"its weights score otherwise than reported, by {outcome.rescored:.2g} of a document's nats, "
            f"need at most {RESCORE_TOLERANCE:g}"
        )
    if outcome.leak > LEAK_TOLERANCE:
        faults.append(f"a later token moves an earlier logit by {outcome.leak:.2g}, need at most {LEAK_TOLERANCE:g}")
    if outcome.replayed is not None and outcome.replayed < REPLAY_LEAST:
        faults.append(
            f"its training losses are not those of the planned batches (correlation {outcome.replayed:.2f}, "
            f"need {REPLAY_LEAST:g})"
        )
    return faults
