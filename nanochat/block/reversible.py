"""Reversible blocks: two full-width streams, each moved by a function of the other, their past recomputed, not stored.

Every form is a list of moves: additive coupling y1 = x1 + F(x2), y2 = x2 + G(y1), or a position and its velocity.
"""

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


FORMS = ("additive", "momentum", "leapfrog")
"""How a layer moves its two streams."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReversibleKnobs:
    """Options of ``reversible``."""

    inner: str = option("standard", "mixer inside the coupling, any attention type")
    form: str = option(
        "additive", "two coupled streams, or a position and its velocity: damped, or by the leapfrog method",
        choices=FORMS,
    )  # fmt: skip
    momentum: float = option(0.9, "share of its velocity that each half of a momentum layer keeps, 0 to 1")
    exact: bool = option(False, "hold the streams in 64-bit fixed point, so that inversion is exact to the bit")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        if not 0 < self.momentum < 1:
            faults.append(f"--reversible-momentum: got {self.momentum:g}, need more than 0, less than 1")
        if self.exact and self.form == "momentum":
            faults.append(
                "--reversible-exact: got --reversible-form momentum, need additive or leapfrog: a velocity that fades "
                "forgets bits"
            )
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a layer: ``target = decay * target + scale * part(other stream)``.

    Args:
        target: 0 or 1, the stream that is moved by the other.
        part: ``mixer`` or ``mlp`` after the norm, or nothing: then the other stream itself.
    """

    target: int
    part: str = ""
    scale: float = 1.0
    decay: float = 1.0

    @property
    def factors(self) -> int:
        """How many of its two factors are not 1."""
        return (self.scale != 1) + (self.decay != 1)


def moves(config: GPTConfig) -> tuple[Move, ...]:
    r"""The moves of one layer.

    ``momentum``: :math:`v \leftarrow \gamma v + (1-\gamma) f(x),\ x \leftarrow x + v` for f = F, then G; source:
    arXiv:2102.07870. ``leapfrog``: :math:`v \leftarrow v + f(x),\ x \leftarrow x + v / L`, which is
    :math:`x_{n+1} = 2 x_n - x_{n-1} + f_n(x_n) / L` (arXiv:1709.03698).
    """
    knobs = knobs_of(config)
    if knobs.form == "additive":
        return Move(0, "mixer"), Move(1, "mlp")
    if knobs.form == "leapfrog":
        drift = Move(0, scale=1 / config.n_layer)
        return Move(1, "mixer"), drift, Move(1, "mlp"), drift
    kept = knobs.momentum
    return Move(1, "mixer", 1 - kept, kept), Move(0), Move(1, "mlp", 1 - kept, kept), Move(0)


def knobs_of(config: GPTConfig) -> ReversibleKnobs:
    """The options in a configuration, or the defaults."""
    return config.knobs.get("reversible", ReversibleKnobs())


def operations(config: GPTConfig, length: int) -> Operations:
    """Per token and layer: an add and its factors per move, and the layer's share of the mean of both streams at the
    end (with a position nothing is to be done).

    Exact streams: each move also reads (scale), rounds (scale, round) and checks its range (magnitude, maximum); the
    stack once rounds and checks its input, reads its outputs and selects.
    """
    knobs, steps = knobs_of(config), moves(config)
    ends = (9 if knobs.exact else 2) if knobs.form == "additive" else (6 if knobs.exact else 0)
    each = sum((6 if knobs.exact else 1) + move.factors for move in steps)
    return Operations(elementwise=(each + ends / config.n_layer) * config.n_embd)


def backward(config: GPTConfig, length: int) -> Operations:
    """Per token and layer: what each move did, undone, an add of gradients and its factors; once, the halves of the
    incoming gradient, their sum, and the audit of the inversion (subtract, magnitude, maximum; a velocity that ought to
    be 0 needs no subtraction, a position no halves).

    Exact streams: each move also reads and rounds (3), and the audit reads.
    """
    knobs, steps = knobs_of(config), moves(config)
    ends = (7 if knobs.exact else 5) if knobs.form == "additive" else (3 if knobs.exact else 2)
    each = sum((5 if knobs.exact else 2) + 2 * move.factors for move in steps)
    return Operations(elementwise=(each + ends / config.n_layer) * config.n_embd)


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

LIMIT = 2.0**23
"""Largest change that an exact stream takes, so that 254 of them cannot wrap; beyond it the result is NaN."""


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

    def apply(self, move: Move, stream: Tensor, change: Tensor) -> Tensor:
        """The stream after a move whose change is scaled already."""
        return self.shift(stream if move.decay == 1 else stream * move.decay, change, 1)

    def undo(self, move: Move, stream: Tensor, change: Tensor) -> Tensor:
        """The stream before it."""
        before = self.shift(stream, change, -1)
        return before if move.decay == 1 else before / move.decay


