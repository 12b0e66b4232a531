"""From a :class:`SuiteConfig` to everything that will be trained. No heavy import: refusals come in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from nanochat.bench.arms import Arm, cross, models, parse, resolve
from nanochat.bench.config import PLACES, SuiteConfig
from nanochat.bench.tuning import HORIZON_EXPONENT, RUNGS
from nanochat.config import ConfigError, DataConfig, GPTConfig, OptimConfig, RunConfig, TrainConfig, plain
from nanochat.flops import Ledger, ledger
from nanochat.optim import OPTIMIZERS
from nanochat.registry import unknown
from nanochat.schedule import SCHEDULES
from nanochat.sizing import MIN_STEPS, Sized, fit, plan_steps

TUNING_SEED = 1_000_000
"""Tuning seeds start here; verdict seeds start at 0 and never come near."""

PILOT_SEED = 2_000_000
CONFIRMATION_SEED = 500_000

PRIOR_TOKENS = 1e7
"""Length of run that an optimizer's prior is taken to be meant for: the grid of a shorter one starts higher."""

EVALUATION_SHARE = 0.08
"""The frozen evaluation of one verdict run costs at most this share of its budget."""

MIN_DOCUMENTS, MAX_DOCUMENTS = 16, 500
EVAL_BYTES = 512

MIN_TOKENS_PER_WEIGHT = 5.0
"""Below it a run says more about how fast a model starts than about what it learns."""

GAIN_SHARES = (0.5, 2.0)
"""Budgets beside the first at which the baseline alone runs, for the compute-equivalent gain."""

MIN_SEEDS = 6
"""Fewer seeds cannot be significant: the exact two-sided sign-flip p is at least 2^(1-n), 0.0625 at n = 5."""

PARAMETER_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Preset:
    """What is filled in where the user says nothing.

    Args:
        target_flops: budget C of one verdict run, operations.
        seeds: paired verdict seeds per arm.
        tuning_seeds: seeds that a learning rate is tried with at the full budget; half of them on shorter runs.
        verdict: whether verdict words are printed; a smoke test has too few seeds for any.
        looks: fewer seeds at which a verdict may come already.
        confirm: fresh seeds that a WIN must hold on.
        pilot: seeds that tell the noise beforehand.
        shares: smaller budgets.
        gain: run the baseline at half and twice the budget.
        time_axis: repeat the verdict at equal seconds.
    """

    target_flops: float
    seeds: int
    tuning_seeds: int
    verdict: bool = True
    looks: tuple[int, ...] = ()
    confirm: int = 0
    pilot: int = 0
    shares: tuple[float, ...] = ()
    gain: bool = False
    time_axis: bool = False


PRESETS = dict(
    smoke=Preset(3e9, 2, 2, verdict=False),
    quick=Preset(1e11, 8, 4, confirm=8, pilot=4),
    standard=Preset(1e12, 12, 4, looks=(8,), confirm=8, pilot=4, shares=(0.25,), gain=True, time_axis=True),
    overnight=Preset(1e13, 12, 4, looks=(8,), confirm=8, pilot=4, shares=(0.25,), gain=True, time_axis=True),
)


