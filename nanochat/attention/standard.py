"""Softmax attention, the baseline: scaled dot products through PyTorch's own kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from nanochat.attention._head_operations import (
    attention_hessian,
    causal_keys,
    head_backward,
    head_hessian,
    head_operations,
)
from nanochat.attention.registry import MIXERS
from nanochat.config import ConfigError, common_faults, option
from nanochat.registry import Hessian, Limit, Mechanism, Operations, Requirement

if TYPE_CHECKING:
    from nanochat.config import GPTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class StandardKnobs:
    """Options of ``standard``."""

    window: int = option(0, "attend to this many latest tokens only; 0 is all", unit="tokens")
    use_flex_attention: bool = option(False, "use FlexAttention instead of SDPA", flag="use-flex-attention")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        if self.window < 0:
            faults.append(f"--standard-window: got {self.window}, need at least 0")
        if faults:
            raise ConfigError(faults)


def _window(config: GPTConfig) -> int:
    return config.knobs.get("standard", StandardKnobs()).window


def _keys(config: GPTConfig, length: int) -> float:
    """Keys per query that are charged: those that a block mask leaves, or all where the window is an explicit mask."""
    knobs = config.knobs.get("standard", StandardKnobs())
    if knobs.window and not knobs.use_flex_attention:
        return length
    return causal_keys(length, knobs.window)


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token: projections, then 4 D per pair and head in products, 5 elementwise, 1 per output."""
    pairs = config.n_head * _keys(config, length)
    core = Operations(matmul=4 * config.head_dim * pairs, elementwise=5 * pairs + config.n_embd)
    return head_operations(config) + core


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token: scores again and four gradients, 10 D per pair and head, 6 elementwise, 2 per output."""
    pairs = config.n_head * _keys(config, length)
    core = Operations(matmul=10 * config.head_dim * pairs, elementwise=6 * pairs + 2 * config.n_embd)
    return head_backward(config) + core


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached: all of them are read, the window only masks."""
    pairs = config.n_head * (length + 1)
    core = Operations(matmul=4 * config.head_dim * pairs, elementwise=5 * pairs + config.n_embd)
    return head_operations(config) + core


def hessian(config: GPTConfig, length: int) -> Hessian | str:
    """Second derivatives, per token; a window masks pairs and saves none."""
    if config.knobs.get("standard", StandardKnobs()).use_flex_attention:
        return "FlexAttention has no second derivative; leave --use-flex-attention out"
    return head_hessian(config) + attention_hessian(config, length)


MIXERS.register(
    Mechanism(
        name="standard",
        title="causal softmax attention",
        source="arXiv:1706.03762",
        cls="Standard",
        knobs=StandardKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=lambda config, batch, length: 2 * batch * config.kv_heads * length * config.head_dim * 4,
        hessian=hessian,
        length_aware=True,
        requires=(
            Requirement(
                lambda config: config.logit_scaling == "none" or not _window(config),
                "--logit-scaling {config.logit_scaling}: got --standard-window, which sees no more keys in a longer "
                "sequence, need either",
            ),
        ),
        reduces_to=Limit(
            statement="with equal keys, the running mean of the values", check="uniform_limit", tolerance=1e-12
        ),
        no_twin="it is PyTorch's own function; the naive form below is its specification",
    ),
    __name__,
)

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.attention.heads import HeadMixer, causal_mask, repeat_heads, softmax_attention


def naive(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B K S D"], v: Float[Tensor, "B K S D"], window: int = 0
) -> Float[Tensor, "B H N D"]:
    r"""The executable definition: :math:`y_i = \sum_{j \le i} \mathrm{softmax}_j(q_i \cdot k_j / \sqrt D)\, v_j`."""
    groups = q.shape[1] // k.shape[1]
    k, v = repeat_heads(k, groups), repeat_heads(v, groups)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    mask = causal_mask(q.shape[2], k.shape[2], window, q.device)
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v


@cache
def flex_kernel(fused: bool) -> Callable[..., Tensor]:
    """FlexAttention; fused means compiled, without which it writes out every score."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if fused else flex_attention


def flex_softmax_attention(q: Tensor, k: Tensor, v: Tensor, window: int = 0) -> Tensor:
    """The same through FlexAttention, whose block mask skips what the window leaves out. Source: arXiv:2412.05496.

    Raises:
        NotImplementedError: gradients are wanted on the CPU, where PyTorch has no backward pass for it.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    on_cpu = q.device.type == "cpu"
    if on_cpu and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise NotImplementedError(
            "--use-flex-attention: PyTorch's FlexAttention does not support backward on CPU; need --device cuda, "
            "or leave it out: SDPA computes the same"
        )
    queries, keys = q.shape[2], k.shape[2]
    offset = keys - queries

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = key <= query + offset
        return seen & (key > query + offset - window) if window else seen

    mask = create_block_mask(visible, None, None, queries, keys, device=q.device)
    fused = not on_cpu and not torch.compiler.is_compiling()
    return flex_kernel(fused)(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


class Standard(HeadMixer):
    """Softmax attention over heads."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        knobs = config.knobs.get("standard", StandardKnobs())
        self.window = knobs.window
        self.function = flex_softmax_attention if knobs.use_flex_attention else softmax_attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.function(q, k, v, self.window)


def uniform_limit() -> float:
    """Largest difference between attention with equal keys and the running mean of the values."""
    generator = torch.Generator().manual_seed(0)
    q, v = (torch.randn(1, 2, 17, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    mean = v.cumsum(2) / torch.arange(1, 18, dtype=torch.float64)[:, None]
    return (softmax_attention(q, torch.ones_like(q), v) - mean).abs().max().item()
