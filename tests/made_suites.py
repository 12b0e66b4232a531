"""Finished suites of any size from made-up runs whose truth is known: for tests of what a report looks like."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from outcomes import OUTCOME

from nanochat.bench.config import SuiteConfig
from nanochat.bench.jobs import Failure, Job
from nanochat.bench.judge import Judge
from nanochat.bench.stages import CONFIRMATION, EQUAL_TIME, VERDICT, share_stage
from nanochat.bench.store import Outcome
from nanochat.bench.suite import GAIN_SHARES, SuitePlan, prepare
from nanochat.bench.tuning import RUNGS, Trial, rate_on, search
from nanochat.bench.verdicts import Run, Verdicts

HASHES = {"data_hash": "d" * 64, "tokenizer_hash": "7" * 64, "eval_hash": "e" * 64}
ALL = (
    *("standard", "tropical", "ultrametric", "simplicial", "quaternion", "octonion"),
    *("braid", "fractal", "surreal", "reversible", "gauge"),
)
SHARED_NOISE, NOISE = 0.03, 0.008
PASSAGES = 120
SLOWER = {"tropical": 1.9, "ultrametric": 4.0, "octonion": 2.2, "reversible": 1.5, "braid": 1.3}


@dataclass(frozen=True)
class Truth:
    """What is so in a made-up world.

    Args:
        effects: bits per byte that an attention type or optimizer adds.
        diverging, cheating, lost, busy: labels whose first verdict run diverges, spends too much, cannot be finished,
            or shared its core.
    """

    effects: Mapping[str, float] = field(default_factory=dict)
    diverging: Sequence[str] = ()
    cheating: Sequence[str] = ()
    lost: Sequence[str] = ()
    busy: Sequence[str] = ()


def _normal(*key: object, size: int | None = None) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=zlib.crc32(repr(key).encode()))).normal(size=size)


@dataclass
class World:
    """Trains in no time.

    Args:
        plan: the suite.
        truth: what its runs will show.
    """

    plan: SuitePlan
    truth: Truth

    def effect(self, label: str) -> float:
        arm = self.plan.arm(label)
        return sum(self.truth.effects.get(name, 0.0) for name in (arm.attention_type, arm.text, arm.optimizer))

    def bpb(self, label: str, seed: int, share: float, rate: float) -> float:
        best = self.plan.centre(label) * 2.0 ** float(0.8 * _normal(label))
        miss = np.log2(rate / (best * (share / RUNGS[0].share) ** -0.32))
        shape = 2.6 * share**-0.08 + self.effect(label) + 0.03 * miss**2
        return float(shape + SHARED_NOISE * _normal(seed) + NOISE * _normal(label, seed, share))

    def run(self, label: str, stage: str, seed: int, share: float, rate: float, first: bool = False) -> Run:
        plan, arm = self.plan, self.plan.arm(label)
        steps = plan.steps_at(label, share)
        run = plan.run_config(label, seed, rate, steps, tuning=stage == "tuning")
        job = Job(f"{zlib.crc32(repr((label, stage, seed, share, rate)).encode()):08x}" * 8, label, stage, run, {})
        if first and label in self.truth.lost:
            return job, Failure("its worker died 3 times")
        diverged = first and label in self.truth.diverging
        used = steps * plan.step_flops(label) * (1.3 if first and label in self.truth.cheating else 1.0)
        second = 2e-4 * SLOWER.get(arm.attention_type, 1.0) * (1 + 0.5 * (arm.optimizer == "hoss"))
        bpb = self.bpb(label, seed, share, rate)
        sizes = 400 + np.arange(PASSAGES) % 113
        hard = 1 + 0.25 * _normal("passages", size=PASSAGES) + 0.02 * _normal("passages", label, size=PASSAGES)
        outcome = replace(
            OUTCOME,
            bpb=None if diverged else bpb,
            diverged=diverged,
            steps=steps,
            tokens=steps * plan.batch_size * plan.models[label].sequence_len,
            flops_used=used,
            counted_flops=used,
            parameters=plan.ledgers[label].parameters,
            weights=plan.ledgers[label].parameters,
            step_seconds=second,
            wall_seconds=steps * second,
            cpu_seconds=steps * second * (0.5 if label in self.truth.busy else 0.999),
            peak_bytes=int(4.3e8 + 4e7 * abs(_normal(label)) + 1e5 * (seed % 7)),
            loss_curve=self.curve(label, seed, steps, bpb),
            document_nats=[] if diverged else (bpb * np.log(2) * sizes * hard).tolist(),
            document_bytes=sizes.tolist(),
            **HASHES,
        )
        return job, outcome

    def curve(self, label: str, seed: int, steps: int, bpb: float) -> list[list[float]]:
        at = np.linspace(0, steps - 1, min(steps, 60)).round()
        losses = (
            bpb * 0.7 + 3.6 * (1 + at / (0.01 * steps)) ** -0.8 + 0.05 * _normal(label, seed, "curve", size=len(at))
        )
        return np.column_stack([at, losses]).tolist()

    def stage(self, judge: Judge, labels: Sequence[str], stage: str, seeds: Sequence[int], share: float) -> None:
        for label in labels:
            rate = self.tuned[label].at(share)
            runs = [self.run(label, stage, seed, share, rate, seed == seeds[0] and stage == VERDICT) for seed in seeds]
            judge.add(label, stage, runs)

    def played(self) -> Verdicts:
        """The whole suite, as :mod:`nanochat.bench.engine` runs it."""
        plan = self.plan
        trials: list[Run] = []

        def score(asked: Sequence[Trial]) -> dict[Trial, float]:
            found = {}
            for trial in asked:
                rate = rate_on(trial.rung, plan.centre(trial.label), trial.point)
                trials.append(self.run(trial.label, "tuning", trial.seed, RUNGS[trial.rung].share, rate))
                outcome = trials[-1][1]
                assert isinstance(outcome, Outcome) and outcome.bpb is not None
                found[trial] = outcome.bpb
            return found

        centres = {label: plan.centre(label) for label in plan.labels}
        self.tuned = search(centres, plan.tuning_seeds, score, plan.config.grid)
        judge = Judge(plan, HASHES)
        for number, look in enumerate(plan.looks):
            still = plan.labels if number == 0 else (*plan.baselines, *judge.open)
            self.stage(judge, still, VERDICT, plan.seeds[:look], 1.0)
            judge.look(look)
        if plan.confirmation_seeds:
            again = sorted({*judge.wins, *(plan.against[label] for label in judge.wins)})
            self.stage(judge, again, CONFIRMATION, plan.confirmation_seeds, 1.0)
        for share in plan.preset.shares:
            self.stage(judge, plan.labels, share_stage(share), plan.seeds, share)
        for share in GAIN_SHARES if plan.preset.gain else ():
            self.stage(judge, plan.baselines, share_stage(share), plan.seeds, share)
        if plan.preset.time_axis:
            self.stage(judge, plan.labels, EQUAL_TIME, plan.seeds, 1.0)
        runs = {
            label: (*(run for run in trials if run[0].label == label), *sum(judge.runs[label].values(), []))
            for label in plan.labels
        }
        return Verdicts(
            plan=plan,
            arms=tuple(judge.verdict(label, self.tuned) for label in plan.labels),
            runs=runs,
            directory=Path("artifacts/bench/suites") / plan.name,
            wall_seconds=1234.0,
            trained=sum(map(len, runs.values())),
            served=0,
            core_seconds=sum(run.cpu_seconds for each in runs.values() for _, run in each if isinstance(run, Outcome)),
            passages=tuple(f"passage {number} <b> & so on" for number in range(PASSAGES)),
            provenance=PROVENANCE | {"code": {label: f"{zlib.crc32(label.encode()):08x}" * 8 for label in plan.labels}},
            forecast=("about 21 min on 2 workers, the longest run being ultrametric with 40 s",)
            * bool(plan.pilot_seeds),
        )


PROVENANCE = {
    "environment": {
        "python": "3.11.7",
        "platform": "Linux-6.18.44-x86_64-with-glibc2.36",
        "processor": "AMD EPYC",
        "cores": 2,
        "versions": {"torch": "2.13.0+cpu", "numpy": "2.4.6", "jax": None},
        "commit": "c" * 40,
        "started": "2026-11-23T09:06:20Z",
    },
    "hashes": HASHES,
    "overlap": {
        "evaluation": {"grams": 9000, "before": 900, "after": 0},
        "held_out": {"grams": 90000, "before": 8000, "after": 20},
        "removed_bytes": 123456,
        "documents": 78,
    },
    "selftests": {
        "badge": "self-tests 1/9 passed on 2026-11-23; 9 of 9 cheats caught",
        "findings": [
            {
                "name": "cheats",
                "claim": "Every way to cheat that we know is caught.",
                "passed": True,
                "headline": "9 of 9 cheats caught",
                "date": "2026-11-23T10:00:00+00:00",
                "measures": [{"what": "faults found in an honest run", "control": False}],
            }
        ],
    },
}


def made(truth: Truth | None = None, **options: object) -> Verdicts:
    """A finished suite; ``options`` are those of :class:`nanochat.bench.config.SuiteConfig`."""
    given = {"arms": ALL, "preset": "quick", **options}
    return World(prepare(SuiteConfig(**given)), truth or Truth()).played()


EFFECTS = {
    **{"tropical": -0.11, "reversible": -0.02, "ultrametric": 0.30, "octonion": 0.05, "braid": 0.002},
    **{"surreal": 0.09, "fractal": 0.4, "standard,position=none": 0.2, "muon": -0.05},
}
"""Some help, most do not."""


def suites() -> dict[str, Verdicts]:
    """One of every kind that a report must serve."""
    everything = {"preset": "standard", "target_flops": 1e12, "undertrained_ok": True}
    return {
        "two": made(Truth(EFFECTS), arms=("standard", "tropical"), question="Does max-plus attention help on code?"),
        "eleven": made(Truth(EFFECTS), **everything, question="Which attention reads code best?"),
        "matrix": made(
            Truth(EFFECTS, diverging=("fractal+muon+wsd",), cheating=("gauge+adamw+wsd",)),
            **everything,
            optimizers=("adamw", "muon", "hoss"),
            schedulers=("wsd", "ordinal"),
        ),
        "troubled": made(
            Truth(EFFECTS, diverging=("fractal",), cheating=("gauge",), lost=("surreal",), busy=("braid",)),
            **everything,
        ),
        "barred": made(Truth(EFFECTS, cheating=("standard",)), arms=("standard", "tropical", "gauge")),
        "undecided": made(
            Truth({"gauge": 0.004}),
            arms=("standard", "gauge", "standard,position=none,label=without-any-position-encoding-at-all"),
        ),
        "smoke": made(Truth(EFFECTS), preset="smoke", arms=("standard", "tropical", "reversible")),
    }
