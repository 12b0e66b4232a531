r"""The operation ledger: what a training step costs by the formulas of its parts, from the configuration alone.

Per token, forward, with C width, F hidden width of the MLP, V vocabulary, L layers and T tokens:

.. math:: 2VC + L\,(\text{mixer}(T) + n_{mlp} \cdot 2CF) + \text{elementwise}

where the head is charged and the embedding lookup is free. The backward pass is charged part by part, not as twice the
forward: two products per matrix, and elementwise what autograd executes. A block stack that recomputes is charged its
recomputation. The optimizer is charged per step, gradient clipping included; one that asks for the curvature of the
loss, also for each graph and each product. Units: ``nanochat.counter``, to which the
tests hold it (matmul within 1 %, elementwise and semiring within 5 %). No torch is imported.

Differs from the usual 6 N per token: attention pairs, elementwise work and the optimizer are in it, so that a mechanism
that avoids products does not look free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil, prod

from nanochat.architecture import Plan, hessian, plan
from nanochat.attention._head_operations import head_shapes, norm_backward, norm_forward, norm_hessian
from nanochat.config import ConfigError, GPTConfig, OptimConfig
from nanochat.optim import OPTIMIZERS
from nanochat.registry import Hessian, Mechanism, Operations, Refresh

CLIP_OPERATIONS = 3
"""Per weight: square and add for the norm of the gradient, multiply to clip it."""

NORM_OPERATIONS = 2
"""Per weight, where an optimizer limits its own steps: the norm of the gradient is only recorded."""

ACTIVATION = {"relu2": (2, 4, 13), "gelu": (5, 11, 32), "swiglu": (5, 10, 30)}
"""Elementwise operations per hidden channel, forward, backward and per Hessian product: relu and square; GELU; SiLU and
the product."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Operations of one model at sequences of one length.

    Attributes:
        length: T, tokens per sequence.
        parameters: trainable weights.
        parts: forward operations per token of each part of the model.
        backward_parts: backward operations per token, recomputation included.
        optimizer: operations per optimizer step: update, clipping, and the sum of both gradients of a tied embedding.
        decode: forward operations of one new token when ``length`` are cached, head included.
        curvature: per token of one look at the curvature, where the optimizer takes any: one graph and all products.
        look: per look, whatever the number of tokens: the optimizer's own work, and sums of the changes of weights.
        every: steps between two looks; 0 where there are none.
    """

    length: int
    parameters: int
    parts: dict[str, Operations]
    backward_parts: dict[str, Operations]
    optimizer: Operations
    decode: Operations
    curvature: Operations = Operations()
    look: Operations = Operations()
    every: int = 0

    @property
    def forward(self) -> Operations:
        """Per token, loss included."""
        return _sum(self.parts.values())

    @property
    def backward(self) -> Operations:
        """Per token."""
        return _sum(self.backward_parts.values())

    @property
    def training(self) -> Operations:
        """Per token, forward and backward."""
        return self.forward + self.backward

    def plain(self, batch_size: int) -> Operations:
        """One optimizer step over ``batch_size`` full sequences that takes no look at the curvature."""
        return self.training * (batch_size * self.length) + self.optimizer

    def looking(self, batch_size: int) -> Operations:
        """What a look at the curvature adds to a step."""
        return self.curvature * (batch_size * self.length) + self.look

    def step(self, batch_size: int) -> Operations:
        """One optimizer step over ``batch_size`` full sequences, the optimizer and its share of a look included."""
        return self.plain(batch_size) + self.looking(batch_size) * (1 / self.every if self.every else 0.0)

    def step_flops(self, batch_size: int) -> float:
        """Algorithmic operations of one optimizer step: matmul, semiring, elementwise and optimizer together."""
        return self.step(batch_size).total

    def run_flops(self, batch_size: int, steps: int, looks: int | None = None) -> float:
        """Those of a whole run; it begins with a look, so that there are ceil(steps / every) if not given."""
        if looks is None:
            looks = ceil(steps / self.every) if self.every else 0
        return steps * self.plain(batch_size).total + looks * self.looking(batch_size).total

    def __str__(self) -> str:
        rows = [f"{'per token, T = ' + str(self.length):24}{'matmul':>12}{'semiring':>12}{'elementwise':>12}"]
        for name, forward in self.parts.items():
            rows.append(_row(name, forward))
            rows.append(_row("  backward", self.backward_parts[name]))
        rows.append(_row("training", self.training))
        rows.append(_row("decode", self.decode))
        rows.append(_row("optimizer, per step", self.optimizer))
        if self.every:
            rows.append(_row("curvature", self.curvature))
            rows.append(_row("  per look", self.look))
            rows.append(f"one look at the curvature in {self.every} steps")
        return "\n".join([*rows, f"{self.parameters:,} parameters"])


def _row(name: str, counted: Operations) -> str:
    return f"{name:24}{counted.matmul:12.4g}{counted.semiring:12.4g}{counted.elementwise:12.4g}"


def _sum(values: Iterable[Operations]) -> Operations:
    return sum(values, Operations())


def mlp_shapes(config: GPTConfig) -> list[tuple[int, ...]]:
    """Matrices of one feed-forward part."""
    width, hidden = config.n_embd, config.mlp_width
    ups = 2 if config.mlp == "swiglu" else 1
    return [(hidden, width)] * ups + [(width, hidden)]


def _mlp(config: GPTConfig) -> tuple[Operations, Operations]:
    products = sum(2.0 * prod(shape) for shape in mlp_shapes(config))
    ahead, back, _ = ACTIVATION[config.mlp]
    joined = config.n_embd if config.mlp == "swiglu" else 0
    return (
        Operations(matmul=products, elementwise=ahead * config.mlp_width),
        Operations(matmul=2 * products, elementwise=back * config.mlp_width + joined),
    )


def _mlp_hessian(config: GPTConfig) -> Hessian:
    """Each map adds up two changes of its input and two of its gradient; two maps share the input of SwiGLU."""
    ahead, back = _mlp(config)
    width, hidden = config.n_embd, config.mlp_width
    ups = 2 if config.mlp == "swiglu" else 1
    sums = (ups + 1) * (width + hidden) + (ups - 1) * width
    product = Operations(matmul=6 * ahead.matmul, elementwise=ACTIVATION[config.mlp][2] * hidden + sums)
    return Hessian(ahead + back, product)


def _ends_hessian(config: GPTConfig) -> Hessian:
    """Embedding, the norms after it and before the head, the head with its soft cap, the loss."""
    width, vocabulary = config.n_embd, config.vocab_size
    ahead, back = _head(config)
    capped = 14 * vocabulary if config.logit_softcap else 0
    sums = 2 * width + vocabulary + capped + 13 * vocabulary + 1
    return norm_hessian(width, 2) + Hessian(
        ahead + back + Operations(elementwise=width + 9 * vocabulary + 1),
        Operations(matmul=6 * ahead.matmul, elementwise=sums),
    )


def _hessian(config: GPTConfig, length: int, built: Plan) -> Hessian:
    """Second derivatives of the whole loss, per token."""
    total = _ends_hessian(config) + config.n_layer * (_mlp_hessian(config) + norm_hessian(config.n_embd, 2))
    for record in (*built.mixers, *(built.block,) * config.n_layer):
        total += _second(config, length, record)
    return total


def _second(config: GPTConfig, length: int, record: Mechanism) -> Hessian:
    found = hessian(config, record, length)
    if isinstance(found, str):
        raise ConfigError([f"second derivatives of {record.name}: {found}"])
    return found


def _head(config: GPTConfig) -> tuple[Operations, Operations]:
    """Product with the vocabulary, and the soft cap: divide, tanh, multiply; multiply, tanh's 3, divide."""
    products = 2.0 * config.vocab_size * config.n_embd
    capped = config.vocab_size if config.logit_softcap else 0
    return (
        Operations(matmul=products, elementwise=3 * capped),
        Operations(matmul=2 * products, elementwise=5 * capped),
    )


