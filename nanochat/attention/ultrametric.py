"""Ultrametric attention: tokens are digit strings, and two of them are as close as their longest common prefix.

``kernel`` weighs every pair by the expected prefix (quadratic, differentiable); ``trie`` takes the likeliest digits and
sums over the balls of a tree (linear, decoding in constant memory).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.attention._head_operations import head_backward, head_operations, head_shapes
from nanochat.attention.registry import MIXERS
from nanochat.config import ConfigError, common_faults, option
from nanochat.kernels.prefix import cost
from nanochat.registry import Limit, Mechanism, Operations

if TYPE_CHECKING:
    from nanochat.config import GPTConfig

MOST_LEAVES = 2**12
"""Every key head of every sequence has one running sum per ball: 2 MB at 64 channels and this many leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UltrametricKnobs:
    """Options of ``ultrametric``."""

    mode: str = option(
        "kernel",
        "kernel: all pairs, soft digits; trie: hard digits, linear time and constant decoding memory",
        choices=("kernel", "trie"),
    )
    digits: int = option(8, "K, digits per token and head: the depth of the tree")
    base: int = option(2, "p, symbols per digit: the branching of the tree")
    sharpness: float = option(4.0, "factor on the digit scores; soft digits become hard as it grows")
    growth: float = option(8.0, "initial weight of each level over the one before")
    hard: bool = option(False, "kernel: hard digits forwards, the gradient of soft ones (straight-through)")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        for name, low in (("digits", 1), ("base", 2)):
            if getattr(self, name) < low:
                faults.append(f"--ultrametric-{name}: got {getattr(self, name)}, need at least {low}")
        if not faults and self.base**self.digits > MOST_LEAVES:
            faults.append(
                f"--ultrametric-base {self.base} and --ultrametric-digits {self.digits}: "
                f"got {self.base}^{self.digits} leaves, need at most {MOST_LEAVES}"
            )
        if not self.sharpness > 0:
            faults.append(f"--ultrametric-sharpness: got {self.sharpness:g}, need more than 0")
        if not 1 <= self.growth <= 16:
            faults.append(f"--ultrametric-growth: got {self.growth:g}, need 1 to 16")
        if faults:
            raise ConfigError(faults)


def knobs_of(config: GPTConfig) -> UltrametricKnobs:
    """The options in a configuration, or the defaults."""
    return config.knobs.get("ultrametric", UltrametricKnobs())


def shapes(config: GPTConfig) -> list[tuple[int, ...]]:
    """Head projections, the digit map that all heads share, one weight per head and level."""
    knobs = knobs_of(config)
    digit = (knobs.digits * knobs.base, config.head_dim)
    return [*head_shapes(config), digit, (config.n_head * (knobs.digits + 1),)]


def _digits(config: GPTConfig, knobs: UltrametricKnobs) -> tuple[Operations, Operations]:
    """Scores of every symbol and their softmax, forward and backward, per token."""
    heads, symbols = config.n_head + config.kv_heads, knobs.digits * knobs.base
    product = 2.0 * heads * config.head_dim * symbols
    return (
        Operations(matmul=product, elementwise=5 * heads * symbols),
        Operations(matmul=2 * product, elementwise=heads * 4 * symbols),
    )


def _hardening(config: GPTConfig, knobs: UltrametricKnobs) -> Operations:
    """Straight-through digits in kernel mode: the largest symbol, and three steps per symbol to stand in for it."""
    symbols = knobs.digits * knobs.base
    return Operations(elementwise=(config.n_head + config.kv_heads) * 3 * symbols)


