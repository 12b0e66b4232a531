"""Tropical attention: the sum of softmax attention becomes a maximum, the dot product a tropical one.

Everything between the projections is piecewise linear: each output channel copies one value, shifted by one score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.attention._head_operations import head_backward, head_hessian, head_operations
from nanochat.attention.registry import MIXERS
from nanochat.config import ConfigError, common_faults, option
from nanochat.kernels.maxplus import cost
from nanochat.kernels.maxplus.cost import SCORES
from nanochat.registry import Hessian, Limit, Mechanism, Operations, Requirement

if TYPE_CHECKING:
    from nanochat.config import GPTConfig


LARGEST_BETA = 1e6
"""Above it fp32 tells the log-sum-exp from the maximum no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TropicalKnobs:
    """Options of ``tropical``."""

    score: str = option("hilbert", "minus the Hilbert projective metric, or the tropical inner product", choices=SCORES)
    position: str = option(
        "translation",
        "how positions enter where --position is rope: tropical translations (relative) or rotary pairs (ablation)",
        choices=("translation", "rotary"),
    )
    beta: float | None = option(
        None, "inverse temperature: every maximum becomes (1/beta) log sum exp(beta .); the maximum itself if not given"
    )
    record_margins: bool = option(False, "record the margins of held-out tokens beside each evaluation")

    def __post_init__(self) -> None:
        faults = common_faults(self)
        if self.beta is not None and not 0 < self.beta <= LARGEST_BETA:
            faults.append(f"--tropical-beta: got {self.beta:g}, need more than 0, at most {LARGEST_BETA:g}")
        if self.beta is not None and self.record_margins:
            faults.append("--tropical-record-margins: got --tropical-beta too, need it left out: a margin has a winner")
        if faults:
            raise ConfigError(faults)


def knobs_of(config: GPTConfig) -> TropicalKnobs:
    """The options in a configuration, or the defaults."""
    return config.knobs.get("tropical", TropicalKnobs())


def _rotary(config: GPTConfig) -> bool:
    return config.position == "rope" and knobs_of(config).position == "rotary"


def _translated(config: GPTConfig) -> bool:
    return config.position == "rope" and not _rotary(config)


def _around(config: GPTConfig) -> Operations:
    """Forward per token, outside the kernel: what heads share, one translation of q and k, the gauge fix.

    At finite beta q, k, v and outputs are scaled, and the gauge is a log-softmax (5) between two scalings.
    """
    kv_width = config.kv_heads * config.head_dim
    moved = config.n_embd + kv_width if _translated(config) else 0
    fixed = 2 * config.n_embd if knobs_of(config).beta is None else 9 * config.n_embd + 2 * kv_width
    return head_operations(config, rotary=_rotary(config)) + Operations(elementwise=fixed + moved)


def _linear(config: GPTConfig, length: int) -> bool:
    """Whether a sequence of ``length`` is mixed in linear time."""
    knobs = knobs_of(config)
    return knobs.score == "maxplus" and knobs.beta is None and cost.recurrence_pays(length, config.head_dim)


def operations(config: GPTConfig, length: int) -> Operations:
    """Forward, per token of a sequence of ``length``."""
    knobs, heads, dim = knobs_of(config), config.n_head, config.head_dim
    if _linear(config, length):
        kernel = Operations(semiring=cost.recurrence_forward(heads, config.kv_heads, length, dim))
    elif knobs.beta is None:
        kernel = Operations(semiring=cost.attention_forward(heads, length, length, dim, knobs.score))
    else:
        kernel = Operations(elementwise=cost.maslov_forward(heads, length, length, dim, knobs.score))
    return _around(config) + (1 / length) * kernel


def backward(config: GPTConfig, length: int) -> Operations:
    """Backward, per token: the gauge costs 3 per channel, or 8 and 2 for the scalings; the hard kernel's is a scatter,
    far cheaper than its forward.
    """
    knobs, heads, dim = knobs_of(config), config.n_head, config.head_dim
    total = head_backward(config, rotary=_rotary(config))
    if knobs.beta is not None:
        kernel = cost.maslov_backward(heads, length, length, dim, knobs.score)
        scaled = 8 * config.n_embd + 2 * config.kv_heads * dim
        return total + Operations(elementwise=kernel / length + scaled)
    kernel = (
        cost.recurrence_backward(heads, length, dim)
        if _linear(config, length)
        else cost.attention_backward(heads, length, length, dim, knobs.score)
    )
    return total + Operations(semiring=kernel / length, elementwise=3 * config.n_embd)


