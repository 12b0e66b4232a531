"""The operation ledger against the counter: what a training step should cost by the formulas, and what it executes.

One case is a mechanism with its options, an optimizer, a shape and a length. Its *books* hold the three phases of one
step (forward, backward, update with everything an optimizer looks at) twice: as ``nanochat.flops`` states them and as
``nanochat.counter`` counts them, operator by operator. An operator that the counter does not know ends the audit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.architecture import attention_types, mechanism
from nanochat.attention import MIXERS
from nanochat.config import GPTConfig, OptimConfig
from nanochat.counter import Counter
from nanochat.curvature import Curvature
from nanochat.flops import ledger
from nanochat.gpt import GPT
from nanochat.optim import OPTIMIZERS, build
from nanochat.registry import Mechanism, NoKnobs, Operations

Options = tuple[tuple[str, Any], ...]

ELSEWHERE = {("standard", "use_flex_attention"): "no backward pass on the CPU; see test_flex_attention.py"}
"""Options whose other values cannot be trained here, with the reason."""

BESIDES = {("tropical", "beta"): (2.0,)}
"""Values of options that are not closed sets, where they choose another kernel."""

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_kv_head": 2, "vocab_size": 256},
    "swiglu": {"n_layer": 1, "n_embd": 64, "n_head": 2, "mlp": "swiglu", "vocab_size": 96, "logit_softcap": 15.0},
}
"""Two shapes that have little in common, as arguments of a configuration."""

LENGTHS = (64, 256)

TOLERANCE = {"matmul": 0.01, "semiring": 0.05, "elementwise": 0.05}
"""Largest relative difference between what is stated and what is executed."""


def variants() -> Iterator[tuple[str, Options]]:
    """Every attention type with its defaults, and with every other value of each of its closed options."""
    for name in attention_types():
        record = mechanism(name)
        yield name, ()
        for item in fields(record.knobs):
            for value in _others(record, item):
                yield name, ((item.name, value),)


def _others(record: Mechanism, item: Any) -> Sequence[Any]:
    if (record.name, item.name) in ELSEWHERE:
        return ()
    offered: Sequence[Any] = (False, True) if isinstance(item.default, bool) else item.metadata.get("choices", ())
    offered = MIXERS.names() if item.name == "inner" else BESIDES.get((record.name, item.name), offered)
    return [value for value in offered if value != item.default]


def label(name: str, options: Options) -> str:
    """``gauge-group=u1``."""
    return "-".join([name, *(f"{key}={value}" for key, value in options)])


def knobs(name: str, options: Options) -> dict[str, Any]:
    """What a configuration takes for these options."""
    record = mechanism(name)
    return {} if record.knobs is NoKnobs else {name: record.knobs(**dict(options))}


@dataclass(frozen=True, slots=True)
class Books:
    """Operations of one training step by phase: ``forward``, ``backward``, ``optimizer``."""

    stated: Mapping[str, Operations]
    executed: Mapping[str, Operations]

    @property
    def off(self) -> dict[str, float]:
        """By kind of operation, the largest relative difference of a phase."""
        return {
            kind: max(
                _off(getattr(self.stated[phase], kind), getattr(counted, kind))
                for phase, counted in self.executed.items()
            )
            for kind in TOLERANCE
        }

    @property
    def faults(self) -> list[str]:
        """What is off by more than :data:`TOLERANCE`."""
        return [f"{kind} off by {off:.2%}" for kind, off in self.off.items() if off > TOLERANCE[kind]]

    @property
    def totals(self) -> tuple[float, float]:
        """All operations of the step, as stated and as executed."""
        stated, executed = (sum(side.values(), Operations()).total for side in (self.stated, self.executed))
        return stated, executed


def _off(stated: float, executed: float) -> float:
    return 0.0 if stated == executed else math.inf if not executed else abs(stated - executed) / executed


def books(config: GPTConfig, batch: int = 2) -> Books:
    """Both sides of one training step over ``batch`` full sequences.

    Raises:
        ConfigError: the optimizer needs second derivatives that the mechanism has not.
        UnknownOperation: an operator ran that the counter has no rule for.
    """
    return Books(_stated(config, batch), _executed(config, batch))


def _stated(config: GPTConfig, batch: int) -> dict[str, Operations]:
    book, tokens = ledger(config), batch * config.sequence_len
    # Of a tied embedding the ledger books the sum of both gradients per step; autograd executes it on its way back.
    table = Operations(elementwise=config.vocab_size * config.n_embd * config.tie_embeddings)
    return {
        "forward": book.forward * tokens,
        "backward": book.backward * tokens + table,
        "optimizer": book.optimizer + book.looking(batch) + -1 * table,
    }


def _executed(config: GPTConfig, batch: int) -> dict[str, Operations]:
    _prepare(config.attention_type, config.optimizer_type)
    model = GPT(config)
    optimizer = build(model, OptimConfig())
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    idx = _tokens(config, batch)
    with Counter() as forward:
        loss = model(idx, idx)
    with Counter() as backward:
        loss.backward()
    curved = OPTIMIZERS.get(config.optimizer_type).curvature is not None
    look: Any = (lambda: Curvature(lambda: model(idx, idx), parameters)) if curved else None
    with Counter() as update:
        if curved:  # such an optimizer limits its own steps
            nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        else:
            nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(look)
    return {"forward": forward.operations, "backward": backward.operations, "optimizer": update.operations}


def _tokens(config: GPTConfig, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (batch, config.sequence_len), generator=generator)


@cache
def _prepare(attention: str, optimizer: str) -> None:
    """Kernels are built and tables made before anything is counted."""
    config = GPTConfig(
        n_layer=1, n_head=4, n_embd=32, vocab_size=256, sequence_len=8, attention_type=attention,
        optimizer_type=optimizer,
    )  # fmt: skip
    model = GPT(config)
    model(torch.zeros(1, 8, dtype=torch.long)).sum().backward()


def exponents(books_by_size: Mapping[int, Books]) -> tuple[float, float]:
    """Growth of forward and backward passes with a size, stated and executed: slope of log operations over log size."""
    x = [math.log(size) for size in books_by_size]
    found = []
    for side in ("stated", "executed"):
        phases = [getattr(each, side) for each in books_by_size.values()]
        found.append(_slope(x, [math.log((phase["forward"] + phase["backward"]).total) for phase in phases]))
    return found[0], found[1]


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares."""
    middle, level = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)