def _pairs(config: GPTConfig, queries: float, keys: float) -> Operations:
    """Kernel mode: K products of p symbols, two steps per level, the mean of values; the triangle is masked after."""
    knobs, pairs = knobs_of(config), config.n_head * queries * keys
    products = pairs * (2 * knobs.digits * knobs.base + 2 * (config.head_dim + 1))
    return Operations(matmul=products, elementwise=pairs * 2 * knobs.digits + queries * config.n_embd)


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token of a sequence of ``length``."""
    knobs = knobs_of(config)
    total = head_operations(config, rotary=False) + _digits(config, knobs)[0]
    if knobs.mode == "kernel":
        return total + _pairs(config, 1, length) + (_hardening(config, knobs) if knobs.hard else Operations())
    return total + _routes(config, knobs) + Operations(elementwise=_sums(cost.forward, config) + config.n_embd)


def _routes(config: GPTConfig, knobs: UltrametricKnobs) -> Operations:
    """Trie mode: the likeliest symbols, their number, and what stands in for their probabilities."""
    heads = config.n_head + config.kv_heads
    levels = knobs.digits + 1
    found = heads * (knobs.digits * knobs.base + 3 * knobs.digits + 2 * levels) + config.n_head * levels
    return Operations(elementwise=found)


def _sums(formula: Callable[..., int], config: GPTConfig) -> int:
    """One of the formulas of ball sums, per token; values have a channel of ones for the denominator."""
    return formula(config.n_head, config.kv_heads, 1, knobs_of(config).digits + 1, config.head_dim + 1)


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token."""
    knobs = knobs_of(config)
    total = head_backward(config, rotary=False) + _digits(config, knobs)[1]
    divided = 7 * config.n_embd + config.n_head  # six steps of the quotient, then both parts of its gradient are joined
    if knobs.mode == "kernel":
        pairs = config.n_head * length
        products = 2 * _pairs(config, 1, length).matmul
        return total + Operations(matmul=products, elementwise=pairs * (3 * knobs.digits + 1) + divided)
    heads = config.n_head + config.kv_heads
    routed = heads * (2 * knobs.digits + 1) + config.n_head * 3 * (knobs.digits + 1)
    return total + Operations(elementwise=_sums(cost.backward, config) + routed + divided)


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached; kernel mode finds the digits of all keys again."""
    knobs = knobs_of(config)
    total = head_operations(config, rotary=False)
    if knobs.mode == "trie":
        own = _digits(config, knobs)[0] + _routes(config, knobs)
        read = 2.0 * config.n_head * (knobs.digits + 1) * (config.head_dim + 1)
        return total + own + Operations(matmul=read, elementwise=_sums(cost.forward, config) + config.n_embd)
    symbols = knobs.digits * knobs.base
    rows = config.n_head + (length + 1) * config.kv_heads
    scored = Operations(
        matmul=2.0 * rows * config.head_dim * symbols, elementwise=(8 if knobs.hard else 5) * rows * symbols
    )
    return total + scored + _pairs(config, 1, length + 1)


def state(config: GPTConfig, batch: int, length: int) -> int:
    """Bytes: keys and values in kernel mode; in trie mode one sum per ball, whatever the length."""
    knobs = knobs_of(config)
    if knobs.mode == "kernel":
        return 2 * batch * config.kv_heads * length * config.head_dim * 4
    return batch * config.kv_heads * cost.nodes(knobs.base, knobs.digits) * (config.head_dim + 1) * 4


MIXERS.register(
    Mechanism(
        name="ultrametric",
        title="longest common prefix of p-adic digits",
        source="doi:10.1103/RevModPhys.58.765",
        cls="Ultrametric",
        knobs=UltrametricKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=state,
        hessian=lambda config, length: f"what second derivatives cost in {knobs_of(config).mode} mode is not known",
        shapes=shapes,
        reduces_to=Limit(
            statement="where all tokens lie in one ball, the running mean of the values, in both modes",
            check="one_ball_limit",
            tolerance=1e-12,
        ),
        length_blind="whose weights are levels of a tree and no exponentials of scores",
        page="ultrametric.md",
        twin="demos.ultrametric.maths.ultrametric_attention",
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nanochat.attention.heads import HeadMixer, KeyValueCache, Rope
from nanochat.initialise import Draw
from nanochat.kernels.prefix.operators import ball_sums
from nanochat.kernels.prefix.tree import balls, insert, look_up


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Digits, weights and sums are kept in fp32, or fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def soft_kernel(
    query: Float[Tensor, "B H N K p"], key: Float[Tensor, "B J S K p"], levels: Float[Tensor, "H levels"]
) -> Float[Tensor, "B J G N S"]:
    r"""Expected kernel of random digit strings, zero where j > i.

    .. math:: K_{ij} = \sum_{l=0}^{K} w_l \prod_{m \le l} \langle \pi_{im}, \kappa_{jm} \rangle
              = w_0 + \mu_1 (w_1 + \mu_2 (w_2 + \dots))

    Args:
        query: distributions :math:`\pi` of the digits of the last N of S tokens; one-hot for hard digits.
        key: distributions :math:`\kappa`; each of the J heads serves G = H / J query heads.
        levels: w, one weight per query head and prefix length.
    """
    batch, heads, queries, depth, base = query.shape
    kv_heads, keys = key.shape[1:3]
    groups = heads // kv_heads
    rows = query.reshape(batch, kv_heads, groups * queries, depth, base).transpose(2, 3)
    match = (rows @ key.permute(0, 1, 3, 4, 2)).view(batch, kv_heads, depth, groups, queries, keys).unbind(2)
    weight = levels.view(kv_heads, groups, 1, 1, depth + 1).unbind(-1)
    total = weight[depth]
    for level in reversed(range(depth)):
        total = weight[level] + match[level] * total
    return total.tril(keys - queries)


def mean_under(kernel: Float[Tensor, "B J G N S"], v: Float[Tensor, "B J S D"]) -> Float[Tensor, "B H N D"]:
    """Means of the values, weighted by each row of the kernel."""
    batch, kv_heads, groups, queries, keys = kernel.shape
    sums = kernel.view(batch, kv_heads, groups * queries, keys) @ with_count(v)
    return ratio(sums.view(batch, kv_heads * groups, queries, -1))


def with_count(v: Float[Tensor, "... D"]) -> Tensor:
    """The values with a channel of ones, whose sums are the denominators."""
    return torch.cat((v, torch.ones_like(v[..., :1])), -1)


def ratio(sums: Tensor) -> Tensor:
    """All channels but the last over the last."""
    return sums[..., :-1] / sums[..., -1:]


def harden(soft: Float[Tensor, "... p"]) -> Float[Tensor, "... p"]:
    """One-hot at the largest entry, exactly, with the gradient of the entries themselves."""
    hot = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hot + (soft - soft.detach())


def likeliest(scores: Float[Tensor, "... K p"]) -> tuple[Int[Tensor, "*tokens"], Float[Tensor, "... levels"]]:
    r"""Hard digit strings as integers, and per level the number 1 with a gradient.

    The gradient is that of the string's log-probability up to the level, :math:`\log \prod_{m \le l} \pi_{m}(d_m)`: a
    level that helps makes its digits surer, one that harms moves them towards other symbols. Nothing is drawn at
    random. Level 0 has the empty product.
    """
    base = scores.shape[-1]
    chosen = scores.log_softmax(-1).max(-1)
    powers = torch.tensor([base**place for place in reversed(range(scores.shape[-2]))], device=scores.device)
    sure = F.pad(chosen.values.cumsum(-1), (1, 0))
    return (chosen.indices * powers).sum(-1), (sure - sure.detach()).exp()


class BallCache:
    """Running sums of values and counts of every ball of one layer: constant in the length of the sequence.

    Args:
        batch: sequences.
    """

    def __init__(self, config: GPTConfig, batch: int, device: torch.device, dtype: torch.dtype):
        knobs = knobs_of(config)
        self.base, self.depth = knobs.base, knobs.digits
        wide = wide_type(dtype)  # counts outgrow the mantissa of bf16
        shape = (batch * config.kv_heads, cost.nodes(self.base, self.depth), config.head_dim + 1)
        self.sums = torch.zeros(shape, device=device, dtype=wide)

    def _rows(self, codes: Tensor) -> Tensor:
        return balls(codes.reshape(self.sums.shape[0], -1), self.base, self.depth)

    def read(self, codes: Int[Tensor, "B H N"], levels: Float[Tensor, "H levels"]) -> Float[Tensor, "B H N E"]:
        """What the past adds to each query's numerators and denominator."""
        found = look_up(self.sums, self._rows(codes)).view(*codes.shape, self.depth + 1, -1)
        return (levels[:, None, None, :].to(found.dtype) @ found).squeeze(-2)

    def append(self, codes: Int[Tensor, "B J N"], values: Float[Tensor, "B J N E"]) -> None:
        """Add new tokens to their balls."""
        rows = self._rows(codes)
        ones = self.sums.new_ones(rows.shape)
        insert(self.sums, rows, ones, values.reshape(*rows.shape[:2], -1).to(self.sums.dtype))


