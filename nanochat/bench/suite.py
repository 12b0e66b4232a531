"""From a :class:`SuiteConfig` to everything that will be trained. No heavy import: refusals come in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from nanochat.bench.arms import Arm, models, resolve
from nanochat.bench.tuning import HORIZON_EXPONENT, RUNGS
from nanochat.config import (
    ConfigError,
    DataConfig,
    GPTConfig,
    OptimConfig,
    RunConfig,
    SuiteConfig,
    TrainConfig,
    plain,
)
from nanochat.flops import Ledger, ledger
from nanochat.optim import OPTIMIZERS
from nanochat.registry import unknown
from nanochat.schedule import SCHEDULES
from nanochat.sizing import fit, plan_steps

TUNING_SEED = 1_000_000
"""Tuning seeds start here; verdict seeds start at 0 and never come near."""

PRIOR_TOKENS = 1e7
"""Length of run that an optimizer's prior is taken to be meant for: the grid of a shorter one starts higher."""

EVALUATION_SHARE = 0.08
"""The frozen evaluation of one verdict run costs at most this share of its budget."""

MIN_DOCUMENTS, MAX_DOCUMENTS = 16, 500
EVAL_BYTES = 512


@dataclass(frozen=True, slots=True)
class Preset:
    """What is filled in where the user says nothing.

    Args:
        target_flops: budget C of one verdict run, operations.
        seeds: paired verdict seeds per arm.
        tuning_seeds: seeds that each learning rate is tried with.
        verdict: whether verdict words are printed; a smoke test has too few seeds for any.
    """

    target_flops: float
    seeds: int
    tuning_seeds: int
    verdict: bool = True


PRESETS = dict(
    smoke=Preset(3e9, 2, 1, verdict=False),
    quick=Preset(1e11, 8, 2),
    standard=Preset(1e12, 8, 2),
)


