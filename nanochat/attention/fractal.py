"""Fractal attention: what a token remembers is a point of an attractor, named by its address in a tree of contractions.

``path`` gives every token an address of its own and weighs two by the product of their overlaps along the path (linear
in time, constant memory); ``suffix`` writes the whole past into one point, so that near points share their last tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from nanochat.attention._head_operations import head_backward, head_operations, head_shapes, kv_width
from nanochat.attention.registry import MIXERS
from nanochat.config import ConfigError, common_faults, option
from nanochat.kernels.kronecker import cost
from nanochat.registry import Limit, Mechanism, Operations

if TYPE_CHECKING:
    from nanochat.config import GPTConfig

MOST_PATHS = 2**12
"""Every key head of every sequence has one running sum per path: 1 MB at 64 channels and this many."""

SCAN_BLOCK = 32
"""Tokens that the scan of suffix states joins by one product."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FractalKnobs:
    """Options of ``fractal``."""

    form: str = option(
        "path",
        "path: soft addresses of tokens, linear time; suffix: one point for the whole past, nearest histories",
        choices=("path", "suffix"),
    )
    arity: int = option(4, "path: m, contractions to choose from at each level")
    depth: int = option(4, "path: d, levels of an address; there are m^d paths")
    sharpness: float = option(4.0, "path: factor on the address scores")
    contraction: float = option(0.4, "suffix: s, what a step leaves of the past; below 1/2 histories stay apart")
    tau: float = option(4.0, "suffix: initial power of the inverse distance by which histories weigh")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        for name, low in (("arity", 2), ("depth", 1)):
            if getattr(self, name) < low:
                faults.append(f"--fractal-{name}: got {getattr(self, name)}, need at least {low}")
        if not faults and self.arity**self.depth > MOST_PATHS:
            faults.append(
                f"--fractal-arity {self.arity} and --fractal-depth {self.depth}: "
                f"got {self.arity}^{self.depth} paths, need at most {MOST_PATHS}"
            )
        for name in ("sharpness", "tau"):
            if not getattr(self, name) > 0:
                faults.append(f"--fractal-{name}: got {getattr(self, name):g}, need more than 0")
        if not 0 < self.contraction < 1:
            faults.append(f"--fractal-contraction: got {self.contraction:g}, need more than 0, less than 1")
        if faults:
            raise ConfigError(faults)


def knobs_of(config: GPTConfig) -> FractalKnobs:
    """The options in a configuration, or the defaults."""
    return config.knobs.get("fractal", FractalKnobs())


def shapes(config: GPTConfig) -> list[tuple[int, ...]]:
    """Head projections and the address map that all heads share; or keys, values, output and one power per head."""
    knobs = knobs_of(config)
    if knobs.form == "path":
        return [*head_shapes(config), (knobs.arity * knobs.depth, config.head_dim)]
    return [*head_shapes(config)[1:], (config.n_head,)]


