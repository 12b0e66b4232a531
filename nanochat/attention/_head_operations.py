"""Operation counts of what head-shaped mixers share (``heads.py``), for their ``operations`` functions. No torch.

A mixer built on ``HeadMixer`` adds its own core to these, all per token and layer::

    operations = head_operations(config) + core forward
    backward   = head_backward(config) + core backward
    decode     = head_operations(config) + core of one query against ``length + 1`` keys

Units and conventions are those of ``nanochat.counter``, as eager PyTorch executes it; the tests hold the
sum to the counter within 1 % (matmul) and 5 % (elementwise, semiring).

For second derivatives::

    hessian = head_hessian(config) + core, for instance attention_hessian(config, length)

A bilinear product costs 1 forward, 2 backward and 6 more per Hessian product. Elementwise, a map adds up two changes of
its input and two of its gradient; the changes of its weights, which do not depend on the tokens, are charged in
``nanochat.flops``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.registry import Hessian, Operations

if TYPE_CHECKING:
    from nanochat.config import GPTConfig


def norm_forward(width: int, rows: float = 1) -> Operations:
    """RMSNorm of ``rows`` vectors of ``width``: square, mean and scale per element; add epsilon and rsqrt per row."""
    return Operations(elementwise=rows * (3 * width + 2))


def norm_backward(width: int, rows: float = 1) -> Operations:
    """Its backward: two products, a sum, the four factors of the mean's path and one addition; 3 on the statistic."""
    return Operations(elementwise=rows * (8 * width + 3))


def norm_hessian(width: int, rows: float = 1) -> Hessian:
    """Its second derivative: forward and backward as they are, and a backward pass through their 21 operators."""
    return Hessian(
        norm_forward(width, rows) + norm_backward(width, rows), Operations(elementwise=rows * (24 * width + 11))
    )


def kv_width(config: GPTConfig) -> int:
    """Channels of all key heads together, K D."""
    return config.kv_heads * config.head_dim


def head_shapes(config: GPTConfig) -> list[tuple[int, int]]:
    """Parameters of one ``HeadMixer``: the query, key, value and output maps."""
    width, kv = config.n_embd, kv_width(config)
    return [(width, width), (kv, width), (kv, width), (width, width)]


def _products(config: GPTConfig) -> float:
    return sum(2.0 * shape[0] * shape[1] for shape in head_shapes(config))


def _rotates(config: GPTConfig, rotary: bool | None) -> bool:
    return config.position == "rope" if rotary is None else rotary


def head_operations(config: GPTConfig, rotary: bool | None = None) -> Operations:
    """Forward: four projections, QK norm where it is on, rotation of queries and keys.

    Args:
        config: sizes.
        rotary: whether queries and keys are rotated; what ``--position`` says if not given.
    """
    total = Operations(matmul=_products(config))
    if config.qk_norm:
        total += norm_forward(config.head_dim, config.n_head + config.kv_heads)
    if _rotates(config, rotary):
        # Per channel pair: four products, a difference and a sum.
        total += Operations(elementwise=3 * (config.n_embd + kv_width(config)))
    return total


def head_backward(config: GPTConfig, rotary: bool | None = None) -> Operations:
    """Backward: two products per projection, gradients through q, k, v added, norm, rotation."""
    total = Operations(matmul=2 * _products(config), elementwise=2 * config.n_embd)
    if config.qk_norm:
        total += norm_backward(config.head_dim, config.n_head + config.kv_heads)
    if _rotates(config, rotary):
        # Per channel pair: four products, a negation and two sums.
        total += Operations(elementwise=3.5 * (config.n_embd + kv_width(config)))
    return total


def head_hessian(config: GPTConfig, rotary: bool | None = None) -> Hessian:
    """Second derivatives of what heads share: projections, QK norm, rotation (8 per channel)."""
    channels, keys = config.n_embd, kv_width(config)
    product = Operations(matmul=6 * _products(config), elementwise=4 * channels + 2 * (channels + keys) + 2 * channels)
    if config.qk_norm:
        product += norm_hessian(config.head_dim, config.n_head + config.kv_heads).product
    if _rotates(config, rotary):
        product += Operations(elementwise=8 * (channels + keys))
    return Hessian(head_operations(config, rotary) + head_backward(config, rotary), product)


def attention_hessian(config: GPTConfig, length: int, dim: int | None = None) -> Hessian:
    """Second derivatives of softmax attention as SDPA's math path computes it: all pairs, in ordinary products.

    Graph: mask and softmax 6 per pair, their backward 4, queries and keys scaled. Product: 20 per pair, 8 per channel.
    Gradients of shared keys and values are summed over the queries that share them.

    Args:
        config: sizes.
        length: tokens.
        dim: channels of a head, where there are others than the configuration's.
    """
    pairs = config.n_head * length
    channels = config.n_head * (config.head_dim if dim is None else dim)
    shared = 2 * channels if config.kv_heads < config.n_head else 0
    matmul = 4.0 * channels * length
    return Hessian(
        Operations(matmul=3 * matmul, elementwise=10 * pairs + 4 * channels + shared),
        Operations(matmul=6 * matmul, elementwise=20 * pairs + 8 * channels + shared),
    )


def causal_keys(length: int, window: int = 0) -> float:
    """Keys that a token of a sequence of ``length`` sees on average: (T + 1) / 2, or fewer under a window."""
    if window == 0 or window >= length:
        return (length + 1) / 2
    return window - window * (window - 1) / (2 * length)