@dataclass(frozen=True, slots=True)
class SuitePlan:
    """A suite ready to run.

    Args:
        config: as asked for.
        preset: what filled the gaps.
        arms: the baseline first.
        models: by label; all of one shape.
        ledgers: operations by label.
        steps: optimizer steps of a verdict run by label.
        batch_size: sequences per step, the same for all arms.
        budget: C, operations of a verdict run.
        seeds: of the verdict runs.
        tuning_seeds: disjoint from them.
        data, tuning_data: the second scores fewer documents.
        size: one sentence about the model and how it follows from the budget.
    """

    config: SuiteConfig
    preset: Preset
    arms: tuple[Arm, ...]
    models: Mapping[str, GPTConfig]
    ledgers: Mapping[str, Ledger]
    steps: Mapping[str, int]
    batch_size: int
    budget: float
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    data: DataConfig
    tuning_data: DataConfig
    size: str

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    @property
    def centre(self) -> float:
        """Middle of the tuning grid: the optimizer's prior, carried to the length of the first rung."""
        steps = self.steps_at(self.baseline.label, RUNGS[0][0])
        tokens = steps * self.batch_size * self.models[self.baseline.label].sequence_len
        return OPTIMIZERS.get(self.config.optimizer).learning_rate * (PRIOR_TOKENS / tokens) ** HORIZON_EXPONENT

    def step_flops(self, label: str) -> float:
        """Operations of one optimizer step of an arm."""
        return self.ledgers[label].step_flops(self.batch_size)

    def steps_at(self, label: str, share: float) -> int:
        """Steps that spend ``share`` of the budget; at least 1."""
        return max(1, round(share * self.budget / self.step_flops(label)))

    def run_config(self, label: str, seed: int, rate: float, share: float, *, tuning: bool) -> RunConfig:
        """One training run of an arm, with full warm-up and decay whatever its share of the budget."""
        return RunConfig(
            model=self.models[label],
            optim=OptimConfig(learning_rate=rate, scheduler_type=self.config.schedule),
            data=self.tuning_data if tuning else self.data,
            train=TrainConfig(
                batch_size=self.batch_size,
                max_steps=self.steps_at(label, share),
                seed=seed,
                device=self.config.device,
                dtype="float32",
                compile=False,
                threads=1,
                val_interval=0,
                checkpoint_interval=0,
            ),
        )

    @property
    def name(self) -> str:
        """The report's folder: as asked for, or the preset and a hash of the design."""
        if self.config.run_id is not None:
            return self.config.run_id
        design = {**plain(self.config), "artifacts_dir": "", "store": "", "cache_dir": "", "jobs": 0}
        digest = sha256(json.dumps(design, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.config.preset}-{digest[:8]}"


def prepare(config: SuiteConfig, vocab_size: int | None = None) -> SuitePlan:
    """Resolve arms, sizes, budgets, seeds and data.

    Args:
        config: what is asked for.
        vocab_size: of the tokenizer, where the text gave a smaller one than the budget's size calls for.

    Raises:
        ConfigError: any fault of the design, all that can be told at once together; a budget that leaves an arm
            under 200 steps among them.
    """
    preset = PRESETS[config.preset]
    budget = config.target_flops or preset.target_flops
    arms = _checked(config)
    sized = fit(budget, {"optimizer_type": config.optimizer}, vocab_size=vocab_size)
    shape = {name: getattr(sized.model, name) for name in ("n_layer", "n_head", "n_embd", "sequence_len", "vocab_size")}
    built = models(arms, shape, config.optimizer)
    ledgers = {label: ledger(model) for label, model in built.items()}
    steps = _steps(built, sized.batch_size, budget)
    data = _data(config, sized.tokenizer, budget, ledgers[arms[0].label])
    seeds = config.seeds or preset.seeds
    return SuitePlan(
        config=config,
        preset=preset,
        arms=arms,
        models=built,
        ledgers=ledgers,
        steps=steps,
        batch_size=sized.batch_size,
        budget=budget,
        seeds=tuple(range(seeds)),
        tuning_seeds=tuple(range(TUNING_SEED, TUNING_SEED + preset.tuning_seeds)),
        data=data,
        tuning_data=replace(data, eval_documents=max(MIN_DOCUMENTS, data.eval_documents // 4)),
        size=sized.sentence,
    )


def _checked(config: SuiteConfig) -> tuple[Arm, ...]:
    faults: list[str] = []
    if config.optimizer not in OPTIMIZERS:
        faults.append(unknown("--optimizer", config.optimizer, OPTIMIZERS.names()))
    if config.schedule not in SCHEDULES:
        faults.append(unknown("--schedule", config.schedule, SCHEDULES.names()))
    arms: tuple[Arm, ...] = ()
    try:
        arms = resolve(config)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    return arms


def _steps(built: Mapping[str, GPTConfig], batch_size: int, budget: float) -> dict[str, int]:
    steps, faults = {}, []
    for label, model in built.items():
        try:
            steps[label] = plan_steps(model, batch_size, budget)
        except ConfigError as error:
            faults += [f"-a {label}: {fault}" for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return steps


def _data(config: SuiteConfig, tokenizer: str, budget: float, baseline: Ledger) -> DataConfig:
    """The corpus, and as many evaluation documents as :data:`EVALUATION_SHARE` of the budget pays for."""
    bytes_per_token = 1.0 if tokenizer == "byte" else 2.0
    affordable = EVALUATION_SHARE * budget / baseline.forward.total * bytes_per_token / EVAL_BYTES
    return DataConfig(
        data=config.data,
        tokenizer=tokenizer,
        eval_documents=int(min(MAX_DOCUMENTS, max(MIN_DOCUMENTS, affordable))),
        eval_bytes=EVAL_BYTES,
        cache_dir=config.cache_dir,
    )


def run_facts(run: RunConfig, replica: str, hashes: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides a run's numbers, as plain JSON; its hash is the run's key in the store.

    Args:
        run: the run; output places are left out.
        replica: keeps A/A runs apart.
        hashes: of the data, the tokenizer, the evaluation set, the code and torch.
    """
    facts = plain(run)
    for name in ("artifacts_dir", "artifacts_kind", "artifacts_topic", "run_id", "resume", "checkpoint_interval"):
        del facts["train"][name]
    for name in ("data", "cache_dir", "shards", "text_field"):
        del facts["data"][name]
    return {**facts, "replica": replica, **hashes}
