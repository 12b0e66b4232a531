"""Initial weights, drawn per parameter from a generator keyed by (seed, qualified name, shape).

Two models that share a parameter's name and shape share its initial value to the bit, whatever else differs between
them: the arms of a comparison start from common ground, and adding a layer does not shift the others.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


def generator_for(seed: int, name: str, shape: tuple[int, ...]) -> torch.Generator:
    """The CPU generator of one parameter: seeded by SHA-256 of (seed, name, shape)."""
    digest = hashlib.sha256(f"{seed}\x00{name}\x00{shape}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Draw:
    """Hands out initial values to the parameters of one module and remembers which were drawn.

    Args:
        seed: seed of the run.
        prefix: qualified name of the module whose ``init_weights`` is called.
        drawn: shared record of the parameters already initialised.
    """

    def __init__(self, seed: int, prefix: str = "", drawn: set[str] | None = None):
        self.seed = seed
        self.prefix = prefix
        self.drawn: set[str] = set() if drawn is None else drawn

    def child(self, name: str) -> Draw:
        return Draw(self.seed, self._qualified(name), self.drawn)

    def _qualified(self, name: str) -> str:
        return f"{self.prefix}.{name}" if self.prefix else name

    def _claim(self, name: str) -> str:
        qualified = self._qualified(name)
        assert qualified not in self.drawn, f"{qualified} is initialised twice"
        self.drawn.add(qualified)
        return qualified

    @torch.no_grad()
    def normal(self, name: str, parameter: Tensor, std: float) -> None:
        """Independent N(0, std^2), drawn in fp32 on the CPU whatever the parameter's type and device."""
        generator = generator_for(self.seed, self._claim(name), tuple(parameter.shape))
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * std)

    @torch.no_grad()
    def constant(self, name: str, parameter: Tensor, value: float) -> None:
        self._claim(name)
        parameter.fill_(value)

    def linear(self, name: str, layer: nn.Linear, *, zero: bool = False) -> None:
        """A linear map: N(0, 1/fan_in), or zero where a residual branch should start silent."""
        if zero:
            self.constant(f"{name}.weight", layer.weight, 0.0)
        else:
            self.normal(f"{name}.weight", layer.weight, layer.in_features**-0.5)
        if layer.bias is not None:
            self.constant(f"{name}.bias", layer.bias, 0.0)


class Layer(nn.Module):
    """A module that initialises its own parameters, those of plain torch modules inside it included."""

    def init_weights(self, draw: Draw) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not initialise its weights")


class Mixer(Layer):
    """What moves information between tokens inside a block; ``Mixer(config, layer)`` builds one."""

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Any:
        """Room for what it keeps of ``length`` tokens of ``batch`` sequences while decoding."""
        raise NotImplementedError(f"{type(self).__name__} keeps no cache")

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None, cache: Any = None) -> Tensor:
        """(B, N, C) to (B, N, C); with a cache the N tokens continue the sequence that it holds."""
        raise NotImplementedError(f"{type(self).__name__} does not mix")

    def diagnose(self) -> dict[str, float | str]:
        """Numbers and words on the passes since it was last asked, which a run records beside each evaluation."""
        return {}
