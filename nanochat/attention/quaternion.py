"""Quaternion attention: unit queries and keys are rotors, and what a query reads are values turned by both.

y_i = q_i sum_j a_ij (conj(k_j) v_j): values are turned into the frame of their key, averaged, turned into that of the
query. Between its projections the mixer commutes with every common rotation of queries, keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from nanochat.attention._head_operations import (
    attention_hessian,
    causal_keys,
    head_backward,
    head_hessian,
    head_operations,
    head_shapes,
    kv_width,
    norm_forward,
)
from nanochat.attention.registry import MIXERS
from nanochat.config import ConfigError, common_faults, option
from nanochat.kernels.hypercomplex import cost
from nanochat.registry import Hessian, Limit, Mechanism, Operations, Requirement

if TYPE_CHECKING:
    from nanochat.config import GPTConfig

N = 4
"""Components of a quaternion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuaternionKnobs:
    """Options of ``quaternion``."""

    projections: str = option(
        "full",
        "queries, keys, values and output by full matrices, or by Hamilton products: a quarter of the weights",
        choices=("full", "hamilton"),
    )

    def __post_init__(self) -> None:
        if faults := common_faults(self):
            raise ConfigError(faults)


def hamilton(config: GPTConfig) -> bool:
    """Whether the four maps multiply quaternions."""
    return config.knobs.get("quaternion", QuaternionKnobs()).projections == "hamilton"


