"""Nine tests of the engine itself: what it promises, measured, beside engines that are wrong on purpose.

Each self-test runs on the machine that trains the suites, leaves its numbers in ``<artifacts>/bench/selftest.json``,
and the last ones stand in every report. A *control* is a wrong engine, or a model that cheats, which has to fail: a
battery that passes everything proves nothing.

Example:
    >>> findings = run(Path("artifacts"), full=False)
    >>> [(finding.name, finding.passed) for finding in findings]
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from nanochat.bench.observe import Observer
from nanochat.bench.selftests.finding import Bench, Finding, Told
from nanochat.config import ConfigError
from nanochat.registry import unknown

__all__ = ["SELFTESTS", "Bench", "Finding", "SelfTest", "run"]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """One self-test.

    Args:
        name: in tables and in the file.
        claim: what holds if it passes, in a sentence.
        module: of this package, that has the function.
        function: does it.
        long: takes minutes; only with ``--full``.
    """

    name: str
    claim: str
    module: str
    function: str
    long: bool = False

    def load(self) -> Callable[[Bench], Told]:
        return getattr(import_module(f"{__name__}.{self.module}"), self.function)


SELFTESTS = (
    SelfTest(
        "statistics",
        "False verdicts, coverage, equivalence and power are what the reports say, on simulated suites.",
        "synthetic",
        "statistics",
    ),
    SelfTest(
        "equal arms",
        "Two arms that are the same get a verdict as rarely as promised; with equal seeds they differ by exactly 0.",
        "trained",
        "equal_arms",
        long=True,
    ),
    SelfTest(
        "planted effects",
        "A real handicap is always found, a bought advantage is INVALID, a tiny difference is never called a TIE.",
        "trained",
        "planted_effects",
        long=True,
    ),
    SelfTest(
        "cheats", "Every way to cheat that we know is caught, by the check that is meant for it.", "cheats", "caught"
    ),
    SelfTest(
        "determinism",
        "The same key gives the same bits, whoever trains it and in whatever order; a finished run is never repeated.",
        "trained",
        "determinism",
        long=True,
    ),
    SelfTest(
        "metric",
        "Bits per byte do not depend on the tokenizer or on the order of documents, and begin at the uniform model's.",
        "metric",
        "bits",
    ),
    SelfTest("causality", "No mechanism's logits depend on later tokens.", "metric", "causality"),
    SelfTest(
        "golden verdicts", "A frozen store of finished runs gives the same verdicts as ever.", "golden", "unchanged"
    ),
    SelfTest(
        "broken runs",
        "A run that diverges, times out or is missing takes its own arm out, and turns no other verdict round.",
        "synthetic",
        "broken_runs",
    ),
)


def chosen(names: Sequence[str], full: bool) -> tuple[SelfTest, ...]:
    """The self-tests of these names; without any, the quick ones, or all.

    Raises:
        ConfigError: a name that there is not.
    """
    known = {test.name: test for test in SELFTESTS}
    faults = [unknown("--only", name, list(known)) for name in names if name not in known]
    if faults:
        raise ConfigError(faults)
    return tuple(test for test in SELFTESTS if test.name in names or (not names and (full or not test.long)))


def run(
    artifacts: Path,
    *,
    full: bool = False,
    names: Sequence[str] = (),
    jobs: int | None = None,
    observer: Observer | None = None,
    told: Callable[[Finding], None] = lambda finding: None,
) -> list[Finding]:
    """Run self-tests and keep what they find.

    Args:
        artifacts: root of everything that runs write.
        full: the long ones too.
        names: these only.
        jobs: training runs at a time; one per physical core if not given.
        observer: hears of training runs.
        told: hears of every finished self-test.

    Raises:
        ConfigError: an unknown name, or a folder that cannot be written to.
    """
    tests = chosen(names, full)
    from nanochat.bench.selftests.kept import Kept  # before anything is spent: can it be kept at all?

    kept = Kept(artifacts)
    bench = Bench(artifacts / "bench" / "selftest", jobs, observer or Observer())
    findings = []
    for test in tests:
        begin = time.monotonic()
        measures, headline = test.load()(bench)
        finding = Finding(name=test.name, claim=test.claim, measures=tuple(measures), headline=headline)
        finding = replace(finding, seconds=time.monotonic() - begin)
        kept.keep(finding)
        told(finding)
        findings.append(finding)
    shutil.rmtree(bench.root / "store", ignore_errors=True)  # seeds are fresh each time: these runs serve nobody again
    return findings
