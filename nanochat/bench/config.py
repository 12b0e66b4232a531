"""What a comparison asks for: one frozen dataclass, from which ``mgr bench-fixed-flops`` has its options.

It lies beside the engine and not in :mod:`nanochat.config`, which every run's code hash covers: a new option of suites
changes no finished run.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from nanochat.config import ConfigError, at_least, common_faults, option, place_faults, positive


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteConfig:
    """A comparison at equal operations: which arms, at what budget, judged how. Presets fill what is not given."""

    question: str = option("", "what the suite asks, in a sentence; kept in every report")
    arms: tuple[str, ...] = option(
        ("standard", "tropical", "reversible"), "`NAME[,field=value]*`, repeatable; `label=` names it", flag="a"
    )
    attention_patterns: tuple[str, ...] = option(
        (), "a mixed model as one more arm, slashes between its mixers; repeatable", flag="attention-pattern"
    )
    baseline: str = option("standard", "the arm that the others are compared with")
    preset: str = option("quick", "sizes, budget and seeds", choices=("smoke", "quick", "standard", "overnight"))
    target_flops: float | None = option(None, "budget of one verdict run; the preset's if not given", unit="operations")
    match: str = option(
        "flops",
        "what arms have in common: operations; operations and parameters, by the width of the feed-forward part; "
        "or the seconds that the baseline's budget takes",
        choices=("flops", "params", "time"),
    )
    optimizers: tuple[str, ...] = option(
        ("adamw",), "optimizer, see `mgr list`; repeatable: every arm with each", flag="optimizer"
    )
    schedulers: tuple[str, ...] = option(
        ("wsd",), "learning-rate schedule, see `mgr list`; repeatable: every arm with each", flag="scheduler"
    )
    seeds: int | None = option(None, "paired verdict seeds per arm; the preset's if not given")
    looks: tuple[int, ...] = option(
        (), "fewer seeds at which a clear verdict may come already; repeatable; the preset's if not given", flag="look"
    )
    confirm: int | None = option(None, "fresh seeds on which a WIN must hold before it is called one; 0 is off")
    pilot: int | None = option(None, "seeds of the baseline alone that tell the noise before anything is spent")
    shares: tuple[float, ...] = option(
        (), "smaller budgets, as shares of the first, to compare the arms at too; repeatable", flag="share"
    )
    gain: bool | None = option(None, "run the baseline at half and twice the budget: what an arm is worth in compute")
    time_axis: bool | None = option(None, "repeat the verdict at equal seconds")
    grid: tuple[int, ...] = option(
        (-2, -1, 0, 1, 2), "learning rates tried, as powers of two times the prior; repeatable", flag="grid"
    )
    undertrained_ok: bool = option(False, "accept runs of under 200 steps or under 5 tokens per parameter")
    device: str = option("cpu", "`auto`, `cpu`, `cuda` or `cuda:N`")
    jobs: int | None = option(
        None, "runs at a time; one per physical core if not given; 0 waits for `mgr worker`", unit="processes"
    )
    crew: str = option("local", "who trains: `local`, `ray` or `slurm`, with --jobs workers")
    crew_options: tuple[str, ...] = option(
        (), "`key=value` of the crew, such as address=HOST:PORT, time=60; repeatable", flag="crew-option"
    )
    data: str = option(
        "python", "`python`, `fineweb-edu`, `tinystories`, or a file or folder of .txt .md .py .jsonl .parquet"
    )
    sesoi: float = option(0.01, "smallest effect of interest", unit="bits per byte")
    alpha: float = option(0.05, "family-wise error rate of the verdicts")
    run_id: str | None = option(None, "name of the report; preset and configuration hash if not given")
    artifacts_dir: str = option("artifacts", "root of everything that runs write")
    store: str | None = option(None, "folder of finished runs; `store` in --artifacts-dir if not given")
    cache_dir: str | None = option(None, "where prepared corpora live; the user's cache folder if not given")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        at_least(faults, self, 2, "seeds")
        at_least(faults, self, 0, "confirm", "pilot", "jobs")
        positive(faults, self, "target_flops", "sesoi")
        faults += self._design_faults()
        if not 0 < self.alpha < 1:
            faults.append(f"--alpha: got {self.alpha:g}, need between 0 and 1")
        faults += place_faults(self.run_id, self.device)
        if faults:
            raise ConfigError(faults)

    def _design_faults(self) -> list[str]:
        faults = [f"--look: got {look}, need at least 2" for look in self.looks if look < 2]
        faults += [f"--share: got {share:g}, need between 0 and 1" for share in self.shares if not 0 < share < 1]
        if len(set(self.grid)) < 3 or 0 not in self.grid:
            faults.append(f"--grid: got {' '.join(map(str, self.grid))}, need at least three powers, 0 among them")
        if self.pilot == 1:
            faults.append("--pilot: got 1, need 0 or at least 2: one run has no spread")
        for item in fields(self):
            values = getattr(self, item.name)
            if isinstance(values, tuple) and item.name != "arms" and len(set(values)) < len(values):
                flag = item.metadata["flag"]
                faults.append(f"--{flag}: got the same value twice in {' '.join(map(str, values))}, need each once")
        return faults


PLACES = ("run_id", "artifacts_dir", "store", "cache_dir", "jobs", "crew", "crew_options")
"""Fields of :class:`SuiteConfig` that say where and how a suite runs, not what it compares."""
