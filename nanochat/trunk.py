"""Parts that every block stack is made of: the norm, the feed-forward part, the mixer that a configuration names."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nanochat.architecture import plan
from nanochat.config import GPTConfig
from nanochat.initialise import Draw, Layer, Mixer


def norm(x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
    """RMSNorm without parameters: x / sqrt(mean(x^2) + eps). Source: arXiv:1910.07467."""
    return F.rms_norm(x, (x.shape[-1],))


class MLP(Layer):
    """Feed-forward part: squared ReLU (arXiv:2109.08668), GELU, or SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.kind = config.mlp
        self.up = nn.Linear(config.n_embd, config.mlp_width, bias=False)
        self.gate = nn.Linear(config.n_embd, config.mlp_width, bias=False) if config.mlp == "swiglu" else None
        self.down = nn.Linear(config.mlp_width, config.n_embd, bias=False)

    def init_weights(self, draw: Draw) -> None:
        draw.linear("up", self.up)
        if self.gate is not None:
            draw.linear("gate", self.gate)
        draw.linear("down", self.down, zero=True)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        hidden = self.up(x)
        if self.gate is not None:
            hidden = F.silu(self.gate(x)) * hidden
        elif self.kind == "gelu":
            hidden = F.gelu(hidden)
        else:
            hidden = F.relu(hidden).square()
        return self.down(hidden)


def build_mixer(config: GPTConfig, layer: int) -> Mixer:
    """The mixer of one layer, as the configuration's attention type resolves it."""
    return plan(config).mixers[layer].load()(config, layer)
