"""Reversible blocks: two full-width streams, y1 = x1 + F(x2), y2 = x2 + G(y1), whose past is recomputed, not stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

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
    """Per token and layer: one add per stream, and the layer's share of the mean of both streams at the end.

    Exact streams: each half also reads (scale), rounds (scale, round) and checks its range (magnitude, maximum); the
    stack once rounds and checks its input, reads both outputs and selects.
    """
    if _exact(config):
        return Operations(elementwise=(12 + 9 / config.n_layer) * config.n_embd)
    return Operations(elementwise=(2 + 2 / config.n_layer) * config.n_embd)


def backward(config: GPTConfig, length: int) -> Operations:
    """Per token and layer: one subtraction per stream to rebuild it, one add per stream of gradient; once, the halves
    of the incoming gradient, their sum, and the audit of the inversion (subtract, magnitude, maximum).

    Exact streams: each half also reads and rounds (3), and the audit reads both streams.
    """
    if _exact(config):
        return Operations(elementwise=(10 + 7 / config.n_layer) * config.n_embd)
    return Operations(elementwise=(4 + 5 / config.n_layer) * config.n_embd)


def _exact(config: GPTConfig) -> bool:
    return config.knobs.get("reversible", ReversibleKnobs()).exact


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
        hessian=lambda config, length: "its backward pass computes the activations again, outside of autograd",
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
from torch.func import functional_call

from nanochat.attention.heads import Rope
from nanochat.initialise import Draw, Layer
from nanochat.trunk import MLP, build_mixer, norm

Pair = tuple[Tensor, Tensor]

FRACTION_BITS = 32
"""The grid of exact streams is 2^-32: finer than fp32 above 2^-9, with room up to 2^31."""

LIMIT = 2.0**24
"""Largest coupling output that an exact stream takes, so that 127 layers cannot wrap; beyond it the result is NaN."""


class Floating:
    """Streams as they are: inversion is exact up to rounding, about one unit in the last place per layer."""

    def enter(self, x: Tensor) -> Tensor:
        return x

    def read(self, stream: Tensor) -> Tensor:
        return stream

    def shift(self, stream: Tensor, change: Tensor, sign: int) -> Tensor:
        return torch.add(stream, change, alpha=sign)

    def valid(self, change: Tensor, so_far: Tensor | None) -> Tensor | None:
        """Whether this change and those before it fit the streams; None where nothing can be out of range."""
        return None


class FixedPoint(Floating):
    """Streams as 64-bit integers on the grid 2^-32: adding and subtracting the same integer is exact to the bit.

    Gradients pass the rounding straight through: they are those of the unrounded coupling at the rounded states.

    Args:
        dtype: what the streams are read as.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32

    def enter(self, x: Tensor) -> Tensor:
        return (x.to(self.wide) * 2.0**FRACTION_BITS).round().long()

    def read(self, stream: Tensor) -> Tensor:
        return (stream.to(self.wide) * 2.0**-FRACTION_BITS).to(self.dtype)

    def shift(self, stream: Tensor, change: Tensor, sign: int) -> Tensor:
        return torch.add(stream, self.enter(change), alpha=sign)

    def valid(self, change: Tensor, so_far: Tensor | None) -> Tensor | None:
        fits = change.detach().abs().amax() < LIMIT
        return fits if so_far is None else so_far & fits


FLOATING = Floating()


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
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[device.index])

    @contextmanager
    def conditions(self) -> Iterator[None]:
        """Those of the first run; the caller's generators are put back at the end."""
        devices = [self.device] if self.device.type == "cuda" else []
        cast_to = torch.autocast(self.device.type, self.dtype, self.autocast, cache_enabled=False)
        with torch.random.fork_rng(devices), cast_to:
            yield

    def rewind(self, half: int) -> None:
        """Put the generators where half layer ``half`` starts.

        Generator by generator: ``torch.manual_seed`` writes down a stack trace for each kind of accelerator that it
        does not find, 2 ms in all, which was half the step of a small model.
        """
        for generator in self.generators:
            generator.manual_seed(self.seed + half)


def rewind(replay: Replay | None, half: int) -> None:
    """Put the generators in place where random numbers will have to be drawn again."""
    if replay is not None:
        replay.rewind(half)


