"""Every knob once. Frozen dataclasses, validated on construction, with all faults reported together.

Shape letters used across the package: B batch (sequences), T tokens of a sequence, H query heads, K key/value heads,
D channels per head, C model width (``n_embd``), V vocabulary, L layers.

Command-line options, the TOML file, ``mgr config show`` and the pages are generated from the fields. Nothing
heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any


class ConfigError(ValueError):
    """One or several faults in what the user asked for; ``faults`` holds one line each."""

    def __init__(self, faults: list[str] | tuple[str, ...]):
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class EnvironmentFault(RuntimeError):
    """The request is sound but this machine cannot serve it now: no device, no network, no disk; exit code 3."""


class LawBroken(ArithmeticError):
    """The work ran, and a law that it was asked to verify does not hold of what it did; exit code 1."""


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: tuple[str, ...] = (),
    flag: str = "",
) -> Any:
    """A dataclass field that surfaces as a command-line option.

    Args:
        default: its default; immutable.
        help: one line, without the unit and the default, which are printed beside it.
        unit: printed beside the name.
        choices: closed set of strings, checked by :func:`common_faults`.
        flag: option name if it is not the field's name with dashes.
    """
    return field(default=default, metadata={"help": help, "unit": unit, "choices": choices, "flag": flag})


def common_faults(config: Any) -> list[str]:
    """Faults that any section can have: values outside ``choices`` and numbers that are not finite."""
    from nanochat.registry import unknown

    faults = []
    for item in fields(config):
        value = getattr(config, item.name)
        choices = item.metadata.get("choices")
        name = item.metadata.get("flag") or item.name.replace("_", "-")
        if choices and value is not None and value not in choices:
            faults.append(unknown(f"--{name}", str(value), list(choices)))
        if isinstance(value, float) and not math.isfinite(value):
            faults.append(f"--{name}: got {value}, need a finite number")
    return faults


def at_least(faults: list[str], config: Any, low: float, *names: str) -> None:
    """Add a fault for every named field below ``low``; None is left alone."""
    for name in names:
        value = getattr(config, name)
        if value is not None and isinstance(value, int | float) and value < low:
            faults.append(f"--{name.replace('_', '-')}: got {value}, need at least {low:g}")


def positive(faults: list[str], config: Any, *names: str) -> None:
    """Add a fault for every named field that is finite and not above 0; None is left alone."""
    for name in names:
        value = getattr(config, name)
        if value is not None and math.isfinite(value) and value <= 0:
            faults.append(f"--{name.replace('_', '-')}: got {value:g}, need more than 0")


def place_faults(run_id: str | None, device: str) -> list[str]:
    """Faults of a run's name and of how a device is written; that the machine has it is found out later."""
    faults = []
    if run_id is not None and not _is_plain_name(run_id):
        faults.append(f"--run-id: got {run_id!r}, need letters, digits, dot, dash or underscore")
    head, _, index = device.partition(":")
    if device not in ("auto", "cpu", "cuda") and not (head == "cuda" and index.isdigit()):
        faults.append(f"--device: got {device!r}, need auto, cpu, cuda or cuda:N")
    return faults


def _is_plain_name(name: str) -> bool:
    """Whether it can be the name of a folder that nobody has to quote."""
    return bool(name) and not name.startswith(".") and all(letter.isalnum() or letter in "._-" for letter in name)


