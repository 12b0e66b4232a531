r"""Surreal attention: the weight of a token is a monomial, an order of magnitude times a mantissa.

The scale of a key, which QK norm throws away, is read before it as the exponent r_j of an infinite base X:
a_ij = X^{r_j} exp(m_ij), with m_ij the normalised score. As X grows, exponents decide and mantissas break ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nanochat.attention._head_operations import (
    attention_hessian,
    causal_keys,
    head_backward,
    head_hessian,
    head_operations,
    head_shapes,
    kv_width,
)
from nanochat.attention.registry import MIXERS
from nanochat.config import ConfigError, common_faults, option
from nanochat.registry import Hessian, Limit, Mechanism, Operations

if TYPE_CHECKING:
    from nanochat.config import GPTConfig

PARTS = 2
"""Channels that carry the exponent: its first 8 bits and the rest, so that bf16 keeps 16 of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SurrealKnobs:
    """Options of ``surreal``."""

    temperature: float = option(1.0, "1 over the log of the base: towards 0 the largest keys take all")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        if self.temperature <= 0:
            faults.append(f"--surreal-temperature: got {self.temperature:g}, need more than 0")
        if faults:
            raise ConfigError(faults)


def knobs_of(config: GPTConfig) -> SurrealKnobs:
    """The options in a configuration, or the defaults."""
    return config.knobs.get("surreal", SurrealKnobs())


def _around(config: GPTConfig, length: int) -> Operations:
    """Forward per token outside the core: what heads share, scaled keys, their exponents (square, mean, 4 per head).

    The norms of the rows of the key map cost 2 per weight and pass; they are charged once per sequence, which is all of
    it for one sequence and less than 0.1 % too much for many.
    """
    keys = kv_width(config)
    rows = 2 * keys * (config.n_embd + 1) / length
    return head_operations(config) + Operations(elementwise=3 * keys + 4 * config.kv_heads + rows)


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token: attention over D + 2 channels."""
    pairs, width = config.n_head * causal_keys(length), config.head_dim + PARTS
    core = Operations(matmul=4 * width * pairs, elementwise=5 * pairs + config.n_head * width)
    return _around(config, length) + core


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token: five products per pair; 6 per key channel for exponents and scales; the norms of rows."""
    pairs, width, keys = config.n_head * causal_keys(length), config.head_dim + PARTS, kv_width(config)
    core = Operations(matmul=10 * width * pairs, elementwise=6 * pairs + 2 * config.n_head * width)
    rows = Operations(elementwise=3 * keys * config.n_embd / length)
    return head_backward(config) + core + rows + Operations(elementwise=7 * keys + 3 * config.kv_heads)