class ReversibleBlock(Layer):
    """The two halves of one layer; parameters are named as in the residual block, so both share initial weights."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.mixer = build_mixer(config, layer)
        self.mlp = MLP(config)

    def init_weights(self, draw: Draw) -> None:
        self.mixer.init_weights(draw.child("mixer"))
        self.mlp.init_weights(draw.child("mlp"))


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
        pair, output = stack.run(x, rope, None, ctx.replay)
        ctx.save_for_backward(*pair)
        return output

    @staticmethod
    @once_differentiable  # its wrapper hides the name of ctx from pyright
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> Any:
        stack: ReversibleStack = ctx.stack
        if ctx.versions != [parameter._version for parameter in ctx.parameters]:
            raise RuntimeError(
                "reversible: weights changed between forward and backward, need them unchanged to rebuild activations"
            )
        arithmetic = stack.arithmetic
        first, second = ctx.saved_tensors
        first_gradient = second_gradient = grad_outputs[0] / 2
        collected: dict[int, Tensor] = {}
        with ctx.replay.conditions():
            for layer, block in reversed(list(enumerate(stack.layers))):
                ctx.replay.rewind(2 * layer + 1)
                change, pulled = pull(block.mlp, arithmetic.read(first), (), second_gradient, collected)
                second, first_gradient = arithmetic.shift(second, change, -1), first_gradient + pulled
                ctx.replay.rewind(2 * layer)
                change, pulled = pull(block.mixer, arithmetic.read(second), (ctx.rope,), first_gradient, collected)
                first, second_gradient = arithmetic.shift(first, change, -1), second_gradient + pulled
        stack.inversion_error = (arithmetic.read(first) - arithmetic.read(second)).abs().amax()
        weight_gradients = [collected.get(id(parameter)) for parameter in ctx.parameters]
        return None, None, first_gradient + second_gradient, *weight_gradients


def pull(
    module: nn.Module, x: Tensor, others: tuple[Any, ...], gradient: Tensor, collected: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """Value of ``module(norm(x), *others)`` and its vector-Jacobian product with respect to x.

    Gradients of the parameters go into ``collected`` by id. They are taken at stand-ins, because hooks that a user put
    on a parameter would otherwise fire here and once more when the gradient leaves the stack.
    """
    wanted = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    stand_ins = {name: parameter.detach().requires_grad_() for name, parameter in wanted.items()}
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = functional_call(module, stand_ins, (norm(x), *others))
    pulled, *rest = torch.autograd.grad(
        value, (x, *stand_ins.values()), gradient.to(value.dtype), materialize_grads=True
    )
    collected.update((id(parameter), part) for parameter, part in zip(wanted.values(), rest, strict=True))
    return value.detach(), pulled


class ReversibleStack(Layer):
    """L reversible blocks over the pair (x, x); the result is the mean of the final pair.

    Attributes:
        inversion_error: after a backward pass, the largest difference between the two rebuilt input streams, which
            began equal: a free audit of the inversion. 0 to the bit with ``--reversible-exact``.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.exact = _exact(config)
        self.blocks = nn.ModuleList(ReversibleBlock(config, layer) for layer in range(config.n_layer))
        self.inversion_error: Tensor | None = None

    @property
    def layers(self) -> list[ReversibleBlock]:
        """The blocks, first to last."""
        return cast("list[ReversibleBlock]", list(self.blocks))

    def init_weights(self, draw: Draw) -> None:
        for layer, block in enumerate(self.layers):
            block.init_weights(draw.child(f"blocks.{layer}"))

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> list[object]:
        return [block.mixer.init_cache(batch, length, device, dtype) for block in self.layers]

    @property
    def arithmetic(self) -> Floating:
        """How the streams are held."""
        return FixedPoint(self.layers[0].mlp.down.weight.dtype) if self.exact else FLOATING

    def advance(
        self, x: Tensor, rope: Rope | None, cache: list[object] | None = None, replay: Replay | None = None
    ) -> tuple[Pair, Tensor | None]:
        """The pair of streams that (x, x) becomes, and whether all that was added fits them (exact streams)."""
        first = second = self.arithmetic.enter(x)
        valid = self.arithmetic.valid(x, None)
        with nullcontext() if replay is None else replay.conditions():
            for layer, block in enumerate(self.layers):
                rewind(replay, 2 * layer)
                change = block.mixer(norm(self.arithmetic.read(second)), rope, None if cache is None else cache[layer])
                first, valid = self.arithmetic.shift(first, change, 1), self.arithmetic.valid(change, valid)
                rewind(replay, 2 * layer + 1)
                change = block.mlp(norm(self.arithmetic.read(first)))
                second, valid = self.arithmetic.shift(second, change, 1), self.arithmetic.valid(change, valid)
        return (first, second), valid

    @torch.no_grad()
    def retreat(self, pair: Pair, rope: Rope | None) -> Pair:
        """The inverse of :meth:`advance`: the pair of streams before the first layer."""
        first, second = pair
        for block in reversed(self.layers):
            second = self.arithmetic.shift(second, block.mlp(norm(self.arithmetic.read(first))), -1)
            first = self.arithmetic.shift(first, block.mixer(norm(self.arithmetic.read(second)), rope), -1)
        return first, second

    def run(
        self, x: Tensor, rope: Rope | None, cache: list[object] | None = None, replay: Replay | None = None
    ) -> tuple[Pair, Tensor]:
        """The final pair of streams and their mean; with gradients enabled this is the stored form."""
        pair, valid = self.advance(x, rope, cache, replay)
        output = (self.arithmetic.read(pair[0]) + self.arithmetic.read(pair[1])) / 2
        return pair, output if valid is None else torch.where(valid, output, torch.nan)

    def forward(
        self, x: Float[Tensor, "B T C"], rope: Rope | None, cache: list[object] | None = None
    ) -> Float[Tensor, "B T C"]:
        if cache is None and torch.is_grad_enabled():
            return rebuild(self, rope, x)
        return self.run(x, rope, cache)[1]


def _rebuild(stack: ReversibleStack, rope: Rope | None, x: Tensor) -> Tensor:
    return ReversibleFunction.apply(stack, rope, x, *stack.parameters())


rebuild: Callable[[ReversibleStack, Rope | None, Tensor], Tensor] = cast(Any, torch.compiler.disable(_rebuild))
"""The stack without stored activations; opaque to torch.compile, which cannot trace a backward pass that rebuilds."""


def residual_limit() -> float:
    """Largest difference between y1 + y2 - x at depth one and the residual block with the same weights."""
    from nanochat.config import GPTConfig

    stack = ReversibleStack(GPTConfig(n_layer=1, n_head=2, n_embd=16, attention_type="reversible")).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4)
        x = torch.randn(2, 9, 16, generator=generator, dtype=torch.float64)
        (first, second), _ = stack.run(x, None)
        block = stack.layers[0]
        residual = x + block.mixer(norm(x), None)
        residual = residual + block.mlp(norm(residual))
        return (first + second - x - residual).abs().max().item()
