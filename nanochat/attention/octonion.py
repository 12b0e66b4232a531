"""Octonion attention: y_i = sum_j a_ij (q_i conj(k_j)) v_j, in this bracketing; octonions are not associative.

The map x -> (x conj(k)) v is linear. The averages of its 29 coordinates are taken, then applied to the query.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nanochat.attention._head_operations import head_backward, head_hessian, head_operations, kv_width, norm_forward
from nanochat.attention.registry import MIXERS
from nanochat.kernels.hypercomplex import cost
from nanochat.registry import Hessian, Limit, Mechanism, Operations, Requirement

if TYPE_CHECKING:
    from nanochat.config import GPTConfig

N = 8
"""Components of an octonion."""
WIDTH = cost.coordinates_width(N)
"""Coordinates of a map x -> (x conj(k)) v."""


def _wide(config: GPTConfig) -> int:
    """Channels of a head's values in the cache."""
    return config.head_dim // N * WIDTH


def _around(config: GPTConfig) -> Operations:
    """Forward per token, outside the attention: projections, turns, units in place of norms, maps made and applied."""
    keys, queries = kv_width(config) / N, config.n_embd / N
    maps = keys * cost.coordinates(N) + queries * cost.apply(N)
    return head_operations(replace(config, qk_norm=False)) + norm_forward(N, keys + queries) + maps


def _attended(config: GPTConfig, keys: float) -> Operations:
    """Two products and a softmax over all pairs, masked ones included."""
    pairs = config.n_head * keys
    return Operations(matmul=2 * (config.head_dim + _wide(config)) * pairs, elementwise=6 * pairs)


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token: scores of all T keys, values 29 / 8 as wide."""
    return _around(config) + _attended(config, length)


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token: two products for each product, the maps again; queries and keys are read twice."""
    width, keys, queries = config.n_embd + kv_width(config), kv_width(config) / N, config.n_embd / N
    pairs = config.n_head * length
    core = Operations(matmul=4 * (config.head_dim + _wide(config)) * pairs, elementwise=4 * pairs + 2 * width)
    units = width / N * cost.unit_backward(N)
    maps = keys * cost.coordinates_backward(N) + queries * cost.apply_backward(N)
    return head_backward(replace(config, qk_norm=False)) + core + units + maps