def decode(config: GPTConfig, length: int) -> Operations:
    """Forward of one token when ``length`` are cached: ``maxplus`` moves its state, ``hilbert`` all cached keys."""
    knobs, heads, dim = knobs_of(config), config.n_head, config.head_dim
    total = _around(config)
    if knobs.score == "maxplus":
        states = config.kv_heads * dim * dim
        total += Operations(elementwise=states if _translated(config) else 0)
        if knobs.beta is None:
            return total + Operations(semiring=cost.recurrence_forward(heads, config.kv_heads, 1, dim))
        return total + Operations(elementwise=cost.maslov_recurrence(heads, config.kv_heads, 1, dim) + 2 * states)
    again = Operations(elementwise=length * config.kv_heads * dim if _translated(config) else 0)
    if knobs.beta is None:
        return total + again + Operations(semiring=cost.attention_forward(heads, 1, length + 1, dim, knobs.score))
    scaled = 2 * length * config.kv_heads * dim
    kernel = cost.maslov_forward(heads, 1, length + 1, dim, knobs.score)
    return total + again + Operations(elementwise=kernel + scaled)


def state(config: GPTConfig, batch: int, length: int) -> int:
    """Bytes: keys and values for ``hilbert``; for ``maxplus`` one D x D state per head, whatever the length."""
    per_head = config.head_dim if knobs_of(config).score == "maxplus" else 2 * length
    return batch * config.kv_heads * config.head_dim * per_head * 4


def hessian(config: GPTConfig, length: int) -> Hessian | str:
    """Second derivatives, per token: small steps change no winner, so the kernel's backward pass is linear in its
    gradient; a product runs it again, and its adjoint. The gauge costs 5 per channel.
    """
    knobs, heads, dim = knobs_of(config), config.n_head, config.head_dim
    if knobs.beta is not None:
        return "the kernel of --tropical-beta has first derivatives only, leave it out"
    if _linear(config, length):
        kernel = cost.recurrence_backward(heads, length, dim) + cost.recurrence_tangent(heads, length, dim)
    else:
        kernel = cost.attention_backward(heads, length, length, dim, knobs.score)
        kernel += cost.attention_tangent(heads, length, dim, knobs.score)
    around = head_hessian(config, rotary=_rotary(config)).product
    return Hessian(
        operations(config, length) + backward(config, length),
        around + Operations(semiring=kernel / length, elementwise=5 * config.n_embd),
    )


MIXERS.register(
    Mechanism(
        name="tropical",
        title="max-plus attention in tropical projective space",
        source="arXiv:2505.17190",
        cls="Tropical",
        knobs=TropicalKnobs,
        operations=operations,
        backward=backward,
        decode=decode,
        state=state,
        hessian=hessian,
        requires=(
            Requirement(
                lambda config: config.head_dim >= 2,
                "tropical: got {config.head_dim} channel per head, need at least 2",
            ),
        ),
        reduces_to=Limit(
            statement="the limit beta -> infinity of (1/beta) logsumexp(beta ...), Maslov's dequantisation",
            check="maslov_limit",
            tolerance=1e-6,
        ),
        length_blind="whose maximum does not spread out over more keys",
        page="tropical.md",
        twin="demos.tropical.maths.tropical_attention",
    ),
    __name__,
)

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nanochat.attention.heads import HeadMixer, KeyValueCache, Rope
from nanochat.kernels.maxplus import blocked, maslov, operators, recurrent

LIPSCHITZ = {
    "hilbert": {"q": 2, "k": 2, "v": 1, "all": 5},
    "maxplus": {"q": 1, "k": 1, "v": 1, "all": 3},
}
"""By how much a candidate s_ij + v_jd moves at most, in the sup norm, when q, k, v or all of them move by 1."""


