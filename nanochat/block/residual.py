"""Pre-norm residual blocks, x <- x + mixer(norm x), x <- x + mlp(norm x): what every mixer runs in by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from nanochat.block.registry import BLOCKS
from nanochat.registry import Hessian, Mechanism, Operations

if TYPE_CHECKING:
    from nanochat.config import GPTConfig


def operations(config: GPTConfig, length: int) -> Operations:
    """What the joining itself costs per token and layer; mixer, MLP and norms are charged where they are defined."""
    return Operations(elementwise=2 * config.n_embd)


def hessian(config: GPTConfig, length: int) -> Hessian:
    """Second derivatives: changes of the stream and of its gradient are joined where the branches leave and return."""
    return Hessian(2 * operations(config, length), 2 * operations(config, length))


BLOCKS.register(
    Mechanism(
        name="residual",
        title="pre-norm residual blocks",
        source="arXiv:2002.04745",
        cls="ResidualStack",
        operations=operations,
        backward=operations,
        decode=operations,
        state=lambda config, batch, length: 0,
        hessian=hessian,
        no_twin="it only adds; the trunk's own tests cover it",
    ),
    __name__,
)

import torch
from torch import Tensor, nn

from nanochat.initialise import Draw, Layer
from nanochat.trunk import MLP, build_mixer, norm


class ResidualBlock(Layer):
    """One mixer and one MLP, each on a normalised copy of the stream."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.mixer = build_mixer(config, layer)
        self.mlp = MLP(config)

    def init_weights(self, draw: Draw) -> None:
        self.mixer.init_weights(draw.child("mixer"))
        self.mlp.init_weights(draw.child("mlp"))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None, cache: object | None = None) -> Tensor:
        x = x + self.mixer(norm(x), rope, cache)
        return x + self.mlp(norm(x))


class ResidualStack(Layer):
    """L residual blocks."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(config, layer) for layer in range(config.n_layer))

    @property
    def layers(self) -> list[ResidualBlock]:
        """The blocks, first to last."""
        return cast("list[ResidualBlock]", list(self.blocks))

    def init_weights(self, draw: Draw) -> None:
        for layer, block in enumerate(self.layers):
            block.init_weights(draw.child(f"blocks.{layer}"))

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> list[object]:
        return [block.mixer.init_cache(batch, length, device, dtype) for block in self.layers]

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None, cache: list[object] | None = None) -> Tensor:
        for layer, block in enumerate(self.layers):
            x = block(x, rope, None if cache is None else cache[layer])
        return x
