r"""From a budget of operations to a size, and from a size to a number of steps. No torch.

Compute-optimal rule: with N weights in products and D training tokens, :math:`C \approx 6 N D` and D = 20 N
(arXiv:2203.15556), so that :math:`N \approx \sqrt{C / 120}`. N leaves the embedding's table out and has the head in
(arXiv:2406.19146 on why that matters at small sizes). What is solved is not the approximation but the ledger: of a
ladder of shapes, the one whose tokens per weight come closest to 20. The size is priced for ``standard`` with AdamW
whatever the mechanism, so that every arm of a comparison gets the same one; the steps are those of the mechanism that
is trained. Only an optimizer that looks at the curvature, whose steps cost many times as much, is priced itself: a
suite has one optimizer for all arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import log
from typing import Any

from nanochat.architecture import faults as mechanism_faults
from nanochat.config import ConfigError, GPTConfig, OptimConfig
from nanochat.flops import ledger
from nanochat.optim import OPTIMIZERS

MIN_STEPS = 200
"""Fewer optimizer steps than this are no training run: the rounding of steps alone would miss the budget by 0.25 %."""

AIM_STEPS = 400
"""What :func:`fit` leaves room for, so that a mechanism of twice the cost still gets :data:`MIN_STEPS`."""

TOKENS_PER_WEIGHT = 20.0
BYTE_VOCABULARY = 257
"""256 bytes and the mark that begins a document."""

MODEL_FIELDS = tuple(item.name for item in fields(GPTConfig))


@dataclass(frozen=True, slots=True)
class Rung:
    """One shape of the ladder: layers, width, heads, tokens per sequence, vocabulary."""

    n_layer: int
    n_embd: int
    n_head: int
    sequence_len: int
    vocab_size: int


LADDER = (
    Rung(1, 16, 2, 32, BYTE_VOCABULARY),
    Rung(2, 24, 2, 64, BYTE_VOCABULARY),
    Rung(2, 32, 2, 64, BYTE_VOCABULARY),
    Rung(2, 48, 3, 64, BYTE_VOCABULARY),
    Rung(2, 64, 4, 64, BYTE_VOCABULARY),
    Rung(3, 96, 3, 128, 1024),
    Rung(4, 128, 4, 128, 2048),
    Rung(5, 192, 6, 256, 4096),
    Rung(6, 256, 4, 256, 4096),
    Rung(8, 384, 6, 512, 8192),
    Rung(8, 512, 8, 512, 16384),
    Rung(12, 768, 12, 1024, 32768),
    Rung(16, 1024, 16, 1024, 32768),
    Rung(20, 1536, 12, 2048, 65536),
    Rung(24, 2048, 16, 2048, 65536),
    Rung(32, 3072, 24, 2048, 65536),
    Rung(32, 4096, 32, 2048, 65536),
)


@dataclass(frozen=True, slots=True)
class Sized:
    """A size that follows from a budget.

    Attributes:
        model: the configuration, what was given included.
        tokenizer: ``byte`` or ``bpe``.
        batch_size: sequences per step.
        steps: optimizer steps that spend the budget.
        tokens: training tokens.
        tokens_per_parameter: tokens over the weights, the embedding's table aside.
        sentence: all of it in one line.
    """

    model: GPTConfig
    tokenizer: str
    batch_size: int
    steps: int
    tokens: int
    tokens_per_parameter: float
    sentence: str


def plan_steps(config: GPTConfig, batch_size: int, budget: float, optim: OptimConfig | None = None) -> int:
    """Optimizer steps whose operations, by the ledger, come closest to the budget (within 0.25 % if all are alike).

    Args:
        config: the model.
        batch_size: sequences of ``config.sequence_len`` per step.
        budget: algorithmic operations.
        optim: the optimizer's own options, where they decide what a step costs.

    Raises:
        ConfigError: fewer than 200 steps; the message says what a step costs and what would fit.

    Example:
        >>> plan_steps(GPTConfig(n_layer=1, n_head=2, n_embd=16, sequence_len=32, vocab_size=257), 2, 2e9) >= 200
        True
    """
    _check(budget, batch_size)
    costs = ledger(config, optim=optim)
    cost = costs.step_flops(batch_size)
    steps = round(budget / cost)
    if steps >= MIN_STEPS:
        near = range(max(MIN_STEPS, steps - costs.every), steps + costs.every + 1)
        return min(near, key=lambda count: abs(costs.run_flops(batch_size, count) - budget))
    shape = f"{_layers(config)} of {config.n_embd} channels, {batch_size} x {config.sequence_len} tokens per step"
    raise ConfigError(
        [
            f"--target-flops: got {budget:g}, which pays for {steps} steps of {cost:.3g} operations ({shape}), "
            f"need {MIN_STEPS} steps: {_up(MIN_STEPS * cost)} operations, or {_smaller(config, budget, optim)}"
        ]
    )


def fit(
    budget: float,
    given: Mapping[str, Any] | None = None,
    *,
    vocab_size: int | None = None,
    optim: OptimConfig | None = None,
) -> Sized:
    """The size that a budget calls for.

    Args:
        budget: algorithmic operations of the whole run.
        given: what stays as it is: fields of :class:`GPTConfig`, ``batch_size``, ``tokenizer``.
        vocab_size: shorthand for the field.
        optim: the optimizer's own options, where they decide what a step costs.

    Raises:
        ConfigError: a budget that pays for no 200 steps of any shape, or given sizes that fit nothing.

    Example:
        >>> fit(2e9).model.n_embd, fit(2e9, {"n_embd": 32}).model.n_embd
        (16, 32)
    """
    fixed = dict(given or {})
    if vocab_size is not None:
        fixed["vocab_size"] = vocab_size
    strange = sorted(set(fixed) - set(MODEL_FIELDS) - {"batch_size", "tokenizer"})
    if strange:
        raise ValueError(f"fit: got {strange}, need fields of GPTConfig, batch_size or tokenizer")
    _check(budget, fixed.get("batch_size", 1))
    candidates = list(_candidates(budget, fixed, optim))
    roomy = [each for each in candidates if each[2] >= AIM_STEPS]
    if roomy:
        chosen = min(roomy, key=lambda each: abs(log(_per_weight(each) / TOKENS_PER_WEIGHT)))
    else:
        chosen = max(candidates, key=lambda each: each[2])
    model, batch_size, _ = chosen
    return _sized(model, batch_size, plan_steps(model, batch_size, budget, optim), budget, fixed.get("tokenizer"))


Candidate = tuple[GPTConfig, int, float]
"""A configuration, its batch and the steps that the budget pays for at the price of ``standard``."""


def _check(budget: float, batch_size: int) -> None:
    if not 0 < budget < float("inf"):
        raise ConfigError([f"--target-flops: got {budget:g}, need a finite number above 0"])
    if batch_size < 1:
        raise ConfigError([f"--batch-size: got {batch_size}, need at least 1"])


def _candidates(budget: float, fixed: Mapping[str, Any], optim: OptimConfig | None) -> Iterator[Candidate]:
    """Each rung with what is fixed put in its place; rungs that it contradicts drop out.

    Raises:
        ConfigError: the faults of the last rung, where all drop out.
    """
    found, faults = 0, ()
    for rung in LADDER:
        try:
            model = _shape(rung, fixed)
        except ConfigError as error:
            faults = error.faults
            continue
        found += 1
        price = ledger(_reference(model), optim=optim)
        per_token = price.training.total + (price.curvature.total / price.every if price.every else 0.0)
        batch_size = fixed.get("batch_size") or _batch(budget / per_token, model.sequence_len)
        yield model, batch_size, budget / price.step_flops(batch_size)
    if not found:
        raise ConfigError(faults)


def _reference(model: GPTConfig) -> GPTConfig:
    known = model.optimizer_type in OPTIMIZERS
    curved = known and OPTIMIZERS.get(model.optimizer_type).curvature is not None
    optimizer = model.optimizer_type if curved else "adamw"
    return replace(model, attention_type="standard", attention_pattern="", optimizer_type=optimizer, knobs={})


def _shape(rung: Rung, fixed: Mapping[str, Any]) -> GPTConfig:
    """The rung's configuration; heads adapt to a given width, and the width's rung to given heads."""
    sizes: dict[str, Any] = {item.name: getattr(rung, item.name) for item in fields(rung)}
    if fixed.get("tokenizer") == "byte":
        sizes["vocab_size"] = BYTE_VOCABULARY
    elif fixed.get("tokenizer") == "bpe":
        sizes["vocab_size"] = max(512, rung.vocab_size)
    sizes |= {name: value for name, value in fixed.items() if name in MODEL_FIELDS}
    if "n_head" not in fixed:
        sizes["n_head"] = _heads(sizes["n_embd"], rung, fixed.get("n_kv_head") or 1)
    model = GPTConfig(**sizes)
    broken = mechanism_faults(model)
    if broken:
        raise ConfigError(broken)
    return model


def _heads(width: int, rung: Rung, multiple: int) -> int:
    """The head count nearest to the rung's channels per head that the width allows; the rung's own where it fits."""
    aim = rung.n_embd / rung.n_head
    allowed = [heads for heads in range(1, width + 1) if width % heads == 0 and heads % multiple == 0]
    even = [heads for heads in allowed if width // heads % 2 == 0]
    if not allowed:
        raise ConfigError([f"--n-kv-head: got {multiple}, need a divisor of --n-embd {width}"])
    return min(even or allowed, key=lambda heads: abs(log(width / heads / aim)))


def _batch(tokens: float, length: int) -> int:
    """Sequences per step, a power of two: about 1000 (D / 10^6)^(1/4) steps, and never fewer than aimed for.

    A convention between two ends: tiny runs need their steps, and at 10^9 tokens it gives the batch of 2 x 10^5 tokens
    that arXiv:2505.13738 finds best.
    """
    steps = max(AIM_STEPS * 1.25, 1000 * (tokens / 1e6) ** 0.25)
    batch = 1
    while 2 * batch * length * steps <= tokens:
        batch *= 2
    return batch


def _weights(model: GPTConfig) -> int:
    """Weights in products: all but an embedding table that is only looked up."""
    table = 0 if model.tie_embeddings else model.vocab_size * model.n_embd
    return ledger(_reference(model)).parameters - table


def _per_weight(candidate: Candidate) -> float:
    model, batch_size, steps = candidate
    return steps * batch_size * model.sequence_len / _weights(model)


def _sized(model: GPTConfig, batch_size: int, steps: int, budget: float, tokenizer: str | None) -> Sized:
    tokens = steps * batch_size * model.sequence_len
    ratio = tokens / _weights(model)
    name = tokenizer or ("byte" if model.vocab_size == BYTE_VOCABULARY else "bpe")
    sentence = (
        f"size for {budget:.3g} operations: {_layers(model)} of {model.n_embd} channels, {model.n_head} heads, "
        f"{model.vocab_size} {name} tokens in the vocabulary, {ledger(model).parameters:,} weights; "
        f"{steps} steps of {batch_size} x {model.sequence_len} tokens, {ratio:.3g} tokens per weight "
        f"(compute-optimal: {TOKENS_PER_WEIGHT:g})"
    )
    return Sized(model, name, batch_size, steps, tokens, ratio, sentence)


def _layers(config: GPTConfig) -> str:
    return f"{config.n_layer} layer{'s' if config.n_layer > 1 else ''}"


def _up(value: float) -> str:
    """Three digits, rounded up: a budget that is printed as enough is enough."""
    shown = f"{value:.3g}"
    return shown if float(shown) >= value else f"{value * 1.005:.3g}"


def _smaller(config: GPTConfig, budget: float, optim: OptimConfig | None) -> str:
    """What would fit, as options, for the same mechanism and vocabulary."""
    kept = {
        name: getattr(config, name) for name in MODEL_FIELDS if name not in ("n_layer", "n_embd", "n_head", "n_kv_head")
    }
    del kept["sequence_len"]
    best, most = None, 0.0
    for model, batch_size, _ in _candidates(budget, kept, optim):
        steps = budget / ledger(model, optim=optim).step_flops(batch_size)
        if steps >= MIN_STEPS and model.n_embd <= config.n_embd:
            best = (model, batch_size, steps)
        most = max(most, steps)
    if best is None:
        return f"a smaller --vocab-size (with {config.vocab_size} the smallest shape gets {most:.0f} steps)"
    model, batch_size, steps = best
    return (
        f"for example --n-layer {model.n_layer} --n-embd {model.n_embd} --n-head {model.n_head} "
        f"--sequence-len {model.sequence_len} --batch-size {batch_size} ({steps:.0f} steps)"
    )