class Ultrametric(HeadMixer):
    r"""Mean of the past under the prefix kernel: :math:`y_i = \sum_{j \le i} K_{ij} v_j / \sum_{j \le i} K_{ij}`.

    One linear map, shared by all heads, by queries and by keys, scores p symbols for each of K digits of a head vector.
    Rotary positions have no meaning here, for a rotation would turn digits into others: positions do not enter, and the
    order of the past is invisible within a layer. Both modes have the same parameters; with hard digits, the same
    outputs.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        knobs = knobs_of(config)
        self.mode, self.hard = knobs.mode, knobs.hard
        self.depth, self.base = knobs.digits, knobs.base
        self.sharpness, self.growth = knobs.sharpness, knobs.growth
        self.digit = nn.Linear(config.head_dim, self.depth * self.base, bias=False)
        self.level = nn.Parameter(torch.zeros(config.n_head * (self.depth + 1)))

    def init_weights(self, draw: Draw) -> None:
        super().init_weights(draw)
        draw.linear("digit", self.digit)
        draw.constant("level", self.level, 0.0)

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Any:
        if self.mode == "trie":
            return BallCache(self.config, batch, device, dtype)
        return super().init_cache(batch, length, device, dtype)

    def scores(self, x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N K p"]:
        """Scores of every symbol of every digit, in fp32 at least."""
        wide = wide_type(x.dtype)
        found = F.linear(x.to(wide), self.digit.weight.to(wide) * self.sharpness)
        return found.unflatten(-1, (self.depth, self.base))

    def levels(self, like: Tensor) -> Float[Tensor, "H levels"]:
        """w_l = growth^(l - K) exp(level): positive, hence no denominator vanishes."""
        wide = wide_type(like.dtype)
        steps = torch.arange(-self.depth, 1, device=like.device, dtype=wide) * math.log(self.growth)
        return (self.level.to(wide).view(-1, self.depth + 1) + steps).exp()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Kernel mode: all pairs."""
        query, key = (self.scores(x).softmax(-1) for x in (q, k))
        if self.hard:
            query, key = harden(query), harden(key)
        return mean_under(soft_kernel(query, key, self.levels(q)), v.to(query.dtype)).to(v.dtype)

    def route(self, q: Tensor, k: Tensor, v: Tensor, cache: BallCache | None = None) -> Tensor:
        """Trie mode: sums over balls, those of the past from the cache."""
        (query, query_weight), (key, key_weight) = (likeliest(self.scores(x)) for x in (q, k))
        levels, values = self.levels(q), with_count(v.to(query_weight.dtype))
        sums = ball_sums(query, key, query_weight * levels[:, None], key_weight, values, self.base)
        if cache is not None:
            sums = sums + cache.read(query, levels)
            cache.append(key, values)
        return ratio(sums).to(v.dtype)

    def forward(
        self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: KeyValueCache | BallCache | None = None
    ) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, None)
        with torch.autocast(x.device.type, enabled=False):  # a score in bf16 would flip one digit in some hundred
            if isinstance(cache, KeyValueCache):
                k, v = cache.append(k, v)
            past = cache if isinstance(cache, BallCache) else None
            y = self.attend(q, k, v) if self.mode == "kernel" else self.route(q, k, v, past)
        return self.out(y.transpose(1, 2).reshape(x.shape))


def one_ball_limit() -> float:
    """Largest difference to the running mean where all tokens have the same digits, both modes, float64."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1, 2, 41, 8, generator=generator, dtype=torch.float64)
    levels = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    scores = torch.randn(3, 2, generator=generator, dtype=torch.float64).expand(1, 2, 41, 3, 2)
    mean = v.cumsum(2) / torch.arange(1, 42, dtype=torch.float64)[:, None]
    hot = harden(scores.softmax(-1))
    code, weight = likeliest(scores)
    trie = ratio(ball_sums(code, code, weight * levels[:, None], weight, with_count(v), 2))
    return max((y - mean).abs().max().item() for y in (mean_under(soft_kernel(hot, hot, levels), v), trie))
