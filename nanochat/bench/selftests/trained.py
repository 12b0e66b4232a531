"""Self-tests that really train: arms that are equal, effects that were planted, the same runs in other ways.

Runs are small, see :data:`nanochat.bench.selftests.laboratory.BUDGET`. The seeds of equal arms are new in every call,
and what they say is kept: after some nights the p-values are many enough to be held to their uniform law.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from nanochat.bench.executor import InProcess, Results
from nanochat.bench.jobs import Failure
from nanochat.bench.selftests.cheats import more_steps, retold
from nanochat.bench.selftests.finding import Bench, Measure, Told, yes
from nanochat.bench.selftests.laboratory import BASE, Laboratory, paired, scores
from nanochat.bench.selftests.synthetic import ALPHA, document_level
from nanochat.bench.store import Outcome, Store
from nanochat.bench.verdicts import Run
from nanochat.record import write_json
from nanochat.train import run as train

SCHEMA = "mgr.equal-arms.v1"
ROUNDS, PAIRS = 16, 6
"""Comparisons of equal arms in a call, and seeds of either arm in each."""

FIRST_SEED = 10_000_000
SEEDS = 8
DOSES = (1.0, 2.0, 4.0, 8.0)
"""Times the optimizer's prior learning rate; more is worse here."""

RARE = 1e-3
"""A true engine is found wanting as rarely as this by each of the two tests of its p-values."""

TIMINGS = ("step_seconds", "wall_seconds", "cpu_seconds", "peak_bytes")
"""Fields of a result that two runs of the same key need not share."""


