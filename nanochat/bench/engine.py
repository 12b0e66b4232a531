"""Runs a suite: resolve, tune, train, judge, report. ``nanochat.bench.run`` is its door."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.architecture import plan as architecture_plan
from nanochat.bench.executor import Executor, InProcess, Workers
from nanochat.bench.jobs import Failure, Job, Trainer, dataset_of
from nanochat.bench.observe import Observer
from nanochat.bench.store import Outcome, Store, key_of
from nanochat.bench.suite import SuitePlan, prepare, run_facts
from nanochat.bench.tuning import RUNGS, Trial, Tuned, search
from nanochat.config import ConfigError, RunConfig, SuiteConfig
from nanochat.optim import OPTIMIZERS
from nanochat.schedule import SCHEDULES

if TYPE_CHECKING:
    from nanochat.bench.verdicts import Run, Verdicts


def run(config: SuiteConfig, *, view: Observer | None = None, trainer: Trainer | None = None) -> Verdicts:
    """Compare the arms of a suite at equal operations.

    Args:
        config: what is compared, and how.
        view: hears of progress.
        trainer: trains in this process instead of ``nanochat.train.run`` in workers; for tests that tamper.

    Raises:
        ConfigError: a fault of the design, found before anything heavy is imported.
        EnvironmentFault: this machine cannot serve it.
        KeyboardInterrupt: finished runs stay in the store; the same command continues.
    """
    begin = time.monotonic()
    observer = view or Observer()
    plan = prepare(config)
    directory, store = _places(plan)
    from nanochat.bench.verdicts import Verdicts, judge  # numpy and scipy: not before the design is accepted

    plan = _with_text(plan, observer)
    observer.planned(plan)
    try:
        suite = _Suite(plan, store, observer)
        with _executor(suite, trainer) as executor:
            tuned = suite.tune(executor)
            runs = suite.verdict_runs(executor, tuned)
        verdicts = Verdicts(
            plan=plan,
            arms=judge(plan, runs, tuned, suite.data_hashes),
            runs={label: (*suite.trials[label], *runs[label]) for label in runs},
            directory=directory,
            wall_seconds=time.monotonic() - begin,
            trained=suite.trained,
            served=suite.served,
            core_seconds=suite.core_seconds(runs),
            provenance=suite.provenance(),
        )
    finally:
        observer.stop()
    from nanochat.bench.report import write

    write(verdicts)
    return verdicts


def _executor(suite: _Suite, trainer: Trainer | None) -> AbstractContextManager[Executor]:
    if trainer is not None:
        return nullcontext(InProcess(suite.store, suite.observer, trainer))
    config = suite.plan.config
    # Runs that share an accelerator would only slow each other down.
    count = 1 if config.jobs is None and config.device.startswith("cuda") else config.jobs
    return Workers(suite.store, suite.observer, count)


def _places(plan: SuitePlan) -> tuple[Path, Store]:
    """The report's folder and the store, found to be writable before anything is trained."""
    config = plan.config
    directory = Path(config.artifacts_dir) / "bench" / "suites" / plan.name
    probe = directory / ".writable"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError([f"--artifacts-dir: got {directory} ({error.strerror}), need a writable folder"]) from error
    return directory, Store(Path(config.store) if config.store else Path(config.artifacts_dir) / "store")


def _with_text(plan: SuitePlan, observer: Observer) -> SuitePlan:
    """The plan at the vocabulary that the text really gave: a small one has fewer pairs to merge than asked for."""
    from nanochat.data import open_dataset

    wanted = plan.models[plan.baseline.label].vocab_size
    found = open_dataset(plan.data, wanted, report=observer.note).tokenizer.vocab_size
    return plan if found == wanted else prepare(plan.config, found)


