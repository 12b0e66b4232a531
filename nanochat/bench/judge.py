"""From finished runs to verdicts: who goes on after a look, what may not be compared, and what the result is called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeGuard

import numpy as np

from nanochat.bench import effects
from nanochat.bench.audit import Audit, audit
from nanochat.bench.jobs import Failure, Outcome
from nanochat.bench.sequential import Look, examine
from nanochat.bench.stages import CONFIRMATION, EQUAL_TIME, VERDICT, share_stage
from nanochat.bench.statistics import (
    MIN_SEEDS,
    Floats,
    detectable_effect,
    interval,
    paired_p,
    seeds_needed,
    sign_flip_p,
)
from nanochat.bench.suite import GAIN_SHARES, SuitePlan
from nanochat.bench.tuning import Tuned
from nanochat.bench.verdicts import ArmVerdict, Comparison, Effects, Run, untuned

TIME_SPREAD = 1.2
"""Upper over lower end of a step-time ratio's interval beyond which nobody knows what equal seconds are."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What is known of an arm after its last look: the numbers, their row in that look, and how many seeds."""

    look: Look
    row: int
    seeds: int
    word: str


class Judge:
    """Judges a suite look by look.

    Args:
        plan: the suite.
        hashes: of its data, see :func:`nanochat.bench.audit.audit`.
    """

    def __init__(self, plan: SuitePlan, hashes: Mapping[str, str]):
        self.plan = plan
        self.hashes = hashes
        self.runs: dict[str, dict[str, list[Run]]] = {label: {} for label in plan.labels}
        self.settled: dict[str, Settled] = {}
        self.barred: dict[str, tuple[str, str]] = {}

    @property
    def open(self) -> list[str]:
        """Contenders that the next look may still decide."""
        done = {label for label, found in self.settled.items() if found.word}
        return [label for label in self.plan.contenders if label not in done and label not in self.barred]

    @property
    def wins(self) -> list[str]:
        return [label for label in self.plan.contenders if self._word(label)[0] == "WIN"]

    def add(self, label: str, stage: str, runs: Sequence[Run]) -> None:
        """Keep an arm's finished runs of one stage, in the order of their seeds."""
        self.runs[label][stage] = list(runs)

    def look(self, seeds: int) -> None:
        """Decide what the first ``seeds`` seeds decide; their runs have been added."""
        for label in self.open:
            reason = self._reason(label, VERDICT, seeds)
            if reason is not None:
                self.barred[label] = reason
        decided = sum(found.word in ("WIN", "LOSS") for found in self.settled.values())
        still = self.open
        self._settle(still, seeds, decided)
        for label in self.barred:
            pairs = self._paired(label, VERDICT)[:seeds]
            if label not in self.settled and None not in pairs and len(pairs) == seeds:
                self._settle([label], seeds, 0)

    def _settle(self, labels: Sequence[str], seeds: int, decided: int) -> None:
        if not labels:
            return
        differences = np.array([self._paired(label, VERDICT)[:seeds] for label in labels], dtype=np.float64)
        config = self.plan.config
        family = len(self.plan.contenders)
        found = examine(
            differences, self.plan.looks, sesoi=config.sesoi, alpha=config.alpha, family=family, decided=decided
        )
        for row, label in enumerate(labels):
            self.settled[label] = Settled(found, row, seeds, found.verdict[row])

    def scores(self, label: str, stage: str) -> list[float | None]:
        """Bits per byte by seed; None where the run diverged or failed."""
        return [_score(outcome) for _, outcome in self.runs[label].get(stage, ())]

    def _paired(self, label: str, stage: str) -> list[float | None]:
        ours, theirs = self.scores(label, stage), self.scores(self.plan.against[label], stage)
        return [None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=False)]

    def audit(self, label: str, stage: str, seeds: int | None = None) -> Audit:
        """The checks of an arm's runs of one stage."""
        budget = None if self.plan.config.match == "time" else _budget(stage)
        return audit(self.plan, label, self.runs[label].get(stage, ())[:seeds], self.hashes, budget)

    def _reason(self, label: str, stage: str, seeds: int | None = None) -> tuple[str, str] | None:
        """Why an arm may not be compared at all: INVALID before UNSTABLE, its own faults before the baseline's."""
        base = self.plan.against[label]
        for name, whose in ((label, ""), (base, "baseline: ")):
            found = len(self.runs[name].get(stage, ()))
            if seeds is not None and found < seeds:
                return "INVALID", f"{whose}{found} of {seeds} runs are there"
            faults = self.audit(name, stage, seeds).faults
            if faults:
                first, *others = faults
                return "INVALID", whose + first + (f" (and {len(others)} more)" if others else "")
        for name, whose in ((label, ""), (base, "baseline ")):
            runs = self.runs[name].get(stage, [])[:seeds]
            diverged = sum(not isinstance(outcome, Failure) and _score(outcome) is None for _, outcome in runs)
            if diverged:
                return "UNSTABLE", f"{whose}diverged in {diverged} of {len(runs)} seeds"
        return None

    def _word(self, label: str) -> tuple[str, str]:
        """Verdict and note before confirmation."""
        if label in self.barred:
            return self.barred[label]
        if not self.plan.preset.verdict or len(self.plan.seeds) < MIN_SEEDS:
            return "INCONCLUSIVE", f"verdict words are off: {len(self.plan.seeds)} seeds, need {MIN_SEEDS}"
        return self.settled[label].word or "INCONCLUSIVE", ""

    def compare(self, label: str, stage: str) -> Comparison:
        """The arm against its baseline in a stage beside the verdict runs; one comparison, not corrected for others."""
        reason = self._reason(label, stage)
        found = self._paired(label, stage)
        if reason is not None or None in found:
            word, note = reason or ("UNSTABLE", "pairs are missing")
            return Comparison(verdict=word, seeds=len(found), note=note)
        differences = np.array(found, dtype=np.float64)
        n, mean, sd = len(differences), float(differences.mean()), differences.std(ddof=1)
        p = float(paired_p(np.asarray(mean), np.asarray(sd), n))
        low, high = interval(differences)
        change, change_p = self._change(label, differences)
        clear = p <= self.plan.config.alpha and n >= MIN_SEEDS
        word = ("WIN" if mean < 0 else "LOSS") if clear else "INCONCLUSIVE"
        return Comparison(
            verdict=word, seeds=n, difference=mean, low=low, high=high, p=p, change=change, change_p=change_p
        )

    def _change(self, label: str, differences: Floats) -> tuple[float | None, float | None]:
        full = self._paired(label, VERDICT)
        n = min(len(full), len(differences))
        if n < 2 or None in full[:n]:
            return None, None
        return effects.interaction(np.array(full[:n], dtype=np.float64), differences[:n])

    def verdict(self, label: str, tuned: Mapping[str, Tuned]) -> ArmVerdict:
        """Everything about one arm."""
        against = self.plan.against.get(label, "")
        checks = self.audit(label, VERDICT)
        given: dict[str, Any]
        if against:
            given = self._contender(label, tuned)
        else:
            word, note = ("INVALID", checks.faults[0]) if checks.faults else ("BASELINE", "")
            given = {"verdict": word, "note": note}
        finite = np.array([value for value in self.scores(label, VERDICT) if value is not None])
        step_seconds, seconds, peak = self.timing(label)
        ratio = self.time_ratio(label)
        return ArmVerdict(
            label=label,
            against=against,
            bpb=tuple(self.scores(label, VERDICT)),
            mean=float(finite.mean()) if len(finite) else None,
            mean_interval=interval(finite) if len(finite) else None,
            steps=self.plan.steps[label],
            parameters=self.plan.ledgers[label].parameters,
            operations=self.plan.steps[label] * self.plan.step_flops(label),
            step_seconds=step_seconds,
            seconds=seconds,
            time_ratio=ratio and ratio[0],
            time_ratio_interval=ratio and ratio[1:],
            peak_bytes=peak,
            tuned=tuned[label],
            audit=checks,
            **given,
        )

    def _contender(self, label: str, tuned: Mapping[str, Tuned]) -> dict[str, Any]:
        word, note = self._word(label)
        against = self.plan.against[label]
        confirmation = self.compare(label, CONFIRMATION) if self.runs[label].get(CONFIRMATION) else None
        if word == "WIN" and confirmation is not None and confirmation.verdict != "WIN":
            word, note = "INCONCLUSIVE", f"a WIN that {confirmation.seeds} fresh seeds did not confirm"
        stages = {share: share_stage(share) for share in self.plan.preset.shares}
        shares = {share: self.compare(label, stage) for share, stage in stages.items() if self.runs[label].get(stage)}
        time = self.compare(label, EQUAL_TIME) if self.runs[label].get(EQUAL_TIME) else None
        time = self._timed(label, time)
        settled = self.settled.get(label)
        numbers = self._numbers(label, settled) if settled else {}
        return {
            "verdict": word,
            "note": note,
            "flags": self._flags(label, word, numbers.get("difference"), shares, time, tuned),
            **numbers,
            "effects": self._effects(label),
            "untuned": untuned(tuned[label], self.plan.centre(label), tuned[against], self.plan.centre(against)),
            "confirmation": confirmation,
            "shares": shares,
            "time": time,
        }

    def _timed(self, label: str, time: Comparison | None) -> Comparison | None:
        """Equal seconds are no measurement where the machine was busy with something else, or its speed unsteady."""
        ratio = self.time_ratio(label)
        if time is None or ratio is None:
            return time
        if not all(self._had_its_core(name) for name in (label, self.plan.against[label])):
            note = "other work shared the cores: seconds are no measurement"
        elif ratio[2] > TIME_SPREAD * ratio[1]:
            note = f"a step took {ratio[1]:.2f} to {ratio[2]:.2f} times the baseline's: too wide to make seconds equal"
        else:
            return time
        return Comparison(verdict="INVALID", seeds=time.seeds, note=note)

    def time_ratio(self, label: str) -> tuple[float, float, float] | None:
        """Step seconds over the baseline's: geometric mean over pairs of verdict runs, with its 95 % interval.

        A suite trains the runs of a seed one after the other, so that a drift of the machine's speed hits both of a
        pair; where the store had one of them already, the interval alone tells how far apart their conditions were.
        """
        base = self.plan.against.get(label, label)
        pairs = zip(*(self.runs[name].get(VERDICT, ()) for name in (label, base)), strict=False)
        done = [(ours, theirs) for (_, ours), (_, theirs) in pairs if _finished(ours) and _finished(theirs)]
        if not done:
            return None
        logs = np.log([ours.step_seconds / theirs.step_seconds for ours, theirs in done])
        low, high = interval(logs)
        return math.exp(logs.mean()), math.exp(low), math.exp(high)

    def _had_its_core(self, label: str) -> bool:
        return self.audit(label, VERDICT).time_valid and self.audit(label, EQUAL_TIME).time_valid

    def _numbers(self, label: str, settled: Settled) -> dict[str, Any]:
        look, row, alpha = settled.look, settled.row, self.plan.config.alpha / len(self.plan.contenders)
        differences = np.array(self._paired(label, VERDICT)[: settled.seeds], dtype=np.float64)
        sd = float(look.sd[row])
        sesoi = self.plan.config.sesoi
        return {
            "difference": float(look.mean[row]),
            "low": float(look.low[row]),
            "high": float(look.high[row]),
            "differences": tuple(differences.tolist()),
            "sd": sd,
            "p": float(look.p[row]),
            "p_adjusted": float(look.p_adjusted[row]),
            "p_sign_flip": sign_flip_p(differences),
            "p_tie": float(look.p_tie[row]),
            "detectable": detectable_effect(len(differences), alpha) * sd,
            "seeds_needed": seeds_needed(sesoi / sd, alpha) if sd > 0 else MIN_SEEDS,
        }

    def _flags(
        self,
        label: str,
        word: str,
        difference: float | None,
        shares: Mapping[float, Comparison],
        time: Comparison | None,
        tuned: Mapping[str, Tuned],
    ) -> tuple[str, ...]:
        if word not in ("WIN", "LOSS") or difference is None:
            return ()
        grid = tuned[label].scores[0].values()
        best = min(tuned[self.plan.against[label]].scores[0].values())
        signs = [found.difference for found in shares.values() if found.verdict in ("WIN", "LOSS")]
        flags = {
            "negligible": abs(difference) < self.plan.config.sesoi,
            "fragile": word == "WIN" and effects.fragile(list(grid), best),
            "budget": any(other is not None and other * difference < 0 for other in signs),
            "time": time is not None and time.verdict != "INVALID" and time.verdict != word,
        }
        return tuple(name for name, raised in flags.items() if raised)

    def _effects(self, label: str) -> Effects:
        base = self.plan.against[label]
        found = self._paired(label, VERDICT)
        ours, theirs = self.scores(label, VERDICT), self.scores(base, VERDICT)[: len(found)]
        complete = None not in found
        differences = np.array(found if complete else [], dtype=np.float64)
        return Effects(
            standardised=effects.standardised(differences) if complete else None,
            fresh_seed=effects.beats_on_a_fresh_seed(differences) if complete else None,
            documents=self._documents(label, base) if complete else None,
            divergence_p=effects.divergence_p(ours.count(None), theirs.count(None), len(ours)),
            rank_p=effects.rank_p(ours, theirs),
            gain=self._gain(label, base) if complete and self.plan.preset.gain else None,
        )

    def _documents(self, label: str, base: str) -> tuple[float, float] | None:
        ours, theirs = (
            [outcome for _, outcome in self.runs[name][VERDICT] if not isinstance(outcome, Failure)]
            for name in (label, base)
        )
        theirs = theirs[: len(ours)]
        if len({len(run.document_nats) for run in (*ours, *theirs)}) != 1 or not ours[0].document_nats:
            return None
        nats = (np.array([run.document_nats for run in runs]) for runs in (ours, theirs))
        sizes = np.array(ours[0].document_bytes, dtype=np.float64)
        return effects.over_documents(next(nats), next(nats), sizes)

    def _gain(self, label: str, base: str) -> effects.Gain | None:
        arm = self.scores(label, VERDICT)
        curve = {share: self.scores(base, share_stage(share)) for share in GAIN_SHARES}
        curve[1.0] = self.scores(base, VERDICT)
        shares = sorted(share for share in curve if curve[share])
        n = min(len(arm), *(len(curve[share]) for share in shares))
        table = [curve[share][:n] for share in shares]
        if len(shares) < 2 or None in arm[:n] or any(None in row for row in table):
            return None
        return effects.equivalent_gain(shares, np.array(table, dtype=np.float64), np.array(arm[:n], dtype=np.float64))

    def timing(self, label: str) -> tuple[float | None, float | None, float | None]:
        """Medians over finished seeds: seconds per step, seconds of the loop, peak bytes."""
        found = [outcome for _, outcome in self.runs[label].get(VERDICT, ())]
        done = [each for each in found if _finished(each)]
        if not done:
            return None, None, None
        return (
            median(outcome.step_seconds for outcome in done),
            median(outcome.wall_seconds for outcome in done),
            median(outcome.peak_bytes for outcome in done),
        )


def _finished(outcome: Outcome | Failure) -> TypeGuard[Outcome]:
    """Whether its seconds are those of a whole run."""
    return not isinstance(outcome, Failure) and not outcome.diverged


def _budget(stage: str) -> float | None:
    """Share of the budget that a stage's runs must have spent; None where seconds are equal instead."""
    if stage == EQUAL_TIME:
        return None
    return float(stage.partition(" ")[2]) if stage.startswith("share ") else 1.0


def _score(outcome: Any) -> float | None:
    if isinstance(outcome, Failure) or outcome.diverged or outcome.bpb is None or not math.isfinite(outcome.bpb):
        return None
    return outcome.bpb