@dataclass(frozen=True, slots=True)
class SuitePlan:
    """A suite ready to run.

    Args:
        config: as asked for.
        preset: what is used: the preset with what was asked for in place.
        arms: by group (optimizer and schedule), the baseline first in each.
        against: label of each contender to that of its baseline.
        models: by label; all of one shape.
        ledgers: operations by label.
        steps: optimizer steps of a verdict run by label.
        batch_size: sequences per step, the same for all arms.
        budget: C, operations of a verdict run.
        seeds: of the verdict runs.
        looks: how many of them have been run each time the arms are judged; the last is all of them.
        tuning_seeds, pilot_seeds, confirmation_seeds: disjoint from them and from each other.
        data, tuning_data: the second scores fewer documents.
        size: one sentence about the model and how it follows from the budget.
        excluded: label to reason: combinations that cannot be built, of arms that can with another optimizer.
    """

    config: SuiteConfig
    preset: Preset
    arms: tuple[Arm, ...]
    against: Mapping[str, str]
    models: Mapping[str, GPTConfig]
    ledgers: Mapping[str, Ledger]
    steps: Mapping[str, int]
    batch_size: int
    budget: float
    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    pilot_seeds: tuple[int, ...]
    confirmation_seeds: tuple[int, ...]
    data: DataConfig
    tuning_data: DataConfig
    size: str
    excluded: Mapping[str, str]

    @property
    def baseline(self) -> Arm:
        """The first one, where there are several."""
        return self.arms[0]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(arm.label for arm in self.arms)

    @property
    def contenders(self) -> tuple[str, ...]:
        return tuple(self.against)

    @property
    def baselines(self) -> tuple[str, ...]:
        return tuple(label for label in self.labels if label not in self.against)

    def arm(self, label: str) -> Arm:
        return next(arm for arm in self.arms if arm.label == label)

    def centre(self, label: str) -> float:
        """Middle of an arm's tuning grid: its optimizer's prior, carried to the length of the first rung.

        All arms of a group share it: the length is the baseline's.
        """
        base = self.against.get(label, label)
        tokens = self.steps_at(base, RUNGS[0].share) * self.batch_size * self.models[base].sequence_len
        return OPTIMIZERS.get(self.arm(label).optimizer).learning_rate * (PRIOR_TOKENS / tokens) ** HORIZON_EXPONENT

    def step_flops(self, label: str) -> float:
        """Operations of one optimizer step of an arm."""
        return self.ledgers[label].step_flops(self.batch_size)

    def steps_at(self, label: str, share: float) -> int:
        """Steps that spend ``share`` of an arm's budget; at least 1."""
        return max(1, round(share * self.steps[label]))

    def run_config(self, label: str, seed: int, rate: float, steps: int, *, tuning: bool) -> RunConfig:
        """One training run of an arm, with full warm-up and decay whatever its length."""
        return RunConfig(
            model=self.models[label],
            optim=OptimConfig(learning_rate=rate, scheduler_type=self.arm(label).scheduler),
            data=self.tuning_data if tuning else self.data,
            train=TrainConfig(
                batch_size=self.batch_size,
                max_steps=steps,
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
    def design(self) -> str:
        """SHA-256 of everything that was decided beforehand: what a pre-registration is held to."""
        given = {name: value for name, value in plain(self.config).items() if name not in PLACES}
        return sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The report's folder: as asked for, or the preset and a hash of the design."""
        return self.config.run_id or f"{self.config.preset}-{self.design[:8]}"


def configure(given: Mapping[str, Any]) -> SuiteConfig:
    """The suite that options describe.

    Args:
        given: fields of :class:`SuiteConfig`.

    Raises:
        ConfigError: their faults and, beside them, those of the arms, optimizers and schedules that they name.
    """
    try:
        return SuiteConfig(**given)
    except ConfigError as error:
        lists = ("arms", "attention_patterns", "optimizers", "schedulers")
        named = {name: tuple(dict.fromkeys(given[name])) for name in lists if name in given}
        base = {"baseline": given["baseline"]} if "baseline" in given else {}
        _checked(SuiteConfig(**named, **base), error.faults)
        raise


def prepare(config: SuiteConfig, vocab_size: int | None = None) -> SuitePlan:
    """Resolve arms, sizes, budgets, seeds and data.

    Args:
        config: what is asked for.
        vocab_size: of the tokenizer, where the text gave a smaller one than the budget's size calls for.

    Raises:
        ConfigError: any fault of the design, all that can be told at once together; a budget that leaves an arm
            under 200 steps among them.
    """
    preset, faults = _filled(config)
    groups = _checked(config, faults)
    sized, shape = _shape(config, preset, vocab_size)
    groups, built, excluded = _built(groups, shape)
    against = {arm.label: group[0].label for group in groups for arm in group[1:]}
    if config.match == "params":
        built |= {label: _same_parameters(built[label], built[base], label) for label, base in against.items()}
    ledgers = {label: ledger(model) for label, model in built.items()}
    steps = _steps(config, preset, built, sized.batch_size)
    first = groups[0][0].label
    if preset.verdict and not config.undertrained_ok:
        _trained_enough(first, built[first], ledgers[first], steps[first] * sized.batch_size)
    if not config.shares:  # the preset's own are meant for its own budget
        preset = replace(preset, shares=tuple(x for x in preset.shares if x * min(steps.values()) >= MIN_STEPS))
    arms = tuple(arm for group in groups for arm in group)
    data = _data(config, sized.tokenizer, preset.target_flops, ledgers[arms[0].label])
    return SuitePlan(
        config=config,
        preset=preset,
        arms=arms,
        against=against,
        models=built,
        ledgers=ledgers,
        steps=steps,
        batch_size=sized.batch_size,
        budget=preset.target_flops,
        seeds=tuple(range(preset.seeds)),
        looks=(*preset.looks, preset.seeds),
        tuning_seeds=_from(TUNING_SEED, preset.tuning_seeds),
        pilot_seeds=_from(PILOT_SEED, preset.pilot),
        confirmation_seeds=_from(CONFIRMATION_SEED, preset.confirm),
        data=data,
        tuning_data=replace(data, eval_documents=max(MIN_DOCUMENTS, data.eval_documents // 4)),
        size=sized.sentence,
        excluded=excluded,
    )


def _from(first: int, count: int) -> tuple[int, ...]:
    return tuple(range(first, first + count))


def _shape(config: SuiteConfig, preset: Preset, vocab_size: int | None = None) -> tuple[Sized, dict[str, Any]]:
    """What the budget calls for, and the fields of it that all arms share."""
    sized = fit(preset.target_flops, {"optimizer_type": config.optimizers[0]}, vocab_size=vocab_size)
    names = ("n_layer", "n_head", "n_embd", "sequence_len", "vocab_size")
    return sized, {name: getattr(sized.model, name) for name in names}


def refusals(config: SuiteConfig, texts: Iterable[str]) -> dict[str, str]:
    """Arms that cannot be built at the suite's shape, by text, each with its first reason."""
    shape = _shape(config, _filled(config)[0])[1]
    found = {}
    for text in texts:
        try:
            parse(text).model(shape)
        except ConfigError as error:
            found[text] = error.faults[0].removeprefix(f"-a {text}: ")
    return found


def _filled(config: SuiteConfig) -> tuple[Preset, list[str]]:
    """The preset with everything that the user did say, and the faults of that.

    Looks of the preset's own that fewer seeds leave no room for are dropped.
    """
    preset = PRESETS[config.preset]
    asked = ("target_flops", "seeds", "confirm", "pilot", "gain", "time_axis")
    given = {name: value for name in asked if (value := getattr(config, name)) is not None}
    given |= {name: value for name in ("looks", "shares") if (value := getattr(config, name))}
    filled = replace(preset, **given)
    late = [look for look in config.looks if look > filled.seeds]
    faults = [f"--look: got {look}, need at most the {filled.seeds} seeds" for look in late[:1]]
    if 0 < filled.confirm < MIN_SEEDS:  # they could never confirm anything
        faults.append(f"--confirm: got {filled.confirm}, need 0 or at least {MIN_SEEDS}")
    looks = tuple(sorted(look for look in filled.looks if look < filled.seeds))
    return replace(filled, looks=looks, shares=tuple(sorted(filled.shares))), faults


def _checked(config: SuiteConfig, before: Iterable[str]) -> list[tuple[Arm, ...]]:
    """The arms by group.

    Raises:
        ConfigError: the faults found before, and those of the arms, optimizers and schedules.
    """
    faults = [*before]
    faults += [unknown("--optimizer", name, OPTIMIZERS.names()) for name in config.optimizers if name not in OPTIMIZERS]
    faults += [unknown("--scheduler", name, SCHEDULES.names()) for name in config.schedulers if name not in SCHEDULES]
    arms: tuple[Arm, ...] = ()
    try:
        arms = resolve(config)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    return cross(arms, config.optimizers, config.schedulers)


Groups = list[tuple[Arm, ...]]


def _built(groups: Groups, shape: Mapping[str, Any]) -> tuple[Groups, dict[str, GPTConfig], dict[str, str]]:
    """The models of all arms; what only some optimizers refuse is left out, what all refuse is a fault."""
    built, faults = models((arm for group in groups for arm in group), shape)
    refused = [arm.text for group in groups for arm in group if arm.label in faults]
    hopeless = [text for text in dict.fromkeys(refused) if refused.count(text) == len(groups)]
    fatal = [arm for group in groups for arm in group if arm.text in hopeless or (arm is group[0])]
    broken = [fault for arm in fatal for fault in faults.get(arm.label, ())]
    kept = [tuple(arm for arm in group if arm.label in built) for group in groups]
    if not broken and all(len(group) < 2 for group in kept):
        broken = [fault for found in faults.values() for fault in found]
    if broken:
        raise ConfigError(list(dict.fromkeys(broken)))
    return [group for group in kept if len(group) > 1], built, {label: found[0] for label, found in faults.items()}


def _same_parameters(model: GPTConfig, baseline: GPTConfig, label: str) -> GPTConfig:
    """The model with as many parameters as the baseline, within 1 %, by the width of its feed-forward part."""
    wanted = ledger(baseline).parameters

    def at(width: int) -> GPTConfig:
        return replace(model, mlp_ratio=width / model.n_embd)

    low, high = 1, max(2, 2 * baseline.mlp_width)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if ledger(at(middle)).parameters <= wanted else (low, middle - 1)
    best = min((at(low), at(low + 1)), key=lambda each: abs(ledger(each).parameters - wanted))
    found = ledger(best).parameters
    if abs(found / wanted - 1) > PARAMETER_TOLERANCE:
        raise ConfigError(
            [f"-a {label}: got {found:,} parameters at best, need {wanted:,} within 1 % (--match params)"]
        )
    return best


def _steps(config: SuiteConfig, preset: Preset, built: Mapping[str, GPTConfig], batch_size: int) -> dict[str, int]:
    """Steps of every arm; what is too short to tell anything is refused, unless the user insists."""
    steps, faults = {}, []
    for label, model in built.items():
        costs = ledger(model)
        if config.undertrained_ok:
            steps[label] = max(1, round(preset.target_flops / costs.step_flops(batch_size)))
            continue
        try:
            steps[label] = plan_steps(model, batch_size, preset.target_flops)
        except ConfigError as error:
            faults += [f"-a {label}: {fault}" for fault in error.faults]
            continue
        for share in (share for share in config.shares if share * steps[label] < MIN_STEPS):
            faults.append(f"-a {label}: got {share * steps[label]:.0f} steps at --share {share:g}, need {MIN_STEPS}")
    if faults:
        raise ConfigError([f"{fault} (or --undertrained-ok)" for fault in faults])
    return steps


def _trained_enough(label: str, model: GPTConfig, costs: Ledger, sequences: int) -> None:
    """Refuse a budget that leaves the baseline untrained; that dear arms see less text is what a suite compares."""
    table = 0 if model.tie_embeddings else model.vocab_size * model.n_embd
    found = sequences * model.sequence_len / (costs.parameters - table)
    if found < MIN_TOKENS_PER_WEIGHT:
        need = f"need {MIN_TOKENS_PER_WEIGHT:g}: a larger budget (or --undertrained-ok)"
        raise ConfigError([f"-a {label}: got {found:.2g} tokens per weight, {need}"])


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