class Nights:
    """``equal-arms.json``: what comparisons of equal arms have said so far, in this place."""

    def __init__(self, root: Path):
        self.path = root / "equal-arms.json"
        known: dict[str, Any] = {}
        if self.path.is_file():
            known = json.loads(self.path.read_text(encoding="utf-8"))
        self.rounds: list[dict[str, Any]] = known.get("rounds", []) if known.get("schema") == SCHEMA else []

    def seeds(self, night: int) -> tuple[list[int], list[int]]:
        """Fresh seeds of the two arms in the ``night``-th call."""
        begin = FIRST_SEED + night * 2 * ROUNDS * PAIRS
        half = begin + ROUNDS * PAIRS
        return list(range(begin, half)), list(range(half, half + ROUNDS * PAIRS))

    @property
    def count(self) -> int:
        return len(self.rounds) // ROUNDS

    def keep(self, rounds: Sequence[Mapping[str, Any]]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.rounds += [{**each, "date": now} for each in rounds]
        write_json(self.path, {"schema": SCHEMA, "rounds": self.rounds})


def equal_arms(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    laboratory = Laboratory((f"{BASE},label=again",), bench.root / "store", bench, PAIRS)
    nights = Nights(bench.root)
    ours, theirs = nights.seeds(nights.count)
    first = [laboratory.job(BASE, seed) for seed in ours]
    second = [laboratory.job("again", seed) for seed in theirs]
    same = [laboratory.job("again", seed) for seed in ours[:2]]
    found = laboratory.train("equal arms", [*first, *second, *same])
    rounds = []
    for start in range(0, len(first), PAIRS):
        part = slice(start, start + PAIRS)
        verdict = laboratory.judged({BASE: paired(first[part], found), "again": paired(second[part], found)})["again"]
        rounds.append(
            {"seed": ours[start], "verdict": verdict.verdict, "p": verdict.p, "difference": verdict.difference}
        )
    nights.keep(rounds)
    exact = max(abs(a - b) for a, b in zip(scores(first[:2], found), scores(same, found), strict=True))
    measures = [
        Measure("same seeds: largest difference in bits per byte", exact, 0.0, 0.0),
        yes("every round could be judged", all(each["p"] is not None for each in nights.rounds)),
        *_uniform([each["p"] for each in nights.rounds if each["p"] is not None]),
        _over_documents(paired(first, found), paired(second, found)),
    ]
    return measures, _false_verdicts(nights.rounds)


def _uniform(p: list[float]) -> list[Measure]:
    count = len(p)
    false = float(np.mean(np.array(p) <= ALPHA))
    low, high = (float(stats.binom.ppf(level, count, ALPHA)) / count for level in (RARE, 1 - RARE))
    fits = float(stats.kstest(p, "uniform").pvalue)  # type: ignore[union-attr]  # scipy's result has no stated type
    return [
        Measure(f"false verdicts of equal arms, {count} comparisons", false, low, high),
        Measure("Kolmogorov-Smirnov p that their p-values are uniform", fits, low=RARE),
    ]


def _over_documents(ours: Sequence[Run], theirs: Sequence[Run]) -> Measure:
    """The wrong engine on the same runs: one seed of either arm, documents as the sample."""
    tables = [
        np.array([np.divide(run.document_nats, run.document_bytes) for _, run in runs if isinstance(run, Outcome)])
        for runs in (ours, theirs)
    ]
    false = float(np.mean(document_level(tables[0], tables[1]) <= ALPHA))
    what = f"false verdicts of a test over {tables[0].shape[1]} documents, {len(ours)} pairs of single runs"
    return Measure(what, false, low=0.2, control=True)


def _false_verdicts(rounds: Sequence[Mapping[str, Any]]) -> str:
    false = sum(each["verdict"] in ("WIN", "LOSS") for each in rounds)
    exact = stats.binomtest(false, len(rounds)).proportion_ci()
    return f"A/A false verdicts {false / len(rounds):.1%} [{exact.low:.1%}, {exact.high:.1%}], {false} of {len(rounds)}"


def planted_effects(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    arms = (f"{BASE},position=none,label=handicap", f"{BASE},mlp=gelu,label=small", f"{BASE},label=bought")
    laboratory = Laboratory(arms, bench.root / "store", bench, SEEDS)
    nights = Nights(bench.root)
    seeds, _ = nights.seeds(max(0, nights.count - 1))  # those of the equal arms just trained, if they were
    groups = [seeds[start : start + SEEDS] for start in range(0, len(seeds), SEEDS)]
    words = _words(laboratory, "handicap", groups)
    small = _words(laboratory, "small", groups[:3])
    handicaps = words.count("LOSS")
    measures = [
        # At this budget the power of one comparison is .998, so that one miss in a night may happen.
        Measure("comparisons in which no positional encoding is a LOSS", handicaps / len(groups), 1 - 1 / len(groups)),
        Measure("of these, called a WIN or a TIE", sum(word in ("WIN", "TIE") for word in words), high=0),
        Measure("a small difference (gelu for squared relu) called a TIE", small.count("TIE"), high=0),
        *_dose(laboratory, groups[0]),
        *_bought(laboratory, groups[0]),
    ]
    return measures, f"planted effect found {handicaps}/{len(groups)}"


def _words(laboratory: Laboratory, label: str, groups: Sequence[Sequence[int]]) -> list[str]:
    ours = [laboratory.job(label, seed) for group in groups for seed in group]
    base = [laboratory.job(BASE, seed) for group in groups for seed in group]
    found = laboratory.train(label, [*base, *ours])
    verdicts = []
    for start in range(0, len(ours), SEEDS):
        part = slice(start, start + SEEDS)
        judged = laboratory.judged({BASE: paired(base[part], found), label: paired(ours[part], found)})
        verdicts.append(judged[label].verdict)
    return verdicts


def _dose(laboratory: Laboratory, seeds: Sequence[int]) -> list[Measure]:
    jobs = {dose: [laboratory.job(BASE, seed, dose=dose) for seed in seeds] for dose in DOSES}
    found = laboratory.train("doses", [job for each in jobs.values() for job in each])
    means = [float(np.mean(scores(each, found))) for each in jobs.values()]
    return [
        Measure(f"rate x {more:g} instead of x {less:g}: change in bits per byte", after - before, low=0.0)
        for less, more, before, after in zip(DOSES, DOSES[1:], means, means[1:], strict=False)
    ]


def _bought(laboratory: Laboratory, seeds: Sequence[int]) -> list[Measure]:
    """1.3 times the budget does win, and is INVALID all the same."""
    base = [laboratory.job(BASE, seed) for seed in seeds]
    ours = [laboratory.job("bought", seed) for seed in seeds]
    found: Results = laboratory.train("baseline", base)
    dishonest = InProcess(laboratory.store, laboratory.bench.observer, retold(more_steps))
    found |= laboratory.suite.obtain("1.3 budgets", ours, dishonest)
    verdict = laboratory.judged({BASE: paired(base, found), "bought": paired(ours, found)})["bought"]
    gained = float(np.mean(scores(ours, found))) - float(np.mean(scores(base, found)))
    return [
        Measure("1.3 times the budget: change in bits per byte", gained, high=0.0, control=True),
        yes(
            "1.3 times the budget: INVALID",
            verdict.verdict == "INVALID" and "of the budget" in str(verdict.audit.faults),
        ),
    ]


def determinism(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Results] = {}
        for way, count in (("one worker", 1), ("two workers", 2), ("another order", 2), ("this process", 0)):
            laboratory = Laboratory((f"{BASE},label=again",), Path(folder, way), bench)
            jobs = [laboratory.job(label, seed, share=0.25) for seed in (1, 2, 3) for label in (BASE, "again")]
            order = jobs[::-1] if way == "another order" else jobs
            if count:
                ways[way] = laboratory.train(way, order, count)
            else:
                alone = InProcess(laboratory.store, laboratory.bench.observer, train)
                ways[way] = dict(laboratory.suite.obtain(way, order, alone))
        before = laboratory.suite.trained
        again = laboratory.train("again from the store", jobs)
        repeated = laboratory.suite.trained - before
        stored = Store(Path(folder, "one worker"))
        kept = all(stored.load(job.key) == ways["one worker"][job.key] for job in jobs)
    first, *others = ways.values()
    measures = [
        Measure(f"{way}: runs that differ in a bit from those of one worker", _different(first, other), high=0)
        for way, other in zip(list(ways)[1:], others, strict=True)
    ]
    curves = [
        [each.loss_curve for each in (first[job.key] for job in half) if isinstance(each, Outcome)]
        for half in (jobs[::2], jobs[1::2])
    ]
    twins = sum(a != b for a, b in zip(*curves, strict=True))
    seeds = {json.dumps(_bits(first[job.key])) for job in jobs[::2]}
    return [
        *measures,
        Measure("the same run under another label: loss curves that differ in a bit", twins, high=0),
        Measure("finished runs that were trained again", repeated + _different(ways["this process"], again), high=0),
        yes("what the store keeps is what was trained", kept),
        Measure("different runs among three seeds", len(seeds), low=3, control=True),
    ], ""


def _bits(run: Outcome | Failure) -> dict[str, Any]:
    """Everything but timings; a failure is equal to nothing."""
    if isinstance(run, Failure):
        return {"failure": id(run)}
    return {name: value for name, value in asdict(run).items() if name not in TIMINGS}


def _different(ours: Mapping[str, Outcome | Failure], theirs: Mapping[str, Outcome | Failure]) -> int:
    assert ours.keys() == theirs.keys()
    return sum(_bits(ours[key]) != _bits(theirs[key]) for key in ours)
