"""Suites that are made up, so that the truth is known: the statistics, and what broken runs do to verdicts.

The noise is that of real runs of 131,000 weights at 5e10 operations: 0.024 bits per byte between seeds, of which arms
share 0.7, and 0.025 of an arm's own. All generators are fixed: the same engine gives the same numbers everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nanochat.bench.config import SuiteConfig
from nanochat.bench.jobs import Failure, Job
from nanochat.bench.judge import Judge
from nanochat.bench.selftests.finding import Bench, Measure, Told, yes
from nanochat.bench.sequential import examine
from nanochat.bench.stages import VERDICT
from nanochat.bench.statistics import Floats, decide, detectable_effect, paired_p
from nanochat.bench.store import Outcome
from nanochat.bench.suite import SuitePlan, prepare
from nanochat.bench.verdicts import Run

SEED_SD, ARM_SD, SHARED = 0.024, 0.025, 0.7
DOCUMENT_SD, DOCUMENTS = 0.065, 200
"""Spread of a document's score about its run's, and how many documents: a test over them errs as often as one over real
documents did, 71 %."""

ALPHA, SESOI = 0.05, 0.01
SUITES = 10_000
PLAYED = 2000
LOOKS = (8, 12)
DECIDED = ("WIN", "LOSS", "TIE")

BASE = SuiteConfig().baseline
HASHES = {"data_hash": "d", "tokenizer_hash": "t", "eval_hash": "e"}


def band(count: int, errors: float = 4.0) -> float:
    """Standard errors of a share of ``ALPHA`` among ``count`` suites."""
    return errors * (ALPHA * (1 - ALPHA) / count) ** 0.5


def suites(arms: int, seeds: int, effect: Floats | float = 0.0, count: int = SUITES, key: int = 0) -> Floats:
    """Paired differences (count, arms, seeds): every arm shares the baseline's noise, as in a real suite."""
    generator = np.random.Generator(np.random.Philox(key))
    baseline = generator.normal(0, SEED_SD, (count, 1, seeds))
    return SHARED * baseline + generator.normal(0, ARM_SD, (count, arms, seeds)) + effect - baseline


def played(
    differences: Floats, looks: tuple[int, ...], sesoi: float = SESOI, alpha: float = ALPHA
) -> tuple[list[str], list[int], Floats]:
    """One suite (arms, seeds) from its first look to its last: words, seeds used, and last intervals (arms, 2)."""
    arms = len(differences)
    words, used, bounds = ["INCONCLUSIVE"] * arms, [looks[-1]] * arms, np.zeros((arms, 2))
    for n in looks:
        still = [arm for arm in range(arms) if words[arm] == "INCONCLUSIVE"]
        if not still:
            break
        decided = sum(word in ("WIN", "LOSS") for word in words)
        look = examine(differences[still, :n], looks, sesoi=sesoi, alpha=alpha, family=arms, decided=decided)
        for place, arm in enumerate(still):
            bounds[arm] = look.low[place], look.high[place]
            if look.verdict[place]:
                words[arm], used[arm] = look.verdict[place], n
    return words, used, bounds