def halves(arity: int, depth: int) -> tuple[int, int]:
    """Paths through the first and through the second half of the levels."""
    return arity ** ((depth + 1) // 2), arity ** (depth // 2)


def _addresses(config: GPTConfig) -> tuple[Operations, Operations]:
    """Scores, softmax, the mixture and the products of levels in both halves, forward and backward, per token."""
    knobs, heads = knobs_of(config), config.n_head + config.kv_heads
    symbols = knobs.arity * knobs.depth
    product = 2.0 * heads * config.head_dim * symbols
    levels = (knobs.depth + 1) // 2, knobs.depth // 2
    folded = sum(knobs.arity**level for half in levels for level in range(2, half + 1))
    return (
        Operations(matmul=product, elementwise=heads * (7 * symbols + folded)),
        Operations(matmul=2 * product, elementwise=heads * (5 * symbols + 4 * folded)),
    )


def _sums(config: GPTConfig, length: int) -> tuple[Operations, Operations]:
    """The kernel's own formulas for one sequence, per token; values have a channel of ones for the denominator."""
    knobs = knobs_of(config)
    sizes = config.n_head, config.kv_heads, length, halves(knobs.arity, knobs.depth), config.head_dim + 1
    return (1 / length) * cost.forward(*sizes), (1 / length) * cost.backward(*sizes)


def _scan(config: GPTConfig, length: int) -> Operations:
    """Unit steps and their scan, forward, per token: blocks of powers, then the same over the blocks' last states."""
    products, padded, tokens = 0, 0, length
    while tokens > SCAN_BLOCK:
        blocks = -(-tokens // SCAN_BLOCK)
        products += blocks * SCAN_BLOCK * SCAN_BLOCK
        padded += blocks * SCAN_BLOCK
        tokens = blocks
    products, padded = products + tokens * tokens, padded + tokens
    each = kv_width(config) / length
    return Operations(matmul=2 * each * products, elementwise=2 * each * padded + 3 * kv_width(config))


def _pairs(config: GPTConfig, keys: float) -> Operations:
    """Suffix form, per query, all keys: distances once per key head; power, mask, softmax, mean per query head."""
    dim, own, shared = config.head_dim, config.n_head * keys, config.kv_heads * keys
    return Operations(matmul=2 * (dim + 2) * shared + 2 * dim * own, elementwise=2 * shared + 7 * own)


def _norms(config: GPTConfig, keys: float) -> Operations:
    """Suffix form, per query: square norms of its history and of ``keys`` others, which are doubled."""
    return Operations(elementwise=(2 + 3 * keys) * kv_width(config))


def _projections(config: GPTConfig) -> Operations:
    """Suffix form: keys, values, output."""
    return Operations(matmul=sum(2.0 * rows * columns for rows, columns in head_shapes(config)[1:]))


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token of a sequence of ``length``."""
    if knobs_of(config).form == "suffix":
        return _projections(config) + _scan(config, length) + _pairs(config, length) + _norms(config, 1)
    around = head_operations(config, rotary=False) + Operations(elementwise=config.n_embd)
    return around + _addresses(config)[0] + _sums(config, length)[0]


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token."""
    if knobs_of(config).form == "suffix":
        pairs, own, shared = _pairs(config, length), config.n_head * length, config.kv_heads * length
        elementwise = (7 if config.n_head == config.kv_heads else 8) * own + 3 * shared
        more = Operations(elementwise=3 * config.n_embd + 18 * kv_width(config))  # norms, steps, sums of gradients
        scan = Operations(matmul=_scan(config, length).matmul)
        return 2 * _projections(config) + scan + Operations(2 * pairs.matmul, 0, elementwise) + more
    divided = 7 * config.n_embd + config.n_head  # six steps of the quotient, then both parts of its gradient are joined
    around = head_backward(config, rotary=False) + Operations(elementwise=divided)
    return around + _addresses(config)[1] + _sums(config, length)[1]


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached: in path form, sums are read and written, whatever the length."""
    if knobs_of(config).form == "suffix":
        return _projections(config) + _scan(config, 1) + _pairs(config, length + 1) + _norms(config, length + 1)
    knobs = knobs_of(config)
    paths = knobs.arity**knobs.depth
    heads, channels = config.n_head + config.kv_heads, config.head_dim + 1
    added = heads * paths + (config.kv_heads * paths + config.n_head) * channels  # features; sums written, sums read
    return operations(config, 1) + Operations(matmul=2.0 * heads * paths * channels, elementwise=added)


def state(config: GPTConfig, batch: int, length: int) -> int:
    """Bytes: one sum per path, whatever the length; in suffix form a value per token, a history before and after it."""
    knobs = knobs_of(config)
    if knobs.form == "suffix":
        return batch * kv_width(config) * (2 * length + 1) * 4
    return batch * config.kv_heads * knobs.arity**knobs.depth * (config.head_dim + 1) * 4


MIXERS.register(
    Mechanism(
        name="fractal",
        title="addresses of a fractal: shared paths, or histories that end alike",
        source="doi:10.1512/iumj.1981.30.30055",
        cls="Fractal",
        knobs=FractalKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=state,
        hessian=lambda config, length: (
            "its kernel has a backward pass but no second one"
            if knobs_of(config).form == "path"
            else "what second derivatives cost in suffix form is not known"
        ),
        shapes=shapes,
        reduces_to=Limit(
            statement="path: where all keys have one address, the running mean of the values",
            check="one_address_limit",
            tolerance=1e-12,
        ),
        length_blind="which weighs tokens by shared paths or the distance of histories and has no logits",
        page="fractal.md",
        twin="demos.ifs_fractal.maths.path_attention",
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nanochat.attention.heads import HeadMixer, Rope, causal_mask
from nanochat.initialise import Draw
from nanochat.kernels.kronecker.blocked import joint
from nanochat.kernels.kronecker.operators import product_sums

MIXTURE = 2.0**-6
"""Share of the uniform distribution in every level of every address: no overlap is 0, so no denominator is."""

TINY = 2.0**-60
"""Added to the square of a norm, so that a key of zeros takes no step."""

NEAR = 2.0**-10
"""Distance below which two histories count as one: fp32 products resolve the square of no smaller one."""


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Addresses, distances and sums are computed in fp32, or fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def fold(levels: Sequence[Float[Tensor, "*tokens m"]]) -> Float[Tensor, "*tokens paths"]:
    """Probabilities of all paths through some levels: their products, the first level varying slowest."""
    return reduce(joint, levels)


def in_halves(levels: Float[Tensor, "*tokens d m"]) -> tuple[Tensor, Tensor]:
    """Paths through the first and the second half of the levels, whose products are those through all."""
    each = levels.unbind(-2)
    middle = (len(each) + 1) // 2
    return fold(each[:middle]), fold(each[middle:] or [torch.ones_like(each[0][..., :1])])


def naive(
    query: Float[Tensor, "B H N d m"], key: Float[Tensor, "B K S d m"], v: Float[Tensor, "B K S D"]
) -> Float[Tensor, "B H N D"]:
    r"""The executable definition of the path form: a softmax of logarithms of products along the path.

    :math:`y_i = \sum_{j \le i} \mathrm{softmax}_j\bigl(\log \prod_l \langle \pi_{il}, \kappa_{jl} \rangle\bigr) v_j`,
    the N queries being the last of S tokens.
    """
    groups = query.shape[1] // key.shape[1]
    key, v = (x.repeat_interleave(groups, 1) for x in (key, v))
    scores = torch.einsum("bhnlm,bhslm->bhnsl", query, key).log().sum(-1)
    mask = causal_mask(query.shape[2], key.shape[2], 0, query.device)
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v


def path_attention(
    query: Float[Tensor, "B H T d m"],
    key: Float[Tensor, "B K T d m"],
    v: Float[Tensor, "B K T D"],
    past: Float[Tensor, "B K paths E"] | None = None,
) -> Float[Tensor, "B H T D"]:
    """The same as :func:`naive` in linear time: the product of overlaps is an inner product in the space of paths.

    Args:
        query: distributions of the symbol of each level; no overlap may be 0.
        key: the same for keys; each of the K heads serves H / K query heads.
        v: values.
        past: sums over earlier tokens, see :class:`PathCache`; those of the new ones are added to it.
    """
    values = torch.cat((v, torch.ones_like(v[..., :1])), -1)
    query_halves, key_halves = in_halves(query), in_halves(key)
    sums = product_sums(*query_halves, *key_halves, values)
    if past is not None:
        asked = joint(*query_halves).unflatten(1, (past.shape[1], -1))
        sums = sums + (asked @ past.unsqueeze(2)).flatten(1, 2)
        past += joint(*key_halves).mT @ values
    return sums[..., :-1] / sums[..., -1:]


def geometric_scan(
    x: Float[Tensor, "... T A"], ratio: float, start: Float[Tensor, "... A"]
) -> Float[Tensor, "... T A"]:
    r""":math:`h_t = s h_{t-1} + x_t` from :math:`h_{-1}` = ``start``, by products with powers of s: O(T), log T deep.

    A block of tokens is joined by one product, the last states of blocks by the same scan with ratio s^block.
    """
    length = x.shape[-2]
    block = min(length, SCAN_BLOCK)
    steps = torch.arange(block, device=x.device, dtype=torch.float64)
    inside = (ratio ** (steps[:, None] - steps).clamp_min(0)).tril().to(x.dtype)
    carried = (ratio ** (steps + 1))[:, None].to(x.dtype)
    if length == block:
        return inside @ x + carried * start.unsqueeze(-2)
    blocks = -(-length // block)
    local = inside @ F.pad(x, (0, 0, 0, blocks * block - length)).unflatten(-2, (blocks, block))
    ends = geometric_scan(local[..., -1, :], ratio**block, start)
    starts = torch.cat((start.unsqueeze(-2), ends[..., :-1, :]), -2)
    return (local + carried * starts.unsqueeze(-2)).flatten(-3, -2)[..., :length, :]


def squared_distances(one: Float[Tensor, "... N D"], other: Float[Tensor, "... S D"]) -> Float[Tensor, "... N S"]:
    """|g|^2 + |h|^2 - 2 <g, h> of all pairs by one product, not below NEAR squared."""
    first, second = (x.square().sum(-1, keepdim=True) for x in (one, other))
    left = torch.cat((one, first, torch.ones_like(first)), -1)
    right = torch.cat((-2 * other, torch.ones_like(second), second), -1)
    return (left @ right.mT).clamp_min(NEAR**2)


def suffix_attention(
    after: Float[Tensor, "B K N D"],
    before: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    tau: Float[Tensor, " H"],
) -> Float[Tensor, "B H N D"]:
    r"""Means of what followed the histories nearest to ours: softmax of :math:`-\tau \log |h_i - h_{j-1}|` over j <= i.

    Args:
        after: histories :math:`h_i` that end with the query, the last N of S tokens.
        before: histories :math:`h_{j-1}` that end before token j.
        v: values of token j.
        tau: power of each query head; H / K of them share a history.
    """
    batch, kv_heads, queries, _ = after.shape
    keys = before.shape[2]
    later = after.new_full((queries, keys), float("-inf")).triu(keys - queries + 1)
    power = -0.5 * tau.view(kv_heads, -1, 1, 1)
    scores = squared_distances(after, before).log().unsqueeze(2) * power + later
    return (scores.softmax(-1) @ v.unsqueeze(2)).view(batch, -1, queries, v.shape[3])


class PathCache:
    """Sums of values and counts of all tokens so far, weighted by path: constant in the length of the sequence."""

    def __init__(self, config: GPTConfig, batch: int, device: torch.device, dtype: torch.dtype):
        knobs = knobs_of(config)
        shape = (batch, config.kv_heads, knobs.arity**knobs.depth, config.head_dim + 1)
        self.sums = torch.zeros(shape, device=device, dtype=wide_type(dtype))  # counts outgrow the mantissa of bf16


class SuffixCache:
    """Histories before every token and after the last, and the tokens' values.

    The scan itself continues from the last history alone; the others are what the next tokens compare theirs with.
    """

    def __init__(self, config: GPTConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype):
        shape, wide = (batch, config.kv_heads, length, config.head_dim), wide_type(dtype)
        self.histories = torch.zeros(*shape[:2], length + 1, shape[3], device=device, dtype=wide)
        self.values = torch.zeros(shape, device=device, dtype=wide)
        self.position = 0

    @property
    def last(self) -> Float[Tensor, "B K D"]:
        """What the scan continues from."""
        return self.histories[:, :, self.position]

    def append(self, after: Float[Tensor, "B K N D"], v: Float[Tensor, "B K N D"]) -> tuple[Tensor, Tensor]:
        """Add new tokens; returns the histories before all so far, and their values."""
        end = self.position + v.shape[2]
        self.histories[:, :, self.position + 1 : end + 1] = after
        self.values[:, :, self.position : end] = v
        self.position = end
        return self.histories[:, :, :end], self.values[:, :, :end]


class Fractal(HeadMixer):
    r"""Attention among the addresses of an iterated function system.

    ``path``: one linear map, shared by all heads, by queries and by keys, scores m symbols for each of d levels of a
    head vector. ``suffix``: :math:`h_t = s h_{t-1} + t(x_t)`, with the key map's direction as t; there are no queries
    but the histories themselves. Rotary positions have no meaning in either: a rotation would turn addresses into
    others, and a history into another one.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        knobs = knobs_of(config)
        self.form, self.arity, self.depth, self.sharpness = knobs.form, knobs.arity, knobs.depth, knobs.sharpness
        self.contraction, self.tau = knobs.contraction, knobs.tau
        if self.form == "path":
            self.address = nn.Linear(config.head_dim, self.depth * self.arity, bias=False)
        else:
            del self.query
            self.power = nn.Parameter(torch.zeros(config.n_head))

    def init_weights(self, draw: Draw) -> None:
        if self.form == "path":
            super().init_weights(draw)
            draw.linear("address", self.address)
        else:
            draw.linear("key", self.key)
            draw.linear("value", self.value)
            draw.linear("out", self.out, zero=True)
            draw.constant("power", self.power, 0.0)

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Any:
        if self.form == "path":
            return PathCache(self.config, batch, device, dtype)
        return SuffixCache(self.config, batch, length, device, dtype)

    def levels(self, x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N d m"]:
        """Soft addresses: the distribution of the symbol of each level, mixed with a little of the uniform one."""
        wide = wide_type(x.dtype)
        scores = F.linear(x.to(wide), self.address.weight.to(wide) * self.sharpness)
        soft = scores.unflatten(-1, (self.depth, self.arity)).softmax(-1)
        return soft * (1 - MIXTURE) + MIXTURE / self.arity

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: Tensor | None = None) -> Tensor:
        """Path form on head vectors, with the sums over earlier tokens if there are any."""
        query = self.levels(q)
        return path_attention(query, self.levels(k), v.to(query.dtype), past).to(v.dtype)

    def steps(self, x: Float[Tensor, "B N C"]) -> tuple[Float[Tensor, "B K N D"], Float[Tensor, "B K N D"]]:
        """Unit steps t(x) of the histories, and values."""
        t, v = (each(x).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2) for each in (self.key, self.value))
        wide = wide_type(x.dtype)
        t = t.to(wide)
        return t * (t.square().sum(-1, keepdim=True) + TINY).rsqrt(), v.to(wide)

    def follow(self, t: Tensor, v: Tensor, cache: SuffixCache | None = None) -> Float[Tensor, "B H N D"]:
        """Suffix form on unit steps and values."""
        start = t.new_zeros(*t.shape[:2], t.shape[3]) if cache is None else cache.last
        after = geometric_scan(t, self.contraction, start)
        if cache is None:
            before = torch.cat((start.unsqueeze(2), after[:, :, :-1]), 2)
        else:
            before, v = cache.append(after, v)
        return suffix_attention(after, before, v, self.tau * self.power.to(t.dtype).exp())

    def forward(self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: Any = None) -> Float[Tensor, "B N C"]:
        if self.form == "path":
            mix = partial(self.attend, *self.project(x, None), None if cache is None else cache.sums)
        else:
            mix = partial(self.follow, *self.steps(x), cache)
        with torch.autocast(x.device.type, enabled=False):  # bf16 sums would lose rare paths and near histories
            y = mix()
        return self.out(y.to(x.dtype).transpose(1, 2).reshape(x.shape))


def one_address_limit() -> float:
    """Largest difference to the running mean where all keys have the same address, float64."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1, 2, 141, 8, generator=generator, dtype=torch.float64)
    query, key = (torch.rand(1, 2, n, 3, 4, generator=generator, dtype=torch.float64) for n in (141, 1))
    mean = v.cumsum(2) / torch.arange(1, 142, dtype=torch.float64)[:, None]
    return (path_attention(query, key.expand(1, 2, 141, 3, 4), v) - mean).abs().max().item()
