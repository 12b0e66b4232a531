"""Reversible blocks: two full-width streams, y1 = x1 + F(x2), y2 = x2 + G(y1), whose past is recomputed, not stored."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.block.registry import BLOCKS
from nanochat.config import ConfigError, common_faults, option
from nanochat.registry import Limit, Mechanism, Operations

if TYPE_CHECKING:
    from nanochat.config import GPTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ReversibleKnobs:
    """Options of ``reversible``."""

    inner: str = option("standard", "mixer inside the coupling, any attention type")
    exact: bool = option(False, "hold the streams in 64-bit fixed point, so that inversion is exact to the bit")

    def __post_init__(self) -> None:
        if faults := common_faults(self):
            raise ConfigError(faults)


def operations(config: GPTConfig, length: int) -> Operations:
    """Per token and layer: one add per stream, and the layer's share of the mean of both streams at the end."""
    return Operations(elementwise=(2 + 2 / config.n_layer) * config.n_embd)


def backward(config: GPTConfig, length: int) -> Operations:
    """Per token and layer: one subtraction per stream to reconstruct it, one add per stream of gradient."""
    return Operations(elementwise=(4 + 1 / config.n_layer) * config.n_embd)


BLOCKS.register(
    Mechanism(
        name="reversible",
        title="reversible two-stream blocks, activation memory flat in depth",
        source="arXiv:1707.04585",
        cls="ReversibleStack",
        knobs=ReversibleKnobs,
        operations=operations,
        backward=backward,
        decode=operations,
        recompute=1.0,
        state=lambda config, batch, length: 0,
        reduces_to=Limit(
            statement="at depth one, y1 + y2 - x is the pre-norm residual block",
            check="residual_limit",
            tolerance=1e-12,
        ),
        page="reversible.md",
        twin="demos.reversible.maths.stack",
    ),
    __name__,
)

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nanochat.attention.heads import Rope
from nanochat.initialise import Draw, Layer
from nanochat.trunk import MLP, build_mixer, norm

FRACTION_BITS = 32
"""The grid of exact streams is 2^-32: finer than fp32 above 2^-9, with room up to 2^31."""

LIMIT = 2.0**30
"""Largest coupling output that an exact stream takes; beyond it (or not finite) the result is NaN, not a wrap."""


class Floating:
    """Streams as they are: inversion is exact up to rounding, about one unit in the last place per layer."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def enter(self, x: Tensor) -> Tensor:
        return x

    def read(self, stream: Tensor) -> Tensor:
        return stream

    def shift(self, stream: Tensor, change: Tensor, sign: int) -> Tensor:
        return torch.add(stream, change, alpha=sign)

    def valid(self, change: Tensor) -> Tensor | None:
        return None


class FixedPoint(Floating):
    """Streams as 64-bit integers on the grid 2^-32: adding and subtracting the same integer is exact to the bit.

    Gradients pass the rounding straight through: they are those of the unrounded coupling at the rounded states.
    """

    def _wide(self, x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.float()

    def enter(self, x: Tensor) -> Tensor:
        return (self._wide(x) * 2.0**FRACTION_BITS).round().long()

    def read(self, stream: Tensor) -> Tensor:
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        return (stream.to(wide) * 2.0**-FRACTION_BITS).to(self.dtype)

    def shift(self, stream: Tensor, change: Tensor, sign: int) -> Tensor:
        return torch.add(stream, self.enter(change), alpha=sign)

    def valid(self, change: Tensor) -> Tensor | None:
        return change.detach().abs().amax() < LIMIT


class Replay:
    """Runs a coupling again under the conditions of its first run: autocast state and random numbers.

    Each half layer draws from its own generator state, keyed by one number per forward pass, so what must be
    remembered does not grow with depth. The weight cache of autocast stays off: filled without gradients in the forward
    pass, it would cut the weights out of the graph of the backward pass.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.autocast = torch.is_autocast_enabled(device.type)
        self.dtype = torch.get_autocast_dtype(device.type)
        self.seed = int(torch.randint(2**62, ()))

    def __enter__(self) -> Replay:
        self._fork = torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])
        self._fork.__enter__()
        self._cast = torch.autocast(self.device.type, self.dtype, self.autocast, cache_enabled=False)
        self._cast.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._cast.__exit__(*error)
        self._fork.__exit__(*error)

    def rewind(self, half: int) -> None:
        """Put the generators where half layer ``half`` starts."""
        torch.manual_seed(self.seed + half)


