"""``verdict.json``: what a suite ruled, and nothing that depends on time, place, or how often it was interrupted.

The same design over the same code and text gives the same bytes, whoever trained the runs and whoever was killed
meanwhile. Left out therefore: seconds and memory, the comparison at equal seconds and its mark on a verdict, what was
forecast, machine and versions; ``summary.json`` has them. With ``--match time`` the steps themselves were timed: then
the file is the same for one store only, which keeps the timing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanochat.bench.jobs import Failure
from nanochat.bench.stages import EQUAL_TIME
from nanochat.bench.verdicts import ArmVerdict, Run, Verdicts, excess
from nanochat.config import ConfigError

FILE = "verdict.json"
SCHEMA = "mgr.verdict.v1"

NUMBERS = (
    "mean",
    "difference",
    "low",
    "high",
    "sd",
    "p",
    "p_adjusted",
    "p_sign_flip",
    "p_tie",
    "detectable",
    "seeds_needed",
    "steps",
    "parameters",
    "operations",
)
"""Of an arm, as :class:`nanochat.bench.verdicts.ArmVerdict` explains them."""


def ruling(verdicts: Verdicts) -> dict[str, Any]:
    """The content of ``verdict.json``, plain JSON."""
    plan = verdicts.plan
    return {
        "schema": SCHEMA,
        "design": plan.design,
        "question": plan.config.question,
        "match": plan.config.match,
        "valid": verdicts.valid,
        "baselines": list(plan.baselines),
        "budget": plan.budget,
        "batch_size": plan.batch_size,
        "sesoi": plan.config.sesoi,
        "alpha": plan.config.alpha,
        "seeds": list(plan.seeds),
        "looks": list(plan.looks),
        "tuning_seeds": list(plan.tuning_seeds),
        "pilot_seeds": list(plan.pilot_seeds),
        "confirmation_seeds": list(plan.confirmation_seeds),
        "excluded": dict(plan.excluded),
        "hashes": dict(verdicts.provenance["hashes"]),
        "code": dict(verdicts.provenance["code"]),
        "arms": [_arm(arm, verdicts.runs[arm.label]) for arm in verdicts.arms],
    }


def _arm(arm: ArmVerdict, runs: tuple[Run, ...]) -> dict[str, Any]:
    return {
        "label": arm.label,
        "against": arm.against,
        "verdict": arm.verdict,
        "note": arm.note,
        "flags": [flag for flag in arm.flags if flag != "time"],
        **{name: getattr(arm, name) for name in NUMBERS},
        "bpb": list(arm.bpb),
        "differences": list(arm.differences),
        "mean_interval": None if arm.mean_interval is None else list(arm.mean_interval),
        "effects": None if arm.effects is None else asdict(arm.effects),
        "confirmation": None if arm.confirmation is None else asdict(arm.confirmation),
        "shares": {f"{share:g}": asdict(found) for share, found in arm.shares.items()},
        "learning_rate": arm.tuned.rate,
        "at_edge": arm.tuned.at_edge,
        "sensitivity": excess(arm.tuned),
        "faults": list(arm.audit.faults),
        "budget_error": arm.audit.budget_error,
        "ledger_error": arm.audit.ledger_error,
        "runs": [_run(run) for run in runs if run[0].stage != EQUAL_TIME],
    }


def _run(run: Run) -> dict[str, Any]:
    job, outcome = run
    known = {"key": job.key, "stage": job.stage, "seed": job.seed, "learning_rate": job.rate, "steps": job.steps}
    return known | ({"failure": outcome.reason} if isinstance(outcome, Failure) else {"bpb": outcome.bpb})


def read(name: str, reports: Path) -> dict[str, Any]:
    """The ruling of a suite, by its name, its folder or its file.

    Raises:
        ConfigError: there is none.
    """
    given = Path(name)
    path = next((path for path in (given, given / FILE, reports / name / FILE) if path.is_file()), None)
    if path is None:
        raise ConfigError([f"{name}: got no {FILE} there or below {reports}, need a suite that has ended"])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError([f"{path}: got text that is not JSON, need a suite's {FILE}"]) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ConfigError([f"{path}: got another kind of file, need {SCHEMA}"])
    return content