@dataclass(frozen=True, kw_only=True, slots=True)
class GPTConfig:
    """The model: what ``nanochat.gpt.GPT`` builds.

    ``knobs`` maps a mechanism's name to its own options (the frozen dataclass declared beside it); a missing entry
    means its defaults.
    """

    n_layer: int = option(4, "transformer blocks", unit="blocks")
    n_head: int = option(4, "query heads", unit="heads")
    n_kv_head: int | None = option(
        None, "key/value heads (grouped-query attention); as --n-head if not given", unit="heads"
    )
    n_embd: int = option(128, "model width", unit="channels")
    sequence_len: int = option(256, "tokens per training sequence", unit="tokens")
    vocab_size: int = option(1024, "vocabulary of the tokenizer, specials included", unit="tokens")
    attention_type: str = option("standard", "mixer or block stack, see `mgr list`")
    attention_pattern: str = option(
        "", "mixers of a mixed model, comma or slash between them, repeated over the layers; leave --attention-type out"
    )
    optimizer_type: str = option("adamw", "optimizer, see `mgr list`")
    mlp: str = option("relu2", "activation of the feed-forward part", choices=("relu2", "gelu", "swiglu"))
    mlp_ratio: float = option(4.0, "hidden width of the feed-forward part over the model width")
    position: str = option("rope", "position encoding of head-shaped mixers", choices=("rope", "none"))
    rope_base: float = option(10000.0, "base of the rotary frequencies")
    qk_norm: bool = option(True, "RMS-normalise queries and keys per head")
    logit_scaling: str = option(
        "none",
        "beyond --sequence-len tokens, t of them, scores times log t over log --sequence-len, or as they are",
        choices=("none", "log"),
    )
    tie_embeddings: bool = option(False, "share the embedding with the output head")
    logit_softcap: float = option(0.0, "cap logits smoothly at this magnitude; 0 is off")
    ca_init_rule: str | None = option(
        None, "mix a cellular automaton into the initial weights", choices=("rule30", "rule116")
    )
    ca_init_alpha: float = option(1.0, "share of the automaton's pattern, 0 to 1; variance is preserved")
    ca_init_seed: int = option(0, "seed of the automaton's first row")
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.n_kv_head is None:
            object.__setattr__(self, "n_kv_head", self.n_head)
        names = (name.strip() for name in self.attention_pattern.replace("/", ",").split(","))
        object.__setattr__(self, "attention_pattern", ",".join(names))  # one spelling, so one hash
        faults = common_faults(self)
        sizes = ("n_layer", "n_head", "n_kv_head", "n_embd", "sequence_len")
        at_least(faults, self, 1, *sizes)
        at_least(faults, self, 2, "vocab_size")
        at_least(faults, self, 0, "logit_softcap", "ca_init_seed")
        positive(faults, self, "rope_base", "mlp_ratio")
        if self.logit_scaling == "log" and self.sequence_len < 2:
            faults.append(f"--sequence-len: got {self.sequence_len}, need at least 2 with --logit-scaling log")
        if not 0 <= self.ca_init_alpha <= 1:
            faults.append(f"--ca-init-alpha: got {self.ca_init_alpha:g}, need 0 to 1")
        if min(self.n_head, self.kv_heads, self.n_embd) >= 1:
            faults += self._head_faults()
        if faults:
            raise ConfigError(faults)

    def _head_faults(self) -> list[str]:
        faults = []
        if self.n_embd % self.n_head:
            faults.append(f"--n-embd: got {self.n_embd}, need a multiple of --n-head {self.n_head}")
        elif self.position == "rope" and self.head_dim % 2:
            faults.append(
                f"--n-embd {self.n_embd} over --n-head {self.n_head}: got {self.head_dim} channels per head, "
                "need an even number for rotary positions"
            )
        if self.n_head % self.kv_heads:
            faults.append(f"--n-kv-head: got {self.kv_heads}, need a divisor of --n-head {self.n_head}")
        return faults

    @property
    def pattern(self) -> tuple[str, ...]:
        """The names of ``attention_pattern``; none where it is not set."""
        return tuple(self.attention_pattern.split(",")) if self.attention_pattern else ()

    @property
    def kv_heads(self) -> int:
        """K, resolved."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def head_dim(self) -> int:
        """D = C / H."""
        return self.n_embd // self.n_head

    @property
    def mlp_width(self) -> int:
        """Hidden width of the feed-forward part; SwiGLU has three matrices and takes two thirds of it."""
        width = self.mlp_ratio * self.n_embd
        return max(1, round(width * 2 / 3 if self.mlp == "swiglu" else width))


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How weights move. The optimizer's name stands in :class:`GPTConfig`, where the user's API has it."""

    learning_rate: float | None = option(None, "peak learning rate; the optimizer's prior if not given")
    scheduler_type: str = option("wsd", "learning-rate schedule, see `mgr list`")
    warmup_steps: int | None = option(None, "linear warm-up; 5 % of the run if not given", unit="steps")
    decay_fraction: float = option(0.4, "share of the run in which wsd decays")
    final_lr_fraction: float = option(0.0, "learning rate at the end over its peak")
    weight_decay: float = option(0.0, "decoupled weight decay of matrices, per unit of learning rate")
    beta1: float = option(0.9, "decay of the first moment (AdamW)")
    beta2: float = option(0.95, "decay of the second moment (AdamW)")
    grad_clip: float = option(1.0, "clip the global gradient norm; 0 is off")
    embedding_lr_scale: float = option(1.0, "learning rate of the embedding over that of matrices")
    head_lr_scale: float = option(1.0, "learning rate of the output head over that of matrices")
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = common_faults(self)
        positive(faults, self, "learning_rate", "embedding_lr_scale", "head_lr_scale")
        at_least(faults, self, 0, "warmup_steps", "weight_decay", "grad_clip")
        for name in ("decay_fraction", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                faults.append(f"--{name.replace('_', '-')}: got {getattr(self, name):g}, need 0 to 1")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                faults.append(f"--{name}: got {getattr(self, name):g}, need 0 up to but not 1")
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which text, and how it becomes tokens."""

    data: str = option(
        "python", "`python`, `fineweb-edu`, `tinystories`, or a file or folder of .txt .md .py .jsonl .parquet"
    )
    text_field: str = option("text", "column (.parquet) or field (.jsonl) that holds the text")
    tokenizer: str = option("bpe", "tokenizer", choices=("byte", "bpe"))
    val_fraction: float = option(0.1, "share of documents held out, chosen by content hash")
    eval_documents: int = option(200, "held-out documents of the frozen evaluation set", unit="documents")
    eval_bytes: int = option(1024, "bytes of each that are scored", unit="bytes")
    shards: int = option(1, "parquet shards to download for a named remote corpus", unit="shards")
    cache_dir: str | None = option(None, "where prepared corpora live; the user's cache folder if not given")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        at_least(faults, self, 1, "eval_documents", "eval_bytes", "shards")
        if not 0 < self.val_fraction < 1:
            faults.append(f"--val-fraction: got {self.val_fraction:g}, need between 0 and 1")
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run: how long, where, and what is kept."""

    batch_size: int = option(16, "sequences per step, over all processes", unit="sequences")
    max_steps: int | None = option(
        None, "optimizer steps; 1000 if neither this nor --target-flops is given", unit="steps"
    )
    target_flops: float | None = option(None, "stop at this budget of algorithmic operations", unit="operations")
    seed: int = option(0, "seed of weights and data order")
    device: str = option("auto", "`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: str = option("auto", "precision of matrix products", choices=("auto", "float32", "bfloat16"))
    compile: bool | None = option(None, "torch.compile the model; chosen by measurement if not given")
    threads: int | None = option(
        None,
        "CPU threads of this process; all cores if not given, one where a step is too small to share",
        unit="threads",
    )
    val_interval: int = option(250, "held-out evaluation every so many steps; 0 only at the end", unit="steps")
    checkpoint_interval: int = option(250, "checkpoint every so many steps; 0 only at the end", unit="steps")
    artifacts_dir: str = option("artifacts", "root of everything that runs write")
    artifacts_kind: str = option("baseline", "first folder below it")
    artifacts_topic: str = option("nanochat", "folders below that")
    run_id: str | None = option(None, "name of the run; time and configuration hash if not given")
    resume: bool = option(False, "continue the run of this --run-id from its last checkpoint")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        at_least(faults, self, 1, "batch_size", "max_steps", "threads")
        at_least(faults, self, 0, "seed", "val_interval", "checkpoint_interval")
        positive(faults, self, "target_flops")
        if self.max_steps is not None and self.target_flops is not None:
            faults.append("--max-steps and --target-flops: got both, need one")
        if self.resume and self.run_id is None:
            faults.append("--resume: got no --run-id, need the name of the run to continue")
        faults += place_faults(self.run_id, self.device)
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole training run; an experiment is a function that returns one."""

    model: GPTConfig = field(default_factory=GPTConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def plain(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values, knobs by mechanism name included."""
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"got {type(config).__name__}, need a configuration dataclass")
    result = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value) and not isinstance(value, type):
            value = plain(value)
        elif isinstance(value, Mapping):
            value = {name: asdict(knobs) for name, knobs in sorted(value.items())}
        result[item.name] = value
    return result