def shapes(config: GPTConfig) -> list[tuple[int, ...]]:
    """Shapes of every parameter of the block stack."""
    built = plan(config)
    found: list[tuple[int, ...]] = []
    for mixer in built.mixers:
        found += (mixer.shapes or head_shapes)(config) + mlp_shapes(config)
        found += built.block.shapes(config) if built.block.shapes else []
    return found


def _optimizer(config: GPTConfig, optim: OptimConfig) -> tuple[Operations, int, Refresh | None]:
    """Operations per step, the number of trainable weights, and what a look at the curvature takes."""
    stack = shapes(config)
    matrices = [(shape[0], shape[1]) for shape in stack if len(shape) == 2 and min(shape) > 1]
    table = config.vocab_size * config.n_embd
    weights = sum(prod(shape) for shape in stack) + table * (1 if config.tie_embeddings else 2)
    mapped = sum(rows * columns for rows, columns in matrices)
    others = weights - mapped
    record = OPTIMIZERS.get(config.optimizer_type)
    knobs = optim.knobs.get(record.name, record.knobs())
    tied = table if config.tie_embeddings else 0
    extra = (NORM_OPERATIONS if record.curvature else CLIP_OPERATIONS) * weights + tied
    refresh = None
    if record.curvature is not None:
        in_stack = others - (table if config.tie_embeddings else 2 * table)
        groups = 2 + (not config.tie_embeddings) + (in_stack > 0)
        refresh = record.curvature(matrices, others, groups, knobs)
        # In every product each map's weight has two changes to add up; a tied table has three.
        sums = refresh.products * (mapped + table + tied) + tied
        refresh = replace(refresh, operations=refresh.operations + Operations(elementwise=sums))
    return record.operations(matrices, others, knobs) + Operations(elementwise=extra), weights, refresh