def statistics(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    measures = [*_false_verdicts(), *_coverage(), *_ties(), *_power(), *_wrong_engines()]
    rate = measures[0].value
    return measures, f"simulated false verdicts {rate:.1%} of {SUITES}"


def _false(words: Iterable[Sequence[str]]) -> float:
    return float(np.mean([any(word in ("WIN", "LOSS") for word in suite) for suite in words]))


def _false_verdicts() -> list[Measure]:
    def plain(arms: int) -> float:
        return _false(decide(suites(arms, 8), sesoi=SESOI, alpha=ALPHA).verdict)

    def looked(arms: int) -> float:
        return _false(played(each, LOOKS)[0] for each in suites(arms, LOOKS[-1], count=PLAYED))

    wide, narrow = band(PLAYED), band(SUITES)
    return [
        Measure("false verdicts, 1 arm, 8 seeds", plain(1), ALPHA - narrow, ALPHA + narrow),
        Measure("false verdicts, 10 arms together, 8 seeds", plain(10), 0.02, ALPHA + narrow),
        Measure("false verdicts, 1 arm, looks at 8 and 12", looked(1), ALPHA - wide, ALPHA + wide),
        Measure("false verdicts, 3 arms together, looks at 8 and 12", looked(3), 0.02, ALPHA + wide),
    ]


def _coverage() -> list[Measure]:
    effect = np.array([0.03])
    found = []
    for seeds in (6, 8, 12):
        decision = decide(suites(1, seeds, effect[:, None], key=1), sesoi=SESOI, alpha=ALPHA)
        covered = float(np.mean((decision.low <= effect) & (effect <= decision.high)))
        found.append(Measure(f"coverage of 95 % intervals, {seeds} seeds", covered, 0.94, 0.96))
    return found


def _ties() -> list[Measure]:
    """Equivalence at its edge, where calling it is an error."""
    margin = 0.1  # wide enough that the test has power there
    called = decide(suites(1, 8, margin, key=2), sesoi=margin, alpha=ALPHA).p_tie <= ALPHA
    return [Measure("ties called at the edge of equivalence", float(np.mean(called)), 0.0, ALPHA + band(SUITES))]


def _power() -> list[Measure]:
    found = []
    for seeds in (6, 8, 12):
        effect = detectable_effect(seeds, ALPHA)
        values = np.random.Generator(np.random.Philox(key=seeds)).normal(effect, 1, (2 * SUITES, seeds))
        seen = float(np.mean(paired_p(values.mean(-1), values.std(-1, ddof=1), seeds) <= ALPHA))
        found.append(Measure(f"power at the detectable effect, {seeds} seeds", seen, 0.78, 0.82))
    return found


def document_level(scores: Floats, others: Floats) -> Floats:
    """The wrong engine: p of a paired t test over documents of two single runs; (..., documents) -> (...)."""
    difference = scores - others
    return paired_p(difference.mean(-1), difference.std(-1, ddof=1), difference.shape[-1])


def _wrong_engines() -> list[Measure]:
    generator = np.random.Generator(np.random.Philox(3))
    runs = generator.normal(0, SEED_SD, (PLAYED, 2, 1)) + generator.normal(0, DOCUMENT_SD, (PLAYED, 2, DOCUMENTS))
    documents = float(np.mean(document_level(runs[:, 0], runs[:, 1]) <= ALPHA))
    values = generator.normal(size=(PLAYED, 5))
    means = values[:, generator.integers(5, size=(1000, 5))].mean(-1)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    bootstrap = float(np.mean((low <= 0) & (high >= 0)))
    peeked = np.zeros(SUITES, dtype=bool)
    for n in range(3, 13):
        taken = suites(1, 12)[:, 0, :n]
        peeked |= paired_p(taken.mean(-1), taken.std(-1, ddof=1), n) <= ALPHA
    return [
        Measure("false verdicts of a test over documents instead of seeds", documents, low=0.4, control=True),
        Measure("coverage of a percentile bootstrap over 5 seeds", bootstrap, high=0.92, control=True),
        Measure("false verdicts of looking after every seed, 3 to 12", float(np.mean(peeked)), low=0.12, control=True),
    ]


def made_up(plan: SuitePlan, label: str, seed: int, bpb: float | None) -> Run:
    """A run that kept all its promises and scored this; None diverged."""
    job = Job("", label, VERDICT, plan.run_config(label, seed, 0.01, plan.steps[label], tuning=False), {})
    used = plan.steps[label] * plan.step_flops(label)
    outcome = Outcome(
        bpb=bpb,
        diverged=bpb is None,
        fault="" if bpb is not None else "loss is nan at step 7",
        steps=job.steps,
        tokens=job.steps * plan.batch_size * plan.models[label].sequence_len,
        flops_used=used,
        counted_flops=used,
        parameters=plan.ledgers[label].parameters,
        step_seconds=0.01,
        wall_seconds=1.0,
        cpu_seconds=1.0,
        peak_bytes=10**8,
        loss_curve=[[0, 5.0]],
        document_nats=[] if bpb is None else [70.0 * bpb, 140.0 * bpb],
        document_bytes=[100, 200],
        rescored=0.0,
        leak=0.0,
        weights=plan.ledgers[label].parameters,
        unchecked="",
        data_hash=HASHES["data_hash"],
        tokenizer_hash=HASHES["tokenizer_hash"],
        eval_hash=HASHES["eval_hash"],
    )
    return job, outcome


EFFECTS = {"better": -0.06, "worse": 0.06, "same": 0.0, "broken": -0.2}
"""Arms of the suites that have a broken run, by what is true of them; the broken one would have won."""

BROKEN = 100


def broken_runs(bench: Bench) -> Told:
    """See :data:`nanochat.bench.selftests.SELFTESTS`."""
    arms = (BASE, *(f"{BASE},label={label}" for label in EFFECTS))
    plan = prepare(SuiteConfig(arms=arms, preset="quick", confirm=0, pilot=0))
    measures = []
    for damage in ("diverged", "timed out", "missing", "diverged baseline"):
        taken = turned = kept = 0
        for key in range(BROKEN):
            before = _words(plan, _suite(plan, key))
            after = _words(plan, _damaged(plan, _suite(plan, key), damage))
            judged = after if damage == "diverged baseline" else {"broken": after.pop("broken")}
            taken += not any(word in DECIDED for word in judged.values())
            if damage != "diverged baseline":
                turned += any(word in DECIDED and word != before[label] for label, word in after.items())
                kept += all(word == before[label] for label, word in after.items())
        measures.append(Measure(f"{damage}: gets no verdict", taken / BROKEN, low=1.0))
        if damage != "diverged baseline":
            measures.append(Measure(f"{damage}: other verdicts turned round", turned / BROKEN, high=0.0))
            measures.append(Measure(f"{damage}: suites whose other verdicts all stayed", kept / BROKEN, low=0.9))
    return [*measures, *_extra_seeds(plan), _dropping(plan)], ""


def _suite(plan: SuitePlan, key: int) -> dict[str, list[Run]]:
    effects = np.array([0.0, *EFFECTS.values()])
    generator = np.random.Generator(np.random.Philox(key=key))
    shared = generator.normal(0, SEED_SD, len(plan.seeds))
    scores = 2.5 + SHARED * shared + generator.normal(0, ARM_SD, (len(effects), len(plan.seeds))) + effects[:, None]
    return {
        label: [made_up(plan, label, seed, float(score)) for seed, score in zip(plan.seeds, row, strict=True)]
        for label, row in zip(plan.labels, scores, strict=True)
    }


def _damaged(plan: SuitePlan, runs: dict[str, list[Run]], damage: str) -> dict[str, list[Run]]:
    label = plan.baseline.label if damage == "diverged baseline" else "broken"
    *whole, (job, _) = runs[label]
    if damage == "timed out":
        whole.append((job, Failure("timed out after 3 attempts")))
    elif damage != "missing":
        whole.append(made_up(plan, label, job.seed, None))
    return {**runs, label: whole}


def _words(plan: SuitePlan, runs: dict[str, list[Run]]) -> dict[str, str]:
    judge = Judge(plan, HASHES)
    for label, each in runs.items():
        judge.add(label, VERDICT, each)
    judge.look(plan.looks[-1])
    barred = {label: word for label, (word, _) in judge.barred.items()}
    settled = {label: found.word or "INCONCLUSIVE" for label, found in judge.settled.items()}
    return {label: barred.get(label) or settled[label] for label in plan.contenders}


def _extra_seeds(plan: SuitePlan) -> list[Measure]:
    """Runs beyond the plan's seeds, such as a lucky second attempt, do not enter."""
    runs = _suite(plan, 0)
    lucky = [made_up(plan, "same", seed, 1.0) for seed in range(100, 104)]
    after = _words(plan, {**runs, "same": [*runs["same"], *lucky]})
    return [yes("runs beyond the planned seeds change nothing", after == _words(plan, runs))]


def _dropping(plan: SuitePlan) -> Measure:
    """The wrong engine: leave out the seed that diverged and judge the rest."""
    wins = 0
    for key in range(BROKEN):
        scores = {
            label: [outcome.bpb for _, outcome in runs[:-1] if isinstance(outcome, Outcome)]
            for label, runs in _suite(plan, key).items()
        }
        differences = np.array([scores["broken"]]) - np.array([scores[plan.baseline.label]])
        wins += decide(differences, sesoi=SESOI, alpha=ALPHA).verdict[0] == "WIN"
    what = "wins of the diverging arm if its bad seed were left out"
    return Measure(what, wins / BROKEN, low=0.9, control=True)