class ReversibleBlock(Layer):
    """The two halves of one layer; parameters are named as in the residual block, so both share initial weights."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.mixer = build_mixer(config, layer)
        self.mlp = MLP(config)

    def init_weights(self, draw: Draw) -> None:
        self.mixer.init_weights(draw.child("mixer"))
        self.mlp.init_weights(draw.child("mlp"))

    def first(self, x: Tensor, rope: Rope | None, cache: object | None = None) -> Tensor:
        """F(x2)."""
        return self.mixer(norm(x), rope, cache)

    def second(self, x: Tensor) -> Tensor:
        """G(y1)."""
        return self.mlp(norm(x))


class ReversibleFunction(torch.autograd.Function):
    """The whole stack as one node of the graph: it keeps the last pair of streams and rebuilds the earlier ones.

    Backward, from the last layer to the first, with g1, g2 the gradients of y1, y2::

        x2 = y2 - G(y1),  g1 <- g1 + (dG/dy1)^T g2,     x1 = y1 - F(x2),  g2 <- g2 + (dF/dx2)^T g1

    Parameters are inputs, so their gradients leave through autograd (DDP's hooks see them). Not twice
    differentiable. Source: arXiv:1707.04585, algorithm 1.
    """

    @staticmethod
    def forward(ctx, stack: ReversibleStack, rope: Rope | None, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.stack, ctx.rope, ctx.parameters = stack, rope, parameters
        ctx.versions = [parameter._version for parameter in parameters]
        ctx.replay = Replay(x.device)
        first, second, output = stack.run(x, rope, None, ctx.replay)
        ctx.save_for_backward(first, second)
        ctx.dtype = x.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        stack: ReversibleStack = ctx.stack
        if ctx.versions != [parameter._version for parameter in ctx.parameters]:
            raise RuntimeError(
                "reversible: weights changed between forward and backward, need them unchanged to rebuild activations"
            )
        arithmetic = stack.arithmetic(ctx.dtype)
        first, second = ctx.saved_tensors
        first_gradient = second_gradient = gradient / 2
        collected: dict[int, Tensor] = {}
        with ctx.replay as replay:
            for layer in reversed(range(len(stack.blocks))):
                block = stack.blocks[layer]
                replay.rewind(2 * layer + 1)
                change, pulled = pull(
                    block.second, arithmetic.read(first), block.mlp.parameters(), second_gradient, collected
                )
                second, first_gradient = arithmetic.shift(second, change, -1), first_gradient + pulled
                replay.rewind(2 * layer)
                change, pulled = pull(
                    lambda x, block=block: block.first(x, ctx.rope),
                    arithmetic.read(second),
                    block.mixer.parameters(),
                    first_gradient,
                    collected,
                )
                first, second_gradient = arithmetic.shift(first, change, -1), second_gradient + pulled
        stack.inversion_error = (arithmetic.read(first) - arithmetic.read(second)).abs().amax()
        gradients = [collected.get(id(parameter)) for parameter in ctx.parameters]
        return None, None, first_gradient + second_gradient, *gradients


def pull(function, x: Tensor, parameters, gradient: Tensor, collected: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Value of ``function`` at x and its vector-Jacobian product; gradients of its parameters go into ``collected``."""
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
    pulled, *rest = torch.autograd.grad(value, (x, *wanted), gradient.to(value.dtype), allow_unused=True)
    collected.update((id(parameter), part) for parameter, part in zip(wanted, rest, strict=True) if part is not None)
    return value.detach(), torch.zeros_like(x) if pulled is None else pulled


class ReversibleStack(Layer):
    """L reversible blocks over the pair (x, x); the result is the mean of the final pair.

    Attributes:
        inversion_error: after a backward pass, the largest difference between the two rebuilt input streams, which
            began equal: a free audit of the inversion. 0 to the bit with ``--reversible-exact``.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.exact = config.knobs.get("reversible", ReversibleKnobs()).exact
        self.blocks = nn.ModuleList(ReversibleBlock(config, layer) for layer in range(config.n_layer))
        self.inversion_error: Tensor | None = None

    def init_weights(self, draw: Draw) -> None:
        for layer, block in enumerate(self.blocks):
            block.init_weights(draw.child(f"blocks.{layer}"))

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> list[object]:
        return [block.mixer.init_cache(batch, length, device, dtype) for block in self.blocks]

    def arithmetic(self, dtype: torch.dtype) -> Floating:
        """How the streams are held."""
        return FixedPoint(dtype) if self.exact else Floating(dtype)

    def run(
        self, x: Tensor, rope: Rope | None, cache: list[object] | None = None, replay: Replay | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The final pair of streams and their mean; with gradients enabled this is the stored form."""
        arithmetic = self.arithmetic(x.dtype)
        first = second = arithmetic.enter(x)
        valid = None
        with replay or nullcontext():
            for layer, block in enumerate(self.blocks):
                if replay is not None:
                    replay.rewind(2 * layer)
                change = block.first(arithmetic.read(second), rope, None if cache is None else cache[layer])
                first = arithmetic.shift(first, change, 1)
                valid = merge(valid, arithmetic.valid(change))
                if replay is not None:
                    replay.rewind(2 * layer + 1)
                change = block.second(arithmetic.read(first))
                second = arithmetic.shift(second, change, 1)
                valid = merge(valid, arithmetic.valid(change))
        output = (arithmetic.read(first) + arithmetic.read(second)) / 2
        return first, second, output if valid is None else torch.where(valid, output, torch.nan)

    @torch.compiler.disable
    def forward(
        self, x: Float[Tensor, "B T C"], rope: Rope | None, cache: list[object] | None = None
    ) -> Float[Tensor, "B T C"]:
        if cache is None and torch.is_grad_enabled():
            return ReversibleFunction.apply(self, rope, x, *self.parameters())
        return self.run(x, rope, cache)[2]


def merge(valid: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Both, where there is anything to check."""
    return more if valid is None or more is None else valid & more


def residual_limit() -> float:
    """Largest difference between y1 + y2 - x at depth one and the residual block with the same weights."""
    from nanochat.block.residual import ResidualBlock
    from nanochat.config import GPTConfig

    config = GPTConfig(n_layer=1, n_head=2, n_embd=16, attention_type="reversible")
    stack, block = ReversibleStack(config).double(), ResidualBlock(config, 0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4)
        block.load_state_dict(stack.blocks[0].state_dict())
        x = torch.randn(2, 9, 16, generator=generator, dtype=torch.float64)
        first, second, _ = stack.run(x, None)
        return (first + second - x - block(x, None)).abs().max().item()
