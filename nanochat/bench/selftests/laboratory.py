"""A small suite whose runs are trained one by one, at seeds and doses of one's choice, and judged like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nanochat.bench.config import SuiteConfig
from nanochat.bench.engine import Suite
from nanochat.bench.executor import Results, Workers
from nanochat.bench.jobs import Failure, Job
from nanochat.bench.judge import Judge
from nanochat.bench.selftests.finding import Bench
from nanochat.bench.stages import VERDICT
from nanochat.bench.store import Store
from nanochat.bench.suite import SuitePlan, prepare
from nanochat.bench.tuning import Tuned, carried
from nanochat.bench.verdicts import ArmVerdict, Run

BASE = SuiteConfig().baseline
BUDGET = 3e9
"""Operations of a run: 860 steps of 11,296 weights, a second or two of a core."""


class Laboratory:
    """Trains and judges arms of one plan.

    Args:
        arms: beside the baseline.
        root: where finished runs are.
        bench: whose observer hears of training runs, and how many of them there are at a time.
        seeds: of a verdict.
        budget: operations of a run.
    """

    def __init__(self, arms: Sequence[str], root: Path, bench: Bench, seeds: int = 8, budget: float = BUDGET):
        config = SuiteConfig(
            arms=(BASE, *arms),
            preset="quick",
            target_flops=budget,
            seeds=seeds,
            confirm=0,
            pilot=0,
            undertrained_ok=True,
        )
        self.plan: SuitePlan = prepare(config)
        self.store = Store(root)
        self.bench = bench
        self.suite = Suite(self.plan, self.store, bench.observer)

    def job(self, label: str, seed: int, *, share: float = 1.0, dose: float = 1.0) -> Job:
        """A run at the optimizer's prior rate times ``dose``, for ``share`` of the budget."""
        rate = dose * carried(self.plan.centre(label), share)
        return self.suite.job(label, VERDICT, seed, rate, self.plan.steps_at(label, share))

    def train(self, phase: str, jobs: Sequence[Job], count: int | None = None) -> Results:
        """Results of all jobs: from the store, or trained by ``count`` workers, the bench's number if None."""
        with Workers(self.store, self.bench.observer, count or self.bench.jobs) as workers:
            return dict(self.suite.obtain(phase, jobs, workers))

    def judged(self, runs: Mapping[str, Sequence[Run]]) -> dict[str, ArmVerdict]:
        """Verdicts of the contenders from these runs; arms that have none are left out of the plan."""
        labels = [label for label in self.plan.labels if label in runs]
        arms = tuple(self.plan.arm(label) for label in labels)
        against = {label: base for label, base in self.plan.against.items() if label in runs}
        judge = Judge(replace(self.plan, arms=arms, against=against), self.suite.data_hashes)
        for label in labels:
            judge.add(label, VERDICT, list(runs[label]))
        judge.look(self.plan.looks[-1])
        untuned = {label: Tuned(self.plan.centre(label), 0, {0: {0: 0.0}}, False) for label in labels}
        return {label: judge.verdict(label, untuned) for label in labels if label in against}


def paired(jobs: Sequence[Job], results: Results) -> list[Run]:
    """Jobs with what came of them, in their order."""
    return [(job, results[job.key]) for job in jobs]


def scores(jobs: Sequence[Job], results: Results) -> list[float]:
    """Bits per byte of runs that all finished."""
    found = [results[job.key] for job in jobs]
    return [float("inf") if isinstance(run, Failure) or run.bpb is None else run.bpb for run in found]