class Wide(Floating):
    """Streams in fp64, read as ``dtype``: undoing a move that fades multiplies what rounding lost by 1 / decay."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def enter(self, x: Tensor) -> Tensor:
        return x.double()

    def read(self, stream: Tensor) -> Tensor:
        return stream.to(self.dtype)


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

    def part(self, name: str) -> nn.Module:
        """``mixer`` or ``mlp``."""
        return self.mixer if name == "mixer" else self.mlp

    def init_weights(self, draw: Draw) -> None:
        self.mixer.init_weights(draw.child("mixer"))
        self.mlp.init_weights(draw.child("mlp"))


class ReversibleFunction(torch.autograd.Function):
    """The whole stack as one node of the graph: it keeps the last pair of streams and rebuilds the earlier ones.

    Backward, from the last layer to the first, with g1, g2 the gradients of y1, y2 (additive form)::

        x2 = y2 - G(y1),  g1 <- g1 + (dG/dy1)^T g2,     x1 = y1 - F(x2),  g2 <- g2 + (dF/dx2)^T g1

    and so for any move a <- c a + s f(b): a <- (a - s f(b)) / c,  g_b <- g_b + (df/db)^T s g_a,  g_a <- c g_a.

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
        streams, gradients = list(ctx.saved_tensors), stack.spread(grad_outputs[0])
        collected: dict[int, Tensor] = {}
        with ctx.replay.conditions():
            for layer in reversed(range(len(stack.layers))):
                for move in reversed(stack.moves):
                    stack.step_back(layer, move, streams, gradients, ctx, collected)
        stack.inversion_error = stack.audit(streams)
        weight_gradients = [collected.get(id(parameter)) for parameter in ctx.parameters]
        return None, None, stack.gather(gradients), *weight_gradients


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
    """L reversible blocks over the pair (x, x), whose result is the mean of the final pair; or over a position x and
    its velocity 0, whose result is the final position.

    Attributes:
        inversion_error: after a backward pass, the largest difference between the two rebuilt input streams, which
            began equal, or the rebuilt first velocity, which was 0: a free audit of the inversion. 0 to the bit with
            ``--reversible-exact``.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        knobs = knobs_of(config)
        self.exact, self.coupled, self.faded = knobs.exact, knobs.form == "additive", knobs.form == "momentum"
        self.moves = moves(config)
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
        dtype = self.layers[0].mlp.down.weight.dtype
        return FixedPoint(dtype) if self.exact else Wide(dtype) if self.faded else FLOATING

    def spread(self, gradient: Tensor) -> list[Tensor]:
        """Gradients of the two final streams."""
        return [gradient / 2] * 2 if self.coupled else [gradient, torch.zeros_like(gradient)]

    def gather(self, gradients: list[Tensor]) -> Tensor:
        """Gradient of the input, which is both first streams, or the first position."""
        return gradients[0] + gradients[1] if self.coupled else gradients[0]

    def audit(self, streams: list[Tensor]) -> Tensor:
        """Largest deviation of the rebuilt first streams from what is known of them."""
        first, second = (self.arithmetic.read(stream) for stream in streams)
        return (first - second if self.coupled else second).abs().amax()

    def change(
        self, layer: int, move: Move, source: Tensor, rope: Rope | None, cache: list[object] | None = None
    ) -> Tensor:
        """By how much a move shifts its target."""
        block, x = self.layers[layer], self.arithmetic.read(source)
        if move.part == "mixer":
            x = block.mixer(norm(x), rope, None if cache is None else cache[layer])
        elif move.part == "mlp":
            x = block.mlp(norm(x))
        return x if move.scale == 1 else x * move.scale

    def step_back(
        self, layer: int, move: Move, streams: list[Tensor], gradients: list[Tensor], ctx: Any, collected: dict
    ) -> None:
        """Undo one move in ``streams`` and take ``gradients`` through it, both in place."""
        target, source = move.target, 1 - move.target
        seed = gradients[target] if move.scale == 1 else gradients[target] * move.scale
        x = self.arithmetic.read(streams[source])
        change, pulled = x, seed
        if move.part:
            ctx.replay.rewind(2 * layer + (move.part == "mlp"))
            others = (ctx.rope,) if move.part == "mixer" else ()
            change, pulled = pull(self.layers[layer].part(move.part), x, others, seed, collected)
        change = change if move.scale == 1 else change * move.scale
        streams[target] = self.arithmetic.undo(move, streams[target], change)
        gradients[source] = gradients[source] + pulled
        if move.decay != 1:
            gradients[target] = gradients[target] * move.decay

    def advance(
        self, x: Tensor, rope: Rope | None, cache: list[object] | None = None, replay: Replay | None = None
    ) -> tuple[Pair, Tensor | None]:
        """The final pair of streams, and whether all that was added fits them (exact streams)."""
        start, arithmetic = self.arithmetic.enter(x), self.arithmetic
        pair = [start, start if self.coupled else torch.zeros_like(start)]
        valid = arithmetic.valid(x, None)
        with nullcontext() if replay is None else replay.conditions():
            for layer in range(len(self.layers)):
                for move in self.moves:
                    if move.part:
                        rewind(replay, 2 * layer + (move.part == "mlp"))
                    change = self.change(layer, move, pair[1 - move.target], rope, cache)
                    pair[move.target] = arithmetic.apply(move, pair[move.target], change)
                    valid = arithmetic.valid(change, valid)
        return (pair[0], pair[1]), valid

    @torch.no_grad()
    def retreat(self, pair: Pair, rope: Rope | None) -> Pair:
        """The inverse of :meth:`advance`: the pair of streams before the first layer."""
        streams = list(pair)
        for layer in reversed(range(len(self.layers))):
            for move in reversed(self.moves):
                change = self.change(layer, move, streams[1 - move.target], rope)
                streams[move.target] = self.arithmetic.undo(move, streams[move.target], change)
        return streams[0], streams[1]

    def run(
        self, x: Tensor, rope: Rope | None, cache: list[object] | None = None, replay: Replay | None = None
    ) -> tuple[Pair, Tensor]:
        """The final pair of streams and the result; with gradients enabled this is the stored form."""
        pair, valid = self.advance(x, rope, cache, replay)
        output = self.arithmetic.read(pair[0])
        if self.coupled:
            output = (output + self.arithmetic.read(pair[1])) / 2
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