def hessian(config: GPTConfig, length: int) -> Hessian:
    """Second derivatives, per token. Per product: 20 per pair; 3 per channel of queries and keys, 1 of the wide values
    and what is read of them; per number its unit, its map and applying it; queries and keys are read twice.
    """
    inner, width = replace(config, qk_norm=False), config.n_embd + kv_width(config)
    keys, queries = kv_width(config) / N, config.n_embd / N
    pairs = config.n_head * length
    wide = (config.n_head + config.kv_heads) * _wide(config)
    attended = Operations(
        matmul=12.0 * (config.head_dim + _wide(config)) * pairs, elementwise=20 * pairs + 3 * width + wide + width
    )
    maps = keys * cost.coordinates_hessian() + queries * cost.apply_hessian()
    product = head_hessian(inner).product + attended + maps + (keys + queries) * cost.unit_hessian(N)
    return Hessian(operations(config, length) + backward(config, length), product)


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached: maps are cached as their coordinates."""
    return _around(config) + _attended(config, length + 1)


MIXERS.register(
    Mechanism(
        name="octonion",
        title="softmax attention whose values are turned by unit octonions",
        source="arXiv:math/0105155",
        cls="Octonion",
        operations=operations,
        backward=backward,
        decode=decode,
        state=lambda config, batch, length: batch * config.kv_heads * length * (config.head_dim + _wide(config)) * 4,
        hessian=hessian,
        requires=(
            Requirement(
                lambda config: config.head_dim % N == 0,
                "octonion: got {config.head_dim} channels per head, need a multiple of 8",
            ),
        ),
        reduces_to=Limit(
            statement="with queries, keys and values in the quaternions, quaternion attention",
            check="quaternion_limit",
            tolerance=1e-12,
        ),
        length_aware=True,
        page="octonion.md",
        twin="demos.octonion.maths.rotor_attention",
    ),
    __name__,
)

import torch
from jaxtyping import Float
from torch import Tensor

from nanochat.attention.heads import HeadMixer, KeyValueCache, Rope, sharpened
from nanochat.kernels.hypercomplex import fast, naive


def _front(x: Float[Tensor, "B H N D"]) -> Float[Tensor, "8 B H N blocks"]:
    """Components first: eight long arrays instead of many short rows."""
    return fast.split(x, N).movedim(-2, 0).contiguous()


def _back(x: Float[Tensor, "c B H N blocks"]) -> Float[Tensor, "B H N cblocks"]:
    return x.movedim(0, -2).flatten(-2)


def _scored(x: Tensor, unit_scores: bool, rope: Rope | None) -> tuple[Tensor, Tensor]:
    """What enters the scores, as a head, with its positions; and the unit octonions, components first, without."""
    numbers = _front(x)
    units = fast.unit(numbers, 0)
    scored = units if unit_scores else numbers
    return _back(scored if rope is None else fast.turn(scored, rope, 0)), units


def memory(
    k: Float[Tensor, "B K S D"], v: Float[Tensor, "B K S D"], unit_scores: bool = True, rope: Rope | None = None
) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S W"]]:
    r"""What a query reads of the past: keys to score, and the coordinates of :math:`x \mapsto (x \bar w_j) v_j`."""
    scored, units = _scored(k, unit_scores, rope)
    return scored, _back(fast.coordinates(units, _front(v)))


def read(
    q: Float[Tensor, "B H N D"],
    keys: Float[Tensor, "B K S D"],
    maps: Float[Tensor, "B K S W"],
    unit_scores: bool = True,
    rope: Rope | None = None,
    factor: Float[Tensor, "N 1"] | None = None,
) -> Float[Tensor, "B H N D"]:
    """Average the maps of :func:`memory` and apply the average to the unit query; ``factor`` multiplies the scores."""
    scored, units = _scored(q, unit_scores, rope)
    mixed = fast.causal_attention(
        sharpened(scored, factor), keys, maps, (N if unit_scores else 1) * q.shape[-1] ** -0.5
    )
    return _back(fast.apply(fast.split(mixed, WIDTH).movedim(-2, 0).contiguous(), units))


def octonion_attention(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    unit_scores: bool = True,
    rope: Rope | None = None,
) -> Float[Tensor, "B H N D"]:
    r""":math:`y_i = \sum_{j \le i} a_{ij}\,(u_i \bar w_j)\,v_j`, u and w the unit octonions of q and k.

    Equal to ``nanochat.kernels.hypercomplex.naive.attention`` with n = 8 and ``left=True``, with one softmax over
    values 29 / 8 as wide. Channel ``c * D / 8 + b`` of a head is component c of octonion b.

    Args:
        q: queries, the last N of the S positions.
        k: keys; each of the K heads serves H / K query heads.
        v: values.
        unit_scores: scores are 8 Re<u, w> / sqrt(D), variance one for random units; otherwise q.k / sqrt(D).
        rope: cosines and sines of the S positions. They enter the scores, which then see i - j only. A turn by
            ``(u p_i)(conj(p_j) conj(w))`` would see i and j: the rotors do not cancel without associativity.

    Example:
        >>> q, k, v = (torch.randn(1, 2, 5, 8) for _ in range(3))
        >>> octonion_attention(q, k, v).shape
        torch.Size([1, 2, 5, 8])
    """
    last = rope and (rope[0][-q.shape[2] :], rope[1][-q.shape[2] :])
    return read(q, *memory(k, v, unit_scores, rope), unit_scores, last)


class WideCache(KeyValueCache):
    """Keys, and the coordinates of the maps in place of values."""

    def __init__(self, config: GPTConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype):
        super().__init__(config, batch, length, device, dtype)
        self.values = torch.zeros(batch, config.kv_heads, length, _wide(config), device=device, dtype=dtype)


class Octonion(HeadMixer):
    """Octonion attention over heads of D / 8 octonions.

    ``--qk-norm`` makes the octonions unit where scores are taken, in place of the norm of the whole head; the turning
    is by units with and without it. Positions enter the scores, as a rotor from the right.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(replace(config, qk_norm=False), layer)
        self.unit_scores = config.qk_norm

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> WideCache:
        return WideCache(self.config, batch, length, device, dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return octonion_attention(q, k, v, self.unit_scores)

    def forward(
        self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, None)
        factor = self.score_factor(q, 0 if cache is None else cache.position)
        keys, maps = memory(k, v, self.unit_scores, rope)
        if cache is not None:
            keys, maps = cache.append(keys, maps)
        y = read(q, keys, maps, self.unit_scores, rope, factor)
        return self.out(y.transpose(1, 2).reshape(x.shape))


def quaternion_limit() -> float:
    """Largest difference between inputs whose last four components are 0 and rotor attention over quaternions."""
    generator = torch.Generator().manual_seed(0)
    small = [torch.randn(1, 2, 9, 8, generator=generator, dtype=torch.float64) for _ in range(3)]
    y = octonion_attention(*(torch.cat((part, torch.zeros_like(part)), -1) for part in small), unit_scores=False)
    q, k, v = small[0] * 2**-0.25, small[1] * 2**-0.25, small[2]  # scores over the root of 16 channels, not of 8
    known = naive.attention(q, k, v, 4, unit_scores=False)
    return max((y[..., :8] - known).abs().max().item(), y[..., 8:].abs().max().item())