def hessian(config: GPTConfig, length: int) -> Hessian:
    """Second derivatives, per token: attention over D + 2 channels; per key channel 10 for its scale, 13 for the
    exponent, 1 where both read it and 1 to join exponent and mantissa; the norms of rows, once per sequence.
    """
    dim, keys = config.head_dim, kv_width(config)
    attended = attention_hessian(config, length, dim + PARTS)
    rows = keys * (12 * config.n_embd + 23) / length
    own = Operations(elementwise=25 * keys + 13 * config.kv_heads + rows)
    around = Operations(elementwise=3 * keys * config.n_embd / length + 7 * keys + 3 * config.kv_heads)
    graph = _around(config, length) + head_backward(config) + around + attended.graph
    return Hessian(graph, head_hessian(config).product + attended.product + own)


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached."""
    pairs, width = config.n_head * (length + 1), config.head_dim + PARTS
    core = Operations(matmul=4 * width * pairs, elementwise=5 * pairs + config.n_head * width)
    return _around(config, 1) + core


MIXERS.register(
    Mechanism(
        name="surreal",
        title="keys as order of magnitude and mantissa, the larger order dominates",
        source="arXiv:1602.07868",
        cls="Surreal",
        knobs=SurrealKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=lambda config, batch, length: batch * config.kv_heads * length * (2 * config.head_dim + 1) * 4,
        hessian=hessian,
        shapes=lambda config: [*head_shapes(config), (kv_width(config), 1)],
        reduces_to=Limit(
            statement="with keys of one scale, softmax attention; at any temperature",
            check="one_scale_limit",
            tolerance=1e-12,
        ),
        length_aware=True,
        page="surreal.md",
        twin="demos.surreal.maths.surreal_attention",
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nanochat.attention.heads import HeadMixer, KeyValueCache, Rope, causal_mask, repeat_heads, rotate, sharpened
from nanochat.config import GPTConfig
from nanochat.initialise import Draw

TINY = 2.0**-60
"""Added to squares of norms, so that a key of zeros has a finite exponent (-21) and a row of zeros stays zero."""


def exponents(k: Float[Tensor, "B K S D"]) -> Float[Tensor, "B K S 1"]:
    r"""Leading exponents :math:`r_j = \log \mathrm{rms}(k_j)`, in nats, at least in fp32.

    Read before QK norm: multiplying a key by c adds log c.
    """
    wide = k if k.dtype == torch.float64 else k.float()
    return 0.5 * (wide.square().mean(-1, keepdim=True) + TINY).log()


def naive(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    r: Float[Tensor, "B K S 1"],
    temperature: float = 1.0,
) -> Float[Tensor, "B H N D"]:
    r"""The executable definition, a ratio of sums of monomials whose common leading monomial is divided out.

    :math:`y_i = \sum_{j \le i} a_{ij} v_j / \sum_{j \le i} a_{ij}` with
    :math:`a_{ij} = X^{r_j} e^{m_{ij}}`, :math:`\log X = 1/\tau`, :math:`m_{ij} = q_i \cdot k_j / \sqrt D`.
    """
    groups = q.shape[1] // k.shape[1]
    k, v, r = (repeat_heads(each, groups) for each in (k, v, r))
    mask = causal_mask(q.shape[2], k.shape[2], 0, q.device)
    mantissa = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    power = r.transpose(-1, -2) / temperature
    lead = (power + mantissa).masked_fill(~mask, float("-inf")).amax(-1, keepdim=True)
    monomials = torch.where(mask, (power + mantissa - lead).exp(), 0)
    return monomials @ v / monomials.sum(-1, keepdim=True)


def dominance(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B K S D"], v: Float[Tensor, "B K S D"], r: Float[Tensor, "B K S 1"]
) -> Float[Tensor, "B H N D"]:
    """The limit X -> infinity: softmax over mantissas among the tokens of the largest exponent so far; the rest is 0.

    This is the standard part of the ratio of two Hahn series in X, whose leading terms these tokens are.
    """
    groups = q.shape[1] // k.shape[1]
    k, v, r = (repeat_heads(each, groups) for each in (k, v, r))
    mask = causal_mask(q.shape[2], k.shape[2], 0, q.device)
    mantissa = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    power = r.transpose(-1, -2).expand(mantissa.shape).masked_fill(~mask, float("-inf"))
    leading = power == power.amax(-1, keepdim=True)
    return mantissa.masked_fill(~leading, float("-inf")).softmax(-1) @ v


def carry(k: Float[Tensor, "B K S D"], power: Float[Tensor, "B K S 1"]) -> Float[Tensor, "B K S D2"]:
    """Keys with their exponent behind the mantissa, in two channels whose sum it is.

    The first has 8 significant bits, so bf16 holds it exactly and rounds only the second.
    """
    high = power.detach().bfloat16().to(power.dtype)
    return torch.cat((k, high.to(k.dtype), (power - high).to(k.dtype)), -1)


def _query(q: Float[Tensor, "B H N D"], factor: Float[Tensor, "N 1"] | None) -> Float[Tensor, "B H N D2"]:
    """Queries with the two channels that read the exponent: ones, or the factor of all scores."""
    if factor is None:
        return F.pad(q, (0, PARTS), value=1.0)
    return torch.cat((sharpened(q, factor), factor.to(q.dtype).expand(*q.shape[:3], PARTS)), -1)


def surreal_attention(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    r: Float[Tensor, "B K S 1"],
    temperature: float = 1.0,
    factor: Float[Tensor, "N 1"] | None = None,
) -> Float[Tensor, "B H N D"]:
    """The same as :func:`naive` through ``scaled_dot_product_attention``: the exponent is two more channels.

    They meet channels of ones in the query and of zeros in the value. Memory as softmax attention. ``factor`` raises
    the monomials to a power: it multiplies mantissas and exponents, so the order of the weights stays.
    """
    dim, queries, keys = q.shape[-1], q.shape[2], k.shape[2]
    k = carry(k, r * (dim**0.5 / temperature))
    q, v = _query(q, factor), F.pad(v, (0, PARTS))
    whole = queries == keys
    mask = None if whole or queries == 1 else causal_mask(queries, keys, 0, q.device)
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=whole, scale=dim**-0.5, enable_gqa=q.shape[1] != k.shape[1]
    )
    return y[..., :dim]


class Magnitude(nn.Module):
    """Log scales of the rows of a linear map, (rows, 1)."""

    def __init__(self, rows: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, 1))

    def forward(self, direction: Float[Tensor, "rows C"]) -> Float[Tensor, " rows"]:
        r"""Factors :math:`e^{s} / \lVert w \rVert` that turn rows w into :math:`e^{s}` times their direction."""
        return self.weight[:, 0].exp() * (direction.square().sum(1) + TINY).rsqrt()


class SurrealCache(KeyValueCache):
    """Keys after their norm, values, and the exponents that the norm removed (at least in fp32)."""

    per_token = (*KeyValueCache.per_token, "exponents")

    def __init__(self, config: GPTConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype):
        super().__init__(config, batch, length, device, dtype)
        wide = torch.promote_types(dtype, torch.float32)
        self.exponents = torch.zeros(batch, config.kv_heads, length, 1, device=device, dtype=wide)

    def append_exponents(self, r: Tensor) -> Tensor:
        """Add those of the new tokens, before :meth:`append` moves the position; returns all so far."""
        end = self.claim(r.shape[2])
        self.exponents[:, :, self.position : end] = r
        return self.exponents[:, :, :end]


class Surreal(HeadMixer):
    r"""Attention over keys :math:`k_j = e^{r_j} \hat k_j`, whose rows are :math:`e^{s_c} \hat w_c`.

    The key map is weight-normalised, so that s sets orders of magnitude and the direction everything else.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        self.temperature = knobs_of(config).temperature
        self.magnitude = nn.ModuleDict({"key": Magnitude(config.kv_heads * config.head_dim)})

    @property
    def scales(self) -> Magnitude:
        """Those of the key map."""
        return cast("Magnitude", self.magnitude["key"])

    def init_weights(self, draw: Draw) -> None:
        super().init_weights(draw)
        draw.constant("magnitude.key.weight", self.scales.weight, 0.0)

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> SurrealCache:
        return SurrealCache(self.config, batch, length, device, dtype)

    def heads(self, x: Float[Tensor, "B N C"], rope: Rope | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values as every head mixer has them, and the exponents of the keys before their norm."""
        dim = self.config.head_dim
        scaled = self.key(x) * self.scales(self.key.weight).to(x.dtype)
        q, k, v = (each.unflatten(-1, (-1, dim)).transpose(1, 2) for each in (self.query(x), scaled, self.value(x)))
        r = exponents(k)
        if self.config.qk_norm:
            q, k = F.rms_norm(q, (dim,)), F.rms_norm(k, (dim,))
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return q, k, v, r

    def forward(
        self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B N C"]:
        q, k, v, r = self.heads(x, rope)
        factor = self.score_factor(q, 0 if cache is None else cache.position)
        if cache is not None:
            assert isinstance(cache, SurrealCache)
            r = cache.append_exponents(r)
            k, v = cache.append(k, v)
        y = surreal_attention(q, k, v, r, self.temperature, factor)
        return self.out(y.transpose(1, 2).reshape(x.shape))


def one_scale_limit() -> float:
    """Largest difference from softmax attention when all keys have one scale, at two temperatures, float64."""
    from nanochat.attention.heads import softmax_attention

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 17, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    k = F.rms_norm(k, (8,))
    expected = softmax_attention(q, k, v)
    found = (surreal_attention(q, k, v, exponents(3 * k), temperature) for temperature in (1.0, 0.25))
    return max((each - expected).abs().max().item() for each in found)