@dataclass
class _Suite:
    """A suite under way."""

    plan: SuitePlan
    store: Store
    observer: Observer
    trials: dict[str, list[Run]] = field(default_factory=dict)
    trained: int = 0
    served: int = 0

    def __post_init__(self) -> None:
        self.trials = {arm.label: [] for arm in self.plan.arms}
        vocabulary = self.plan.models[self.plan.baseline.label].vocab_size
        self._datasets = {data: dataset_of(data, vocabulary) for data in (self.plan.data, self.plan.tuning_data)}
        self._code = {arm.label: _code_hash(self.plan, arm.label) for arm in self.plan.arms}

    @property
    def data_hashes(self) -> dict[str, str]:
        return self._hashes(tuning=False)

    def _hashes(self, *, tuning: bool) -> dict[str, str]:
        dataset = self._datasets[self.plan.tuning_data if tuning else self.plan.data]
        return {
            "data_hash": dataset.manifest.hash,
            "tokenizer_hash": dataset.tokenizer.hash,
            "eval_hash": dataset.eval_set.hash,
        }

    def job(self, label: str, seed: int, rate: float, share: float, *, tuning: bool) -> Job:
        """One run with its address in the store."""
        arm = next(arm for arm in self.plan.arms if arm.label == label)
        run: RunConfig = self.plan.run_config(label, seed, rate, share, tuning=tuning)
        fixed = {"code_hash": self._code[label], "torch": metadata.version("torch")}
        facts = run_facts(run, arm.replica, {**self._hashes(tuning=tuning), **fixed})
        return Job(key_of(facts), label, "tuning" if tuning else "verdict", run, facts)

    def obtain(self, phase: str, jobs: Sequence[Job], executor: Executor) -> Mapping[str, Outcome | Failure]:
        """Results of all jobs: from the store where they are, else trained."""
        stored = {job.key: outcome for job in jobs if (outcome := self.store.load(job.key)) is not None}
        missing = [job for job in jobs if job.key not in stored]
        self.observer.phase(phase, jobs, len(missing))
        for job in jobs:
            if job.key in stored:
                self.observer.finished(job, stored[job.key], cached=True)
        trained = executor.run(missing) if missing else {}
        self.served += len(stored)
        self.trained += len(trained)
        return {**stored, **trained}

    def tune(self, executor: Executor) -> dict[str, Tuned]:
        """The same search for every arm."""

        def score(trials: Sequence[Trial]) -> dict[Trial, float]:
            jobs = {
                trial: self.job(
                    trial.label,
                    trial.seed,
                    self.plan.centre * 2.0**trial.point,
                    RUNGS[trial.rung][0],
                    tuning=True,
                )
                for trial in trials
            }
            results = self.obtain(f"learning rates, rung {trials[0].rung + 1}", list(jobs.values()), executor)
            for trial, job in jobs.items():
                self.trials[trial.label].append((job, results[job.key]))
            return {trial: _loss(results[job.key]) for trial, job in jobs.items()}

        return search([arm.label for arm in self.plan.arms], self.plan.centre, self.plan.tuning_seeds, score)

    def verdict_runs(self, executor: Executor, tuned: Mapping[str, Tuned]) -> dict[str, tuple[Run, ...]]:
        """One run per arm and seed at the full budget."""
        jobs = {
            arm.label: [self.job(arm.label, seed, tuned[arm.label].rate, 1.0, tuning=False) for seed in self.plan.seeds]
            for arm in self.plan.arms
        }
        results = self.obtain("verdict runs", [job for each in jobs.values() for job in each], executor)
        return {label: tuple((job, results[job.key]) for job in each) for label, each in jobs.items()}

    def core_seconds(self, runs: Mapping[str, Sequence[Run]]) -> float:
        """Processor seconds in the training loops of all runs that the report rests on."""
        every = [outcome for each in (*self.trials.values(), *runs.values()) for _, outcome in each]
        return sum(outcome.cpu_seconds for outcome in every if not isinstance(outcome, Failure))

    def provenance(self) -> dict[str, Any]:
        """What the numbers depend on besides the configuration."""
        from nanochat.record import environment

        return {"environment": environment(), "hashes": self.data_hashes, "code": self._code}


def _loss(outcome: Outcome | Failure) -> float:
    return math.inf if isinstance(outcome, Failure) or outcome.bpb is None else outcome.bpb


def _code_hash(plan: SuitePlan, label: str) -> str:
    """Of the trainer and of the mechanisms, optimizer and schedule that this arm names."""
    from nanochat.bench.code import code_hash

    built = architecture_plan(plan.models[label])
    records = (
        built.block,
        *built.mixers,
        OPTIMIZERS.get(plan.config.optimizer),
        SCHEDULES.get(plan.config.schedule),
    )
    return code_hash(["nanochat.train", *(record.module for record in records)])
