"""Runs a suite: resolve, tune, train, judge, report. ``nanochat.bench.run`` is its door."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.bench.clusters import crew_of
from nanochat.bench.config import SuiteConfig
from nanochat.bench.crew import Crew, physical_cores
from nanochat.bench.executor import Executor, InProcess, Workers
from nanochat.bench.jobs import Failure, Job, Trainer, code_of, dataset_of
from nanochat.bench.observe import Observer
from nanochat.bench.stages import (
    CONFIRMATION,
    EQUAL_TIME,
    PILOT,
    TIMED_STEPS,
    TIMING,
    TIMING_PHASE,
    TUNING,
    VERDICT,
    look_phase,
    planned_steps,
    rung_phase,
    share_stage,
    times_steps,
)
from nanochat.bench.store import Outcome, Store, key_of
from nanochat.bench.suite import GAIN_SHARES, SuitePlan, prepare, run_facts
from nanochat.bench.tuning import RUNGS, Trial, Tuned, carried, rate_on, search
from nanochat.config import ConfigError, RunConfig

if TYPE_CHECKING:
    from nanochat.bench.judge import Judge
    from nanochat.bench.verdicts import Run, Verdicts
    from nanochat.data import Dataset

OPENING = 70
"""Bytes of a held-out passage that a report shows, so that a reader knows which one it is."""

Results = Mapping[str, Outcome | Failure]


def run(
    config: SuiteConfig, *, view: Observer | None = None, trainer: Trainer | None = None, crew: Crew | None = None
) -> Verdicts:
    """Compare the arms of a suite at equal operations.

    Args:
        config: what is compared, and how.
        view: hears of progress.
        trainer: trains in this process instead of ``nanochat.train.run`` in workers; for tests that tamper.
        crew: its workers, ``config.jobs`` of them; those that ``config.crew`` names if None.

    Raises:
        ConfigError: a fault of the design, found before anything heavy is imported.
        EnvironmentFault: this machine cannot serve it.
        KeyboardInterrupt: finished runs stay in the store; the same command continues.
    """
    begin = time.monotonic()
    observer = view or Observer()
    plan = prepare(config)
    crew = crew or crew_of(config)
    if crew is None:  # another machine may have the GPU that this one lacks
        _find_device(plan)
    directory, store = _places(plan)
    from nanochat.bench.judge import Judge  # numpy and scipy: not before the design is accepted
    from nanochat.bench.verdicts import Verdicts

    plan = _with_text(plan, observer)
    observer.planned(plan)
    try:
        suite = Suite(plan, store, observer)
        with _executor(suite, trainer, crew) as executor:
            forecast = suite.preflight(executor)
            tuned = suite.tune(executor)
            judge = Judge(suite.plan, suite.data_hashes)
            suite.verdict_runs(executor, tuned, judge)
            suite.further_runs(executor, tuned, judge)
        runs = {label: (*suite.others[label], *_all(judge, label)) for label in plan.labels}
        verdicts = Verdicts(
            plan=suite.plan,
            arms=tuple(judge.verdict(label, tuned) for label in plan.labels),
            runs=runs,
            directory=directory,
            wall_seconds=time.monotonic() - begin,
            trained=suite.trained,
            served=suite.served,
            core_seconds=_core_seconds(runs),
            provenance=suite.provenance(),
            forecast=forecast,
            passages=suite.passages(),
        )
    finally:
        observer.stop()
    from nanochat.bench.report import write

    write(verdicts)
    return verdicts


def _all(judge: Judge, label: str) -> list[Run]:
    return [run for stage in judge.runs[label].values() for run in stage]


def _core_seconds(runs: Mapping[str, Sequence[Run]]) -> float:
    """Processor seconds in the training loops of all runs that the report rests on."""
    every = {job.key: outcome for each in runs.values() for job, outcome in each}
    return sum(outcome.cpu_seconds for outcome in every.values() if not isinstance(outcome, Failure))


def _executor(suite: Suite, trainer: Trainer | None, crew: Crew | None) -> AbstractContextManager[Executor]:
    if trainer is not None:
        return nullcontext(InProcess(suite.store, suite.observer, trainer))
    return Workers(suite.store, suite.observer, _workers(suite.plan.config), crew)


def _workers(config: SuiteConfig) -> int:
    """Runs at a time. Runs that share an accelerator would only slow each other down."""
    return config.jobs or (1 if config.device.startswith("cuda") else len(physical_cores()))


def _find_device(plan: SuitePlan) -> None:
    """Miss a GPU here and not in the first worker; torch is not imported for a CPU."""
    label = plan.baseline.label
    if plan.config.device.startswith("cuda"):
        from nanochat.precision import resolve

        resolve(plan.run_config(label, plan.seeds[0], plan.centre(label), 1, tuning=True), 1)


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
class Suite:
    """A suite under way."""

    plan: SuitePlan
    store: Store
    observer: Observer
    others: dict[str, list[Run]] = field(default_factory=dict)
    trained: int = 0
    served: int = 0

    def __post_init__(self) -> None:
        self.others = {label: [] for label in self.plan.labels}
        vocabulary = self.plan.models[self.plan.baseline.label].vocab_size
        self._datasets = {data: dataset_of(data, vocabulary) for data in (self.plan.data, self.plan.tuning_data)}
        self._code = {label: self._code_of(label) for label in self.plan.labels}

    def _code_of(self, label: str) -> str:
        return code_of(self.plan.run_config(label, 0, self.plan.centre(label), 1, tuning=True))

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

    def job(self, label: str, stage: str, seed: int, rate: float, steps: int) -> Job:
        """One run with its address in the store."""
        cheap = stage in (TUNING, TIMING)
        run: RunConfig = self.plan.run_config(label, seed, rate, steps, tuning=cheap)
        fixed = {"code_hash": self._code[label], "torch": metadata.version("torch")}
        # A step is timed once per machine; everything else has the same result on all of them.
        replica = f"timing on {platform.node()}" if stage == TIMING else self.plan.arm(label).replica
        facts = run_facts(run, replica, {**self._hashes(tuning=cheap), **fixed})
        return Job(key_of(facts), label, stage, run, facts)

    def obtain(self, phase: str, jobs: Sequence[Job], executor: Executor) -> Results:
        """Results of all jobs: from the store where they are, else trained."""
        stored = {job.key: outcome for job in jobs if (outcome := self.store.load(job.key)) is not None}
        missing = list({job.key: job for job in jobs if job.key not in stored}.values())
        self.observer.phase(phase, jobs, len(missing))
        for job in jobs:
            if job.key in stored:
                self.observer.finished(job, stored[job.key], cached=True)
        trained = executor.run(missing) if missing else {}
        self.served += len(stored)
        self.trained += len(trained)
        return {**stored, **trained}

    def preflight(self, executor: Executor) -> tuple[str, ...]:
        """What the suite will cost and what it can see, told before it is spent."""
        config = self.plan.config
        if not times_steps(self.plan):
            return ()
        seconds = self._time_steps(executor)
        if config.match == "time":
            self.plan = self._equal_seconds(seconds)
        lines = [self._price(seconds)] if seconds else []
        if self.plan.pilot_seeds:
            lines.append(self._sight(executor))
        for line in lines:
            self.observer.note(line)
        return tuple(lines)

    def _time_steps(self, executor: Executor) -> dict[str, float]:
        """Median seconds of a step by label, from a few steps of every arm."""
        jobs = [
            self.job(label, TIMING, self.plan.tuning_seeds[0], self.plan.centre(label), TIMED_STEPS)
            for label in self.plan.labels
        ]
        found = self.obtain(TIMING_PHASE, jobs, executor)
        done = {job.label: found[job.key] for job in jobs}
        return {label: each.step_seconds for label, each in done.items() if not isinstance(each, Failure)}

    def _equal_seconds(self, seconds: Mapping[str, float]) -> SuitePlan:
        """The plan with as many steps of each contender as take the time of its baseline's."""
        steps = dict(self.plan.steps)
        for label, base in self.plan.against.items():
            if label in seconds and base in seconds:
                steps[label] = max(1, round(steps[base] * seconds[base] / seconds[label]))
        return replace(self.plan, steps=steps)

    def _price(self, seconds: Mapping[str, float]) -> str:
        preset = self.plan.preset
        steps = [pair for phase in planned_steps(self.plan).values() for pair in phase.items()]
        total = sum(count * seconds[label] for label, count in steps if label in seconds)
        workers = _workers(self.plan.config)
        slowest = max(seconds, key=lambda label: self.plan.steps[label] * seconds[label])
        longest = self.plan.steps[slowest] * seconds[slowest]
        pairs = f"; every WIN adds {preset.confirm} pairs to confirm it" if preset.confirm else ""
        return (
            f"about {_duration(total / workers)} on {workers} worker{'s' * (workers > 1)}, the longest run being "
            f"{slowest} with {_duration(longest)}{pairs}"
        )

    def _sight(self, executor: Executor) -> str:
        """The pilot: how far equal runs lie apart, hence which differences this many seeds can see."""
        from nanochat.bench.statistics import detectable_effect

        label = self.plan.baseline.label
        rate = carried(self.plan.centre(label), 1.0)
        jobs = [self.job(label, PILOT, seed, rate, self.plan.steps[label]) for seed in self.plan.pilot_seeds]
        found = self.obtain(PILOT, jobs, executor)
        self._keep(jobs, found)
        scores = [_loss(found[job.key]) for job in jobs]
        mean = sum(scores) / len(scores)
        if not math.isfinite(mean):
            return "the pilot diverged at the optimizer's prior rate: what these seeds can see is not known beforehand"
        sd = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        alpha = self.plan.config.alpha / len(self.plan.contenders)
        least = detectable_effect(len(self.plan.seeds), alpha) * sd * math.sqrt(2)
        return (
            f"pilot of {len(scores)} seeds: standard deviation {sd:.4f}, so that {len(self.plan.seeds)} seeds see "
            f"{least:.3f} bits per byte or more with 80 % power, less where pairing helps (of interest: "
            f"{self.plan.config.sesoi:g})"
        )

    def _keep(self, jobs: Iterable[Job], results: Results) -> None:
        for job in jobs:
            self.others[job.label].append((job, results[job.key]))

    def tune(self, executor: Executor) -> dict[str, Tuned]:
        """The same search for every arm."""
        centres = {label: self.plan.centre(label) for label in self.plan.labels}

        def score(trials: Sequence[Trial]) -> dict[Trial, float]:
            jobs = {
                trial: self.job(
                    trial.label,
                    TUNING,
                    trial.seed,
                    rate_on(trial.rung, centres[trial.label], trial.point),
                    self.plan.steps_at(trial.label, RUNGS[trial.rung].share),
                )
                for trial in trials
            }
            results = self.obtain(rung_phase(trials[0].rung), list(jobs.values()), executor)
            self._keep(jobs.values(), results)
            return {trial: _loss(results[job.key]) for trial, job in jobs.items()}

        return search(centres, self.plan.tuning_seeds, score, self.plan.config.grid)

    def _stage(
        self,
        executor: Executor,
        judge: Judge,
        stage: str,
        planned: Mapping[str, tuple[Sequence[int], float, int]],
        phase: str = "",
    ) -> None:
        """Run a stage: seeds, rate and steps by label, and hand the results to the judge.

        Arms take turns, seed by seed, so that a machine that drifts in speed slows them alike: their seconds are
        compared pair by pair.
        """
        jobs = {
            label: [self.job(label, stage, seed, rate, steps) for seed in seeds]
            for label, (seeds, rate, steps) in planned.items()
        }
        turns = [job for block in zip_longest(*jobs.values()) for job in block if job is not None]
        found = self.obtain(phase or stage, turns, executor)
        for label, each in jobs.items():
            judge.add(label, stage, [(job, found[job.key]) for job in each])

    def _with_baselines(self, labels: Iterable[str]) -> list[str]:
        wanted = set(labels)
        wanted |= {self.plan.against[label] for label in wanted if label in self.plan.against}
        return [label for label in self.plan.labels if label in wanted]

    def verdict_runs(self, executor: Executor, tuned: Mapping[str, Tuned], judge: Judge) -> None:
        """Runs at the full budget, judged at every look while an arm is open; then the wins again on fresh seeds."""
        plan = self.plan
        for number, seeds in enumerate(plan.looks):
            wanted = plan.labels if number == 0 else self._with_baselines(judge.open)
            if not wanted:
                break
            planned = {label: (plan.seeds[:seeds], tuned[label].rate, plan.steps[label]) for label in wanted}
            self._stage(executor, judge, VERDICT, planned, look_phase(plan, seeds))
            judge.look(seeds)
        again = self._with_baselines(judge.wins if plan.confirmation_seeds else ())
        if again:
            planned = {label: (plan.confirmation_seeds, tuned[label].rate, plan.steps[label]) for label in again}
            self._stage(executor, judge, CONFIRMATION, planned)

    def further_runs(self, executor: Executor, tuned: Mapping[str, Tuned], judge: Judge) -> None:
        """Smaller budgets, the baseline's curve, equal seconds: as far as they were asked for."""
        plan = self.plan

        def at(share: float, labels: Iterable[str]) -> dict[str, tuple[Sequence[int], float, int]]:
            seeds = {label: plan.seeds[: len(judge.runs[label][VERDICT])] for label in labels}
            return {label: (seeds[label], tuned[label].at(share), plan.steps_at(label, share)) for label in seeds}

        for share in plan.preset.shares:
            self._stage(executor, judge, share_stage(share), at(share, plan.labels))
        for share in GAIN_SHARES if plan.preset.gain else ():
            self._stage(executor, judge, share_stage(share), at(share, plan.baselines))
        if plan.preset.time_axis:
            ratios = {label: ratio[0] for label in plan.labels if (ratio := judge.time_ratio(label)) is not None}
            steps = self._equal_seconds(ratios).steps
            planned = {
                label: (seeds, tuned[label].at(steps[label] / plan.steps[label]), steps[label])
                for label, (seeds, _, _) in at(1.0, [label for label in plan.labels if label in ratios]).items()
            }
            self._stage(executor, judge, EQUAL_TIME, planned)

    def passages(self) -> tuple[str, ...]:
        """How each held-out passage begins."""
        return tuple(map(opening, self._datasets[self.plan.data].eval_set.passages))

    def provenance(self) -> dict[str, Any]:
        """What the numbers depend on besides the configuration."""
        from nanochat.bench.selftests.kept import standing
        from nanochat.record import environment

        return {
            "environment": environment(),
            "hashes": self.data_hashes,
            "code": self._code,
            "overlap": _overlap(self._datasets[self.plan.data]),
            "selftests": standing(Path(self.plan.config.artifacts_dir)),
        }


def _overlap(dataset: Dataset) -> dict[str, Any]:
    """What the training text repeats of the held-out text, see :mod:`nanochat.data.overlap`."""
    manifest = dataset.manifest
    return {
        "documents": manifest.overlapping,
        "removed_bytes": manifest.removed_bytes,
        "held_out": asdict(manifest.overlap),
        "evaluation": asdict(dataset.overlap),
    }


def opening(passage: bytes) -> str:
    """How a passage begins, on one line; what cannot be printed is a dot.

    Example:
        >>> opening(b"def f():\\n    return 1")
        'def f(): return 1'
    """
    text = " ".join(passage[:OPENING].decode(errors="ignore").split())
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _loss(outcome: Outcome | Failure) -> float:
    return math.inf if isinstance(outcome, Failure) or outcome.bpb is None else outcome.bpb