def _sharpened(config: GPTConfig, length: int) -> tuple[Operations, Operations]:
    """``--logit-scaling`` in all layers, per token: one product per channel of the query, log, divide, compare.

    Nothing within the trained length, where the factor is 1 and is not applied.
    """
    if config.logit_scaling == "none" or length <= config.sequence_len:
        return Operations(), Operations()
    channels = config.n_layer * config.n_embd
    return Operations(elementwise=channels + 3 * config.n_layer), Operations(elementwise=channels)


def _layers(config: GPTConfig, length: int, built: Plan) -> dict[str, tuple[Operations, Operations]]:
    """Forward and backward of what stands once in every layer, summed over layers."""
    depth, again = config.n_layer, built.block.recompute
    sharper, sharper_back = _sharpened(config, length)
    pairs = {
        "mixer": (
            _sum(mixer.operations(config, length) for mixer in built.mixers) + sharper,
            _sum(mixer.backward(config, length) for mixer in built.mixers) + sharper_back,
        ),
        "mlp": tuple(depth * each for each in _mlp(config)),
        "norm": (norm_forward(config.n_embd, 2 * depth), norm_backward(config.n_embd, 2 * depth)),
    }
    found = {name: (ahead, back + again * ahead) for name, (ahead, back) in pairs.items()}
    found["block"] = (depth * built.block.operations(config, length), depth * built.block.backward(config, length))
    return found


def ledger(config: GPTConfig, length: int | None = None, optim: OptimConfig | None = None) -> Ledger:
    """The ledger of a configuration.

    Args:
        config: sizes, mechanism and optimizer.
        length: tokens per sequence; the configured one if not given.
        optim: the optimizer's own options; their defaults if not given.

    Raises:
        ConfigError: unknown mechanism; Unknown: unknown optimizer.

    Example:
        >>> ledger(GPTConfig(n_layer=2, n_embd=64, sequence_len=64)).step_flops(batch_size=8)  # doctest: +SKIP
    """
    length = config.sequence_len if length is None else length
    if length < 1:
        raise ValueError(f"ledger: got length {length}, need at least 1")
    built = plan(config)
    width, vocabulary = config.n_embd, config.vocab_size
    found = {"embedding": (Operations(), Operations(elementwise=width)), **_layers(config, length, built)}
    ahead, back = found["norm"]
    found["norm"] = (ahead + norm_forward(width, 2), back + norm_backward(width, 2))
    found["head"] = _head(config)
    # Softmax over the vocabulary 5, its gradient 4; one number added per target.
    found["loss"] = (Operations(elementwise=5 * vocabulary + 1), Operations(elementwise=4 * vocabulary))
    optimizer, weights, refresh = _optimizer(config, optim or OptimConfig())
    curvature = Operations()
    if refresh is not None:
        second = _hessian(config, length, built)
        curvature = second.graph + refresh.products * second.product
    per_layer = built.block.decode(config, length) * config.n_layer
    mixers = _sum(mixer.decode(config, length) for mixer in built.mixers) + _sharpened(config, length + 1)[0]
    rest = _sum(found[name][0] for name in ("embedding", "mlp", "norm", "head"))
    return Ledger(
        length=length,
        parameters=weights,
        parts={name: pair[0] for name, pair in found.items()},
        backward_parts={name: pair[1] for name, pair in found.items()},
        optimizer=optimizer,
        decode=per_layer + mixers + rest,
        curvature=curvature,
        look=refresh.operations if refresh else Operations(),
        every=refresh.every if refresh else 0,
    )