def shapes(config: GPTConfig) -> list[tuple[int, ...]]:
    """Parameters of one layer."""
    return [(rows, columns // N if hamilton(config) else columns) for rows, columns in head_shapes(config)]


def _expanded(config: GPTConfig, length: int) -> float:
    """Weights that are expanded to real matrices, per token: once per sequence, which is too much for many of them."""
    return sum(map(prod, shapes(config))) / length if hamilton(config) else 0.0


def _around(config: GPTConfig) -> Operations:
    """Forward per token, outside the attention: projections, turns, units in place of norms, two products."""
    keys, queries = kv_width(config) / N, config.n_embd / N
    product = (keys + queries) * cost.multiply(N)
    return head_operations(replace(config, qk_norm=False)) + norm_forward(N, keys + queries) + product


def _attended(config: GPTConfig, keys: float) -> Operations:
    pairs = config.n_head * keys
    return Operations(matmul=4 * config.head_dim * pairs, elementwise=5 * pairs + config.n_embd)


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token: what ``standard`` costs and two Hamilton products."""
    return _around(config) + _attended(config, causal_keys(length)) + cost.expansion(_expanded(config, length))


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token: two products for each product; queries and keys are read twice."""
    width = config.n_embd + kv_width(config)
    pairs = config.n_head * causal_keys(length)
    core = Operations(matmul=10 * config.head_dim * pairs, elementwise=6 * pairs + 2 * config.n_embd + width)
    products = width / N * (2 * cost.multiply(N) + cost.unit_backward(N))
    weights = cost.expansion_backward(_expanded(config, length))
    return head_backward(replace(config, qk_norm=False)) + core + products + weights


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached: values are cached turned."""
    return _around(config) + _attended(config, length + 1) + cost.expansion(_expanded(config, 1))


def hessian(config: GPTConfig, length: int) -> Hessian:
    """Second derivatives, per token: attention by plain products, a Hamilton product and a unit per key and query."""
    inner, attended = replace(config, qk_norm=False), attention_hessian(config, length)
    width = config.n_embd + kv_width(config)
    own = width / N * (cost.multiply_hessian(N) + cost.unit_hessian(N)) + Operations(elementwise=width)
    products = width / N * (2 * cost.multiply(N) + cost.unit_backward(N)) + Operations(elementwise=width)
    weights = _expanded(config, length)
    expanded = cost.expansion(weights) + cost.expansion_backward(weights)  # linear: derived again, it costs the same
    graph = _around(config) + head_backward(inner) + products + attended.graph + expanded
    return Hessian(graph, head_hessian(inner).product + attended.product + own + expanded)


MIXERS.register(
    Mechanism(
        name="quaternion",
        title="softmax attention whose values are turned by unit quaternions",
        source="arXiv:1906.04393",
        cls="Quaternion",
        knobs=QuaternionKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=lambda config, batch, length: 2 * batch * config.kv_heads * length * config.head_dim * 4,
        hessian=hessian,
        shapes=shapes,
        requires=(
            Requirement(
                lambda config: config.head_dim % N == 0,
                "quaternion: got {config.head_dim} channels per head, need a multiple of 4",
            ),
        ),
        reduces_to=Limit(
            statement="without QK norm and with positive real queries and keys, softmax attention",
            check="real_limit",
            tolerance=1e-12,
        ),
        length_aware=True,
        page="octonion.md",
        twin="demos.octonion.maths.rotor_attention",
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nanochat.attention.heads import HeadMixer, KeyValueCache, Rope, sharpened
from nanochat.kernels.hypercomplex import fast
from nanochat.kernels.hypercomplex.linear import HamiltonLinear


def memory(
    k: Float[Tensor, "B K S D"], v: Float[Tensor, "B K S D"], unit_scores: bool = True
) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S D"]]:
    r"""What a query reads of the past: keys to score, and values in the frames of their keys, :math:`\bar w_j v_j`."""
    rotors = fast.unit(fast.split(k, N))
    turned = fast.multiply(rotors, fast.split(v, N), first=True).flatten(-2)
    return (rotors.flatten(-2) if unit_scores else k), turned


def read(
    q: Float[Tensor, "B H N D"],
    keys: Float[Tensor, "B K S D"],
    turned: Float[Tensor, "B K S D"],
    unit_scores: bool = True,
    factor: Float[Tensor, "N 1"] | None = None,
) -> Float[Tensor, "B H N D"]:
    r"""Average what :func:`memory` holds and turn it into the frame of the query: :math:`u_i \sum_j a_{ij} t_j`.

    ``factor`` multiplies the scores; the rotor that turns stays a unit.
    """
    rotors = fast.unit(fast.split(q, N))
    scale = q.shape[-1] ** -0.5
    if unit_scores:
        q, scale = rotors.flatten(-2), N * scale
    mixed = fast.causal_attention(sharpened(q, factor), keys, turned, scale)
    return fast.multiply(rotors, fast.split(mixed, N)).flatten(-2)


def rotor_attention(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    unit_scores: bool = True,
) -> Float[Tensor, "B H N D"]:
    r""":math:`y_i = u_i \sum_{j \le i} a_{ij}\,(\bar w_j v_j)`, u and w the unit quaternions of q and k.

    Equal to ``nanochat.kernels.hypercomplex.naive.attention`` with n = 4, by associativity, with one call of softmax
    attention. Channel ``c * D / 4 + b`` of a head is component c of quaternion b.

    Args:
        q: queries, the last N of the S positions.
        k: keys; each of the K heads serves H / K query heads.
        v: values.
        unit_scores: scores are 4 Re<u, w> / sqrt(D), variance one for random units; otherwise q.k / sqrt(D).

    Example:
        >>> q, k, v = (torch.randn(1, 2, 5, 8) for _ in range(3))
        >>> rotor_attention(q, k, v).shape
        torch.Size([1, 2, 5, 8])
    """
    return read(q, *memory(k, v, unit_scores), unit_scores)


class Quaternion(HeadMixer):
    """Rotor attention over heads of D / 4 quaternions.

    ``--qk-norm`` makes the quaternions unit where scores are taken, in place of the norm of the whole head; the turning
    is by units with and without it. Positions multiply queries and keys by a rotor from the right.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(replace(config, qk_norm=False), layer)
        self.unit_scores = config.qk_norm
        if hamilton(config):
            width, heads, kv_heads = config.n_embd, config.n_head, config.kv_heads
            self.query = HamiltonLinear(width, width, heads, heads)
            self.key = HamiltonLinear(width, kv_width(config), heads, kv_heads)
            self.value = HamiltonLinear(width, kv_width(config), heads, kv_heads)
            self.out = HamiltonLinear(width, width, heads, heads)

    def project(self, x: Float[Tensor, "B N C"], rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x, None)
        if rope is not None:
            q, k = (fast.turn(fast.split(part, N), rope).flatten(-2) for part in (q, k))
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return rotor_attention(q, k, v, self.unit_scores)

    def forward(
        self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, rope)
        factor = self.score_factor(q, 0 if cache is None else cache.position)
        keys, turned = memory(k, v, self.unit_scores)
        if cache is not None:
            keys, turned = cache.append(keys, turned)
        y = read(q, keys, turned, self.unit_scores, factor)
        return self.out(y.transpose(1, 2).reshape(x.shape))


def real_limit() -> float:
    """Largest difference to softmax attention where queries and keys are positive reals, whose rotors are 1."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 17, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    q, k = (torch.cat((part[..., :4].abs(), torch.zeros_like(part[..., 4:])), -1) for part in (q, k))
    known = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return (rotor_attention(q, k, v, unit_scores=False) - known).abs().max().item()
