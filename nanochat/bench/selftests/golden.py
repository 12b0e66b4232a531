"""Verdicts from a frozen store: what finished runs once said, they say for ever.

``golden.json`` holds a design, its finished runs as they lay in a store, and the verdicts that were read from them. A
change of the statistics, of the audits or of what an arm's record says shows here first. It is written anew with
:func:`freeze` when such a change is meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nanochat.bench.config import PLACES, SuiteConfig
from nanochat.bench.jobs import Job
from nanochat.bench.judge import Judge
from nanochat.bench.selftests.finding import Bench, Measure, Told, yes
from nanochat.bench.stages import VERDICT
from nanochat.bench.store import Outcome
from nanochat.bench.suite import SuitePlan, prepare
from nanochat.bench.tuning import Tuned
from nanochat.bench.verdicts import ArmVerdict, Run, Verdicts
from nanochat.config import plain
from nanochat.record import write_json

FILE = Path(__file__).with_name("golden.json")
SCHEMA = "mgr.golden.v1"
DIGITS = 9
"""Significant digits that are compared: processors may differ in the last ones."""

LEFT_OUT = ("loss_curve", "peak_bytes")
"""Of a run, what no verdict rests on."""

NUMBERS = (
    "label against verdict note flags bpb mean mean_interval difference low high differences sd p p_adjusted "
    "p_sign_flip p_tie detectable seeds_needed steps parameters operations"
)
EFFECTS = "standardised fresh_seed documents divergence_p rank_p"
AUDIT = "faults runs budget_error ledger_error rescored leak"
"""Of an arm's record, what is compared: the verdict and its numbers, without timings."""


def freeze(verdicts: Verdicts, path: Path = FILE) -> None:
    """Write a finished suite as the frozen one."""
    judge = Judge(verdicts.plan, verdicts.provenance["hashes"])
    runs: dict[str, Any] = {}
    for arm in verdicts.arms:
        kept = [(job, found) for job, found in verdicts.runs[arm.label] if job.stage == VERDICT]
        judge.add(arm.label, VERDICT, kept)
        runs[arm.label] = {
            "rate": arm.tuned.rate,
            "point": arm.tuned.point,
            "rungs": [{str(point): bpb for point, bpb in rung.items()} for _, rung in sorted(arm.tuned.scores.items())],
            "seeds": {str(job.seed): _kept(found) for job, found in kept if isinstance(found, Outcome)},
        }
    given = {item.name for item in fields(SuiteConfig) if getattr(verdicts.plan.config, item.name) != item.default}
    config = {name: value for name, value in plain(verdicts.plan.config).items() if name in given}
    for place in PLACES:
        config.pop(place, None)
    frozen = {"schema": SCHEMA, "config": config, "hashes": dict(verdicts.provenance["hashes"]), "runs": runs}
    write_json(path, {**frozen, "verdicts": read(frozen)}, indent=1)


def _kept(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in asdict(outcome).items() if name not in LEFT_OUT}


def read(frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The verdicts on frozen runs, as plain values of :data:`DIGITS` digits."""
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in frozen["config"].items()
    }
    plan = prepare(SuiteConfig(**given))
    judge = Judge(plan, frozen["hashes"])
    tuned = {}
    for label, arm in frozen["runs"].items():
        judge.add(label, VERDICT, [_run(plan, label, arm, int(seed), found) for seed, found in arm["seeds"].items()])
        rungs = {rung: {int(point): bpb for point, bpb in each.items()} for rung, each in enumerate(arm["rungs"])}
        tuned[label] = Tuned(arm["rate"], arm["point"], rungs, False)
    for seeds in plan.looks:
        judge.look(seeds)
    return {label: _plain(judge.verdict(label, tuned)) for label in plan.labels}


def _run(plan: SuitePlan, label: str, arm: Mapping[str, Any], seed: int, found: Mapping[str, Any]) -> Run:
    run = plan.run_config(label, seed, arm["rate"], plan.steps[label], tuning=False)
    return Job("", label, VERDICT, run, {}), Outcome(**found, **{"loss_curve": [], "peak_bytes": 0})


def _plain(arm: ArmVerdict) -> dict[str, Any]:
    record = {name: getattr(arm, name) for name in NUMBERS.split()}
    record["audit"] = {name: getattr(arm.audit, name) for name in AUDIT.split()}
    if arm.effects is not None:
        record["effects"] = {name: getattr(arm.effects, name) for name in EFFECTS.split()}
    return rounded(record)


def rounded(value: Any) -> Any:
    """The same with every number to :data:`DIGITS` digits, and lists for tuples."""
    if isinstance(value, Mapping):
        return {str(name): rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def unchanged(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    frozen = json.loads(FILE.read_text(encoding="utf-8"))
    expected, now = frozen["verdicts"], read(frozen)
    measures = [
        yes(f"{label}: {expected[label]['verdict']}, to the byte", _bytes(now[label]) == _bytes(expected[label]))
        for label in expected
    ]
    changed = json.loads(json.dumps(frozen))
    contender = next(label for label, arm in expected.items() if arm["against"])
    first = next(iter(changed["runs"][contender]["seeds"].values()))
    first["bpb"] += 1e-6
    measures.append(
        yes("a score that moves by a millionth is seen", _bytes(read(changed)) != _bytes(now), control=True)
    )
    return [*measures, Measure("arms", len(expected), low=3)], ""


def _bytes(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
