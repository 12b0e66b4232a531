"""What a suite leaves behind: ``config.json``, ``env.json``, reports, ``verdict.json``, and ``summary.json`` last."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from nanochat.bench import ruling
from nanochat.bench.config import SuiteConfig
from nanochat.bench.jobs import Failure, Job
from nanochat.bench.store import Outcome
from nanochat.bench.tuning import RUNGS, Tuned, rate_on
from nanochat.bench.verdicts import ArmVerdict, Verdicts, excess
from nanochat.bench.wording import (
    HEADINGS,
    duration,
    headline,
    number_text,
    overlap_note,
    plural,
    reservations,
    row,
    selftest_note,
)
from nanochat.config import plain
from nanochat.record import write_bytes, write_json

SCHEMA = "mgr.suite.v1"

LONG_TABLE = 12
"""Arms up to which ``run.md`` shows its table at once."""


def write(verdicts: Verdicts) -> None:
    """Write the report; ``summary.json`` is the commit point."""
    from nanochat.bench.page import page

    directory = verdicts.directory
    write_json(directory / "config.json", plain(verdicts.plan.config))
    write_json(directory / "env.json", dict(verdicts.provenance))
    write_bytes(directory / "run.md", markdown(verdicts).encode())
    write_bytes(directory / "report.html", page(verdicts).encode())
    write_json(directory / ruling.FILE, ruling.ruling(verdicts))
    write_json(directory / "summary.json", summary(verdicts))


def command(config: SuiteConfig) -> str:
    """The shell command that repeats a suite: every option that differs from its default."""
    words = ["mgr", "bench-fixed-flops"]
    for item in fields(config):
        value = getattr(config, item.name)
        if value == item.default:
            continue
        flag = item.metadata["flag"] or item.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            for entry in value if isinstance(value, tuple) else (value,):
                text = format(entry, ".12g") if isinstance(entry, float) else str(entry)
                words += [f"-{flag}" if len(flag) == 1 else f"--{flag}", text]
    return shlex.join(words)


def summary(verdicts: Verdicts) -> dict[str, Any]:
    """``summary.json``: everything that the tables and figures show, and the runs behind every number."""
    plan = verdicts.plan
    return {
        "schema": SCHEMA,
        "run_id": plan.name,
        "command": command(plan.config),
        "baseline": plan.baseline.label,
        "preset": plan.config.preset,
        "question": plan.config.question,
        "design": plan.design,
        "match": plan.config.match,
        "valid": verdicts.valid,
        "budget": plan.budget,
        "sesoi": plan.config.sesoi,
        "alpha": plan.config.alpha,
        "seeds": list(plan.seeds),
        "looks": list(plan.looks),
        "confirmation_seeds": list(plan.confirmation_seeds),
        "excluded": dict(plan.excluded),
        "forecast": list(verdicts.forecast),
        "tuning_seeds": list(plan.tuning_seeds),
        "size": plan.size,
        "batch_size": plan.batch_size,
        "optimizers": list(plan.config.optimizers),
        "schedulers": list(plan.config.schedulers),
        "data": plain(plan.data),
        "hashes": dict(verdicts.provenance["hashes"]),
        "overlap": dict(verdicts.provenance["overlap"]),
        "selftests": dict(verdicts.provenance["selftests"]),
        "arms": [_arm(verdicts, arm) for arm in verdicts.arms],
        "wall_seconds": verdicts.wall_seconds,
        "core_seconds": verdicts.core_seconds,
        "trained": verdicts.trained,
        "served": verdicts.served,
    }


def _arm(verdicts: Verdicts, arm: ArmVerdict) -> dict[str, Any]:
    plan = verdicts.plan
    same = (
        "label against verdict note mean difference low high sd p p_adjusted p_sign_flip p_tie detectable seeds_needed "
        "steps parameters operations step_seconds seconds time_ratio peak_bytes"
    )
    return {
        **{name: getattr(arm, name) for name in same.split()},
        "time_ratio_interval": None if arm.time_ratio_interval is None else list(arm.time_ratio_interval),
        "optimizer": plan.arm(arm.label).optimizer,
        "scheduler": plan.arm(arm.label).scheduler,
        "flags": list(arm.flags),
        "bpb": list(arm.bpb),
        "differences": list(arm.differences),
        "mean_interval": None if arm.mean_interval is None else list(arm.mean_interval),
        "effects": None if arm.effects is None else asdict(arm.effects),
        "confirmation": None if arm.confirmation is None else asdict(arm.confirmation),
        "shares": {f"{share:g}": asdict(found) for share, found in arm.shares.items()},
        "time": None if arm.time is None else asdict(arm.time),
        "model": plain(plan.models[arm.label]),
        "ledger": {
            "step_flops": plan.step_flops(arm.label),
            "forward_per_token": plan.ledgers[arm.label].forward.total,
            "training_per_token": plan.ledgers[arm.label].training.total,
        },
        "tuning": _tuning(arm.tuned, plan.centre(arm.label)),
        "untuned": None if arm.untuned is None else asdict(arm.untuned),
        "audit": {
            "faults": list(arm.audit.faults),
            "runs": arm.audit.runs,
            "budget_error": arm.audit.budget_error,
            "ledger_error": arm.audit.ledger_error,
            "rescored": arm.audit.rescored,
            "leak": arm.audit.leak,
            "replayed": arm.audit.replayed,
            "time_valid": arm.audit.time_valid,
        },
        "runs": [_run(job, outcome) for job, outcome in verdicts.runs[arm.label]],
    }


def _tuning(tuned: Tuned, centre: float) -> dict[str, Any]:
    return {
        "learning_rate": tuned.rate,
        "grid_centre": centre,
        "at_edge": tuned.at_edge,
        "sensitivity": excess(tuned),
        "rungs": [
            {
                "share": RUNGS[rung].share,
                "trials": [
                    {"learning_rate": rate_on(rung, centre, point), "bpb": bpb if math.isfinite(bpb) else None}
                    for point, bpb in scores.items()
                ],
            }
            for rung, scores in tuned.scores.items()
        ],
    }


def _run(job: Job, outcome: Outcome | Failure) -> dict[str, Any]:
    identity: Mapping[str, Any] = {
        "key": job.key,
        "stage": job.stage,
        "seed": job.seed,
        "learning_rate": job.rate,
        "steps": job.steps,
    }
    if isinstance(outcome, Failure):
        return {**identity, "failure": outcome.reason}
    return {
        **identity,
        "bpb": outcome.bpb,
        "diverged": outcome.diverged,
        "flops_used": outcome.flops_used,
        "counted_flops": outcome.counted_flops,
        "step_seconds": outcome.step_seconds,
        "wall_seconds": outcome.wall_seconds,
        "cpu_seconds": outcome.cpu_seconds,
    }


def markdown(verdicts: Verdicts) -> str:
    """``run.md``, for a pull request."""
    plan = verdicts.plan
    failed = [f"- {arm.label}: {fault}" for arm in verdicts.arms for fault in arm.audit.faults]
    runs = sum(arm.audit.runs for arm in verdicts.arms)
    lines = [
        f"# {headline(verdicts)}",
        "",
        *([plan.config.question, ""] if plan.config.question else []),
        *_folded(_table(verdicts), len(verdicts.contenders)),
        *(f"- {sentence}" for sentence in reservations(verdicts)),
        *([""] if reservations(verdicts) else []),
        *(["**Failed checks**", "", *failed] if failed else [f"**Checks**: all passed, in {runs} verdict runs."]),
        "",
        f"**Design**: {number_text(plan.budget)} operations per run, {plural(len(plan.seeds), 'paired seed')}, "
        f"smallest effect of interest {plan.config.sesoi:g} bits per byte, family-wise error {plan.config.alpha:g}. "
        f"{plan.size[0].upper()}{plan.size[1:]}.",
        "",
        f"**Contamination**: {overlap_note(verdicts)}",
        "",
        f"**Engine**: {selftest_note(verdicts)}.",
        "",
        "<details><summary>How to read it, and how to repeat it</summary>",
        "",
        "- Δ: held-out bits per byte, arm minus baseline at the same seed, mean over seeds with a simultaneous "
        f"{1 - plan.config.alpha:.0%} interval; below zero is better. p: paired t test, corrected for all arms and "
        "looks.",
        "- Δ untuned: with every arm at the learning rate that the baseline's search chose, short runs on tuning "
        "seeds; what a comparison without a search would have seen.",
        "- Seeds needed: to detect the smallest effect of interest with 80 % power. Step time: seconds per step over "
        "the baseline's, pair by pair.",
        f"- Design `{plan.design[:16]}`, {duration(verdicts.core_seconds)} of processor time.",
        "",
        "```sh",
        command(plan.config),
        "```",
        "",
        "</details>",
        "",
    ]
    return "\n".join(lines)


def _table(verdicts: Verdicts) -> list[str]:
    rows = (" | ".join(cell.replace("|", "\\|") for cell in row(arm)) for arm in verdicts.arms)
    aligned = "|:--|:--|" + "--:|" * (len(HEADINGS) - 2)
    return ["| " + " | ".join(HEADINGS) + " |", aligned, *(f"| {cells} |" for cells in rows)]


def _folded(table: list[str], arms: int) -> list[str]:
    """A long table opens on demand."""
    if arms <= LONG_TABLE:
        return [*table, ""]
    return [f"<details><summary>All {arms} arms</summary>", "", *table, "", "</details>", ""]