def gauge(y: Float[Tensor, "... D"], beta: float | None = None) -> Float[Tensor, "... D"]:
    """The representative whose largest channel is 0 of a point of tropical projective space R^D / R(1,...,1).

    At finite beta the one whose deformed maximum is 0: exp(beta y) is a distribution over channels.
    """
    return y - y.max(-1, keepdim=True).values if beta is None else F.log_softmax(beta * y, -1) / beta


def slopes(heads: int) -> Float[Tensor, " heads"]:
    """Translation per token of each key/value head, 2^(-8 (h+1) / heads): from sharp to nearly flat.

    Source: the geometric sequence of arXiv:2108.12409.
    """
    return 2.0 ** (-8.0 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)


def translations(heads: int, length: int, dim: int) -> Float[Tensor, "heads length D"]:
    """Position p moves the first half of the channels by p times the head's slope; the other half stays."""
    channel = (torch.arange(dim, dtype=torch.float64) < dim // 2).double()
    position = torch.arange(length, dtype=torch.float64)
    return slopes(heads)[:, None, None] * position[:, None] * channel


def translate(
    q: Float[Tensor, "B H N D"],
    k: Float[Tensor, "B K S D"],
    score: str,
    table: Float[Tensor, "K rows D"] | None = None,
) -> tuple[Float[Tensor, "B H N D"], Float[Tensor, "B K S D"]]:
    r"""Give queries and keys their positions by tropical translations, so that scores see i - j only.

    ``hilbert`` compares :math:`q_i + i w` with :math:`k_j + j w`: translations are isometries of the metric, as
    rotations are of the dot product (rotary pairs are not: their score depends on i and j separately). ``maxplus`` adds
    :math:`q_i - i w` and :math:`k_j + j w`. In fp32, since positions outgrow the mantissa of bf16.

    Args:
        q: queries, the last N of the S positions.
        k: keys.
        score: ``hilbert`` or ``maxplus``.
        table: :func:`translations` of at least S positions from 0, made here if not given.
    """
    (heads, queries), (kv_heads, keys) = q.shape[1:3], k.shape[1:3]
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    if table is None:
        table = translations(kv_heads, keys, q.shape[3])
    shift = table[:, :keys].to(q.device, wide)
    query_shift = shift[:, keys - queries :].repeat_interleave(heads // kv_heads, 0)
    return torch.add(q.to(wide), query_shift, alpha=1 if score == "hilbert" else -1), k.to(wide) + shift


@dataclass(frozen=True)
class Margins:
    """How safe the choices of one attention call are.

    Attributes:
        gap: winner minus runner-up of every output channel, (B, H, N, D).
        token: the smallest of them per query, (B, H, N).
        radius: per query, how far the named inputs may move in the sup norm before any of its winners can change:
            ``token / (2 L)`` with L of :data:`LIPSCHITZ`. Two candidates may move towards each other, hence the 2.
    """

    gap: Tensor
    token: Tensor
    radius: dict[str, Tensor]


def margins(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B K S D"], v: Float[Tensor, "B K S D"], score: str = "hilbert"
) -> Margins:
    """Gaps and certificate radii of :func:`nanochat.kernels.maxplus.operators.attention` on these inputs.

    Proof of the radius: markdown_documentation/tropical.md, theorem 3.
    """
    gap = blocked.attention_gaps(q, k, v, score)
    token = gap.amin(-1)
    return Margins(gap, token, {name: token / (2 * bound) for name, bound in LIPSCHITZ[score].items()})


class StateCache:
    """The D x D state of each key/value head of one layer: constant in the length of the sequence.

    Its origin moves along: positions count from the next token, so that no number grows with the sequence.

    Args:
        batch: sequences.
    """

    def __init__(self, config: GPTConfig, batch: int, device: torch.device, dtype: torch.dtype):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        shape = (batch, config.kv_heads, config.head_dim, config.head_dim)
        self.memory = torch.full(shape, float("-inf"), device=device, dtype=wide)


class Tropical(HeadMixer):
    r"""Max-plus attention over heads: :math:`y_{id} = \max_{j\le i}(s_{ij} + v_{jd})`, gauge-fixed per query.

    The gauge is fixed on the output, once: it makes y blind to a constant added to all scores of a query, as the
    normalisation of softmax does, and leaves the sizes of values readable. On q and k it would change nothing
    (``hilbert``), on v it would erase the values' common level.

    With the ``maxplus`` score long sequences are mixed and all sequences decoded in time linear in T. ``beta`` may be
    set between steps of a loop of one's own; decoding must go on with the beta that it began with.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        knobs = knobs_of(config)
        self.score = knobs.score
        self.beta = knobs.beta
        self.rotary = knobs.position == "rotary"
        self._table = translations(config.kv_heads, config.sequence_len + 1, config.head_dim)
        self.record_margins = knobs.record_margins
        self._margins: list[Tensor] = []

    def table(self, length: int, like: Tensor) -> Tensor:
        """Translations of at least ``length`` positions; grows when a sequence outgrows it, moves with the model."""
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        rows = self._table.shape[1]
        if rows < length or self._table.device != like.device or self._table.dtype != wide:
            rows = rows if length <= rows else max(length, 2 * rows)
            table = translations(self.config.kv_heads, rows, self.config.head_dim)
            self._table = table.to(like.device, wide)
        return self._table

    def init_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Any:
        if self.score == "maxplus":
            return StateCache(self.config, batch, device, dtype)
        return super().init_cache(batch, length, device, dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.record_margins and not self.training:
            found = margins(q, k, v, self.score).token.flatten()
            self._margins.append(found[found.isfinite()])  # the first token has one candidate and no runner-up
        if self.beta is not None:
            return gauge(maslov.attention(q, k, v, self.score, self.beta), self.beta)
        if self.score == "maxplus" and q.shape[2] == k.shape[2] and cost.recurrence_pays(q.shape[2], q.shape[3]):
            return gauge(recurrent.recurrence(q, k, v)[0])
        return gauge(operators.attention(q, k, v, self.score))

    def resume(self, q: Tensor, k: Tensor, v: Tensor, cache: StateCache) -> Tensor:
        """Mix new tokens with the state that earlier ones left, and leave theirs."""
        if self.beta is None:
            y, cache.memory = recurrent.recurrence(q, k, v, cache.memory)
        else:
            y, cache.memory = maslov.recurrence(q, k, v, cache.memory, self.beta)
        return gauge(y, self.beta)

    def forward(
        self, x: Float[Tensor, "B N C"], rope: Rope | None = None, cache: KeyValueCache | StateCache | None = None
    ) -> Float[Tensor, "B N C"]:
        q, k, v = self.project(x, rope if self.rotary else None)
        if isinstance(cache, KeyValueCache):
            k, v = cache.append(k, v)
        moved, length = rope is not None and not self.rotary, k.shape[2]
        table = self.table(length + 1, k) if moved else None
        if moved:
            q, k = translate(q, k, self.score, table)
        if not isinstance(cache, StateCache):
            y = self.attend(q, k, v)
        else:
            y = self.resume(q, k, v, cache)
            if table is not None:
                cache.memory = cache.memory - table[:, length, :, None]
        return self.out(y.transpose(1, 2).reshape(x.shape))

    def diagnose(self) -> dict[str, float | str]:
        """Margins per token and head: first decile, median, and the median radius when one input drives q, k and v."""
        found = torch.cat(self._margins).double().sort().values if self._margins else torch.empty(0)
        self._margins = []
        if not len(found):
            return {}
        tenth, middle = (found[int(share * (len(found) - 1))].item() for share in (0.1, 0.5))
        radius = middle / (2 * LIPSCHITZ[self.score]["all"])
        return {"margin_p10": tenth, "margin_p50": middle, "radius_p50": radius}


def maslov_limit() -> float:
    """Largest difference between the mixer's kernel and its deformation at beta = 1e9, both scores, float64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 17, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    return max(
        (operators.attention(q, k, v, score) - maslov.attention(q, k, v, score, beta=1e9)).abs().max().item()
        for score in SCORES
    )
