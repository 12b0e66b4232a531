"""Step times of a suite's arms, trained in turns: short runs of every arm, one after the other, round by round.

Run: ``python benchmarks/suite_times.py SUITE.toml [--rounds 6] [--steps 300] [--json FILE]``; ten minutes for eleven
arms. One process, one thread, the runs that the suite trains (model, optimizer, batch) but shorter. A step is the
median of its run, a ratio is taken inside a round; shown is the median over rounds with quartiles.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import timing

from nanochat.bench.design import read
from nanochat.bench.jobs import dataset_of
from nanochat.bench.suite import SuitePlan, prepare
from nanochat.train import run


def measure(plan: SuitePlan, rounds: int, steps: int) -> dict[str, list[timing.Lap]]:
    """A lap per round and arm: one step of a run of ``steps``."""
    laps: dict[str, list[timing.Lap]] = {label: [] for label in plan.labels}
    for turn in range(rounds + 1):
        for label, mine in laps.items():
            job = plan.run_config(label, turn, plan.centre(label), steps if turn else 5, tuning=True)
            with TemporaryDirectory() as folder:
                found = run(job, directory=Path(folder) / "run", dataset=dataset_of(job.data, job.model.vocab_size))
            if turn:  # the first builds kernels and caches
                mine.append(timing.Lap(found.step_seconds, found.cpu_seconds / steps))
    return laps


def main() -> None:
    """Print the table."""
    parser = timing.parser(str(__doc__), rounds=6)
    parser.add_argument("suite", type=Path, help="design, as `mgr bench-fixed-flops --suite` takes it")
    parser.add_argument("--steps", type=timing.positive, default=300, help="of every run (default 300)")
    options = parser.parse_args()
    options.threads = 1
    plan = prepare(read(options.suite, {}))
    report = timing.Report("suite_times", options, f"{options.suite.name}, runs of {options.steps} steps in turns")
    laps = measure(plan, options.rounds, options.steps)
    found = {}
    for label, own in laps.items():
        milliseconds = 1e3 * statistics.median(lap.seconds for lap in own)
        found[label] = {"milliseconds": milliseconds, **asdict(timing.ratio(own, laps[plan.against.get(label, label)]))}
    rows = [
        (label, f"{each['milliseconds']:.1f}", f"{each['median']:.2f} [{each['low']:.2f}, {each['high']:.2f}]")
        for label, each in found.items()
    ]
    report.say()
    report.table(("arm", "ms a step", "step time"), rows)
    report.finish({"steps": options.steps, "design": plan.design, "arms": found})


if __name__ == "__main__":
    main()
